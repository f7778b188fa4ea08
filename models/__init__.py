"""What two or more assistants run on: weights, tokens, streaming. Knows no prompts, pages or test sets."""

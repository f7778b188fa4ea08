"""A LLaVA-Ultra before its first stage: a fresh one of a recipe's size, or published weights with what they
lack.

LLaVA-Ultra (2024), section 3.1, starts from LLaVA-Med, CLIP and SAM. A demo starts from nothing: a tokenizer
learned on the cases (`training.tokenizer`), and towers and a language model of random numbers, whose
pre-training the kinds contrast, masks and llava_language stand in for.

Knows nothing of how it is taught.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig

from assistants.llava_ultra import LlavaUltraConfig, LlavaUltraForConditionalGeneration
from assistants.llava_ultra.encoding import Encoder
from assistants.llava_ultra.images import encode_frames
from assistants.llava_ultra.prompts import organs, standard_request
from assistants.llava_ultra.published import open_published
from assistants.wording import LANGUAGES, TASKS
from imaging.case import Case
from imaging.frame import Frame
from models.checkpoint import resolve
from models.familiarity import pooled
from training.recipe import Recipe, RecipeError
from training.tokenizer import train_tokenizer

TEMPLATE = "chatml"  # of the demo's tokenizer
REQUESTED = 50  # how often the tokenizer reads each standard request: every one becomes a few whole words


def fresh_ultra(recipe: Recipe, cases: Sequence[Case]) -> tuple[Encoder, LlavaUltraForConditionalGeneration]:
    """Encoder and model of the recipe's `vocabulary`, `vision`, `text` and `ultra`, of random numbers.

    RecipeError for sizes that make no LLaVA-Ultra.
    """
    tokenizer = train_tokenizer(_texts(cases), recipe.vocabulary)
    token = tokenizer.convert_tokens_to_ids
    special = {
        "bos_token_id": token("<|endoftext|>"),
        "eos_token_id": token("<|im_end|>"),
        "pad_token_id": token("<|endoftext|>"),
    }
    text = {"model_type": "llama", "tie_word_embeddings": True, "vocab_size": len(tokenizer)} | special
    try:
        config = LlavaUltraConfig(
            vision_config=recipe.vision,
            text_config=text | recipe.text,
            image_token_id=token("<|image_pad|>"),
            template=TEMPLATE,
            **(recipe.ultra or {}),
        )
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise RecipeError(f"{recipe.name}: vision, text, ultra: {error}") from error
    torch.manual_seed(recipe.seed)
    model = LlavaUltraForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    model.generation_config = GenerationConfig(**special)
    return Encoder(tokenizer, config), model


def open_ultra(
    recipe: Recipe, device: torch.device, say: Callable[[str], None]
) -> tuple[Encoder, LlavaUltraForConditionalGeneration]:
    """Encoder and model of the recipe's `base`, with what `ultra` names beside it; says what is untrained.

    With precision bf16 the frozen weights stay in bfloat16; what learns is raised to float32 by its stage.
    RecipeError for an unknown key of `ultra`, and what `open_published` raises.
    """
    torch.manual_seed(recipe.seed)  # for what starts untrained
    dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
    try:
        opened = open_published(recipe.base, fresh=True, dtype=dtype, device=device, **(recipe.ultra or {}))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{recipe.name}: base, ultra: {error}") from error
    if opened.fresh:
        say(f"untrained in {recipe.base}: {', '.join(opened.fresh)}")
    opened.model.name_or_path = recipe.base  # what an adapter names as its base
    return Encoder.open(resolve(recipe.base), opened.model.config), opened.model


@torch.no_grad()
def appearance(
    model: LlavaUltraForConditionalGeneration, encoder: Encoder, frames: Sequence[Frame]
) -> torch.Tensor:
    """What `models.familiarity` compares frames by: their image tokens, pooled, float32 [k, 2 D]."""
    return pooled(model.image_features(**encode_frames(frames, encoder.config)))


def _texts(cases: Sequence[Case]) -> list[str]:
    """What a demo's tokenizer reads: the cases' texts and the assistant's standard requests."""
    own = [(case.question, case.answer, case.extra.get("findings")) for case in cases]
    texts = [text for each in own for text in each if text]
    requests = [
        standard_request(task, language, organ)
        for task in TASKS
        for language in LANGUAGES
        for organ in (None, *organs())
    ]
    return [*texts, *requests * REQUESTED]

"""Speed, memory and quality, measured: each module is a command that prints a table. Correctness lives in
tests/."""

"""Instruction data as EchoVLM's pipeline makes it: reports become questions and answers (`generate`), what
says the same again is left out (`redundancy`), and a person reviews a sample (`review`).

Knows nothing of pixels, models or training stages: cases in, cases out.
"""

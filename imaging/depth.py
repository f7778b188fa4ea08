"""Samples of more than eight bits, brought to eight. Knows nothing of files."""

from __future__ import annotations

import numpy as np

DEPTHS = (8, 10, 12, 16)  # bits that scanners and exporters really use


def eight_bits(samples: np.ndarray) -> np.ndarray:
    """Numbers of any type and shape as uint8 of the same shape. Pass a whole cine, so its frames stay
    comparable.

    Whole numbers lose their lowest bits. Their depth is the smallest of 8, 10, 12 and 16 bits that holds the
    largest, because files often keep 8 or 12 bits in a 16-bit word and say nothing of it. Fractions are taken
    as 0 to 1 or, where any is larger, as 0 to 255. Numbers below zero or above these have no convention: they
    are stretched from the smallest to the largest.
    """
    if samples.dtype == np.uint8:
        return samples
    if samples.dtype.kind == "f":
        samples = np.nan_to_num(samples, posinf=0.0, neginf=0.0)
    low, high = samples.min(), samples.max()
    if samples.dtype.kind == "f" and low >= 0 and high <= 255:
        return np.rint(samples * (255 if high <= 1 else 1)).astype(np.uint8)
    depth = next((bits for bits in DEPTHS if high < 2**bits), None)
    if samples.dtype.kind == "f" or low < 0 or depth is None:
        span = max(float(high) - float(low), 1e-9)
        return np.rint((samples.astype(np.float64) - float(low)) * (255 / span)).astype(np.uint8)
    return (samples >> (depth - 8)).astype(np.uint8)

"""How sure a figure is. Counts and shares in, limits out; knows nothing of what was counted."""

from __future__ import annotations

from math import sqrt


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a share (Wilson 1927), 95 % by default; (0, 1) for n = 0."""
    if not 0 <= hits <= n:
        raise ValueError(f"hits must lie between 0 and n: {hits} of {n}")
    if n == 0:
        return 0.0, 1.0
    share = hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)

"""One ultrasound image in memory, whatever file it came from. Knows nothing of files, models or pages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Frame:
    """One image: `pixels` uint8 [H, W, 3] (RGB), read-only.

    `mm_per_pixel` is (across, down) in millimetres, or None where the file does not say. `source` is the
    file's name without its folder; `index` is the frame's number in a multi-frame file (0 for a still).
    `offset` is (across, down) in pixels: where in the file's picture the top left corner of `pixels` lies.
    """

    pixels: np.ndarray
    mm_per_pixel: tuple[float, float] | None
    source: str
    index: int = 0
    offset: tuple[int, int] = (0, 0)

    def __post_init__(self):
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 3 or self.pixels.shape[2] != 3:
            raise ValueError(
                f"Frame.pixels must be uint8 [H, W, 3], not {self.pixels.dtype} {self.pixels.shape}"
            )
        self.pixels.setflags(write=False)

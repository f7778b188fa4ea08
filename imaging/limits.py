"""How much may be read at once, decided from headers before anything is decoded.

The numbers are chosen, not from a standard: far above what a scanner exports, far below what harms the
machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from imaging.errors import UnreadableFile
from imaging.frame import Frame

MILLION = 1_000_000
MAX_FILES = 64
MAX_IMAGE_PIXELS = 40 * MILLION  # one frame; a scanner's screen has 1 to 2 million
MAX_CINE_PIXELS = (
    4000 * MILLION
)  # all frames of a file, read or not; a minute at 60 Hz and 1024 x 768 has 2800
MAX_EXAMINATION_PIXELS = 256 * MILLION  # all frames kept, 768 MB

# Called with (width, height, number of frames) as a header gives them: returns the numbers of the frames to
# read, or raises UnreadableFile.
Choose = Callable[[int, int, int], list[int]]


@dataclass
class Budget:
    """What one examination may still take. `max_frames` is per file; `pixels` counts what has been kept."""

    max_frames: int
    pixels: int = 0

    def chooser(self, name: str) -> Choose:
        """The question a reader asks before it decodes the file called `name`."""

        def choose(width: int, height: int, count: int) -> list[int]:
            if width * height > MAX_IMAGE_PIXELS:
                raise too_large(name)
            if width * height * count > MAX_CINE_PIXELS:
                raise UnreadableFile("too_long", name, count=count)
            chosen = evenly_spaced(count, self.max_frames)
            if self.pixels + width * height * len(chosen) > MAX_EXAMINATION_PIXELS:
                raise UnreadableFile("too_much", name, limit=MAX_EXAMINATION_PIXELS // MILLION)
            return chosen

        return choose

    def keep(self, frames: Iterable[Frame]) -> None:
        self.pixels += sum(frame.pixels.size // 3 for frame in frames)


def too_large(name: str) -> UnreadableFile:
    return UnreadableFile("too_large", name, limit=MAX_IMAGE_PIXELS // MILLION)


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """At most `wanted` of the numbers 0 to `count` - 1: all, or evenly spaced with the first and the last, or
    the middle one where one is wanted.
    """
    if count <= wanted:
        return list(range(count))
    if wanted == 1:
        return [count // 2]
    return [int(index) for index in np.linspace(0, count - 1, wanted).round()]

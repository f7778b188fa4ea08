"""Find the ultrasound picture on a scanner's screen and cut it out.

A heuristic (chosen by looking at real screens; not learned, not from a paper): on a dark, even background,
tissue is what is lit and speckled over an area, while text, rulers and frames are thin and bars, buttons and
logos are flat. It errs towards keeping: whenever the picture does not look like a screen dump, the answer is
"keep everything".

Does not know: what the tissue is; where black tissue (the far end of an attenuated sector) stops and the
black screen begins, so it may cut a strip in which nothing is visible; text that is printed inside or against
the sector, which stays; screens with a bright background and photographs, which are kept whole.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from imaging.frame import Frame

Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels; x2 and y2 are the first column and row outside

KEEP_WHOLE = 0.85  # a guess that keeps this share of the area is not worth its risk
SCREEN = 300  # pixels; a picture with no side as long is no screen: somebody has cut and scaled it already
TOO_SMALL = 0.15  # a "sector" below this share of the screen is more likely a mistake
TOO_MUCH_OUTSIDE = 1 / 3  # of the thick lit area inside the box: then the wrong thing was found
BLOCKS = 256  # the longer side is looked at as about this many square blocks
THICK = 0.035  # of the longer side; text and bars are thinner, tissue is thicker
SQUARE = np.ones((3, 3), dtype=bool)


def crop(frame: Frame, box: Box | None) -> Frame:
    """Cut `frame` to `box`: a slice, never resampled, so `mm_per_pixel` stays true, and `offset` says where
    it lies.

    Returns `frame` itself when `box` is None or holds all of it.
    """
    height, width = frame.pixels.shape[:2]
    if box is None or box == (0, 0, width, height):
        return frame
    x1, y1, x2, y2 = box
    across, down = frame.offset
    return replace(frame, pixels=frame.pixels[y1:y2, x1:x2].copy(), offset=(across + x1, down + y1))


def find_sector(pixels: np.ndarray) -> Box | None:
    """The box around the tissue in `pixels` (uint8 [H, W, 3]), or None where the picture should be kept
    whole: also when the box would keep at least 85 % of it.

    For a cine pass the brightest value each pixel ever has, so that one box holds all its frames.
    """
    height, width = pixels.shape[:2]
    if max(height, width) < SCREEN or min(height, width) < SCREEN // 4:
        return None
    step = -(-max(height, width) // BLOCKS)
    grey = np.maximum(np.maximum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])
    box = _block_box(grey[: height // step * step, : width // step * step], step)
    if box is None:
        return None
    x1, y1, x2, y2 = (int(edge) * step for edge in box)
    # The last block may leave a few pixels over.
    x2, y2 = width if x2 + step > width else x2, height if y2 + step > height else y2
    return None if (x2 - x1) * (y2 - y1) >= KEEP_WHOLE * height * width else (x1, y1, x2, y2)


def _block_box(grey: np.ndarray, step: int) -> Box | None:
    """The tissue's box in blocks of `step` x `step` pixels of `grey` [h * step, w * step], with a margin."""
    background = _dark_background(grey)
    if background is None:
        return None
    cores = _cores(grey, background, step)  # [h, w]
    if not cores.any() or _runs_out_of_picture(cores):
        return None
    lit = _block_mean(grey > background + 2, step)
    thick = _opened(ndimage.binary_closing(lit > 0.8, SQUARE), THICK * max(lit.shape))
    tissue = _grown(cores, thick, lit)
    rows, columns = np.flatnonzero(tissue.any(axis=1)), np.flatnonzero(tissue.any(axis=0))
    margin = max(1, round(0.015 * max(tissue.shape)))
    x1, x2 = max(0, columns[0] - margin), min(tissue.shape[1], columns[-1] + 1 + margin)
    y1, y2 = max(0, rows[0] - margin), min(tissue.shape[0], rows[-1] + 1 + margin)
    inside = thick[y1:y2, x1:x2].sum()
    if (x2 - x1) * (y2 - y1) < TOO_SMALL * tissue.size or thick.sum() - inside > TOO_MUCH_OUTSIDE * inside:
        return None
    return x1, y1, x2, y2


def _dark_background(grey: np.ndarray) -> int | None:
    """The screen's black: the value found most often, if it is dark and common enough to be a background."""
    counts = np.bincount(grey.ravel(), minlength=256)
    level = int(counts.argmax())
    share = counts[max(0, level - 2) : level + 3].sum() / grey.size
    return level if level <= 40 and share >= 0.15 else None


def _cores(grey: np.ndarray, background: int, step: int) -> np.ndarray:
    """Blocks [h, w] inside the tissue: speckled areas too thick to be text.

    Speckled is a pixel that is lit and differs from both its left and its upper neighbour: the flat faces and
    the straight gradients of bars, buttons and banners do not. The largest area counts, any at least a tenth
    as large (the second half of a dual image, a spectrum), and any above or below it (the detached tip of a
    sector).
    """
    speckled = grey > background + 6
    speckled[:, 1:] &= grey[:, 1:] != grey[:, :-1]
    speckled[1:] &= grey[1:] != grey[:-1]
    solid = ndimage.binary_closing(_block_mean(speckled, step) > 0.35, SQUARE)
    labels, count = ndimage.label(_opened(solid, THICK * max(solid.shape)), SQUARE)
    if not count:
        return labels > 0
    areas = np.bincount(labels.ravel())[1:]
    large = np.isin(labels, 1 + np.flatnonzero(areas >= 0.1 * areas.max()))
    columns = np.flatnonzero(large.any(axis=0))
    in_line = np.unique(labels[:, columns[0] : columns[-1] + 1])
    return np.isin(labels, in_line[in_line > 0])


def _grown(cores: np.ndarray, thick: np.ndarray, lit: np.ndarray) -> np.ndarray:
    """`cores` and what is lit beside them: without end where it is `thick` (tissue can be flat, too), and a
    little way, though not through strokes as thin as text, where it is thin or faint.
    """
    side = max(cores.shape)
    tissue = ndimage.binary_propagation(cores, SQUARE, mask=thick | cores)
    faint = _opened(ndimage.binary_closing(lit > 0.3, SQUARE), 0.45 * THICK * side)
    return ndimage.binary_dilation(tissue, SQUARE, iterations=max(2, round(0.06 * side)), mask=faint | tissue)


def _block_mean(mask: np.ndarray, step: int) -> np.ndarray:
    """The share of True in each block of `step` x `step` pixels: [h, w]."""
    rows, columns = mask.shape[0] // step, mask.shape[1] // step
    return mask.reshape(rows, step, columns, step).mean(axis=(1, 3), dtype=np.float32)


def _opened(mask: np.ndarray, thickness: float) -> np.ndarray:
    """`mask` without anything thinner than `thickness` blocks."""
    size = max(3, round(thickness))
    return ndimage.binary_opening(mask, np.ones((size, size), dtype=bool))


def _runs_out_of_picture(cores: np.ndarray) -> bool:
    """True where the picture's left or right edge cuts the tissue: somebody has cropped it already."""
    left, right = cores[:, :2].any(axis=1), cores[:, -2:].any(axis=1)
    return bool(max(left.mean(), right.mean()) > 0.03)

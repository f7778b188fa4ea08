"""PNG, JPEG, BMP, TIFF, WebP and GIF files become frames, through Pillow.

Colour profiles are not applied: a scanner's grey values are used as they were stored. These formats say
nothing reliable about millimetres, so `mm_per_pixel` is always None. Knows nothing of DICOM, nor where the
sector is.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from imaging.depth import eight_bits
from imaging.errors import UnreadableFile
from imaging.frame import Frame
from imaging.limits import Choose, too_large

BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # the sizes a BMP's second header can have
BLACK = (0, 0, 0, 255)

# Seen when files are damaged at random: OSError (UnidentifiedImageError is one), SyntaxError for a broken
# structure, the ends of streams, and the rest for headers that contradict themselves.
PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
)


def kind_of(head: bytes) -> str | None:
    """The format's name in Pillow by a file's first bytes, or None if it is none of those read here."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in BMP_HEADERS:
        return "BMP"
    if head.startswith((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")):
        return "TIFF"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    return None


def read(path: Path, kind: str, name: str, choose: Choose) -> list[Frame]:
    """The frames that `choose` picks of a picture of format `kind` (see `kind_of`); several from a multi-page
    TIFF or an animation. Raises UnreadableFile.
    """
    frames = []
    with _pillow_errors(name):
        image = Image.open(path, formats=[kind])
    with image:
        with _pillow_errors(name):
            # A JPEG's further pictures (a phone's preview, its depth map) are not further views.
            count = 1 if kind == "JPEG" else getattr(image, "n_frames", 1)
        size = image.size
        for index in choose(*size, count):
            with _pillow_errors(name):
                image.seek(index)
            if image.size != size:
                choose(*image.size, 1)
            with _pillow_errors(name):
                upright = _plain_mode(ImageOps.exif_transpose(image))
            frames.append(Frame(_rgb(upright), mm_per_pixel=None, source=name, index=index))
    return frames


def _plain_mode(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes as RGB, except where a sample has more than eight bits."""
    if image.mode.startswith("I") or image.mode == "F":
        return image
    if image.has_transparency_data:
        # On black, as around the sector on a scanner's screen: a bright ground would add echoes nobody saw.
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, BLACK), image)
    return image.convert("RGB")


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "RGB":
        return np.array(image)
    return np.repeat(eight_bits(np.asarray(image))[..., None], 3, axis=2)


@contextmanager
def _pillow_errors(name: str) -> Iterator[None]:
    """What Pillow raises on bad files, as UnreadableFile. Only Pillow's own work belongs inside."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_large(name) from error
    except PILLOW_ERRORS as error:
        raise UnreadableFile("damaged", name) from error

"""Frames become what CLIP and SAM read: one square, seen at two sizes.

LLaVA-Ultra (2024), section 3.2 and Fig. 2. A frame is padded to a square once, centred, with CLIP's mean
colour, as LLaVA pads ("image_aspect_ratio: pad"). CLIP and SAM both get this square whole, each at its own
size and with its own mean and deviation, so that their grids divide the same picture. SAM's own processor
would pad right and below with zeros after normalising; its mean colour is CLIP's to within one grey level,
so what it sees around the frame here is as good as zero.

Pixels go through PIL, which needs no torchvision. Knows nothing of files, tokens or features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

from assistants.llava_ultra.configuration import LlavaUltraConfig
from imaging.frame import Frame
from models.encoding import LARGEST_ASPECT_RATIO
from models.errors import UnusableImage

PADDING = tuple(int(255 * mean) for mean in OPENAI_CLIP_MEAN)  # (122, 116, 104), rounded as LLaVA rounds


def encode_frames(frames: Sequence[Frame], config: LlavaUltraConfig) -> dict[str, Tensor]:
    """pixel_values float32 [k, 3, S, S] for CLIP and, unless SAM is off, sam_pixel_values [k, 3, R, R].

    Nothing for no frames. Raises UnusableImage for a frame too narrow to show anything.
    """
    if not frames:
        return {}
    squares = [square(frame) for frame in frames]
    clip_size = config.vision_config.image_size
    pixels = [_normalise(picture, clip_size, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD) for picture in squares]
    encoded = {"pixel_values": torch.stack(pixels)}
    if config.sam_config is not None:
        sam_size = config.sam_config.image_size
        pixels = [_normalise(s, sam_size, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD) for s in squares]
        encoded["sam_pixel_values"] = torch.stack(pixels)
    return encoded


def square(frame: Frame) -> Image.Image:
    """The frame in the middle of a square as long as its longer side."""
    height, width = frame.pixels.shape[:2]
    if max(height, width) > LARGEST_ASPECT_RATIO * min(height, width):
        raise UnusableImage(
            f"{frame.source}: {width} x {height} pixels is too narrow to read. Upload the whole image.",
            f"{frame.source}：图像尺寸为 {width} × {height} 像素，过于狭长，无法读取。请上传完整图像。",
        )
    side = max(height, width)
    picture = Image.new("RGB", (side, side), PADDING)
    picture.paste(Image.fromarray(frame.pixels), ((side - width) // 2, (side - height) // 2))
    return picture


def _normalise(picture: Image.Image, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Resized (bicubic, as CLIP's processor) and standardised: float32 [3, size, size]."""
    resized = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))  # [S, S, 3]
    levels = np.arange(256, dtype=np.float32)[:, None] / 255
    table = (levels - np.float32(mean)) / np.float32(std)  # [256, 3]: looked up, not computed for every pixel
    return torch.from_numpy(np.stack([table[:, c].take(resized[..., c]) for c in range(3)]))

"""Two encoders, one row of image tokens: CLIP's view of the whole and SAM's of the detail.

LLaVA-Ultra (2024), section 3.2, Eq. 2: H = alpha * P1(F1) + (1 - alpha) * P2(F2). The sum needs as many SAM
tokens as CLIP tokens, which the paper does not speak of. Here SAM's grid is brought to CLIP's first, cell by
cell the same part of the picture: both encoders see the same padded square.

Knows nothing of images, encoders or the language model: features in, image tokens out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from assistants.llava_ultra.configuration import LlavaUltraConfig

REDUCTION = 4  # SAM's 64 cells a side over CLIP's 16


class Fusion(nn.Module):
    """Eq. 2. Without `sam_config` there is no alpha and no P2, and H = P1(F1).

    alpha is a free scalar, as the paper prints it, and not a logit, which could never be exactly 1: alpha = 1
    is LLaVA-Med, and training may start there. Beyond [0, 1] the limit counts; the gradient passes through
    it, so that a step too far can be taken back.
    """

    def __init__(self, config: LlavaUltraConfig):
        super().__init__()
        hidden = config.text_config.hidden_size
        self.start = float(config.alpha)
        self.clip_projector = projector(config.projector_type, config.vision_config.hidden_size, hidden)
        self.register_parameter("alpha", None)
        if config.sam_config is not None:
            channels = config.sam_config.output_channels
            self.sam_grid = GRIDS[config.sam_pooling](channels, config.image_grid)
            self.sam_projector = projector(config.projector_type, self.sam_grid.channels, hidden)
            self.alpha = nn.Parameter(torch.tensor([self.start]))

    @property
    def needs_sam(self) -> bool:
        """Whether SAM's features can change the result: not at alpha = 1, unless alpha is being learned."""
        if self.alpha is None:
            return False
        learning = self.training and torch.is_grad_enabled() and self.alpha.requires_grad
        return learning or self.alpha.item() < 1

    @property
    def weight(self) -> Tensor:
        """alpha within [0, 1], exactly; its gradient is as if there were no limits."""
        return self.alpha.detach().clamp(0, 1) + (self.alpha - self.alpha.detach())

    def forward(self, clip: Tensor, sam: Tensor | None = None) -> Tensor:
        """clip [k, T, C1] without its class token; sam [k, C2, g, g], SAM's neck -> [k, T, D].

        `sam` is None where `needs_sam` is false.
        """
        h1 = self.clip_projector(clip)  # [k, T, D]
        if sam is None:
            return h1
        h2 = self.sam_projector(self.sam_grid(sam).flatten(2).transpose(1, 2))  # [k, T, D]
        alpha = self.weight.to(h1.dtype)
        return alpha * h1 + (1 - alpha) * h2  # Eq. 2


class AveragePooling(nn.Module):
    """SAM's grid to `side` cells a side by plain means: 64 -> 16 by 4 x 4, 64 -> 24 by way of 96.

    A grid that is no multiple of `side` is first interpolated (bilinear) to REDUCTION times it.
    """

    def __init__(self, channels: int, side: int):
        super().__init__()
        self.channels, self.side = channels, side

    def forward(self, grid: Tensor) -> Tensor:
        """[k, C, g, g] -> [k, C, side, side]"""
        if grid.shape[-1] % self.side:
            grid = _resize(grid, REDUCTION * self.side)
        return avg_pool2d(grid, grid.shape[-1] // self.side)


class ConvolutionPooling(nn.Module):
    """The same by two learned convolutions of stride 2, each doubling the channels, as Vary and DeepSeek-VL
    reduce SAM."""

    def __init__(self, channels: int, side: int):
        super().__init__()
        self.channels, self.side = 4 * channels, side
        self.first = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.second = nn.Conv2d(2 * channels, 4 * channels, 3, stride=2, padding=1, bias=False)

    def forward(self, grid: Tensor) -> Tensor:
        """[k, C, g, g] -> [k, 4 C, side, side]"""
        return self.second(self.first(_resize(grid, REDUCTION * self.side)))


GRIDS = {"average": AveragePooling, "convolution": ConvolutionPooling}


def projector(kind: str, width: int, hidden: int) -> nn.Module:
    """P of Eq. 2, from `width` to the language model's `hidden`: one layer, or two with a GELU between."""
    if kind == "linear":
        return nn.Linear(width, hidden)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))


def _resize(grid: Tensor, side: int) -> Tensor:
    if grid.shape[-1] == side:
        return grid
    return interpolate(grid, size=(side, side), mode="bilinear", align_corners=False)

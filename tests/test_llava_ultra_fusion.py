"""Eq. 2 in small numbers, and two grids that meet cell by cell."""

import pytest
import torch
import ultra
from torch.nn.functional import interpolate

from assistants.llava_ultra.fusion import AveragePooling, ConvolutionPooling, Fusion


def fusion(**changes):
    torch.manual_seed(0)
    return Fusion(ultra.config(**changes))


def features(frames=2):
    torch.manual_seed(1)
    return torch.randn(frames, 16, 64), torch.randn(frames, 16, 16, 16)  # CLIP's tokens, SAM's neck


@torch.no_grad()
def test_equation_2_by_hand():
    """One token a picture, one number a token: H = 0.25 * 2 * 3 + 0.75 * 10 * mean(1, 2, 3, 6)."""
    tiny = {"hidden_size": 1, "num_attention_heads": 1, "image_size": 14, "patch_size": 14}
    made = fusion(
        vision_config={**ultra.VISION, **tiny},
        sam_config={**ultra.SAM, "output_channels": 1},
        projector_type="linear",
        alpha=0.25,
    )
    for layer, weight in ((made.clip_projector, 2.0), (made.sam_projector, 10.0)):
        layer.weight.fill_(weight)
        layer.bias.zero_()
    h = made(torch.tensor([[[3.0]]]), torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]]))
    assert torch.allclose(h, torch.full((1, 1, 32), 0.25 * 6 + 0.75 * 30))


@torch.no_grad()
def test_alpha_one_is_clip_alone_bit_for_bit_and_alpha_zero_is_sam_alone():
    clip, sam = features()
    made = fusion(alpha=1).eval()
    assert not made.needs_sam
    assert torch.equal(made(clip), made.clip_projector(clip))
    assert torch.equal(made(clip, sam), made.clip_projector(clip))
    made.alpha.fill_(0)
    assert made.needs_sam
    assert torch.equal(made(clip, sam), made(torch.zeros_like(clip), sam))


def test_without_sam_there_is_no_alpha():
    made = fusion(sam_config=None)
    assert not made.needs_sam
    assert {name.split(".")[0] for name, _ in made.named_parameters()} == {"clip_projector"}


@pytest.mark.parametrize("stored, used", [(1.3, 1.0), (-0.2, 0.0), (1.0, 1.0), (0.0, 0.0), (0.3, 0.3)])
def test_alpha_stays_within_its_limits_and_can_come_back(stored, used):
    made = fusion()
    with torch.no_grad():
        made.alpha.fill_(stored)
    assert made.weight.item() == torch.tensor(used).item()
    made.weight.sum().backward()
    assert made.alpha.grad.item() == 1


def test_learning_may_start_at_alpha_one():
    made = fusion(alpha=1).train()
    assert made.needs_sam
    clip, sam = features()
    h = made(clip, sam)
    assert torch.equal(h, made.clip_projector(clip))
    h.square().sum().backward()
    assert made.alpha.grad.abs() > 0
    made.alpha.requires_grad_(False)
    assert not made.needs_sam


@pytest.mark.parametrize("kind", ["linear", "mlp2x_gelu"])
@pytest.mark.parametrize("pooling", ["average", "convolution"])
def test_gradients_reach_alpha_and_both_projectors(kind, pooling):
    made = fusion(projector_type=kind, sam_pooling=pooling).train()
    made(*features()).square().sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("side", [16, 24])
@pytest.mark.parametrize("pooling, channels", [(AveragePooling, 256), (ConvolutionPooling, 1024)])
def test_the_published_sizes(side, pooling, channels):
    """SAM ViT-L's neck against CLIP L/14 at 224 and at 336 pixels."""
    with torch.device("meta"):
        made = pooling(256, side)
        assert made(torch.empty(2, 256, 64, 64)).shape == (2, channels, side, side)
    assert made.channels == channels


def test_average_pooling_takes_plain_means_and_goes_by_way_of_four_times_the_side():
    torch.manual_seed(0)
    grid = torch.randn(1, 3, 64, 64)
    pooled = AveragePooling(3, 16)(grid)
    assert torch.allclose(pooled[0, 1, 2, 5], grid[0, 1, 8:12, 20:24].mean(), atol=1e-6)
    larger = interpolate(grid, size=(96, 96), mode="bilinear", align_corners=False)
    pooled = AveragePooling(3, 24)(grid)
    assert torch.allclose(pooled[0, 2, 7, 23], larger[0, 2, 28:32, 92:96].mean(), atol=1e-6)
    assert torch.equal(AveragePooling(3, 64)(grid), grid)


@pytest.mark.parametrize("pooling", ["average", "convolution"])
@torch.no_grad()
def test_tokens_go_row_by_row_as_clips_do(pooling):
    """A bright right end of SAM's first row changes the fourth of CLIP's 4 x 4 tokens, and it most."""
    made = fusion(sam_pooling=pooling, projector_type="linear", alpha=0)
    clip, _ = features(1)
    dark = torch.zeros(1, 16, 16, 16)
    bright = dark.clone()
    bright[:, :, 0:4, 12:16] = 1
    change = (made(clip, bright) - made(clip, dark)).norm(dim=-1)[0]  # [T]
    assert change.argmax() == 3

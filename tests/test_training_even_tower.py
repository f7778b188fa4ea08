"""training.even_tower: the library's numbers and gradients, for images of one size."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2VLConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from training.even_tower import tower_tokens

IMAGES, ROWS, COLUMNS = 3, 4, 6  # patches


@pytest.fixture
def tower():
    torch.manual_seed(0)
    vision = {"depth": 2, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 2, "hidden_size": 24}
    return Qwen2VisionTransformerPretrainedModel._from_config(
        Qwen2VLConfig(vision_config=vision).vision_config
    )


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    pixels = torch.randn(IMAGES * ROWS * COLUMNS, 3 * 2 * 14 * 14)
    return pixels, torch.tensor([[1, ROWS, COLUMNS]] * IMAGES)


def test_tokens_and_gradients_are_the_librarys(tower, inputs):
    pixels, grid = inputs
    expected = tower(pixels, grid_thw=grid).pooler_output
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    wanted = {name: p.grad.clone() for name, p in tower.named_parameters()}
    tower.zero_grad()
    found = tower_tokens(tower, pixels, grid)
    assert found.shape == (IMAGES, ROWS * COLUMNS // 4, 24)
    torch.testing.assert_close(found.flatten(0, 1), expected, atol=1e-5, rtol=1e-4)
    (found.flatten(0, 1) * weights).sum().backward()
    for name, parameter in tower.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-4, rtol=1e-3, msg=name)


def test_an_image_does_not_see_its_neighbours(tower, inputs):
    pixels, grid = inputs
    one = ROWS * COLUMNS
    alone = tower_tokens(tower, pixels[one : 2 * one], grid[:1])
    torch.testing.assert_close(tower_tokens(tower, pixels, grid)[1:2], alone, atol=1e-5, rtol=1e-4)


def test_mixed_precision_stays_near(tower, inputs):
    with torch.autocast("cpu", torch.bfloat16):
        near = tower_tokens(tower, *inputs)
    torch.testing.assert_close(near.float(), tower_tokens(tower, *inputs), atol=0.05, rtol=0.05)


def test_images_of_several_sizes_are_refused(tower):
    grid = torch.tensor([[1, 4, 6], [1, 6, 4]])
    with pytest.raises(ValueError, match="images of one size"):
        tower_tokens(tower, torch.randn(48, 1176), grid)

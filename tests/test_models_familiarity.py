"""Familiarity: far is unfamiliar, near is not, the threshold lets the stated share through, and it survives
a save."""

from __future__ import annotations

import pytest
import tiny
import torch

from models.encoding import Encoder
from models.familiarity import SHRINKAGE, Familiarity, vision_features


@pytest.fixture(scope="module")
def cloud() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(12, 12, generator=generator)
    return torch.randn(4000, 12, generator=generator) @ mixing


def test_the_threshold_passes_the_stated_share_and_not_what_is_far(cloud):
    fitted = Familiarity.fit(cloud[:2000], cloud[2000:3000], 0.98)
    assert (fitted.distance(cloud[3000:]) <= fitted.threshold).float().mean() == pytest.approx(
        0.98, abs=0.015
    )
    assert (fitted.distance(cloud[3000:] + 8 * cloud.std(0)) > fitted.threshold).float().mean() > 0.99


def test_distance_follows_the_spread_of_each_direction(cloud):
    fitted = Familiarity.fit(cloud, cloud, 0.98)
    values, vectors = torch.linalg.eigh(torch.cov(cloud.T))
    wide, narrow = vectors[:, -1], vectors[:, 0]
    at = torch.stack([cloud.mean(0) + 3 * wide, cloud.mean(0) + 3 * narrow])
    assert fitted.distance(at)[0] < fitted.distance(at)[1]


def test_distance_is_mahalanobis_of_the_shrunken_covariance(cloud):
    flat = torch.cat([cloud, 1e-3 * torch.randn(4000, 20, generator=torch.Generator().manual_seed(1))], 1)
    fitted = Familiarity.fit(flat, flat, 0.98)
    assert len(fitted.directions) <= 12  # the flat ones share a variance
    covariance = torch.cov(flat.T).double()
    covariance += SHRINKAGE * covariance.diagonal().mean() * torch.eye(32, dtype=torch.double)
    centred = (flat - flat.mean(0)).double()
    expected = ((centred @ torch.linalg.inv(covariance) * centred).sum(1) / 32).sqrt()
    assert torch.allclose(fitted.distance(flat).double(), expected, rtol=1e-3)


def test_saved_and_loaded_it_says_the_same(cloud, tmp_path):
    fitted = Familiarity.fit(cloud[:2000], cloud[2000:], 0.98)
    assert Familiarity.load(tmp_path) is None
    fitted.save(tmp_path)
    loaded = Familiarity.load(tmp_path)
    assert torch.allclose(loaded.distance(cloud), fitted.distance(cloud), rtol=5e-3)
    assert loaded.threshold == pytest.approx(fitted.threshold)


def test_features_of_images_of_different_sizes_do_not_mix(tmp_path):
    folder = tiny.save(tmp_path)
    encoder = Encoder.open(folder)
    from transformers import Qwen2VLForConditionalGeneration

    model = Qwen2VLForConditionalGeneration.from_pretrained(folder).eval()
    frames = [tiny.frame(84, 84, seed=1), tiny.frame(84, 112, seed=2)]
    together = encoder.encode_images(frames)
    both = vision_features(model.model.visual, together["pixel_values"], together["image_grid_thw"])
    for i, frame in enumerate(frames):
        alone = encoder.encode_images([frame])
        one = vision_features(model.model.visual, alone["pixel_values"], alone["image_grid_thw"])
        assert torch.allclose(both[i], one[0], atol=1e-5)

"""models.encoding: places in an image's colours."""

from __future__ import annotations

import numpy as np
import pytest
from test_abvlm_q_assistant import save

from imaging.frame import Frame
from models.encoding import PLACES, Encoder, with_places


def test_places_are_written_into_red_and_blue():
    grey = np.full((40, 80, 3), 100, np.uint8)
    shown = with_places(grey, 0.3)
    assert shown.dtype == np.uint8 and (shown[..., 1] == 100).all()
    assert (shown[..., 0] == shown[:1, :, 0]).all() and (shown[..., 2] == shown[:, :1, 2]).all()
    across = {tuple(pair) for pair in np.stack([shown[0, :-8, 0], shown[0, 8:, 0]], 1)}
    assert len(across) > 60, "two neighbours tell where they lie"
    assert shown[0, 53:, 0].mean() > shown[0, :27, 0].mean() + 10
    assert shown[..., 0].min() >= 70 and shown[..., 0].max() <= 70 + 77


def test_without_a_share_the_picture_is_itself():
    grey = np.zeros((4, 4, 3), np.uint8)
    assert with_places(grey, 0.0) is grey


def test_the_image_processor_keeps_the_share(tmp_path):
    encoder = Encoder.open(save(tmp_path / "weights"))
    frame = Frame(np.full((56, 56, 3), 90, np.uint8), None, "a.png")
    plain = encoder.encode_images([frame])["pixel_values"]
    setattr(encoder.image_processor, PLACES, 0.3)
    told = encoder.encode_images([frame])["pixel_values"]
    assert told.numpy() != pytest.approx(plain.numpy(), abs=0.1)
    encoder.save(tmp_path / "weights")
    again = Encoder.open(tmp_path / "weights").encode_images([frame])["pixel_values"]
    assert np.array_equal(again, told)

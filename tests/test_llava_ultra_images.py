"""Both encoders see the same square, each as its own processor would have it."""

import numpy as np
import pytest
import torch
import ultra
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from assistants.llava_ultra.images import PADDING, encode_frames, square
from imaging.frame import Frame
from models.errors import UnusableImage


def frame(height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Frame(pixels, None, "still.png")


@pytest.mark.parametrize("height, width", [(60, 100), (100, 60), (101, 60), (50, 50), (1, 1), (3, 200)])
def test_a_frame_lies_in_the_middle_of_its_square(height, width):
    picture = np.asarray(square(frame(height, width)))
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    assert picture.shape == (side, side, 3)
    assert (picture[top : top + height, left : left + width] == frame(height, width).pixels).all()
    padding = np.ones((side, side), bool)
    padding[top : top + height, left : left + width] = False
    assert (picture[padding] == PADDING).all()


def test_clip_gets_what_its_own_processor_makes_of_the_square():
    processor = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size=56)
    given = frame(90, 140)
    expected = processor([square(given)], return_tensors="pt")["pixel_values"]
    assert (encode_frames([given], ultra.config())["pixel_values"] - expected).abs().max() < 1e-5


def test_sam_gets_its_own_mean_and_deviation():
    grey = Frame(np.full((40, 80, 3), 200, np.uint8), None, "grey.png")
    encoded = encode_frames([grey], ultra.config())["sam_pixel_values"]
    expected = (200 - torch.tensor([123.675, 116.28, 103.53])) / torch.tensor([58.395, 57.12, 57.375])
    assert torch.allclose(encoded[0, :, 64, 64], expected, atol=1e-5)
    assert encoded[0, :, 2, 64].abs().max() < 0.03  # the padding is as good as SAM's own zeros


def test_both_see_the_same_place():
    """A bright spot at three quarters of the width and a third of the height of the padded square."""
    pixels = np.zeros((120, 240, 3), np.uint8)
    pixels[15:25, 175:185] = 255  # the square is 240 x 240, the frame starts at row 60
    encoded = encode_frames([Frame(pixels, None, "spot.png")], ultra.config())
    for values in encoded.values():
        size = values.shape[-1]
        row, column = divmod(values[0, 0].argmax().item(), size)
        assert (row / size, column / size) == pytest.approx((80 / 240, 180 / 240), abs=0.03)


def test_frames_of_any_shape_make_one_batch():
    encoded = encode_frames([frame(60, 100), frame(1, 1), frame(300, 20), frame(2, 400)], ultra.config())
    assert encoded["pixel_values"].shape == (4, 3, 56, 56)
    assert encoded["sam_pixel_values"].shape == (4, 3, 128, 128)
    assert {values.dtype for values in encoded.values()} == {torch.float32}


def test_sam_off_and_no_frames():
    assert encode_frames([frame(8, 8)], ultra.config(sam_config=None)).keys() == {"pixel_values"}
    assert encode_frames([], ultra.config()) == {}


def test_a_frame_too_narrow_to_show_anything():
    with pytest.raises(UnusableImage, match="still.png: 2 x 402 pixels") as error:
        encode_frames([frame(402, 2)], ultra.config())
    assert "过于狭长" in error.value.message("zh")


def test_a_grey_image_is_grey_for_both():
    """Frames are RGB by contract; what was grey in the file has three equal channels."""
    grey = np.repeat(np.random.default_rng(0).integers(0, 256, (30, 30, 1), dtype=np.uint8), 3, axis=2)
    picture = square(Frame(grey, None, "grey.png"))
    assert picture.mode == "RGB"
    assert (np.asarray(picture) == np.asarray(Image.fromarray(grey[..., 0]).convert("RGB"))).all()

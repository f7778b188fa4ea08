"""Messages and frames become tensors; a folder of weights becomes a model with its encoder."""

import json

import pytest
import tiny
import torch

from models.backbone import Backbone, choose_device, choose_dtype
from models.encoding import IGNORED, Encoder
from models.errors import DeviceUnavailable, UnusableImage


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def encoder(folder):
    return Encoder.open(folder)


def user(text, images=0):
    return {"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": text}]}


def assistant(text):
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def text_of(encoder, tensors, row=0):
    return encoder.tokenizer.decode(tensors["input_ids"][row])


def test_a_prompt_is_the_template_with_one_token_per_merged_patch(encoder):
    tensors = encoder.encode([user("请写报告", 1)], [tiny.frame(84, 112)])
    # 84 x 112 pixels are 6 x 8 patches of 14 pixels, merged 2 x 2 into 12 tokens
    pad = "<|image_pad|>" * 12
    assert text_of(encoder, tensors) == (
        f"<|im_start|>user\n<|vision_start|>{pad}<|vision_end|>请写报告<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tensors["image_grid_thw"].tolist() == [[1, 6, 8]]
    assert tensors["pixel_values"].shape == (48, 3 * 2 * 14 * 14)
    assert tensors["mm_token_type_ids"].sum() == 12
    assert torch.equal(tensors["mm_token_type_ids"].bool(), tensors["input_ids"] == encoder.image_token_id)


def test_images_of_several_messages_keep_their_order_and_size(encoder):
    frames = [tiny.frame(56, 84), tiny.frame(84, 56, seed=1), tiny.frame(112, 112, seed=2)]
    both = encoder.encode([user("a", 2), assistant("b"), user("c", 1)], frames)
    alone = [encoder.encode_images([frame]) for frame in frames]
    assert both["image_grid_thw"].tolist() == [each["image_grid_thw"].tolist()[0] for each in alone]
    assert torch.equal(both["pixel_values"], torch.cat([each["pixel_values"] for each in alone]))


@pytest.mark.parametrize(
    ("max_pixels", "tokens"),
    [(None, 16), (10**9, 16), (56 * 56, 4), (28 * 28, 1)],
    ids=["the checkpoint's own", "never above it", "smaller", "below the checkpoint's least"],
)
def test_the_budget_scales_an_image_down(encoder, max_pixels, tokens):
    tensors = encoder.encode([user("a", 1)], [tiny.frame(448, 448)], max_pixels)
    assert tensors["mm_token_type_ids"].sum() == tokens


@pytest.mark.parametrize(
    "control", ["<|im_end|>", "<|image_pad|>", "<|im_start|>assistant\n", "<|endoftext|>"]
)
def test_typed_control_tokens_are_plain_text(encoder, control):
    tensors = encoder.encode([user(f"正常{control}?", 1)], [tiny.frame()])
    honest = encoder.encode([user("正常?", 1)], [tiny.frame()])
    assert control in text_of(encoder, tensors)
    for token in tiny.SPECIAL:
        id_ = encoder.tokenizer.convert_tokens_to_ids(token)
        assert (tensors["input_ids"] == id_).sum() == (honest["input_ids"] == id_).sum()


def test_images_and_placeholders_must_agree(encoder):
    with pytest.raises(ValueError, match="hold 2 images, but 1 frames"):
        encoder.encode([user("a", 2)], [tiny.frame()])


def test_a_strip_is_refused_in_both_languages(encoder):
    with pytest.raises(UnusableImage) as refused:
        encoder.encode([user("a", 1)], [tiny.frame(2, 900, source="IM_0001")])
    assert "IM_0001" in str(refused.value)
    assert "狭长" in refused.value.message("zh")


def test_only_the_answer_is_learned(encoder):
    asked = [user("请写报告", 1)]
    prompt = encoder.encode(asked, [tiny.frame()])
    lesson = encoder.encode([*asked, assistant("左叶正常")], [tiny.frame()], learn=True)
    learned = lesson["labels"][0] != IGNORED
    begins = prompt["input_ids"].shape[1]
    assert torch.equal(lesson["input_ids"][0, :begins], prompt["input_ids"][0])
    assert not learned[:begins].any()
    assert encoder.tokenizer.decode(lesson["labels"][0, learned]) == "左叶正常<|im_end|>"
    assert torch.equal(lesson["labels"][0, learned], lesson["input_ids"][0, learned])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_but_the_shape(encoder, side):
    items = [
        encoder.encode([user("短", 1), assistant("好")], [tiny.frame()], learn=True),
        encoder.encode(
            [user("a much longer question", 2), assistant("正常")],
            [tiny.frame(), tiny.frame(56, 56)],
            learn=True,
        ),
    ]
    batch = encoder.pad(items, side)
    for row, item in enumerate(items):
        real = batch["attention_mask"][row].bool()
        assert real.sum() == item["input_ids"].shape[1]
        assert real[-1 if side == "left" else 0]
        for key in ("input_ids", "mm_token_type_ids", "labels"):
            assert torch.equal(batch[key][row, real], item[key][0])
        assert (batch["labels"][row, ~real] == IGNORED).all()
    assert len(batch["image_grid_thw"]) == 3


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_padded_batch_generates_what_each_alone_does(architecture, tmp_path):
    backbone = Backbone.open(str(tiny.save(tmp_path, architecture)), device="cpu")
    asked = [
        ([user("短", 1)], [tiny.frame()]),
        ([user("longer words", 2)], [tiny.frame(), tiny.frame(56, 56)]),
    ]
    items = [backbone.encode(*each) for each in asked]
    batch = backbone.encoder.pad(items)
    length = batch["input_ids"].shape[1]
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    together = backbone.model.generate(**batch, **options)[:, length:]
    alone = [backbone.model.generate(**item, **options)[0, item["input_ids"].shape[1] :] for item in items]
    assert together.tolist() == [each.tolist() for each in alone]


def test_the_encoder_comes_back_as_it_was_saved(encoder, folder, tmp_path):
    encoder.save(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    frames = [tiny.frame(84, 200)]
    first, second = (each.encode([user("左叶", 1)], frames) for each in (encoder, Encoder.open(tmp_path)))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_processor_template_in_its_old_file_is_found(encoder, folder, tmp_path):
    encoder.save(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "chat_template.jinja").rename(tmp_path / "unused")
    with pytest.raises(ValueError, match="chat template"):
        Encoder.open(tmp_path)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": tiny.TEMPLATE}))
    assert "<|im_start|>user" in text_of(encoder, Encoder.open(tmp_path).encode([user("a")]))


def test_a_backbone_says_how_much_it_can_read(folder):
    backbone = Backbone.open(str(folder), device="cpu")
    assert backbone.context_length == 2048
    assert backbone.model.dtype == torch.float32  # "auto" on a CPU
    assert not backbone.model.training


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"device": "cuda:77"}, DeviceUnavailable, "--device cuda:77"),
        ({"device": "cpu", "quantize": "4bit"}, DeviceUnavailable, "needs a CUDA GPU"),
        ({"device": "cpu", "quantize": "2bit"}, ValueError, "not one of 8bit, 4bit"),
        ({"device": "cpu", "dtype": "int3"}, ValueError, "not one of auto, float32"),
    ],
)
def test_what_cannot_be_had_is_said_before_anything_is_loaded(options, error, says):
    with pytest.raises(error, match=says):
        Backbone.open("no/such/folder", **options)


def test_automatic_choices():
    gpu = torch.cuda.is_available()
    assert choose_device("auto").type == ("cuda" if gpu else "cpu")
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert choose_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16

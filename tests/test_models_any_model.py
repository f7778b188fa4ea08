"""Weights of other makers open through their own processors, or are refused in one sentence."""

import json

import pytest
import seen
import tiny
import torch

from models.any_model import ProcessorEncoder, SuiteEncoder, open_any
from models.checkpoint import CheckpointError

QUESTION = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Rate <image> it </s>"}]}
BEGUN = {"role": "assistant", "content": [{"type": "text", "text": "It is"}]}


@pytest.fixture(params=["llava", "llava_next", "internvl"])
def folder(request, tmp_path):
    return seen.save(tmp_path / request.param, request.param)


def test_they_open_without_torchvision(folder):
    found = open_any(str(folder), device="cpu")
    assert isinstance(found.encoder, ProcessorEncoder) and found.backbone is None
    assert not found.model.training


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_the_suite_s_own_open_as_backbones(architecture, tmp_path):
    found = open_any(str(tiny.save(tmp_path, architecture)), device="cpu")
    assert isinstance(found.encoder, SuiteEncoder) and found.backbone.folder == tmp_path


def test_what_is_seen_of_an_image_fits_the_tokens_of_it(folder):
    found = open_any(str(folder), device="cpu")
    for frame in (tiny.frame(28, 28), tiny.frame(28, 84)):
        image = found.encoder.image(frame, None)
        ids = torch.tensor([found.encoder.tokens((QUESTION, BEGUN), (frame,), [image])["input_ids"]])
        with torch.no_grad():  # the library counts both, and refuses what does not fit
            assert found.model(input_ids=ids, **image).logits.shape[:2] == ids.shape


def test_control_tokens_in_a_question_are_plain_text(folder):
    encoder = open_any(str(folder), device="cpu").encoder
    frame = tiny.frame(28, 28)
    with_words = encoder.tokens((QUESTION, BEGUN), (frame,), ())["input_ids"]
    plain = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Rate it"}]}
    without = encoder.tokens((plain, BEGUN), (frame,), ())["input_ids"]
    images = [ids.count(encoder.image_token_id) for ids in (with_words, without)]
    assert images[0] == images[1] > 0
    assert encoder.decode(with_words).endswith("It is") and "<image>" in encoder.decode(with_words)


def test_where_no_answer_is_begun_the_prompt_ends_where_it_begins(folder):
    encoder = open_any(str(folder), device="cpu").encoder
    text = encoder.decode(encoder.tokens((QUESTION,), (tiny.frame(28, 28),), ())["input_ids"])
    assert text.endswith("ASSISTANT: ")


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def without_template(folder):
    (folder / "chat_template.jinja").unlink()
    for name in ("tokenizer_config.json", "processor_config.json"):
        content = json.loads((folder / name).read_text())
        content.pop("chat_template", None)
        (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: change(folder / "config.json", auto_map={"AutoModel": "x.Y"}), "its own code"),
        (
            lambda folder: change(folder / "config.json", model_type="mplug_owl3", architectures=["Owl"]),
            "no model for images and text",
        ),
        (
            lambda folder: change(folder / "config.json", model_type="llama", architectures=["Llama"]),
            "no model for images and text",
        ),
        (without_template, "no chat template"),
        (lambda folder: (folder / "processor_config.json").unlink(), "processor"),
        (lambda folder: (folder / "model.safetensors").unlink(), "safetensors"),
    ],
)
def test_what_cannot_be_opened_is_refused_in_one_sentence(tmp_path, spoil, sentence):
    folder = seen.save(tmp_path / "llava")
    spoil(folder)
    with pytest.raises(CheckpointError, match=sentence) as refused:
        open_any(str(folder), device="cpu")
    assert "\n" not in str(refused.value) and refused.value.message("zh")


def test_weights_with_a_missing_tensor_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = seen.save(tmp_path / "llava")
    tensors = load_file(folder / "model.safetensors")
    gone = next(name for name in tensors if "layers.1" in name)
    del tensors[gone]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks tensors"):
        open_any(str(folder), device="cpu")


def test_quantising_them_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be quantised"):
        open_any(str(seen.save(tmp_path / "llava")), device="cpu", quantize="4bit")

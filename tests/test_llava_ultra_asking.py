"""LLaVA-Ultra's weights rate as any others do: the prompt is its own assistant's, with the beginning of an
answer behind it."""

import pytest
import tiny
import torch
from test_llava_ultra_assistant import saved

from assistants.base import Reply, Turn, open_assistant
from assistants.llava_ultra.asking import PromptEncoder
from models.any_model import open_any
from models.checkpoint import CheckpointError
from models.likelihood import Ask, Likelihood

FRAMES = tuple(tiny.frame(60 + 8 * seed, 96, seed=seed) for seed in range(2))
ANSWER = "The quality of this image is"


def chat(images, answer=None):
    content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": "Rate <image> it."}]
    begun = [{"role": "assistant", "content": [{"type": "text", "text": answer}]}] if answer else []
    return ({"role": "user", "content": content}, *begun)


@pytest.fixture(scope="module", params=["chatml", "llava_med_v1"])
def folder(request, tmp_path_factory):
    folder = saved(tmp_path_factory.mktemp("weights"))
    vocabulary = tiny.tokenizer()
    if request.param != "chatml":
        vocabulary.add_special_tokens({"additional_special_tokens": ["<s>", "<im_start>", "<im_end>"]})
        size = {"vocab_size": len(vocabulary)}
        saved(folder, template=request.param, text_config=size)
        vocabulary.save_pretrained(folder)
    return folder


def test_a_chat_is_the_assistants_own_prompt(folder):
    encoder = open_any(str(folder), device="cpu").encoder
    assert isinstance(encoder, PromptEncoder)
    turn = Turn("Rate <image> it.", FRAMES)
    asked = encoder.encode([turn])["input_ids"][0].tolist()
    assert encoder.tokens(chat(2), FRAMES, ())["input_ids"] == asked
    assert asked.count(encoder.image_token_id) == 2 * encoder.config.image_tokens  # typed ones are words
    begun = encoder.tokens(chat(2, ANSWER), FRAMES, ())["input_ids"]
    whole = encoder.encode([turn, Reply(ANSWER)], learn=True)["input_ids"][0].tolist()
    assert encoder.decode(begun).endswith(ANSWER) and len(asked) < len(begun) < len(whole)
    assert begun[: len(begun) - 1] == whole[: len(begun) - 1]


def test_probabilities_are_the_models_own(folder):
    found = open_any(str(folder), device="cpu")
    likelihood = Likelihood(found.model, found.encoder)
    asks = [Ask(chat(n, ANSWER), FRAMES[:n], ((20,), (60, 70))) for n in (1, 2)]
    together, alone = likelihood.of(asks), [likelihood.of([ask])[0] for ask in asks]
    assert likelihood.sharing is False and "encoded already" in likelihood.why
    ids = torch.tensor([[*found.encoder.tokens(chat(1, ANSWER), (), ())["input_ids"], 60]])
    with torch.no_grad():
        logits = found.model(ids, **found.encoder.image(FRAMES[0], None)).logits[0].log_softmax(-1)
    assert together[0] == [
        (pytest.approx(logits[-2, 20].item(), abs=1e-4),),
        (pytest.approx(logits[-2, 60].item(), abs=1e-4), pytest.approx(logits[-1, 70].item(), abs=1e-4)),
    ]
    for one, other in zip(together, alone, strict=True):
        assert [pytest.approx(each, abs=1e-4) for each in one] == other


def test_the_rater_runs_on_them(folder):
    rater = open_assistant("qbench", str(folder), device="cpu")
    reply = list(rater.stream(Turn("", FRAMES, "compare", "heart", "en")))[-1]
    assert len(reply.ratings) == 2 and sum(reply.best_probabilities) == pytest.approx(1)
    assert all(0 <= each["score"] <= 10 for each in reply.ratings)


def test_a_tokenizer_that_does_not_fit_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="no tokenizer that fits it.*needs the token <s>") as refused:
        open_any(str(saved(tmp_path, template="llava_med_v1")), device="cpu")
    assert refused.value.message("zh")


def test_quantising_them_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be quantised"):
        open_any(str(saved(tmp_path)), device="cpu", quantize="4bit")

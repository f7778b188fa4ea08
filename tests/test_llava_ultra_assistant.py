"""A case goes in, one frame is found, an answer comes out; on tiny random weights."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Lock
from types import SimpleNamespace

import pytest
import tiny
import torch
import ultra
from peft import LoraConfig, get_peft_model
from PIL import Image

from assistants.base import DEMO_MARK, NAMES, Reply, Settings, Turn, open_assistant
from assistants.llava_ultra import LlavaUltraForConditionalGeneration
from assistants.llava_ultra.assistant import LlavaUltraAssistant, _until
from assistants.selection import MOST_FRAMES, UnusableChoice
from eval.prediction import predict
from imaging.case import Case, write_cases
from models.checkpoint import CheckpointError
from models.errors import ContextOverflow, DeviceUnavailable, OutOfMemory, UnusableImage
from models.familiarity import Familiarity, pooled
from models.feature_cache import FeatureCache
from models.frame_choice import choose

SHORT = Settings(max_new_tokens=12)
FRAMES = tuple(tiny.frame(60 + 8 * seed, 96, source=f"{seed}.png", seed=seed) for seed in range(5))


def made(seed=0, *, trained=True, template="chatml", **changes) -> LlavaUltraForConditionalGeneration:
    """Random weights that read tiny.tokenizer's words; `trained` gives the frame score something to say."""
    vocabulary = tiny.tokenizer()
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": 2048} | changes.pop("text_config", {})
    image = vocabulary.convert_tokens_to_ids("<|image_pad|>")
    model = ultra.model(seed, template=template, image_token_id=image, text_config=text, **changes)
    model.generation_config.eos_token_id = vocabulary.eos_token_id
    model.generation_config.pad_token_id = vocabulary.pad_token_id
    if trained:
        torch.nn.init.normal_(model.model.frame_score.channel_weight)
        torch.nn.init.normal_(model.model.frame_score.token_query)
    return model


def saved(folder, *args, **changes):
    made(*args, **changes).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def assistant(folder):
    return LlavaUltraAssistant.open(str(folder), device="cpu")


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    return LlavaUltraAssistant.open(str(saved(tmp_path_factory.mktemp("w"), trained=False)), device="cpu")


def answer(assistant, turn, history=(), settings=SHORT):
    return list(assistant.stream(turn, history, settings))[-1]


def without_time(reply):
    return replace(reply, seconds_to_first_token=None)


def test_it_opens_by_name(folder):
    opened = open_assistant("llava_ultra", str(folder), device="cpu")
    assert (opened.name, opened.demo, opened.device, opened.dtype) == ("llava_ultra", False, "cpu", "float32")
    assert opened.folders == (folder,) and folder.name in opened.title


def test_assistants_are_imported_and_opened_one_at_a_time(monkeypatch):
    at_work = Lock()

    def alone(*_, **__):
        assert at_work.acquire(blocking=False), "two at once"
        time.sleep(0.05)
        at_work.release()
        return SimpleNamespace(open=alone)

    monkeypatch.setattr("assistants.base.import_module", alone)
    with ThreadPoolExecutor(len(NAMES)) as at_once:
        assert all(at_once.map(open_assistant, NAMES))


def test_a_reply_grows_and_carries_the_choice_from_its_first_word_on(assistant):
    replies = list(assistant.stream(Turn("请写报告", FRAMES, language="zh"), (), SHORT))
    texts = [reply.text for reply in replies]
    assert all(later.startswith(earlier) for earlier, later in zip(texts, texts[1:], strict=False))
    assert [reply.finished for reply in replies] == [False] * (len(replies) - 1) + [True]
    assert all(reply.selection for reply in replies if reply.text)
    last = replies[-1]
    assert last.new_tokens == 12 and last.stopped_by == "length" and last.seconds_to_first_token > 0
    assert json.loads(json.dumps(last.selection)) == last.selection
    assert last.selection["frames"] == 5 and len(last.selection["kept"]) == 1
    assert sum(last.selection["scores"]) == pytest.approx(1)
    assert last.selection["how"] == "feature" and last.selection["redundant"] == []


def test_the_answer_is_that_to_the_kept_frame_alone(assistant):
    turn = Turn("请写报告", FRAMES, language="zh")
    whole = answer(assistant, turn)
    kept = whole.selection["kept"][0]
    assert kept == max(range(5), key=whole.selection["scores"].__getitem__)
    alone = answer(assistant, replace(turn, frames=(FRAMES[kept],)))
    assert (alone.text, alone.prompt_tokens) == (whole.text, whole.prompt_tokens)


def test_the_choice_does_not_depend_on_the_order(assistant):
    turn = Turn("请写报告", FRAMES[::-1], language="zh")
    forwards = answer(assistant, Turn("请写报告", FRAMES, language="zh"))
    backwards = answer(assistant, turn)
    assert backwards.selection["kept"] == [4 - forwards.selection["kept"][0]]
    assert backwards.text == forwards.text


@pytest.mark.parametrize("chosen", [(0,), (3,), (1, 4)])
def test_a_person_overrules(assistant, chosen):
    reply = answer(assistant, Turn("请写报告", FRAMES, language="zh", chosen=chosen))
    assert reply.selection["kept"] == list(chosen) and reply.selection["how"] == "person"
    alone = Turn("请写报告", tuple(FRAMES[at] for at in chosen), language="zh")
    assert reply.text == answer(assistant, alone, settings=replace(SHORT, keep=len(chosen))).text


def test_all_frames_may_be_kept(assistant):
    reply = answer(assistant, Turn("请写报告", FRAMES), settings=replace(SHORT, keep=MOST_FRAMES))
    assert reply.selection["kept"] == [0, 1, 2, 3, 4]
    one = answer(assistant, Turn("请写报告", FRAMES))
    assert reply.prompt_tokens - one.prompt_tokens >= 4 * ultra.TOKENS


def test_without_a_trained_score_attention_chooses(untrained):
    reply = answer(untrained, Turn("甲状腺", FRAMES, language="zh"))
    assert reply.selection["how"] == "attention"
    with torch.no_grad():
        features = untrained._encode(FRAMES)
        scores = untrained.model.attention_scores(features, untrained.encoder.words("甲状腺"))
    expected = choose(scores, 1, "attention")
    assert reply.selection["kept"] == list(expected.kept)
    assert reply.selection["scores"] == pytest.approx(expected.scores, abs=1e-5)


def test_new_images_join_the_case(assistant):
    history = [Turn("请写报告", FRAMES[:2], language="zh"), Reply("左叶")]
    reply = answer(assistant, Turn("多大", FRAMES[2:], language="zh"), history)
    whole = answer(assistant, Turn("", FRAMES, language="zh"))
    assert reply.selection["scores"] == pytest.approx(whole.selection["scores"], abs=1e-5)
    assert reply.selection["kept"] == whole.selection["kept"]


def test_frames_seen_before_are_not_encoded_again(assistant, monkeypatch):
    looked = []
    encode = assistant._encode
    monkeypatch.setattr(assistant, "_encode", lambda new: (looked.append(len(new)), encode(new))[1])
    first = answer(assistant, Turn("请写报告", FRAMES[:3]))
    answer(assistant, Turn("And?", FRAMES[3:]), [Turn("请写报告", FRAMES[:3]), first])
    again = answer(assistant, Turn("请写报告", FRAMES[:3]))
    assert looked == [3, 2]
    assert without_time(again) == without_time(first)


def test_many_frames_are_encoded_in_batches_with_a_heartbeat_between(assistant, monkeypatch):
    looked = []
    encode = assistant._encode
    monkeypatch.setattr(assistant, "_encode", lambda new: (looked.append(len(new)), encode(new))[1])
    frames = tuple(tiny.frame(seed=100 + seed) for seed in range(20))
    replies = assistant.stream(Turn("请写报告", frames), (), SHORT)
    assert next(replies).text == "" and looked == [8]
    replies.close()
    assert looked == [8]


def test_without_images_a_question_is_answered_as_text(assistant):
    reply = answer(assistant, Turn("What is a cyst?"))
    assert reply.new_tokens == 12 and reply.selection is None


MIXED = (
    Turn("请写报告", FRAMES, "report", None, "zh"),
    Turn("What is a cyst?"),
    Turn("", FRAMES[1:3], "diagnosis", "liver", "en", (1,)),
)


@pytest.mark.parametrize("turns", [MIXED, MIXED[::-1], MIXED[1:2] * 2])
def test_turns_answered_together_get_what_each_would_alone(assistant, turns):
    alone = [without_time(answer(assistant, turn)) for turn in turns]
    together = assistant.answer(turns, SHORT)
    for one, other in zip(alone, together, strict=True):
        assert (one.text, one.new_tokens, one.stopped_by) == (other.text, other.new_tokens, other.stopped_by)
        assert one.selection == other.selection


def test_what_was_found_is_written_with_a_prediction(assistant, tmp_path):
    for at, frame in enumerate(FRAMES[:2]):
        Image.fromarray(frame.pixels).save(tmp_path / f"{at}.png")
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    case = Case(id="1", images=tuple(paths), question="Q", answer="A", task="vqa", language="en")
    write_cases(tmp_path / "cases.jsonl", [case])
    predict(tmp_path / "cases.jsonl", assistant, None, tmp_path / "out.jsonl", settings=SHORT, progress=False)
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert row["prediction_selection"]["frames"] == 2


# --- what can go wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "turn, error, says",
    [
        (Turn("Q", (tiny.frame(),) * 33), UnusableChoice, ("33", "32")),
        (Turn("Q", FRAMES, chosen=(6,)), UnusableChoice, ("7", "5")),
        (Turn("Q", (tiny.frame(3, 900, source="strip.png"),)), UnusableImage, ("strip.png",)),
        (Turn("甲状腺左叶" * 900, FRAMES), ContextOverflow, ("2048",)),
    ],
)
def test_what_cannot_be_answered_is_said_with_its_numbers(assistant, turn, error, says):
    with pytest.raises(error) as refused:
        answer(assistant, turn)
    for language in ("en", "zh"):
        assert all(word in refused.value.message(language) for word in says)


def test_out_of_memory_says_what_to_do(assistant, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(assistant.model, "image_features", full)
    with pytest.raises(OutOfMemory, match="5 images"):
        answer(assistant, Turn("Q", FRAMES))
    with pytest.raises(OutOfMemory, match="5 images"):
        assistant.answer([Turn("Q", FRAMES)], SHORT)


def test_missing_demo_weights_say_how_to_make_them(monkeypatch):
    monkeypatch.setattr("assistants.base.demo_weights", lambda name: None)
    with pytest.raises(CheckpointError, match="demo_llava_ultra.yaml --publish") as missing:
        open_assistant("llava_ultra", device="cpu")
    assert "demo_llava_ultra.yaml --publish" in missing.value.message("zh")


def test_an_adapter_answers_on_its_base(folder, tmp_path):
    where = r".*language_model.*\.q_proj"
    wrapped = get_peft_model(made(), LoraConfig(r=2, target_modules=where, modules_to_save=["frame_score"]))
    wrapped.peft_config["default"].base_model_name_or_path = str(folder)
    own = wrapped.get_base_model().model.frame_score.modules_to_save["default"].channel_weight
    own.data.neg_()  # it wants the frame that its base wants least
    wrapped.save_pretrained(tmp_path)
    turn = Turn("请写报告", FRAMES, language="zh")
    scores = [
        answer(open_assistant("llava_ultra", str(each), device="cpu"), turn).selection["scores"]
        for each in (folder, tmp_path)
    ]
    assert scores[0].index(min(scores[0])) == scores[1].index(max(scores[1]))
    opened = open_assistant("llava_ultra", str(tmp_path), device="cpu")
    assert opened.folders == (tmp_path, folder) and tmp_path.name in opened.title


def test_quantised_weights_are_refused(folder):
    with pytest.raises(DeviceUnavailable, match="--quantize none"):
        open_assistant("llava_ultra", str(folder), device="cpu", quantize="4bit")


def test_a_llava_med_answers_with_attention_and_what_has_no_projector_does_not(tmp_path, monkeypatch):
    monkeypatch.setitem(ultra.TEXT, "vocab_size", 400)
    monkeypatch.setitem(ultra.TEXT, "max_position_embeddings", 512)
    source = ultra.reference("mistral")
    fields, tensors = ultra.original("llava_mistral", source)
    folder = ultra.save(tmp_path / "med", fields | {"template": "chatml"}, tensors)
    tiny.tokenizer().save_pretrained(folder)
    reply = answer(LlavaUltraAssistant.open(str(folder), device="cpu"), Turn("甲状腺", FRAMES))
    assert reply.text and reply.selection["how"] == "attention"
    kept = {name: tensor for name, tensor in tensors.items() if "mm_projector" not in name}
    bare = ultra.save(tmp_path / "bare", fields, kept)
    with pytest.raises(CheckpointError, match="clip_projector"):
        LlavaUltraAssistant.open(str(bare), device="cpu")


def test_demo_weights_are_known_by_their_mark_and_doubt_strange_frames(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / DEMO_MARK).write_text("{}")
    plain = LlavaUltraAssistant.open(str(tmp_path), device="cpu")
    assert plain.demo and plain.title == "LLaVA-Ultra · demo weights"
    features = pooled(plain._encode([tiny.frame(seed=seed) for seed in range(20)]))
    strange = Familiarity.fit(features, features, 0.0)
    strange.threshold = 0.0
    strange.save(tmp_path)
    reply = answer(LlavaUltraAssistant.open(str(tmp_path), device="cpu"), Turn("Q", FRAMES))
    assert reply.unfamiliar == tuple(range(len(FRAMES)))  # also those that were not read


# --- the text that ends an answer ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, final, expected",
    [
        ("A cyst.###Human: more", True, ("A cyst.", True)),
        ("A cyst.##", False, ("A cyst.", False)),
        ("A cyst.#", False, ("A cyst.", False)),
        ("A cyst.##", True, ("A cyst.##", False)),
        ("A # cyst", False, ("A # cyst", False)),
        ("###", False, ("", True)),
    ],
)
def test_a_stop_of_plain_text_is_cut_and_never_shown_by_halves(text, final, expected):
    assert _until(text, "###", final=final) == expected
    assert _until(text, None, final=final) == (text, False)


# --- features kept ------------------------------------------------------------------------------------------


def test_features_are_found_by_pixels_alone_and_go_when_they_should(monkeypatch):
    cache = FeatureCache(budget=3 * 40, seconds=60)
    asked = []

    def encode(frames):
        asked.append([frame.source for frame in frames])
        return torch.stack([torch.full((10,), float(frame.pixels.sum())) for frame in frames])

    twin = tiny.frame(60, 96, source="another name", seed=0)
    found = cache.look([FRAMES[0], twin, FRAMES[1]], encode)
    assert asked == [["another name", "1.png"]] and torch.equal(found[0], found[1])
    cache.look([FRAMES[0]], encode, read_as=99)
    assert len(asked) == 2  # read differently
    assert cache.bytes == 3 * 40
    cache.look([FRAMES[1], FRAMES[2]], encode)  # the oldest gives way
    assert cache.bytes == 3 * 40 and asked[-1] == ["2.png"]
    cache.look([FRAMES[0]], encode)
    assert asked[-1] == ["0.png"]
    now = time.monotonic()
    monkeypatch.setattr("models.feature_cache.time.monotonic", lambda: now + 61)
    cache.look([], encode)
    cache.look([FRAMES[0]], encode)
    assert asked[-1] == ["0.png"] and cache.bytes == 40

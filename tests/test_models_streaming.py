"""Words that arrive while the model writes, and a model that stops when nobody reads."""

import threading
import time

import pytest
import tiny
import torch
from transformers import Qwen2VLForConditionalGeneration

from models.encoding import Encoder
from models.streaming import Line, Writer, room_for_answer


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tiny.save(tmp_path_factory.mktemp("weights"), "qwen2_vl")
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder).eval()
    return model, Encoder.open(folder)


def inputs(encoder, text="请写报告", frames=1):
    content = [{"type": "image"}] * frames + [{"type": "text", "text": text}]
    return encoder.encode([{"role": "user", "content": content}], [tiny.frame()] * frames)


@pytest.mark.parametrize("frames", [0, 1, 3])
def test_pieces_joined_are_the_generated_text(weights, frames):
    model, encoder = weights
    asked = inputs(encoder, frames=frames)
    whole = model.generate(**asked, max_new_tokens=40, do_sample=False)[0, asked["input_ids"].shape[1] :]
    pieces = list(Writer(model, encoder.decode).stream(asked, max_new_tokens=40))
    assert "".join(piece.text for piece in pieces) == encoder.decode(whole).rstrip("\ufffd")
    assert pieces[-1].new_tokens == len(whole)
    assert [piece.stopped_by for piece in pieces[:-1]] == [None] * (len(pieces) - 1)


class Dictating:
    """A model that "generates" given ids, one by one: what a character split over tokens looks like."""

    def __init__(self, ids, eos):
        self._ids = ids
        self.generation_config = type("Config", (), {"eos_token_id": eos})()

    def generate(self, *, streamer, **options):
        streamer.put(torch.tensor([[0]]))
        for token in self._ids:
            time.sleep(0.002)
            streamer.put(torch.tensor([token]))
        streamer.end()


@pytest.mark.parametrize(
    "text",
    ["甲状腺左叶见低回声结节，大小约7mm×5mm。", "A nodule of 7 × 5 mm.\n\nImpression: 🩺 naïve", "a", ""],
)
def test_no_half_character_is_ever_shown(weights, text):
    _, encoder = weights
    ids = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    model = Dictating([*ids, encoder.tokenizer.eos_token_id], encoder.tokenizer.eos_token_id)
    pieces = list(Writer(model, encoder.decode).stream({}, max_new_tokens=500))
    assert "".join(piece.text for piece in pieces) == text  # and the end-of-turn token is not part of it
    assert all("\ufffd" not in piece.text for piece in pieces)
    assert pieces[-1].stopped_by == "end"


def test_a_character_cut_by_the_limit_is_dropped(weights):
    _, encoder = weights
    ids = encoder.tokenizer("正常🩺", add_special_tokens=False)["input_ids"]
    pieces = list(Writer(Dictating(ids[:-1], 0), encoder.decode).stream({}, max_new_tokens=len(ids) - 1))
    assert "".join(piece.text for piece in pieces) == "正常"
    assert pieces[-1].stopped_by == "length"


def test_closing_stops_within_one_token_and_frees_the_model(weights):
    model, encoder = weights
    counting = tiny.Watched(model, slow=0.02)
    stream = Writer(counting, encoder.decode).stream(inputs(encoder), max_new_tokens=1000)
    while next(stream).new_tokens < 3:
        pass
    seen = counting.steps
    stream.close()
    assert counting.running == 0  # the thread is over when close returns
    assert (
        counting.steps <= seen + 2
    )  # the token under way, and at most one that was finished while we counted


def test_an_exception_in_the_thread_reaches_the_reader(weights):
    model, encoder = weights
    writer = Writer(tiny.Watched(model, fails_at=4), encoder.decode)
    with pytest.raises(LookupError, match="on fire"):
        list(writer.stream(inputs(encoder), max_new_tokens=20))
    model_again = writer._model
    model_again._fails_at = None
    assert list(writer.stream(inputs(encoder), max_new_tokens=5))[-1].new_tokens == 5


def test_a_reader_who_waits_hears_a_heartbeat_and_can_leave(weights):
    model, encoder = weights
    writer = Writer(tiny.Watched(model, slow=0.02), encoder.decode)
    first = writer.stream(inputs(encoder), max_new_tokens=1000)
    next(first)
    second = writer.stream(inputs(encoder), max_new_tokens=5)
    assert next(second).text == ""  # waiting, not blocked
    second.close()
    first.close()
    assert list(writer.stream(inputs(encoder), max_new_tokens=5))[-1].new_tokens == 5


def test_two_readers_take_turns_and_read_what_one_alone_would(weights):
    model, encoder = weights
    asked = [inputs(encoder, "甲状腺", frames=1), inputs(encoder, "Is there a nodule?", frames=2)]
    alone = [read(Writer(model, encoder.decode), each) for each in asked]
    counting = tiny.Watched(model, slow=0.002)
    writer = Writer(counting, encoder.decode)
    together = [None] * 6
    threads = [
        threading.Thread(target=lambda n=n: together.__setitem__(n, read(writer, asked[n % 2])))
        for n in range(len(together))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone * 3
    assert counting.most_running == 1


def read(writer, asked):
    return "".join(piece.text for piece in writer.stream(asked, max_new_tokens=20))


@pytest.mark.parametrize("frames", [(0, 0, 0), (1, 1, 1), (2, 0, 1)])
def test_a_batch_writes_what_each_would_alone(weights, frames):
    model, encoder = weights
    writer = Writer(model, encoder.decode)
    words = ["甲状腺", "Is there a nodule of 7 mm in the left lobe?", "a"]
    asked = [inputs(encoder, text, count) for text, count in zip(words, frames, strict=True)]
    budgets = [25, 3, 40]
    together = writer.write(encoder.pad(asked), budgets)
    for alone, budget, piece in zip(asked, budgets, together, strict=True):
        pieces = list(writer.stream(alone, max_new_tokens=budget))
        assert piece.text == "".join(each.text for each in pieces)
        assert (piece.new_tokens, piece.stopped_by) == (pieces[-1].new_tokens, pieces[-1].stopped_by)


class Batch:
    """A model that "generates" given rows of ids behind a prompt of two tokens."""

    def __init__(self, rows, eos):
        self._rows = rows
        self.generation_config = type("Config", (), {"eos_token_id": eos})()

    def generate(self, input_ids, **options):
        return torch.cat([input_ids, torch.tensor(self._rows)], dim=1)


@pytest.mark.parametrize(
    "row, budget, expected",
    [
        ([5, 6, 9, 0], 4, ([5, 6, 9], "end")),  # what follows the end is padding
        ([5, 6, 7, 9], 4, ([5, 6, 7, 9], "end")),  # ended with its last token
        ([5, 8, 7, 7], 4, ([5, 8], "end")),  # a model may have two ends
        ([5, 6, 7, 7], 4, ([5, 6, 7, 7], "length")),
        ([5, 6, 7, 9], 3, ([5, 6, 7], "length")),  # a neighbour may write more
        ([9, 0, 0, 0], 4, ([9], "end")),  # nothing to say
    ],
)
def test_where_a_row_of_a_batch_ends(row, budget, expected):
    writer = Writer(Batch([row], [9, 8]), lambda ids: " ".join(map(str, ids)))
    (piece,) = writer.write({"input_ids": torch.tensor([[1, 2]])}, [budget])
    ids, stopped_by = expected
    assert (piece.text, piece.new_tokens, piece.stopped_by) == (" ".join(map(str, ids)), len(ids), stopped_by)


def test_a_character_cut_by_the_limit_is_dropped_in_a_batch_too(weights):
    _, encoder = weights
    ids = encoder.tokenizer("正常🩺", add_special_tokens=False)["input_ids"]
    writer = Writer(Batch([ids], 0), encoder.decode)
    (piece,) = writer.write({"input_ids": torch.tensor([[1, 2]])}, [len(ids) - 1])
    assert piece.text == "正常"


def test_a_batch_waits_for_the_reader_before_it(weights):
    model, encoder = weights
    writer = Writer(model, encoder.decode)
    reader = writer.stream(inputs(encoder), max_new_tokens=1500)
    next(reader)
    done = []
    thread = threading.Thread(target=lambda: done.append(writer.write(inputs(encoder), [5])))
    thread.start()
    thread.join(0.5)
    assert not done
    reader.close()
    thread.join(10)
    assert done[0][0].new_tokens == 5


def test_sampling_repeats_with_its_seed_and_greedy_ignores_it(weights):
    model, encoder = weights
    writer = Writer(model, encoder.decode)

    def text(**options):
        return "".join(piece.text for piece in writer.stream(inputs(encoder), max_new_tokens=20, **options))

    assert text(temperature=2.0, seed=1) == text(temperature=2.0, seed=1)
    assert text(temperature=2.0, seed=1) != text(temperature=2.0, seed=2)
    assert text(seed=1) == text(seed=2)


def test_the_line_serves_in_order_of_arrival():
    line = Line()
    first, second, third = line.join(), line.join(), line.join()
    assert line.wait(first, 0)
    assert not line.wait(third, 0)
    line.leave(second)  # from the middle
    line.leave(first)
    assert line.wait(third, 0)


@pytest.mark.parametrize(
    ("prompt", "wanted", "room"),
    [
        (100, 50, 50),  # there is room for all of it
        (170, 50, 30),  # what is left is of use
        (180, 50, 20),
        (181, 50, None),  # less is left than the least
        (190, 10, 10),  # no more was wanted
        (191, 10, None),
        (300, 10, None),
    ],
)
def test_an_answer_gets_what_is_left_or_nothing(prompt, wanted, room):
    assert room_for_answer(prompt, wanted, limit=200, least=20) == room

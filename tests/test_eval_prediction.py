"""A run over a test set that is killed, resumed, starved of memory or given bad cases loses nothing."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from assistants.base import Reply, Settings
from eval.pairs import PairError, read_pairs
from eval.prediction import Asking, _append, predict
from imaging.case import Case, read_cases, write_cases
from imaging.files import load_frames
from models.errors import OutOfMemory

ROOT = Path(__file__).parents[1]


class Parrot:
    """Says the words of its turn again, and how many images came with them. "crash" in them is an error."""

    name, title, demo, device, dtype = "parrot", "Parrot", False, "cpu", "float32"
    settings = Settings()

    def __init__(self, folder, *, wording="", at_most=100, length=1, slow=0.0):
        self.folders = (Path(folder),)
        self.wording, self.at_most, self.length, self.slow = wording, at_most, length, slow
        self.turns, self.batches = [], []

    def request(self, turn):
        if turn.task == "juggling":
            raise ValueError("task 'juggling' is not one of report, vqa")
        return self.wording + turn.text

    def stream(self, turn, history=(), settings=None):
        self.turns.append(turn)
        yield Reply("")
        time.sleep(self.slow)
        if "crash" in turn.text:
            raise LookupError("the bird\nflew away")
        words = self.request(turn) * self.length
        text = f"{words} {len(turn.frames)}"
        yield Reply(text, True, "end", (0,) if turn.frames else (), 7, 3, 0.5)

    def answer(self, turns, settings=None):
        self.batches.append(len(turns))
        if len(turns) > self.at_most:
            raise OutOfMemory("cpu ran out of memory.", "内存不足。")
        return [list(self.stream(turn, (), settings))[-1] for turn in turns]


@pytest.fixture
def parrot(tmp_path):
    """Weights of two files and a README."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(100_000))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "README.md").write_text("words")
    return Parrot(folder)


def image(path, seed=0, *, screen=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(60, 200, (64, 80, 3), dtype=np.uint8)
    if screen:  # a scan on a scanner's black screen
        black = np.zeros((240, 320, 3), np.uint8)
        black[40:200, 80:240] = np.tile(pixels[:, :, :1], (3, 2, 1))[:160]
        pixels = black
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def cases(tmp_path):
    """Eight cases of one or two images; a file of them."""
    folder = tmp_path / "set"
    made = [
        Case(
            id=f"c{n}",
            images=tuple(image(folder / "images" / f"{n}-{k}.png", 10 * n + k) for k in range(1 + n % 2)),
            question=f"描述 {n}",
            answer=f"answer {n}",
            organ="liver",
            language="zh",
            task="report",
            score=4,
            extra={"vendor": "A", "examination": {"side": "left"}},
        )
        for n in range(8)
    ]
    write_cases(folder / "cases.jsonl", made)
    return folder / "cases.jsonl"


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out" / "PRED.jsonl"


def run(cases, assistant, output, **options):
    return predict(cases, assistant, None, output, progress=False, **options)


def change(cases, identity, **fields):
    """Write one case of the file anew with other fields."""
    write_cases(cases, [replace(c, **fields) if c.id == identity else c for c in read_cases(cases)])


def rows(path):
    return [json.loads(line) for line in path.read_bytes().decode().splitlines()]


def texts(path):
    """Prediction by id; fails for a doubled id."""
    found = [(row["id"], row["prediction"]) for row in rows(path)]
    assert len(found) == len(dict(found))
    return dict(found)


EXPECTED = {f"c{n}": f"描述 {n} {1 + n % 2}" for n in range(8)}


# --- what is asked and what is written ---------------------------------------------------------------------


def test_a_row_holds_the_case_the_reply_and_what_it_depends_on(cases, parrot, output):
    summary = run(cases, parrot, output)
    assert (summary.answered, summary.reused, summary.failed, summary.stale) == (8, 0, (), 0)
    row = rows(output)[1]
    assert list(row)[0] == "id" and row["prediction"] == "描述 1 2" and "error" not in row
    assert (row["answer"], row["score"], row["vendor"]) == ("answer 1", 4, "A")
    assert row["images"] == ["../set/images/1-0.png", "../set/images/1-1.png"]
    assert (row["stopped_by"], row["unfamiliar"], row["new_tokens"]) == ("end", [0], 3)
    assert {"hash", "weights", "prompt", "images", "settings", "versions"} <= row["fingerprint"].keys()
    assert row["fingerprint"]["settings"]["max_new_tokens"] == 512
    assert row["seconds"] >= 0


def test_the_output_is_read_as_pairs_and_as_cases(cases, parrot, output):
    run(cases, parrot, output)
    assert [pair.prediction for pair in read_pairs(output)] == list(EXPECTED.values())
    for before, after in zip(read_cases(cases), read_cases(output), strict=True):
        assert replace(after, extra={}) == replace(before, extra={})
        assert before.extra.items() <= after.extra.items()


def test_answers_can_be_the_cases_of_another_run(cases, parrot, output):
    broken(cases, "missing")
    run(cases, parrot, output)
    image(cases.parent / "images" / "2-0.png")
    second = output.with_name("second.jsonl")
    parrot.wording = "again: "
    run(output, parrot, second)
    assert texts(second) == {key: f"again: {text}" for key, text in EXPECTED.items()}
    assert not [row for row in rows(second) if "error" in row]


@pytest.mark.parametrize("cut", [True, False])
def test_a_turn_is_what_the_page_would_make_of_the_case(cases, parrot, output, cut):
    image(cases.parent / "images" / "3-1.png", screen=True)
    run(cases, parrot, output, **({} if cut else {"cut_to_sector": False}))
    turn = parrot.turns[3]
    assert (turn.text, turn.task, turn.language, turn.organ) == ("描述 3", "report", "zh", None)
    read = load_frames(read_cases(cases)[3].images, cut_to_sector=cut)
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(turn.frames, read, strict=True))
    assert (turn.frames[1].pixels.shape < (240, 320, 3)) == cut


@pytest.mark.parametrize(
    "fields, options, expected",
    [
        ({"question": None}, {}, ("", "report", "zh", None)),
        ({"task": None}, {}, ("描述 0", "vqa", "zh", None)),
        ({"language": None}, {}, ("描述 0", "report", "zh", None)),
        ({"language": None, "question": "What?"}, {}, ("What?", "report", "en", None)),
        ({"language": None, "question": None}, {}, ("", "report", "en", None)),
        ({}, {"tell_organ": True}, ("描述 0", "report", "zh", "liver")),
    ],
)
def test_what_a_case_leaves_open(cases, parrot, output, fields, options, expected):
    change(cases, "c0", **fields)
    run(cases, parrot, output, limit=1, **options)
    (turn,) = parrot.turns
    assert (turn.text, turn.task, turn.language, turn.organ) == expected


def test_a_case_without_images_is_asked_in_words(cases, parrot, output):
    write_cases(cases, [Case("a", (), question="Why?")])
    run(cases, parrot, output)
    assert texts(output) == {"a": "Why? 0"}


def test_a_finding_of_the_reply_gets_its_prefix(cases, parrot, output):
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Graded(Reply):
        score: float | None = None
        logits: dict | None = None
        plane: tuple = ()

    parrot.stream = lambda *_: iter([Graded("x", True, score=np.float32(3), logits={"low": np.float64(1)})])
    run(cases, parrot, output, limit=1)
    (row,) = rows(output)
    assert (row["prediction_score"], row["prediction_logits"]) == (3.0, {"low": 1.0})
    assert row["prediction_plane"] == [] and row["score"] == 4  # the truth stays


def test_half_a_surrogate_pair_is_no_reason_to_stop(cases, parrot, output):
    change(cases, "c2", answer="x")
    cases.write_text(cases.read_text().replace('"answer": "x"', '"answer": "\\ud800"'))
    for _ in range(2):
        run(cases, parrot, output)
    assert texts(output) == EXPECTED and rows(output)[2]["answer"] == "\ud800"


def test_a_limit_asks_the_first_and_keeps_what_is_there(cases, parrot, output):
    summary = run(cases, parrot, output, limit=3)
    assert summary.answered == 3 and list(texts(output)) == ["c0", "c1", "c2"]
    assert run(cases, parrot, output).answered == 5
    summary = run(cases, parrot, output, limit=3)
    assert (summary.answered, summary.reused, summary.stale) == (0, 3, 0)
    assert texts(output) == EXPECTED


# --- killed at any moment ----------------------------------------------------------------------------------

CHILD = """
import sys
from test_eval_prediction import Parrot, run
run(sys.argv[1], Parrot(sys.argv[2], length=20_000, slow=0.002), sys.argv[3])
"""


def test_killed_again_and_again_and_then_finished(cases, parrot, output):
    """Answers of 160 kB make the writing long enough to be hit in the middle."""
    some = read_cases(cases)
    write_cases(cases, [replace(some[n % 8], id=f"k{n}", question=f"描述 {n}") for n in range(150)])
    command = [sys.executable, "-c", CHILD, str(cases), str(parrot.folders[0]), str(output)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    dice = random.Random(3)
    for _ in range(4):
        before = output.stat().st_size if output.exists() else 0
        child = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE)
        while not output.exists() or output.stat().st_size < before + 1_000_000:
            assert child.poll() is None, child.stderr.read().decode()
            time.sleep(0.001)
        time.sleep(dice.random() * 0.02)
        child.send_signal(signal.SIGKILL)
        child.communicate()
    parrot.length = 20_000
    summary = run(cases, parrot, output)
    assert summary.reused > 4 and summary.answered > 0 and summary.answered + summary.reused == 150
    assert texts(output) == {f"k{n}": f"描述 {n}" * 20_000 + f" {1 + n % 2}" for n in range(150)}
    assert sorted(path.name for path in output.parent.iterdir()) == ["PRED.jsonl"]


def test_a_line_cut_anywhere_is_asked_again(cases, parrot, output):
    run(cases, parrot, output, limit=2)
    whole = output.read_bytes()
    begin = whole.index(b"\n") + 1
    for cut in [begin, begin + 1, *range(begin + 2, len(whole), 37), len(whole) - 2, len(whole) - 1]:
        output.write_bytes(whole[:cut])
        summary = run(cases, parrot, output, limit=2)
        assert summary.answered == (0 if cut == len(whole) - 1 else 1)  # only its line end was missing
        assert texts(output) == {"c0": EXPECTED["c0"], "c1": EXPECTED["c1"]}


@pytest.mark.parametrize("moment", [0, 1, 2])
def test_stopped_while_stale_rows_move(cases, parrot, output, monkeypatch, moment):
    run(cases, parrot, output)
    parrot.wording = "new: "
    real, done = os.fsync, []

    def fsync(file):
        if len(done) == moment:
            raise KeyboardInterrupt
        done.append(file)
        real(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(KeyboardInterrupt):
            run(cases, parrot, output)
    run(cases, parrot, output)
    assert texts(output) == {key: f"new: {text}" for key, text in EXPECTED.items()}
    assert texts(output.with_name("PRED.stale.jsonl")) == EXPECTED


def test_a_system_that_takes_a_few_bytes_at_a_time(tmp_path):
    class Sip:
        def __init__(self, file):
            self.file, self.fileno = file, file.fileno

        def write(self, content):
            return self.file.write(content[:3])

    with (tmp_path / "x").open("wb", buffering=0) as file:
        _append(Sip(file), b"a line of text\n")
    assert (tmp_path / "x").read_bytes() == b"a line of text\n"


def test_a_full_disk_ends_the_run_and_loses_nothing(cases, parrot, output, monkeypatch):
    real, calls = os.fsync, []

    def full(file):
        calls.append(file)
        if len(calls) == 6:
            raise OSError(28, "No space left on device")
        real(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            run(cases, parrot, output)
    summary = run(cases, parrot, output)
    assert summary.reused >= 3 and texts(output) == EXPECTED


# --- what still holds --------------------------------------------------------------------------------------


def one_byte(parrot, cases):
    weights = bytearray(parrot.folders[0].joinpath("model.safetensors").read_bytes())
    weights[61_234] = 1
    parrot.folders[0].joinpath("model.safetensors").write_bytes(weights)


def template(parrot, cases):
    (parrot.folders[0] / "chat_template.jinja").write_text("{{ messages }} ")


def wording(parrot, cases):
    parrot.wording = "Please: "


def number_format(parrot, cases):
    parrot.dtype = "bfloat16"


def name(parrot, cases):
    parrot.name = "cockatoo"


def nothing(parrot, cases):
    pass


def readme(parrot, cases):
    (parrot.folders[0] / "README.md").write_text("other words")


def picture(parrot, cases):
    image(cases.parent / "images" / "0-0.png", seed=99)


def other_image(parrot, cases):
    change(cases, "c0", images=(cases.parent / "images" / "2-0.png",))


def question(parrot, cases):
    change(cases, "c0", question="别的")


def language(parrot, cases):
    change(cases, "c0", language="en")


def truth(parrot, cases):
    change(cases, "c0", answer="corrected", organ="kidney", level="high")


def gone(parrot, cases):
    write_cases(cases, read_cases(cases)[1:])


@pytest.mark.parametrize(
    "event, options, stale",
    [
        (nothing, {}, 0),
        (readme, {}, 0),
        (truth, {}, 0),
        (one_byte, {}, 8),
        (template, {}, 8),
        (wording, {}, 8),
        (number_format, {}, 8),
        (name, {}, 8),
        (nothing, {"settings": Settings(max_new_tokens=5)}, 8),
        (nothing, {"cut_to_sector": False}, 8),
        (nothing, {"tell_organ": True}, 8),
        (nothing, {"batch_size": 3}, 0),
        (picture, {}, 1),
        (other_image, {}, 1),
        (question, {}, 1),
        (language, {}, 1),
        (gone, {}, 1),
    ],
)
def test_only_valid_answers_are_kept_and_the_others_are_set_aside(
    cases, parrot, output, event, options, stale
):
    run(cases, parrot, output)
    before = {row["id"]: row for row in rows(output)}
    event(parrot, cases)
    asked = len(parrot.turns)
    summary = run(cases, parrot, output, **options)
    now = len(read_cases(cases))
    assert (summary.stale, summary.reused) == (stale, 8 - stale)
    assert len(parrot.turns) - asked == summary.answered == now - summary.reused
    assert sorted(texts(output)) == sorted(case.id for case in read_cases(cases))
    assert summary.stale_file.exists() == (stale > 0)
    if stale:
        aside = rows(output.with_name("PRED.stale.jsonl"))
        assert aside == [before[row["id"]] for row in aside] and len(aside) == stale


def test_a_corrected_truth_reaches_the_old_answer(cases, parrot, output):
    run(cases, parrot, output)
    truth(parrot, cases)
    run(cases, parrot, output)
    row = next(row for row in rows(output) if row["id"] == "c0")
    assert (row["answer"], row["organ"], row["prediction"]) == ("corrected", "kidney", EXPECTED["c0"])


def test_stale_answers_pile_up(cases, parrot, output):
    for parrot.wording in ("", "b", "c"):
        run(cases, parrot, output)
    assert len(rows(output.with_name("PRED.stale.jsonl"))) == 16


# --- bad cases and small devices ---------------------------------------------------------------------------


def broken(cases, kind):
    """Make c2 (a report of one image, like c0, c4 and c6) one that cannot be answered."""
    picture = cases.parent / "images" / "2-0.png"
    if kind == "missing":
        picture.unlink()
    elif kind == "garbage":
        picture.write_bytes(b"no image at all, only words")
    elif kind == "crash":
        change(cases, "c2", question="crash")
    elif kind == "task":
        change(cases, "c2", task="juggling")


REASONS = {
    "missing": "2-0.png",
    "garbage": "2-0.png",
    "crash": "LookupError: the bird flew away",
    "task": "ValueError: task 'juggling' is not one of report, vqa",
}


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("kind", REASONS)
def test_one_bad_case_fails_alone(cases, parrot, output, kind, batch_size):
    broken(cases, kind)
    summary = run(cases, parrot, output, batch_size=batch_size)
    ((identity, reason),) = summary.failed
    assert identity == "c2" and REASONS[kind] in reason and "\n" not in reason
    assert summary.answered == 7 and "failed: c2: " in str(summary)
    assert texts(output) == EXPECTED | {"c2": None}
    (row,) = [row for row in rows(output) if row["prediction"] is None]
    assert row["error"] == reason and row["answer"] == "answer 2" and row["fingerprint"]["hash"]


def test_a_failure_is_asked_again(cases, parrot, output):
    broken(cases, "missing")
    run(cases, parrot, output)
    assert run(cases, parrot, output, limit=2).failed == ()  # not its turn; its row stays
    assert texts(output)["c2"] is None
    again = run(cases, parrot, output)
    assert (again.answered, again.reused, len(again.failed)) == (0, 7, 1)
    image(cases.parent / "images" / "2-0.png", 20)
    healed = run(cases, parrot, output)
    assert (healed.answered, healed.reused, healed.failed, healed.stale) == (1, 7, (), 0)
    assert texts(output) == EXPECTED


def test_what_is_not_named_is_the_assistants_own(cases, parrot, output):
    parrot.settings = Settings(max_new_tokens=77, max_pixels=None)
    run(cases, parrot, output, changes={"max_pixels": 9})
    kept = rows(output)[0]["fingerprint"]["settings"]
    assert (kept["max_new_tokens"], kept["max_pixels"], kept["temperature"]) == (77, 9, 0.0)


def test_an_answer_that_says_nothing_is_an_answer(cases, parrot, output):
    parrot.stream = lambda *_: iter([Reply("", True)])
    assert run(cases, parrot, output, limit=1).answered == 1
    assert rows(output)[0]["prediction"] == ""


def test_a_stream_that_never_replies_is_a_failure(cases, parrot, output):
    parrot.stream = lambda *_: (reply for reply in ())
    (failed,) = run(cases, parrot, output, limit=1).failed
    assert "0 replies to 1 turns" in failed[1]


def test_batches_hold_cases_of_like_length(cases, parrot, output):
    run(cases, parrot, output, batch_size=4)
    assert parrot.batches == [4, 4]
    assert [len(turn.frames) for turn in parrot.turns] == [2] * 4 + [1] * 4


def test_a_batch_too_large_for_the_device_is_taken_apart(cases, parrot, output):
    parrot.at_most = 3
    assert run(cases, parrot, output, batch_size=8).answered == 8
    assert parrot.batches == [8, 4, 2, 2, 4, 2, 2]
    assert texts(output) == EXPECTED


def test_an_assistant_that_forgets_one_is_asked_one_by_one(cases, parrot, output):
    parrot.answer = lambda turns, settings: [Reply("shifted", True)] * (len(turns) - 1)
    run(cases, parrot, output, batch_size=8)
    assert texts(output) == EXPECTED


def test_an_assistant_without_batches_is_asked_one_by_one(cases, parrot, output, monkeypatch):
    monkeypatch.delattr(Parrot, "answer")
    broken(cases, "crash")
    assert run(cases, parrot, output, batch_size=8).answered == 7
    assert texts(output) == EXPECTED | {"c2": None} and len(parrot.turns) == 8


# --- input that is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"A letter to a friend, of one line",
        b'{"id": "a", "images": []}\n',
        b'{"id": "a", "prediction": "x"}\n{"id": "b", "prediction": "y"}\n',
        b"id,prediction\n1,x\n",
        b'{"id": "a", "fingerprint": {}, "prediction": "x"}\n{"id": \n{"id": "b", "fingerprint": {}}\n',
        b"\xff\xfe\x00",
        b'[{"id": "a"}]',
    ],
)
def test_nobody_elses_file_is_touched(cases, parrot, output, content):
    output.parent.mkdir()
    output.write_bytes(content)
    with pytest.raises(PairError, match=r"PRED.jsonl line \d .*Choose another output"):
        run(cases, parrot, output)
    assert output.read_bytes() == content


def test_the_cases_are_not_written_over(cases, parrot, output, tmp_path):
    before = cases.read_bytes()
    for place in (cases, tmp_path):
        with pytest.raises(PairError, match="Choose another output"):
            run(cases, parrot, place)
    assert cases.read_bytes() == before
    run(cases, parrot, output)
    with pytest.raises(PairError, match="Choose another output"):
        run(output, parrot, output)


def test_two_runs_do_not_write_one_file(cases, parrot, output):
    class Nosy(Parrot):
        def stream(self, turn, history=(), settings=None):
            with pytest.raises(PairError, match="Another run is writing"):
                run(cases, parrot, output)
            yield Reply("heard", True)

    run(cases, Nosy(parrot.folders[0]), output)
    assert set(texts(output).values()) == {"heard"}
    assert run(cases, parrot, output).reused == 8  # and now the file is free


@pytest.mark.parametrize("option", ["batch_size", "limit", "max_frames"])
def test_a_number_below_one_is_refused(cases, parrot, output, option):
    with pytest.raises(PairError, match=f"{option} must be 1 or more, not 0"):
        run(cases, parrot, output, **{option: 0})


def test_cases_that_are_none(cases, parrot, output):
    cases.write_text("\n")
    with pytest.raises(PairError, match=r"cases.jsonl is empty"):
        run(cases, parrot, output)
    cases.write_text('{"id": "a"')
    with pytest.raises(PairError, match="line 1"):
        run(cases, parrot, output)
    with pytest.raises(FileNotFoundError):
        run(cases.with_name("none.jsonl"), parrot, output)


def test_nothing_of_a_case_is_logged(cases, parrot, output, capfd):
    broken(cases, "missing")
    predict(cases, parrot, None, output)
    shown = "".join(capfd.readouterr())
    assert "8/8" in shown and "failed=1" in shown
    assert not [word for word in ("c2", "2-0.png", "描述", "answer") if word in shown]


def test_importing_it_loads_nothing_heavy():
    heavy = "{'torch', 'transformers', 'scipy', 'pydicom'}"
    code = f"import sys, eval.prediction; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


# --- with a model ------------------------------------------------------------------------------------------


def test_an_assistant_is_opened_by_name_and_batches_say_the_same(cases, tmp_path):
    import tiny
    from safetensors.torch import load_file, save_file

    folder = tiny.save(tmp_path / "tiny")
    options = {"device": "cpu", "settings": Settings(max_new_tokens=12), "progress": False}
    found = {}
    for size in (1, 3):
        output = tmp_path / f"by{size}.jsonl"
        assert predict(cases, "echovlm", str(folder), output, batch_size=size, **options).answered == 8
        found[size] = {row["id"]: (row["prediction"], row["new_tokens"]) for row in rows(output)}
    assert found[1] == found[3] and len(set(found[1].values())) > 1
    again = predict(cases, "echovlm", str(folder), output, **options)
    assert (again.answered, again.reused) == (0, 8)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][-1, -1] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    trained = predict(cases, "echovlm", str(folder), output, **options)
    assert (trained.answered, trained.stale) == (8, 8)


def test_the_fingerprint_does_not_need_the_pixels(cases, parrot, monkeypatch):
    """A resumed run of thousands of cases must not decode every image again."""
    monkeypatch.setattr("imaging.files.load_frames", None)
    asking = Asking(parrot, Settings())
    hashes = {asking.fingerprint(case)["hash"] for case in read_cases(cases)}
    assert len(hashes) == 8

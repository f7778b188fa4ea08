"""Ask an assistant every case of a test set and keep what it says: `predict`.

What is evaluated is what the clinician sees: images are read by `imaging.files.load_frames` and cut to the
scan sector as on the page, and the answer is the last reply of the same `Assistant.stream`, or of `answer`
for several cases at once. The organ is part of a case's truth and is kept from the assistant unless the
caller says otherwise.

The output is JSONL: the keys of the case, what the reply found, and a fingerprint of all that the answer
depends on. A line is on the disk before the next case is asked, so a run that was killed at any moment goes
on where it was; an answer whose fingerprint no longer holds is set aside and asked for anew.

Knows nothing of metrics, and nothing of any one assistant.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.pairs import PairError

if TYPE_CHECKING:
    from assistants.base import Assistant, Reply, Settings, Turn
    from imaging.case import Case

Row = dict[str, Any]

# Fields of a Reply that are written under their own names; all others become `prediction_…`.
HOW_WRITTEN = ("stopped_by", "unfamiliar", "prompt_tokens", "new_tokens", "seconds_to_first_token")
OURS = ("prediction", "error", *HOW_WRITTEN, "seconds", "fingerprint")
PACKAGES = ("torch", "transformers", "tokenizers", "pillow", "pydicom")
WEIGHT_FILES = (".safetensors", ".json", ".jinja", ".txt", ".model")  # what answers can depend on
_BEGINNING = b'{"id": '  # of every line, which tells a half-written line from a file that is not ours


@dataclass(frozen=True)
class Summary:
    """How a run ended. Counts are of the cases that were to be asked; `failed` holds (id, reason)."""

    answered: int  # in this run
    reused: int  # answered by an earlier run, and still valid
    failed: tuple[tuple[str, str], ...]
    stale: int  # earlier answers that no longer hold, moved to `stale_file`
    stale_file: Path

    def __str__(self) -> str:
        lines = [f"{self.answered} answered, {self.reused} kept from before, {len(self.failed)} failed"]
        if self.stale:
            lines.append(f"{self.stale} earlier answers no longer hold and lie in {self.stale_file.name}")
        return "\n".join([*lines, *(f"failed: {identity}: {reason}" for identity, reason in self.failed)])


@dataclass(frozen=True)
class Asking:
    """One assistant asked in one way: how a case becomes a turn, and what its answer depends on."""

    assistant: Assistant
    settings: Settings
    max_frames: int = 16  # of each file, as on the page
    cut_to_sector: bool = True
    tell_organ: bool = False
    prompt: str | None = None  # said in place of every question: for a rater, the name of one of its prompts

    def answers(self, cases: Sequence[Case]) -> Iterator[tuple[Case, Row]]:
        """Each case with what was said, or why nothing was, in the keys of `OURS` but the fingerprint.

        The cases are asked together. When that fails, the two halves are asked apart, down to single
        cases, so that one bad case does not spoil its neighbours.
        """
        ready = []
        for case in cases:
            started = time.monotonic()
            try:
                ready.append((case, self._turn(case)))
            except Exception as error:  # an unreadable image fails its own case, whatever is wrong with it
                yield case, _failure(error, time.monotonic() - started)
        if ready:
            yield from self._together(ready)

    def _together(self, asked: list[tuple[Case, Turn]]) -> Iterator[tuple[Case, Row]]:
        started, failure = time.monotonic(), None
        try:
            replies = self._replies([turn for _, turn in asked])
        except Exception as error:  # one bad case must not end the run; only its sentence is kept
            failure = _failure(error, time.monotonic() - started)
        if failure is None:
            seconds = (time.monotonic() - started) / len(asked)  # of a batch, each has its share
            for (case, _), reply in zip(asked, replies, strict=True):
                yield case, _said(reply, seconds)
        elif len(asked) == 1:
            yield asked[0][0], failure
        else:
            middle = len(asked) // 2
            yield from self._together(asked[:middle])
            yield from self._together(asked[middle:])

    def _replies(self, turns: list[Turn]) -> list[Reply]:
        if len(turns) == 1:
            replies = list(self.assistant.stream(turns[0], (), self.settings))[-1:]
        else:
            replies = self.assistant.answer(turns, self.settings)
        if len(replies) != len(turns):
            raise ValueError(f"the assistant gave {len(replies)} replies to {len(turns)} turns")
        return replies

    def _turn(self, case: Case) -> Turn:
        from imaging.files import load_frames

        frames = load_frames(case.images, max_frames=self.max_frames, cut_to_sector=self.cut_to_sector)
        return self._turn_with(case, tuple(frames))

    def _turn_with(self, case: Case, frames: tuple) -> Turn:
        from assistants.base import Turn
        from assistants.language import language_of

        words = case.question or ""
        organ = case.organ if self.tell_organ else None
        language = case.language or language_of(words) or "en"
        return Turn(
            words if self.prompt is None else self.prompt, frames, case.task or "vqa", organ, language
        )

    def fingerprint(self, case: Case) -> Row:
        """All that the answer to `case` depends on; `hash` changes with any of it but the versions."""
        parts = {
            "assistant": self.assistant.name,
            "weights": self._weights,
            "prompt": self._prompt(case),
            "images": _hash_of(_file_hash(path) for path in case.images),
            "settings": {
                **asdict(self.settings),
                "max_frames": self.max_frames,
                "cut_to_sector": self.cut_to_sector,
                "dtype": self.assistant.dtype,
            },
        }
        return {"hash": _hash_of([case.id, parts]), **parts, "versions": self._versions}

    def _prompt(self, case: Case) -> str:
        import numpy as np

        from imaging.frame import Frame

        # The wording may depend on whether images come along, but not on what they show.
        stand_in = Frame(np.zeros((1, 1, 3), np.uint8), None, "")
        turn = self._turn_with(case, (stand_in,) * len(case.images))
        try:
            words = self.assistant.request(turn)
        except ValueError:  # a task that the assistant does not know, say; being asked, it says so
            words = None
        return _hash_of([words, turn.text, turn.task, turn.organ, turn.language])

    @cached_property
    def _weights(self) -> str:
        """Of every byte, so that one changed number shows; several files at once, as hashing runs free."""
        files = [path for folder in self.assistant.folders for path in sorted(Path(folder).iterdir())]
        files = [path for path in files if path.suffix in WEIGHT_FILES and path.is_file()]
        with ThreadPoolExecutor() as threads:
            return _hash_of(zip([path.name for path in files], threads.map(_file_hash, files), strict=True))

    @cached_property
    def _versions(self) -> dict[str, str]:
        return {name: version(name) for name in PACKAGES}


def predict(
    cases_path: str | Path,
    assistant: str | Assistant,
    weights: str | None,
    output: str | Path,
    *,
    batch_size: int = 1,
    settings: Settings | None = None,
    changes: Mapping[str, Any] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    limit: int | None = None,
    max_frames: int = 16,
    cut_to_sector: bool = True,
    tell_organ: bool = False,
    split: str = "test",
    images: str | Path | None = None,
    prompt: str | None = None,
    comparisons: int = 0,
    progress: bool = True,
) -> Summary:
    """Ask `assistant` every case of a test set, or the first `limit`, and write the answers to `output`.

    The set is whatever `eval.testsets` reads; `split` and `images` are for it. `prompt` is said in place of
    every question. So many `comparisons` of two of its images one level apart are added
    (`eval.quality_sets`).
    `settings` are the assistant's own, as on the page, with `changes` to single ones of them.
    `assistant` is a name for `open_assistant`, opened with `weights`, `device` and `dtype`, or one that is
    open already. An output that is there is gone on with: valid answers are kept, failures asked again,
    answers that no longer hold moved to `NAME.stale.jsonl`. Image paths in it are relative to it. With
    `batch_size` above 1, cases of like length are asked together, and lines come in that order; join them
    by id. A case that fails is written with `"prediction": null` and one sentence as `error`.

    Raises PairError for cases that cannot be read, or an output that is another's or in use, OSError for the
    cases, and what `open_assistant` raises.
    """
    from assistants.base import open_assistant

    for name, value in {"batch_size": batch_size, "limit": limit, "max_frames": max_frames}.items():
        if value is not None and value < 1:
            raise PairError(f"{name} must be 1 or more, not {value}")
    output = Path(output)
    cases = _cases(Path(cases_path), output, split, images, comparisons)
    if tell_organ and not any(case.organ for case in cases):
        warnings.warn("no case says which organ it shows: there is nothing to tell", stacklevel=2)
    output.parent.mkdir(parents=True, exist_ok=True)
    with _alone(output):
        rows = _read_rows(output)
        if isinstance(assistant, str):
            assistant = open_assistant(assistant, weights, device=device, dtype=dtype)
        settings = replace(settings or assistant.settings, **changes or {})
        asking = Asking(assistant, settings, max_frames, cut_to_sector, tell_organ, prompt)
        kept, stale = _sort_out(rows, cases, limit, asking, output.parent)
        stale_file = output.with_name(output.name.removesuffix(".jsonl") + ".stale.jsonl")
        _set_aside(stale, stale_file)
        _replace(output, b"".join(map(_line, kept.values())))
        wanted = cases[:limit]
        to_ask = [case for case in wanted if case.id not in kept]
        failed = _ask_all(asking, to_ask, output, batch_size, len(wanted), progress)
    return Summary(len(to_ask) - len(failed), len(wanted) - len(to_ask), failed, len(stale), stale_file)


def _cases(path: Path, output: Path, split: str, images: str | Path | None, comparisons: int) -> list[Case]:
    """The cases to ask; PairError when there are none, or when the answers would be written over them."""
    from eval import quality_sets
    from eval.testsets import read_test_set

    cases = read_test_set(path, split, images)
    cases += quality_sets.comparisons(cases, comparisons) if comparisons else []
    if output.is_dir() or (output.exists() and output.samefile(path)):
        raise PairError(f"{output} is a folder or the file of cases. Choose another output.")
    return cases


def _ask_all(
    asking: Asking, cases: list[Case], output: Path, batch_size: int, total: int, progress: bool
) -> tuple[tuple[str, str], ...]:
    """Ask and append, one line a case; returns the failures. The bar shows counts only, never a case."""
    from tqdm import tqdm

    if not hasattr(asking.assistant, "answer"):
        batch_size = 1
    if batch_size > 1:  # the largest first: if the device is too small for a batch, it shows at once
        cases = sorted(cases, key=_size, reverse=True)
    failed = []
    with (
        output.open("ab", buffering=0) as file,
        tqdm(total=total, initial=total - len(cases), unit="case", disable=not progress) as bar,
    ):
        for start in range(0, len(cases), batch_size):
            for case, said in asking.answers(cases[start : start + batch_size]):
                row = _case_keys(case, output.parent) | said | {"fingerprint": asking.fingerprint(case)}
                _append(file, _line(row))
                if "error" in said:
                    failed.append((case.id, said["error"]))
                    bar.set_postfix(failed=len(failed), refresh=False)
                bar.update()
    return tuple(failed)


def _size(case: Case) -> tuple[int, str, str, int]:
    """What decides how long a case's prompt and answer are: images, kind of answer, language, words."""
    return len(case.images), case.task or "", case.language or "", len(case.question or "")


def _said(reply: Reply, seconds: float) -> Row:
    found = {key: value for key, value in asdict(reply).items() if value is not None}
    said = {"prediction": found.pop("text")}
    found.pop("finished")
    for key, value in found.items():
        said[key if key in HOW_WRITTEN else f"prediction_{key}"] = value
    return said | {"seconds": round(seconds, 3)}


def _failure(error: Exception, seconds: float) -> Row:
    """The error as one line. Its own kind is named where the message was not written for people."""
    from imaging.errors import UnreadableFile
    from models.errors import ModelError

    sentence = " ".join(str(error).split())
    if not isinstance(error, UnreadableFile | ModelError):
        sentence = f"{type(error).__name__}: {sentence}"
    return {"prediction": None, "error": sentence, "seconds": round(seconds, 3)}


def _case_keys(case: Case, folder: Path) -> Row:
    """A case as it is written, with image paths relative to `folder`; what a run said of it is left out."""
    from imaging.case import case_values

    extra = {key: value for key, value in case.extra.items() if not _is_ours(key)}
    return case_values(replace(case, extra=extra), folder.absolute())


def _is_ours(key: str) -> bool:
    return key in OURS or key.startswith("prediction_")


# --- the file --------------------------------------------------------------------------------------------


def _sort_out(
    rows: list[Row], cases: Sequence[Case], limit: int | None, asking: Asking, folder: Path
) -> tuple[dict[str, Row], list[Row]]:
    """Earlier rows: those that still hold, by id and with the case's keys as they are now, and stale ones.

    Failures of the first `limit` cases are neither: they are asked again.
    """
    known = {case.id: case for case in cases}
    asked_again = {case.id for case in cases[:limit]}
    kept: dict[str, Row] = {}
    stale = []
    for row in rows:
        if row.get("prediction") is None and row["id"] in asked_again:
            continue
        case = known.get(row["id"])
        if case is None or case.id in kept or not _holds(row, asking.fingerprint(case)):
            stale.append(row)
        else:
            said = {key: value for key, value in row.items() if _is_ours(key)}
            kept[case.id] = _case_keys(case, folder) | said
    return kept, stale


def _holds(row: Row, fingerprint: Row) -> bool:
    return row["fingerprint"].get("hash") == fingerprint["hash"]


def _read_rows(path: Path) -> list[Row]:
    """The rows of an output, without a half-written last one; none when there is no file.

    Raises PairError for a line that `predict` did not write, so that nobody else's file is touched.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
            if number == len(lines) and (line.startswith(_BEGINNING) or _BEGINNING.startswith(line)):
                continue
        is_ours = isinstance(row, dict) and isinstance(row.get("fingerprint"), dict)
        if not is_ours or not isinstance(row.get("id"), str):
            raise PairError(
                f"{path.name} line {number} was not written by predict (no id with a fingerprint). "
                "Choose another output."
            )
        rows.append(row)
    return rows


def _set_aside(rows: list[Row], path: Path) -> None:
    """Add stale rows to `path`, once each however often a run was killed just here."""
    if not rows:
        return
    before = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    _replace(path, b"".join(dict.fromkeys([*before, *map(_line, rows)])))


def _replace(path: Path, content: bytes) -> None:
    """Give the file this content, all or nothing, and have it on the disk."""
    if path.exists() and path.read_bytes() == content:
        return
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("wb", buffering=0) as file:
        _append(file, content)
    unfinished.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too
    finally:
        os.close(folder)


def _append(file: Any, content: bytes) -> None:
    """Write all of it to an unbuffered file, and wait until it is on the disk."""
    while content:
        content = content[file.write(content) :]
    os.fsync(file.fileno())


def _line(row: Row) -> bytes:
    """A row as a line that begins with its id."""
    try:
        text = json.dumps(row, ensure_ascii=False, default=_plain)
        return f"{text}\n".encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold and UTF-8 cannot
        return f"{json.dumps(row, default=_plain)}\n".encode()


def _plain(value: Any) -> Any:
    """What a reply found as numpy or torch numbers, or a path, as JSON knows it."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Hold the output for this run; PairError when another run does. The system lets go of a killed run's."""
    import fcntl

    path = output.with_name(f".{output.name}.lock")
    with path.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(lock.fileno()), path.stat())
        except (BlockingIOError, FileNotFoundError):
            held = False  # the file is gone when another run ended just now
        if not held:
            raise PairError(f"Another run is writing {output}. Wait for it, or choose another output.")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


# --- hashes ----------------------------------------------------------------------------------------------


def _hash_of(value: Any) -> str:
    """16 hex digits that stand for a JSON value, or for the items of an iterator."""
    plain = list(value) if isinstance(value, Iterable) and not isinstance(value, str | dict) else value
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _file_hash(path: str | Path) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "unreadable"  # being asked, the case says why

"""Predictions as the field writes them, told apart by content and joined with their references by id.

What a row is known by, and where that was looked up:

* suite: `id`, `prediction` (`eval.pairs`).
* llava: `question_id`, `text`; references in another file. microsoft/LLaVA-Med
  `llava/eval/model_vqa_med.py` and `run_eval.py` at ad758b6.
* swift: `response` with `labels` or `messages`; no id. modelscope/ms-swift
  `swift/pipelines/infer/infer.py` at 0319d04, `swift/llm/infer/infer.py` at d9a22e7.
* llamafactory: `predict`, `label`; no id. hiyouga/LLaMA-Factory `src/llamafactory/train/sft/trainer.py` at
  0454c10, `scripts/vllm_infer.py` at 01a952e.
* vlmevalkit: `index`, `prediction`, `answer`, as xlsx, tsv, csv or json. open-compass/VLMEvalKit
  `vlmeval/smp/file.py` at 00fff54, `vlmeval/inference.py` at 0044c57.
* lmms: `doc_id`, `filtered_resps`, `target`. EvolvingLMMs-Lab/lmms-eval `lmms_eval/evaluator.py` at
  03cbb1f, `lmms_eval/loggers/evaluation_tracker.py` at 0716c69, which leaves `doc` out of the file; where
  others write it, `doc.modality` is a group.

References may lie in a second file: our cases or predictions, a table of VLMEvalKit, one of the formats
above that holds them, or a test set that `eval.testsets` knows (LLaVA's gt.json, SLAKE, EchoVLM's
conversations …). They are joined by id and never by row order: a row that was dropped or shuffled would
pair the texts of different cases without a sign. So rows that are known by their line number alone
(ms-swift and LLaMA-Factory, unless every row has a key `id`) take no second file, not even one of as many
rows.

The other keys of a row are kept in `Pair.values`, with the truth of the references file over the row's
own. Left out: pictures in base64 (`image`), `logprobs`, lmms-eval's `arguments` and `resps`.

Knows nothing of metrics and groups.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.pairs import Pair, PairError, pair_of
from eval.prediction import OURS
from eval.rows import Row, keys_found, load, some, wanted_keys, without
from eval.testsets import CASES as OUR_CASES
from eval.testsets import (
    last_exchange,
    plain_question,
    read_test_set,
    shape_of,
    turns,
    unpacked,
)

if TYPE_CHECKING:
    from imaging.case import Case

NO_ANSWER = "Failed to obtain answer"  # what VLMEvalKit writes where a model or a service failed

_OPEN_THOUGHT = re.compile(r"<think(?:ing)?>", re.IGNORECASE)
_CLOSE_THOUGHT = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_SPECIAL = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|<｜[^<>｜]{1,40}｜>|</?s>|<(?:pad|unk|bos|eos|start_of_turn|end_of_turn)>|\[/?INST\]"
)
_OPTION = re.compile("[A-Z]")


@dataclass(frozen=True)
class Read:
    """What was read: the pairs to score, in the order of the references where there is such a file."""

    pairs: list[Pair]
    format: str  # a name of FORMATS
    missing: tuple[
        str, ...
    ] = ()  # ids with a reference and no row: they are in `pairs`, without a prediction
    extra: tuple[str, ...] = ()  # ids with a row and no reference in the second file: they are left out
    notes: tuple[str, ...] = ()  # sentences for the reader of the scores


@dataclass(frozen=True)
class Format:
    """A way to write predictions: the keys that a row is known by, and how it becomes a row of ours."""

    title: str
    keys: tuple[tuple[str, ...], ...]  # one key of each group is there
    read: Callable[[Mapping[str, Any]], dict[str, Any]]
    numbered: bool = False  # rows have no id of their own

    def knows(self, values: Any) -> bool:
        """Whether a row has the keys of this format."""
        return isinstance(values, Mapping) and all(any(k in values for k in group) for group in self.keys)


@dataclass(frozen=True)
class _Answers:
    """The rows of one file as pairs by id, in its order."""

    format: str
    pairs: dict[str, Pair]
    numbered: bool  # the ids are line numbers
    notes: tuple[str, ...]


def read_predictions(
    path: str | Path, references: str | Path | None = None, format: str = "auto", clean: bool = False
) -> Read:
    """The predictions of a file as pairs, with the truth of `references` where it is given.

    `format` is a name of FORMATS, or "auto". With `references`, every case of that file becomes one pair:
    those without a prediction are `missing`, predictions without a case are `extra`. `clean` takes thinking
    (<think>…</think>), special tokens (<|im_end|> …) and byte order marks out of both texts; the prediction
    as it was stands in `values["prediction_raw"]`.

    Raises PairError for a file or a row that cannot be read, for two rows of one id, and for two files that
    share no id; OSError where there is no such file.
    """
    answers = _answers(Path(path), format)
    read = Read(list(answers.pairs.values()), answers.format, notes=answers.notes)
    if references is not None:
        read = _joined(read, answers, Path(path).name, Path(references))
    return _cleaned(read) if clean else read


def describe(path: str | Path, format: str = "auto") -> str:
    """A few lines: what a file is taken for, how many rows it has, and the first as it would be scored.

    A file of references or a test set is described as well. Raises PairError and OSError as the readers do.
    """
    path = Path(path)
    rows, _ = load(path)
    if format == "auto" and _known(rows) is None:
        title, pairs, notes = _truth(path)
        head = f"{path.name}: {title}, {_count(len(pairs), 'case')} with references and no predictions"
    else:
        answers = _answers(path, format)
        pairs, notes = answers.pairs, answers.notes
        head = f"{path.name}: {FORMATS[answers.format].title}, {_count(len(pairs), 'row')}"
        if answers.numbered:
            notes += ("The rows have no id; their line numbers stand in for it.",)
        bare = sum(not pair.references for pair in pairs.values())
        if bare:
            rows_bare = f"{_count(bare, 'row')} of {len(pairs)}"
            notes += (f"{rows_bare} without a reference text; a second file can bring it.",)
    return "\n".join([head, *_shown(next(iter(pairs.values()))), *(f"note: {note}" for note in notes)])


# --- the formats -------------------------------------------------------------------------------------------


def _suite(values: Mapping[str, Any]) -> dict[str, Any]:
    return dict(values)


def _llava(values: Mapping[str, Any]) -> dict[str, Any]:
    row = without(values, "question_id", "text", "prompt")
    if isinstance(values.get("prompt"), str):
        row["question"] = plain_question(values["prompt"])
    return row | {"id": values["question_id"], "prediction": values["text"]}


def _swift(values: Mapping[str, Any]) -> dict[str, Any]:
    row = without(values, "response", "labels", "messages", "logprobs")
    question, _ = last_exchange(turns(values))
    if question:
        row["question"] = question
    return row | {"prediction": values["response"], "reference": _text(values.get("labels"))}


def _llamafactory(values: Mapping[str, Any]) -> dict[str, Any]:
    return without(values, "predict", "label") | {
        "prediction": values["predict"],
        "reference": values["label"],
    }


def _vlmevalkit(values: Mapping[str, Any]) -> dict[str, Any]:
    options = {
        key: str(_text(values[key])) for key in values if _OPTION.fullmatch(key) and _given(values[key])
    }
    row = {key: value for key, value in values.items() if _given(value) and not _OPTION.fullmatch(key)}
    row = without(row, "index", "prediction", "answer", "image")
    if options:
        row = {"options": options, "answer_type": "closed"} | row
    answer = _text(values.get("answer"))
    row |= {"id": _identity(values["index"]), "prediction": _text(values.get("prediction"))}
    row["reference"] = _listed(answer) if answer else None
    if isinstance(row["prediction"], str) and row["prediction"].lstrip().startswith(NO_ANSWER):
        row |= {"prediction": None, "error": values["prediction"]}
    return row


def _lmms(values: Mapping[str, Any]) -> dict[str, Any]:
    row = without(values, "doc_id", "filtered_resps", "resps", "target", "arguments", "input")
    doc = values["doc"] if isinstance(values.get("doc"), Mapping) else {}
    told = ("question", "answer_type", "organ", "language", "task", "patient")
    row = {key: doc[key] for key in told if isinstance(doc.get(key), str)} | row
    if "question" not in row and isinstance(values.get("input"), str):
        row["question"] = values["input"]
    said = _first_text(values.get("filtered_resps", values.get("resps")))
    target = values.get("target")
    reference = [_text(t) for t in target] if isinstance(target, list) else _listed(_text(target))
    return row | {"id": _identity(values["doc_id"]), "prediction": said, "reference": reference}


FORMATS = {
    "suite": Format("this suite's predictions", (("id",), ("prediction", "error")), _suite),
    "vlmevalkit": Format("VLMEvalKit predictions", (("index",), ("prediction",)), _vlmevalkit),
    "llava": Format("LLaVA answers", (("question_id",), ("text",)), _llava),
    "lmms": Format("lmms-eval samples", (("doc_id",), ("filtered_resps", "resps")), _lmms),
    "swift": Format("ms-swift infer results", (("response",), ("labels", "messages")), _swift, True),
    "llamafactory": Format("LLaMA-Factory predictions", (("predict",), ("label",)), _llamafactory, True),
}


def _known(rows: Sequence[Row]) -> str | None:
    """The format that the first row has the keys of."""
    where, values = rows[0]
    # `index` beside `id` is VLMEvalKit's column in a table or a list, and any key of ours in JSONL.
    names = sorted(FORMATS, key=lambda name: name == "suite" and not where.startswith("line"))
    return next((name for name in names if FORMATS[name].knows(values)), None)


def _answers(path: Path, format: str) -> _Answers:
    if format not in ("auto", *FORMATS):
        raise PairError(f"format {format!r} is not one of auto, {', '.join(FORMATS)}")
    rows, notes = load(path)
    name = _known(rows) if format == "auto" else format
    if name is None:
        raise PairError(
            f"{path.name} {rows[0][0]}: no predictions in a known format; found {keys_found(rows[0][1])}. "
            f"Expected one of: {'; '.join(f'{f.title} ({wanted_keys(f.keys)})' for f in FORMATS.values())}."
        )
    numbered = FORMATS[name].numbered and not all(
        isinstance(v, Mapping) and _given(v.get("id")) for _, v in rows
    )
    pairs = _by_id(
        rows, lambda where, values: _pair(FORMATS[name], where if numbered else None, values), path, name
    )
    failed = sum(pair.prediction is None for pair in pairs.values())
    if failed:
        notes += (f"{_count(failed, 'prediction')} of {len(pairs)} failed or null, counted as missing.",)
    return _Answers(name, pairs, numbered, notes)


def _by_id(rows: Sequence[Row], read: Callable[[str, Any], Pair], path: Path, format: str) -> dict[str, Pair]:
    pairs: dict[str, Pair] = {}
    places: dict[str, str] = {}
    for where, values in rows:
        try:
            pair = read(where, values)
            if pair.id in pairs:
                raise PairError(f"a second {_doubled(pair.id, places[pair.id], format)}")
        except PairError as error:
            raise PairError(f"{path.name} {where}: {error}") from None
        places[pair.id] = where
        pairs[pair.id] = pair
    return pairs


def _doubled(identity: str, first: str, format: str) -> str:
    if format == "lmms":
        advice = "lmms-eval writes a row for each filter, and appends: keep those of one filter and run."
    else:
        advice = "Keep one row for each id."
    return f"{'prediction' if format else 'row'} for id {identity!r} (first in {first}). {advice}"


def _pair(format: Format, number: str | None, values: Any) -> Pair:
    if not format.knows(values):
        raise PairError(
            f"expected the keys of {format.title} ({wanted_keys(format.keys)}), found {keys_found(values)}"
        )
    row = format.read(values)
    return pair_of(row | {"id": number.split()[-1] if number else _identity(row["id"])})


# --- references --------------------------------------------------------------------------------------------


def _joined(read: Read, answers: _Answers, name: str, references: Path) -> Read:
    """`read` with the truth of a second file: its cases, in its order. `name` is the predictions' file."""
    if answers.numbered:
        raise PairError(
            f"{name} ({FORMATS[answers.format].title}) has no ids, and is not joined with {references.name} "
            "by row order: after a row that was dropped or shuffled, each would be scored against another "
            "case. Put each case's id into its row (key id)."
        )
    title, truth, notes = _truth(references)
    given = answers.pairs
    missing = tuple(identity for identity in truth if identity not in given)
    extra = tuple(identity for identity in given if identity not in truth)
    if len(missing) == len(truth):
        raise PairError(
            f"{name} and {references.name} share no id: {some(list(given))} in the one, "
            f"{some(list(truth))} in the other."
        )
    pairs = [_told(given.get(identity), case) for identity, case in truth.items()]
    other = [pair.id for pair in pairs if _differs(given.get(pair.id), pair)]
    told = [f"References: {references.name}, {title}, {_count(len(truth), 'case')}."]
    if missing:
        cases = f"{_count(len(missing), 'case')} of {len(truth)}"
        told.append(f"{cases} without a prediction, counted wrong: {some(missing)}.")
    if extra:
        predictions = _count(len(extra), "prediction")
        told.append(f"{predictions} without a case in {references.name}, left out: {some(extra)}.")
    if other:
        told.append(
            f"{_count(len(other), 'case')} of {len(truth)} with another reference in {name} than in "
            f"{references.name}, which is used: {some(other)}. Make sure that the ids of the two files mean "
            "the same cases."
        )
    return replace(read, pairs=pairs, missing=missing, extra=extra, notes=(*read.notes, *told, *notes))


def _truth(path: Path) -> tuple[str, dict[str, Pair], tuple[str, ...]]:
    """(what the file is, its cases by id as pairs without a prediction, notes)."""
    if path.is_dir():
        return _of_test_set(path, "test set")
    rows, notes = load(path)
    name = _known(rows)  # before test sets: ms-swift's results hold a conversation too
    shape = None if name else shape_of(unpacked(rows, "test", path.name))
    if shape not in (None, OUR_CASES):
        return _of_test_set(path, shape.title)
    title = FORMATS[name].title if name else "cases"
    if name and FORMATS[name].numbered:
        raise PairError(f"{path.name} ({title}) has no ids, so that it cannot serve as references.")
    truth = _by_id(rows, lambda _, values: _case(_reference_row(values, name)), path, "")
    if name not in (None, "suite") and not any(case.references for case in truth.values()):
        raise PairError(f"{path.name} ({title}) holds no references.")
    return title, truth, notes


def _of_test_set(path: Path, title: str) -> tuple[str, dict[str, Pair], tuple[str, ...]]:
    return title, {case.id: _case(_values(case)) for case in read_test_set(path)}, ()


def _reference_row(values: Any, format: str | None) -> dict[str, Any]:
    if format is not None:
        return FORMATS[format].read(values)
    if isinstance(values, Mapping) and "id" in values:
        return dict(values)
    if isinstance(values, Mapping) and "index" in values:
        return _vlmevalkit(values)
    raise PairError(
        f"expected a reference with the key id (or index, or a test set's keys), found {keys_found(values)}"
    )


def _case(values: Mapping[str, Any]) -> Pair:
    """A case as a pair without a prediction; what a prediction row says beside the truth is dropped."""
    told = {
        key: value
        for key, value in values.items()
        if value is not None and key not in OURS and not key.startswith("prediction_")
    }
    return pair_of(told | {"id": _identity(values["id"]), "prediction": None})


def _values(case: Case) -> dict[str, Any]:
    from imaging.case import KEYS

    found = {key: getattr(case, key) for key in KEYS}
    found["images"] = [str(image) for image in case.images]
    found = {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}
    return {key: value for key, value in found.items() if value not in (None, [])} | dict(case.extra)


def _told(pair: Pair | None, case: Pair) -> Pair:
    """A prediction with the truth of its case; where the case has none, the row's own stays."""
    if pair is None:
        return case
    own = without(pair.values, "reference", "answer") if case.references else pair.values
    return pair_of({**own, **case.values, "prediction": pair.prediction})


def _differs(pair: Pair | None, joined: Pair) -> bool:
    if pair is None or not pair.references or not joined.references:
        return False
    return {text.strip() for text in pair.references} != {text.strip() for text in joined.references}


# --- texts -------------------------------------------------------------------------------------------------


def _cleaned(read: Read) -> Read:
    pairs, changed, references, emptied = [], 0, 0, 0
    for pair in read.pairs:
        texts = tuple(without_markup(text) for text in pair.references)
        references += texts != pair.references
        text = None if pair.prediction is None else without_markup(pair.prediction)
        values = pair.values
        if text != pair.prediction:
            changed += 1
            emptied += not text
            values = {**values, "prediction": text, "prediction_raw": pair.prediction}
        pairs.append(replace(pair, prediction=text, references=texts, values=values))
    note = (
        f"Markup taken out of {_count(changed, 'prediction')} of {len(pairs)} and out of the references of "
        f"{_count(references, 'case')}; {_count(emptied, 'prediction')} empty without it."
    )
    return replace(read, pairs=pairs, notes=(*read.notes, note))


def without_markup(text: str) -> str:
    """A text without thinking, special tokens, byte order marks, and white space at its ends.

    A thought that was opened in the prompt ends at the last </think>; one that never ends takes all that
    follows.
    """
    head, *thoughts = _OPEN_THOUGHT.split(text)
    parts = [_CLOSE_THOUGHT.split(head)[-1]]
    parts += [after[-1] for after in map(_CLOSE_THOUGHT.split, thoughts) if len(after) > 1]
    return _SPECIAL.sub("", "".join(parts)).replace("\ufeff", "").strip()


def _text(value: Any) -> Any:
    """A cell as a text, None for a blank one; what is neither a text nor a number stays as it is."""
    if not _given(value) and value != "":
        return None
    return str(value) if isinstance(value, bool | int | float) else value


def _given(value: Any) -> bool:
    return value is not None and value != "" and not (isinstance(value, float) and math.isnan(value))


def _listed(text: Any) -> Any:
    """A list of texts that was written as one ("['CT', 'CT scan']"); any other text as it is."""
    if not isinstance(text, str) or not (text.startswith("[") and text.endswith("]")):
        return text
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return found if isinstance(found, list) and found and all(isinstance(t, str) for t in found) else text


def _first_text(value: Any) -> Any:
    """The first text in lmms-eval's nested lists; PairError for a task that only ranks its options."""
    while isinstance(value, list):
        if not value:
            return None
        if len(value) == 2 and str(value[1]) in ("True", "False") and _is_number(value[0]):
            raise PairError("filtered_resps holds log-likelihoods and no answer that could be scored")
        value = value[0]
    return value


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _identity(value: Any) -> Any:
    """An id as a text: 3 and 3.0 are "3"."""
    if (
        isinstance(value, float)
        and value.is_integer()
        or isinstance(value, int)
        and not isinstance(value, bool)
    ):
        return str(int(value))
    return value


# --- words -------------------------------------------------------------------------------------------------


def _shown(pair: Pair) -> list[str]:
    """The first row of a file as lines."""
    first = {"id": pair.id, "prediction": pair.prediction, "references": list(pair.references)}
    known = (
        "question",
        "answer_type",
        "options",
        "organ",
        "language",
        "task",
        "level",
        "score",
        "plane",
        "boxes",
    )
    first |= {key: pair.values[key] for key in known if key in pair.values}
    told = {"id", "prediction", "reference", "answer", *known}
    lines = ["the first as it would be scored:"]
    lines += [f"  {key}: {value!r:.200}" for key, value in first.items()]
    others = [key for key in pair.values if key not in told]
    return lines + ([f"  other keys: {', '.join(others)}"] if others else [])


def _count(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"

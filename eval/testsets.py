"""Test sets of the field as cases, told apart by what is in the file.

* Our cases: JSONL with `id` and `images` (`imaging.case`).
* SLAKE: `test.json`, a list with `img_name` (under `imgs/`), `question`, `answer`, `q_lang`,
  `answer_type`, `location`, `modality`, `qid` …, as the data set's public descriptions give them. `qid`
  counts both languages through, so that it serves as id.
* R2Gen (IU X-Ray, MIMIC-CXR): `annotation.json`, with `id`, `report`, `image_path` (under `images/`) for
  train, val and test. cuhksz-nlp/R2Gen `modules/datasets.py` at 08fc09c,
  `data/iu_xray/r2gen/annotation.json` at 6f8455e.
* OpenI of XrayGLM: `openi-zh.json`, `annotations` with `image_id` (a .png beside the file) and `caption`;
  or a list with `img`, `prompt`, `label`. WangRongsheng/XrayGLM `data/Xray/openi-zh.json`,
  `data/build_ch_prompt.py` at 4419410.
* Conversations: `conversations` (LLaVA-Med also writes `conversatons`) or `messages`, of which the last
  exchange is the case. microsoft/LLaVA-Med `llava/eval/model_vqa_med.py` at ad758b6, `run_eval_pvqa.py` at
  e9972cf (the words of `answer_type`); Asunatan/EchoVLM `collators/datasetV2.py` at 4322b89,
  `swift_part/convert_json_2_standard_format.py` at 1fbaa39. A `description` in place of a conversation is
  read, but no file with one was seen.

* Images with a quality level: a CSV with `image,label[,view]`, or a folder for every level
  (`eval.quality_sets`).

SLAKE and OpenI are the public sets of LLaVA-Ultra's Table 1. Keys without a field in Case (`modality`,
`content_type` …) are kept in `Case.extra`, so that scores can be grouped by them.

Knows nothing of predictions and opens no image.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.quality_sets import is_quality_set, read_quality_set
from eval.rows import PairError, Row, keys_found, read_rows, wanted_keys, without

if TYPE_CHECKING:
    from imaging.case import Case


SPLITS = {"train": ("train",), "val": ("val", "validate", "validation", "valid", "dev"), "test": ("test",)}
ANSWER_TYPES = {"open": "open", "other": "open", "number": "open", "closed": "closed", "yes/no": "closed"}
CONVERSATIONS = ("conversations", "conversatons", "messages")  # the second as LLaVA-Med's own files spell it
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
# EchoVLM keeps one file for each organ; the misspelling is its own.
ORGANS = {
    "breast": "breast",
    "gynaecology": "gynaecology",
    "heart": "heart",
    "kidney": "kidney",
    "liver": "liver",
    "thyroid": "thyroid",
    "thyriod": "thyroid",
    "vessel": "vessel",
}


def read_test_set(path: str | Path, split: str = "test", images: str | Path | None = None) -> list[Case]:
    """All cases of a test set, in the file's order, with the images' paths made absolute.

    `path` is a file of one of the shapes above, or a folder that holds it (`test.json`, `annotation.json`,
    `cases.jsonl`, a CSV of images with labels, or folders called high, medium and low). `split` is train,
    val or test; a file that names no splits is one split, and asking for another than its name says is an
    error; our own JSONL and images with levels are always read whole. `images` is the folder of the images
    where it is not the set's usual one. `organ` is the set's own word ("Lung", "Brain").

    Raises PairError for a file or a row that cannot be read, OSError where there is none. Whether the images
    exist is not checked.
    """
    path = Path(path)
    if split not in SPLITS:
        raise PairError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    if path.exists() and is_quality_set(path):
        return read_quality_set(path, images)
    if path.is_dir():
        path = _file_in(path, split)
    rows = unpacked(read_rows(path), split, path.name)
    shape = shape_of(rows)
    if shape is None:
        found = keys_found(rows[0][1], none="none")
        raise PairError(
            f"{path.name} is no test set that is known here; found the keys {found}. "
            f"Expected one of: our cases (id, images), {', '.join(s.title for s in SHAPES)}."
        )
    if shape is CASES:
        return _own(path, rows)
    folder = Path(images) if images is not None else path.absolute().parent / shape.folder
    return _cases(_of_split(rows, split, path), shape, folder.absolute(), path)


@dataclass(frozen=True)
class Shape:
    """A layout: the keys that a row is known by, and how a row is read (values, images' folder, file)."""

    title: str
    keys: tuple[tuple[str, ...], ...]  # one key of each group is there
    read: Callable[[Mapping[str, Any], Path, Path], tuple[dict[str, Any], dict[str, Any]]]  # fields, extra
    folder: str = "."  # of the images, beside the file

    def knows(self, values: Any) -> bool:
        """Whether a row has the keys of this layout."""
        return isinstance(values, Mapping) and all(any(k in values for k in group) for group in self.keys)


def shape_of(rows: Sequence[Row]) -> Shape | None:
    """The layout of a test set, told from its first row; None where it is none that is known."""
    return next((shape for shape in (*SHAPES, CASES) if shape.knows(rows[0][1])), None)


# --- the shapes ------------------------------------------------------------------------------------------


def _slake(values: Mapping[str, Any], folder: Path, file: Path) -> tuple[dict, dict]:
    image = _string(values, "img_name")
    fields = {
        "id": _identity(values, "qid"),
        "images": (_image(_beside(folder, image), image),),
        "question": _string(values, "question"),
        "answer": _string(values, "answer"),
        "organ": values.get("location") or None,
        "language": values.get("q_lang") or _language(values["question"]),
        "task": "vqa",
        "answer_type": _answer_type(values),
    }
    return fields, without(
        values, "qid", "img_name", "question", "answer", "location", "q_lang", "answer_type"
    )


def _r2gen(values: Mapping[str, Any], folder: Path, file: Path) -> tuple[dict, dict]:
    report = _string(values, "report")
    fields = {
        "id": _identity(values, "id"),
        "images": _images(folder, values["image_path"]),
        "answer": report,
        "language": _language(report),
        "task": "report",
        "answer_type": "open",
    }
    if values.get("subject_id") is not None:  # MIMIC-CXR; IU X-Ray names no patients
        fields["patient"] = str(values["subject_id"])
    return fields, without(values, "id", "image_path", "report", "subject_id")


def _openi(values: Mapping[str, Any], folder: Path, file: Path) -> tuple[dict, dict]:
    name, report = _identity(values, "image_id"), _string(values, "caption")
    fields = {
        "id": name,
        "images": (_image(folder, f"{name}.png"),),
        "answer": report,
        "language": _language(report),
        "task": "report",
        "answer_type": "open",
        "patient": name.rpartition("_")[0] or name,  # "162_1" and "162_2" share report 162
    }
    return fields, without(values, "image_id", "caption")


def _prompted(values: Mapping[str, Any], folder: Path, file: Path) -> tuple[dict, dict]:
    image, report = _string(values, "img"), _string(values, "label")
    name = Path(image).stem
    fields = {
        "id": name,
        "images": (_image(folder, image),),
        "question": _string(values, "prompt"),
        "answer": report,
        "language": _language(report),
        "task": "report",
        "answer_type": "open",
        "patient": name.rpartition("_")[0] or name,
    }
    return fields, without(values, "img", "prompt", "label")


def _conversation(values: Mapping[str, Any], folder: Path, file: Path) -> tuple[dict, dict]:
    said = turns(values)
    question, answer = last_exchange(said)
    if "description" in values and not said:
        answer = _string(values, "description")
    if answer is None:
        raise PairError("the conversation holds no answer (a turn from gpt or assistant)")
    fields = {
        "id": _identity(values, "id"),
        "images": _images(folder, values.get("image") or values.get("images") or []),
        "question": question,
        "answer": answer,
        "organ": values.get("organ") or values.get("anatomy") or _organ_in(file),
        "language": values.get("language") or values.get("lang") or _language((question or "") + answer),
        "task": values.get("task"),
        "answer_type": _answer_type(values),
        "patient": values.get("patient"),
    }
    extra = without(values, *fields, *CONVERSATIONS, "image", "anatomy", "lang", "description")
    if len(said) > 2:  # a system turn or earlier exchanges: part of what was asked
        extra["conversations"] = next(values[key] for key in CONVERSATIONS if values.get(key))
    return fields, extra


SHAPES = (
    Shape("conversations (LLaVA, EchoVLM, ms-swift)", (("id",), CONVERSATIONS), _conversation),
    Shape("SLAKE", (("img_name",), ("question",), ("answer",)), _slake, "imgs"),
    Shape("R2Gen annotation", (("report",), ("image_path",)), _r2gen, "images"),
    Shape("OpenI captions", (("image_id",), ("caption",)), _openi),
    Shape("OpenI prompts", (("img",), ("prompt",), ("label",)), _prompted),
    Shape("descriptions (EchoVLM)", (("id",), ("image",), ("description",)), _conversation),
)
CASES = Shape("our cases", (("id",), ("images",)), lambda values, folder, file: ({}, {}))


def turns(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(user, assistant or the role's own name; text) of every turn of a row; empty where it has none."""
    said = next((values[key] for key in CONVERSATIONS if values.get(key)), [])
    if not isinstance(said, list) or not all(isinstance(turn, Mapping) for turn in said):
        raise PairError("the conversation is not a list of turns")
    found = []
    for turn in said:
        role = str(turn.get("from", turn.get("role")))
        text = turn.get("value", turn.get("content"))
        if isinstance(text, list):  # the parts of one message: images and texts
            text = "".join(str(part.get("text", "")) for part in text if isinstance(part, Mapping))
        if not isinstance(text, str):
            raise PairError(f"a turn of the conversation says {text!r:.40}, which is not a text")
        found.append((ROLES.get(role, role), text))
    return found


def last_exchange(said: Sequence[tuple[str, str]]) -> tuple[str | None, str | None]:
    """(question, answer): the assistant's last turn and the user's before it; None for what is not there.

    LLaVA-Med takes the second turn; its test files have only two."""
    end = next((i for i in reversed(range(len(said))) if said[i][0] == "assistant"), len(said))
    question = next((text for role, text in reversed(said[:end]) if role == "user"), None)
    return question and plain_question(question), said[end][1] if end < len(said) else None


def plain_question(text: str) -> str:
    """A question without the marks where images go."""
    return text.replace("<image>", "").strip()


# --- rows into cases ---------------------------------------------------------------------------------------


def _cases(rows: Iterable[Row], shape: Shape, folder: Path, path: Path) -> list[Case]:
    from imaging.case import Case, CaseError

    cases, seen = [], {}
    for where, values in rows:
        try:
            if not shape.knows(values):
                raise PairError(
                    f"expected the keys of {shape.title} ({wanted_keys(shape.keys)}), "
                    f"found {keys_found(values, none='none')}"
                )
            fields, extra = shape.read(values, folder, path)
            case = Case(**{k: v for k, v in fields.items() if v is not None}, extra=extra)
            if case.id in seen:
                raise PairError(f"id {case.id!r} was already used in {seen[case.id]}")
        except (PairError, CaseError) as error:
            raise PairError(f"{path.name} {where}: {error}") from None
        seen[case.id] = where
        cases.append(case)
    return cases


def _own(path: Path, rows: Sequence[Row]) -> list[Case]:
    from imaging.case import CaseError, read_cases

    if not rows[0][0].startswith("line"):
        raise PairError(f"{path.name} holds our cases as one list. Expected JSONL: one case a line.")
    try:
        return read_cases(path)
    except CaseError as error:
        raise PairError(str(error)) from None


def _file_in(folder: Path, split: str) -> Path:
    names = [f"{name}.json" for name in SPLITS[split]] + ["annotation.json", "cases.jsonl"]
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise PairError(
            f"{folder.name} is a folder without {', '.join(names)}. Name the file of the test set."
        )
    return found


def unpacked(rows: list[Row], split: str, name: str) -> list[Row]:
    """The rows that one object holds under `annotations` or the name of their split; others as they are.

    `name` is the file's, for errors; PairError where the split is not there or empty."""
    values = rows[0][1]
    if len(rows) > 1 or not isinstance(values, Mapping) or shape_of(rows):
        return rows
    if isinstance(values.get("annotations"), list):
        found = [(f"annotation {i}", row) for i, row in enumerate(values["annotations"], start=1)]
    else:
        splits = [key for key in values if key in _split_names() and isinstance(values[key], list)]
        if not splits:
            return rows
        key = next((key for key in splits if key in SPLITS[split]), None)
        if key is None:
            raise PairError(f"{name} has no split {split}; found {', '.join(splits)}")
        found = [(f"{key} row {i}", row) for i, row in enumerate(values[key], start=1)]
    if not found:
        raise PairError(f"{name} holds no cases")
    return found


def _of_split(rows: list[Row], split: str, path: Path) -> list[Row]:
    named = [str(v["split"]).lower() if isinstance(v, Mapping) and v.get("split") else None for _, v in rows]
    if any(named):
        kept = [row for row, name in zip(rows, named, strict=True) if name in SPLITS[split]]
        if not kept:
            found = ", ".join(sorted({str(name) for name in named}))
            raise PairError(f"{path.name} has no rows of split {split}; found {found}")
        return kept
    nested = " row " in rows[0][0]  # the document named the split
    if split != "test" and not nested and not any(name in path.stem.lower() for name in SPLITS[split]):
        raise PairError(
            f"{path.name} does not say which split its rows belong to. Name the file of split {split}."
        )
    return rows


# --- values ------------------------------------------------------------------------------------------------


def _identity(values: Mapping[str, Any], key: str) -> str:
    found = values.get(key)
    if isinstance(found, bool) or not isinstance(found, str | int) or found == "":
        raise PairError(f"expected a key {key} with a text or a number, found {found!r:.40}")
    return str(found)


def _string(values: Mapping[str, Any], key: str) -> str:
    found = values.get(key)
    if isinstance(found, int | float):  # SLAKE counts: "How many lungs?" 2
        found = str(found)
    if not isinstance(found, str):
        raise PairError(f"{key} {found!r:.40} is not a text")
    return found


def _answer_type(values: Mapping[str, Any]) -> str | None:
    found = values.get("answer_type")
    if found is None or found == "":
        return None
    word = ANSWER_TYPES.get(str(found).strip().lower())
    if word is None:
        raise PairError(f"answer_type {found!r:.40} is not one of {', '.join(ANSWER_TYPES)}")
    return word


def _language(text: str) -> str:
    """zh for a text with Chinese characters, else en: for the sets that do not say."""
    return "zh" if re.search("[\u3400-\u9fff]", text) else "en"


def _organ_in(file: Path) -> str | None:
    found = {organ for word, organ in ORGANS.items() if word in file.stem.lower()}
    return found.pop() if len(found) == 1 else None


def _image(folder: Path, name: str) -> Path:
    return Path(os.path.normpath(folder / name))


def _beside(folder: Path, name: str) -> Path:
    """The folder that `name` lies in: one above the images' if it begins with theirs ("imgs/xmlab1/…")."""
    return folder.parent if Path(name).parts[:1] == (folder.name,) else folder


def _images(folder: Path, names: Any) -> tuple[Path, ...]:
    names = names if isinstance(names, list) else [names]
    names = [name.get("path") if isinstance(name, Mapping) else name for name in names]
    if not all(isinstance(name, str) and name for name in names):
        raise PairError(f"images {names!r:.60} are not a list of paths")
    return tuple(_image(folder, name) for name in names)


def _split_names() -> set[str]:
    return {name for names in SPLITS.values() for name in names}

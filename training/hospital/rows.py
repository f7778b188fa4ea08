"""The reports of a hospital's export: a CSV or JSONL becomes rows, and rows become studies.

The columns are told by their headings, Chinese or English (rules.yaml). Knows nothing of images, and changes
no text.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from training.hospital.texts import rules

FIELDS = ("findings", "impression", "site", "patient", "study", "images")
ENCODINGS = ("utf-8-sig", "gb18030")  # what spreadsheets write in Chinese


class ExportError(ValueError):
    """An export that cannot be read at all; the message names the file, the line and what to do."""


@dataclass(frozen=True)
class Row:
    """One line of the reports: `values` by FIELDS, "" where there is none; `personal` ones name somebody."""

    line: int
    values: Mapping[str, str]
    personal: frozenset[str]


@dataclass
class Study:
    """The rows that belong to one examination of one patient."""

    lines: list[int]
    patient: str
    rows: list[Row]


def read_rows(path: Path, columns: Mapping[str, str] | None = None) -> list[Row]:
    """The rows of a CSV (comma, semicolon or tab; UTF-8 or GB 18030) or JSONL. `columns` names columns by
    FIELDS where rules.yaml does not know them. Raises ExportError and OSError."""
    text = _decoded(path)
    records = list(_json_records(text, path) if path.suffix.lower() == ".jsonl" else _csv_records(text, path))
    if not records:
        raise ExportError(f"{path.name} holds no rows: export the reports again")
    headings = list(dict.fromkeys(heading for _, record in records for heading in record))
    chosen = _chosen_columns(headings, columns or {}, path)
    left = [heading for heading in headings if heading not in chosen.values()]
    return [
        Row(
            line,
            {key: _as_text(record.get(chosen.get(key, ""), "")) for key in FIELDS},
            frozenset(_personal(record, left)),
        )
        for line, record in records
    ]


def _personal(record: Mapping, headings: Iterable[str]) -> Iterator[str]:
    """The values of one record that name somebody; names with ^ between their parts, as in DICOM."""
    names, other = ({folded(word) for word in rules()[key]} for key in ("names", "personal"))
    for heading in headings:
        value = _as_text(record.get(heading, "")).strip()
        if value and folded(heading) in names:
            yield "^".join(value.split())
        elif value and folded(heading) in other:
            yield value


def studies(rows: Iterable[Row]) -> list[Study]:
    """Rows of one patient and one study together; a row without a study id is a study."""
    found: dict[tuple, Study] = {}
    for row in rows:
        patient, study = patient_key(row.values["patient"]), row.values["study"].strip()
        key = (patient, study) if study else (row.line,)
        known = found.setdefault(key, Study([], patient, []))
        known.lines.append(row.line)
        known.rows.append(row)
    return list(found.values())


def patient_key(value: str) -> str:
    """An id as it is compared: spreadsheets drop leading zeros and add ".0", and letters' case varies. Two
    patients may be taken for one by this, which the split forgives; one is never taken for two."""
    key = folded(value)
    key = key.removesuffix(".0") if key.removesuffix(".0").isdigit() else key
    return key.lstrip("0") or key[:1]


def image_names(cell: str) -> list[str]:
    """The names in one cell, separated as rules.yaml says, or a list as JSON."""
    if cell.startswith("["):
        with suppress(json.JSONDecodeError):  # a name may begin with a bracket, too
            return [str(name).strip() for name in json.loads(cell)]
    return [name.strip() for name in re.split(rules()["image_separator"], cell) if name.strip()]


def _decoded(path: Path) -> str:
    data = path.read_bytes()
    for encoding in ENCODINGS:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise ExportError(f"{path.name} is neither UTF-8 nor GB 18030: save it as UTF-8")


def _csv_records(text: str, path: Path) -> Iterator[tuple[int, dict]]:
    heading = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=heading.count)
    csv.field_size_limit(1 << 24)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restkey="")
    try:
        for record in reader:
            if any(isinstance(value, str) and value.strip() for value in record.values()):
                yield reader.line_num, {k: v for k, v in record.items() if k and v is not None}
    except csv.Error as error:
        raise ExportError(f"{path.name} line {reader.line_num}: {error}") from None


def _json_records(text: str, path: Path) -> Iterator[tuple[int, dict]]:
    for line, entry in enumerate(text.splitlines(), start=1):
        if not entry.strip():
            continue
        try:
            record = json.loads(entry)
        except json.JSONDecodeError as error:
            raise ExportError(f"{path.name} line {line}: not JSON: {error.msg}") from None
        if not isinstance(record, dict):
            raise ExportError(f"{path.name} line {line}: not an object in braces")
        yield line, record


def _chosen_columns(headings: Sequence[str], named: Mapping[str, str], path: Path) -> dict[str, str]:
    by_name = {folded(heading): heading for heading in headings}
    chosen = {}
    for key in FIELDS:
        wanted = [named[key]] if key in named else rules()["columns"][key]
        found = next((by_name[folded(name)] for name in wanted if folded(name) in by_name), None)
        if found is None and key in named:
            raise ExportError(f"{path.name} has no column {named[key]!r}; it has: {', '.join(headings)}")
        if found is not None:
            chosen[key] = found
    lacking = [key for key in ("patient",) if key not in chosen]
    lacking += [] if {"findings", "impression"} & set(chosen) else ["findings"]
    lacking += [] if {"images", "study"} & set(chosen) else ["images"]
    if lacking:
        raise ExportError(
            f"{path.name} has no column for {lacking[0]}; name it with --column {lacking[0]}=HEADING "
            f"(it has: {', '.join(headings)})"
        )
    return chosen


def _as_text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def folded(text: str) -> str:
    """A name as it is compared: without case, width, spaces and underscores."""
    return "".join(unicodedata.normalize("NFKC", str(text)).casefold().replace("_", " ").split())

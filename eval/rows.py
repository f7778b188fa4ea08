"""A file into rows: JSON, JSONL, a table or a workbook, each row with where it stands.

Told apart by content, never by the file's ending. Knows nothing of what the rows mean.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Row = tuple[str, Any]  # where it stands ("line 3"), and what it says

NOT_TEXT = {
    b"PK\x03\x04": "an archive or a workbook",
    b"\x1f\x8b": "a gzip archive",
    b"PAR1": "a Parquet file",
    b"\x80": "a pickle, which could run code when opened",
    b"\xd0\xcf\x11\xe0": "an old Excel file",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}

EXCEL_CELL = 32_767  # characters: the most that a cell of Excel holds
_EXCEL_CONTROL = re.compile(r"_x00([01][0-9A-Fa-f])_")  # "_x000D_": a carriage return in a workbook

_NAMED = 5


class PairError(ValueError):
    """A file that cannot be scored; the message names the file, the line and what was expected."""


def load(path: Path) -> tuple[list[Row], tuple[str, ...]]:
    """Rows with where they stand, and notes: of a workbook, of JSON, or of a table."""
    if not path.is_dir():
        with path.open("rb") as file:
            head = file.read(1 << 10)
        if head.startswith(b"PK\x03\x04"):
            return _workbook(path)
        if not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"{", b"[")) and _is_table(head):
            return _table(path), ()
    return read_rows(path), ()


def _is_table(head: bytes) -> bool:
    names = re.split('[\t,"\r]+', head.decode("utf-8-sig", "replace").split("\n")[0])
    return bool({"index", "id", "question_id", "doc_id"} & set(names))


def _table(path: Path) -> list[Row]:
    """The rows of a tsv or csv file, without the pictures in `image`."""
    check_text(path)
    with path.open("rb") as file:
        delimiter = "\t" if b"\t" in file.readline() else ","
    rows: list[Row] = []
    with path.open(encoding="utf-8-sig", newline="") as file, _cells_of_any_length():
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(reader)
            for number, cells in enumerate(reader, start=2):
                if cells and len(cells) != len(header):
                    raise PairError(
                        f"{path.name} row {number}: {len(cells)} cells under a header of "
                        f"{len(header)}; the row is cut off, or a tab or quotation mark in it is not quoted."
                    )
                if cells:
                    row = dict(zip(header, cells, strict=True))
                    row.pop("image", None)
                    rows.append((f"row {number}", row))
        except csv.Error as error:
            raise PairError(f"{path.name} line {reader.line_num}: not a table ({error}).") from None
        except UnicodeDecodeError as error:
            raise PairError(
                f"{path.name} after line {reader.line_num}: not UTF-8 text ({error.reason})."
            ) from None
    if not rows:
        raise PairError(f"{path.name} holds a header and no rows.")
    return rows


@contextmanager
def _cells_of_any_length() -> Iterator[None]:
    """csv refuses cells above 131,072 characters, which an answer or a picture may have."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _workbook(path: Path) -> tuple[list[Row], tuple[str, ...]]:
    """The rows of an Excel file's first sheet, with a note on cells that are as full as Excel allows."""
    from xml.etree.ElementTree import ParseError
    from zipfile import BadZipFile

    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        with path.open("rb") as file:
            sheet = load_workbook(file, read_only=True, data_only=True).worksheets[0]
            sheet.reset_dimensions()  # some writers state a size that would cut the sheet
            lines = [[_cell(value) for value in line] for line in sheet.iter_rows(values_only=True)]
    except (BadZipFile, InvalidFileException, ParseError, KeyError, IndexError, ValueError) as error:
        raise PairError(f"{path.name} is no Excel workbook that can be read ({error}).") from None
    if len(lines) < 2:
        raise PairError(f"{path.name} holds no rows in its first sheet.")
    header = [str(name) for name in lines[0]]
    lines = [line + [""] * (len(header) - len(line)) for line in lines]
    rows = [
        (
            f"row {number}",
            {name: value for name, value in zip(header, line, strict=False) if name not in ("", "image")},
        )
        for number, line in enumerate(lines[1:], start=2)
        if any(value != "" for value in line)
    ]
    full = [where for where, row in rows if any(_is_full(value) for value in row.values())]
    notes = (
        f"{len(full)} rows of {len(rows)} with a cell of {EXCEL_CELL:,} characters, the most that "
        f"Excel keeps; the text was probably cut: {some(full)}. VLMEvalKit writes tsv with PRED_FORMAT=tsv.",
    )
    return rows, notes if full else ()


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return _EXCEL_CONTROL.sub(lambda code: chr(int(code[1], 16)), value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return "" if value is None else value


def _is_full(value: Any) -> bool:
    # Excel counts UTF-16 units; pandas, which cuts at code points, leaves no fewer of them.
    return isinstance(value, str) and len(value.encode("utf-16-le", "replace")) >= 2 * EXCEL_CELL


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a JSONL file or a JSON list, or the one object of a document, each with where it stands.

    PairError for a file that is no such thing, OSError where there is none.
    """
    path = Path(path)
    check_text(path)
    start = _first_character(path)
    try:
        rows = _lines_or_document(path) if start == "{" else _document(path) if start == "[" else None
    except (RecursionError, ValueError) as error:
        if isinstance(error, PairError):
            raise
        raise PairError(f"{path.name} cannot be read as JSON: {str(error).split(';')[0]}.") from None
    if rows is None:
        raise PairError(
            f"{path.name} starts with {start!r}. Expected JSON: one object a line, or one list of objects."
        )
    if not rows:
        raise PairError(f"{path.name} holds no rows. Expected one JSON object for each case.")
    return rows


def check_text(path: Path) -> None:
    """PairError for a file that is no text: a folder, empty, another format, or with NUL bytes in it."""
    if path.is_dir():
        raise PairError(f"{path.name or path} is a folder. Name a file in it.")
    with path.open("rb") as file:
        head = file.read(8)
        if not head:
            raise PairError(f"{path.name} is empty.")
        for signature, name in NOT_TEXT.items():
            if head.startswith(signature):
                raise PairError(f"{path.name} is {name}. Expected UTF-8 text: JSON, JSONL, tsv or csv.")
        file.seek(0)
        line = 1
        while block := file.read(1 << 20):
            if b"\0" in block:
                line += block.count(b"\n", 0, block.index(b"\0"))
                raise PairError(
                    f"{path.name} line {line}: NUL bytes in the text; the file was damaged, or cut "
                    "off while it was written. Remove them, or write it again."
                )
            line += block.count(b"\n")


def _first_character(path: Path) -> str:
    with path.open("rb") as file:
        head = b""
        while not head and (block := file.read(1 << 16)):
            head = block.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head:
        raise PairError(f"{path.name} is empty.")
    return head[:4].decode("utf-8", "replace")[0]


def _lines_or_document(path: Path) -> list[Row]:
    try:
        return [(f"line {number}", values) for number, values in read_json_lines(path)]
    except PairError as lines:  # perhaps one object over several lines, as R2Gen and XrayGLM write
        try:
            return _document(path)
        except PairError as document:
            raise (document if path.suffix == ".json" else lines) from None


def _document(path: Path) -> list[Row]:
    raw = path.read_bytes()
    try:
        found = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise PairError(f"{path.name} line {line}: not UTF-8 text ({error.reason})") from None
    except json.JSONDecodeError as error:
        raise PairError(
            f"{path.name} line {error.lineno}: not JSON ({error.msg} at column {error.colno})."
        ) from None
    return [(f"row {i}", row) for i, row in enumerate(found if isinstance(found, list) else [found], start=1)]


def read_json_lines(path: str | Path) -> Iterable[tuple[int, Any]]:
    """(line number, object) of every line that is not blank; PairError for a line that is not JSON."""
    path = Path(path)
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                if line.strip():
                    yield number, json.loads(line)
            except UnicodeDecodeError as error:
                raise PairError(f"{path.name} line {number}: not UTF-8 text ({error.reason})") from None
            except json.JSONDecodeError as error:
                raise PairError(
                    f"{path.name} line {number}: not a JSON object ({error.msg} at column {error.colno}). "
                    "Expected one object a line."
                ) from None


def some(names: Sequence[str], most: int = _NAMED) -> str:
    """The first few names and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def without(values: Mapping[str, Any], *used: str) -> dict[str, Any]:
    """The keys of a row that were not used."""
    return {key: value for key, value in values.items() if key not in used}


def keys_found(values: Any, none: str = "no keys") -> str:
    """The keys of a row for an error; of what is no row, the beginning."""
    if not isinstance(values, Mapping):
        return f"{values!r:.40}"
    return ", ".join(map(str, list(values)[:12])) or none


def wanted_keys(groups: Sequence[Sequence[str]]) -> str:
    """The keys by which a row is known, for an error: one of each group."""
    return ", ".join(" or ".join(group) for group in groups)

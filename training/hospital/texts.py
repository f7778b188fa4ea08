"""Take names, numbers and dates out of a report.

First the values that the export itself knows: personal columns, ids, DICOM headers. Then the patterns of
rules.yaml. Known values are the strong half; patterns are chosen, not from a standard, and err towards
taking out too much.

Cannot find: a name in running text that is in no column and no header and stands behind no label or title; a
rare disease or an event that gives somebody away. A person must read a sample before anything is shared.
Knows nothing of images.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from itertools import permutations
from pathlib import Path

import yaml

RULES = Path(__file__).with_name("rules.yaml")
SHORTEST_NUMBER, SHORTEST_WORD = 4, 2  # a bed "3" is no secret, and would take every 3 out
MOST_PARTS = 4  # of a name that is looked for in every order
SHORTEST_LOOSE = 6  # characters of a value that is looked for without regard to spaces and points
IDEOGRAPH = re.compile(r"[\u3400-\u9fff]")
_LATIN = r"[^\W_\u3400-\u9fff]"
_NAME = re.compile(r"[^\W\d_]{3,}(?:['’-][^\W\d_]+)*")


def rules() -> dict:
    """What rules.yaml says."""
    return _rules()


def language_of(*texts: str) -> str:
    """ "zh" where ideographs are at least a third of the letters, else "en"."""
    letters = [letter for letter in "".join(texts) if letter.isalpha()]
    return "zh" if 3 * sum(map(bool, map(IDEOGRAPH.match, letters))) > len(letters) else "en"


def without_label(text: str) -> str:
    """`text` without the heading that some exports repeat in the cell ("Impression: normal")."""
    return _label().sub("", text.strip(), count=1)


def without_identity(text: str, known: Iterable[str], language: str) -> str:
    """`text` with known values and what the patterns find replaced by a word for what stood there."""
    text = unicodedata.normalize("NFC", text)
    mark = _rules()["known"][language]
    for value in sorted(_spellings(known), key=lambda value: (-len(value), value)):
        for pattern in _patterns_of(value):
            text = pattern.sub(mark, text)
    for pattern, words in _patterns():
        text = pattern.sub(words[language], text)
    return text


def still_known(text: str, known: Iterable[str]) -> bool:
    """True where a known value stands in `text` after all, however it is spaced or cased, a name in any order
    of its parts. Single words in Latin letters and short numbers are not looked for so loosely: they would be
    found in what is harmless."""
    bare = _bare(text)
    values = [value for value in _spellings(known) if not _NAME.fullmatch(_spelled(value))]
    loose = {_bare(" ".join(order)) for value in values for order in _orders(value)}
    loose |= {_bare(_spelled(value)) for value in values}
    return any(
        value in bare
        for value in loose
        if len(value) >= (SHORTEST_WORD if IDEOGRAPH.search(value) else SHORTEST_LOOSE)
    )


def _patterns_of(value: str) -> list[re.Pattern]:
    """How a known value may be written: whole, spaced or not; a name in Latin letters in any order of its
    parts. One whose parts are joined by ^ as in DICOM also by each part; single words only with a capital
    letter, for Small and Wall are names."""
    spelled = _spelled(value)
    if len(_bare(spelled)) < (SHORTEST_NUMBER if _bare(spelled).isdigit() else SHORTEST_WORD):
        return []
    if IDEOGRAPH.search(spelled):
        return [re.compile(r"\s?".join(re.escape(letter) for letter in _bare(spelled)), re.I)]
    edge = rf"(?<!{_LATIN})", rf"(?!{_LATIN})"  # an ideograph may stand right beside it
    parts = [part for part in re.split(r"[\s,.]+", spelled) if part]
    names = _NAME.findall(spelled) if "^" in value or parts == _NAME.findall(spelled)[:1] else []
    written = sorted({form for name in names for form in (name.upper(), name.capitalize())})
    orders = _orders(value) or ([tuple(parts)] if len(parts) > 1 or not names else [])
    whole = [r"[\s,.^-]*".join(map(re.escape, order)) for order in orders]
    return [re.compile(edge[0] + form + edge[1], re.I) for form in whole] + [
        re.compile(edge[0] + re.escape(form) + edge[1]) for form in written
    ]


def _orders(value: str) -> list[tuple[str, ...]]:
    """The parts of a name in Latin letters as somebody may write them, longest first: all of them in any
    order; of a name with ^ also any two or more. [] for what is no name of two to MOST_PARTS parts."""
    parts = [part for part in re.split(r"[\s,.]+", _spelled(value)) if part]
    if not 2 <= len(parts) <= MOST_PARTS or IDEOGRAPH.search(value):
        return []
    if "^" not in value and not all(map(str.isalpha, parts)):
        return []
    fewest = 2 if "^" in value else len(parts)
    sizes = range(len(parts), fewest - 1, -1)
    return [order for size in sizes for order in permutations(parts, size)]


def _spellings(known: Iterable[str]) -> set[str]:
    """Known values, DICOM's = between the spellings of one name resolved."""
    return {part for value in known for part in value.split("=") if part.strip()}


def _spelled(value: str) -> str:
    """DICOM's ^ between the parts of a name as spaces."""
    return " ".join(unicodedata.normalize("NFC", value).replace("^", " ").split())


def _bare(value: str) -> str:
    return re.sub(r"[\s,.^=_-]+", "", unicodedata.normalize("NFKC", value)).casefold()


@cache
def _rules() -> dict:
    return yaml.safe_load(RULES.read_text(encoding="utf-8"))


@cache
def _label() -> re.Pattern:
    words = sorted((word for key in ("findings", "impression") for word in _rules()["columns"][key]), key=len)
    return re.compile(rf"\A(?:{'|'.join(map(re.escape, reversed(words)))})\s*[:：]\s*", re.IGNORECASE)


@cache
def _patterns() -> tuple[tuple[re.Pattern, dict[str, str]], ...]:
    return tuple(
        (
            re.compile(_written_out(rule["pattern"]), 0 if rule.get("case") else re.I),
            {key: rule[key] for key in ("zh", "en")},
        )
        for rule in _rules()["patterns"]
    )


def _written_out(pattern: str) -> str:
    for name, meaning in _rules()["macros"].items():
        pattern = pattern.replace(name, meaning)
    return pattern

"""A case with what an assistant said of it: the rows that are scored.

One JSON object a line. The keys are those of a case (`imaging.case`), plus `prediction` (the text) and what
else the reply found: `prediction_boxes`, `prediction_plane`, `prediction_level`, `prediction_score` … The
reference text may be called `reference`, a string or a list of strings that are all right, or `answer`.

Knows nothing of metrics, and nothing of the shapes that other projects write (`eval.formats`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.rows import PairError, Row, read_rows

ALIASES = {"lang": "language", "anatomy": "organ"}


@dataclass(frozen=True)
class Pair:
    """A prediction beside its reference. `values` holds every key of the line, aliases under both names."""

    id: str
    prediction: str | None  # None: there is no answer (it is missing or it failed); "" says nothing
    references: tuple[str, ...] = ()  # all of them right; empty for a case whose truth is no text
    values: Mapping[str, Any] = field(default_factory=dict)

    def group(self, key: str) -> str:
        """The value of `key` as a group's name; "meta.vendor" looks inside an object; "–" where there is
        none."""
        value: Any = self.values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is None or value == "":
            return "–"
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def read_pairs(path: str | Path) -> list[Pair]:
    """All rows of a JSONL file; PairError for the first that cannot be scored, OSError for no such file."""
    path = Path(path)
    return pairs_of(read_rows(path), path.name)


def pairs_of(rows: Iterable[Row], source: str) -> list[Pair]:
    """Rows with where they stand as pairs; `source` is named in errors. PairError also for two rows of one
    id."""
    pairs: list[Pair] = []
    places: dict[str, str] = {}
    for place, values in rows:
        try:
            pair = pair_of(values)
        except PairError as error:
            raise PairError(f"{source} {place}: {error}") from None
        if pair.id in places:
            raise PairError(
                f"{source} {place}: a second prediction for id {pair.id!r} (first in "
                f"{places[pair.id]}). Keep one line for each id."
            )
        places[pair.id] = place
        pairs.append(pair)
    if not pairs:
        raise PairError(
            f"{source} holds no predictions. Expected one JSON object a line, each with id and prediction."
        )
    return pairs


def pair_of(values: Mapping[str, Any]) -> Pair:
    """One row as a Pair; PairError says which key is wrong and what was expected."""
    if not isinstance(values, Mapping):
        raise PairError("expected a JSON object with id and prediction")
    identity = values.get("id")
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    if not isinstance(identity, str) or not identity:
        raise PairError(f"expected a key id with a text, found {identity!r}")
    prediction = values.get("prediction")
    if prediction is None and "error" not in values and "prediction" not in values:
        raise PairError(f"id {identity!r} has no key prediction; found {', '.join(map(str, values))}")
    if not isinstance(prediction, str | None):
        raise PairError(f"id {identity!r}: prediction {prediction!r:.60} is not a text")
    names = {alias: name for alias, name in ALIASES.items() if alias in values and name not in values}
    return Pair(
        identity,
        prediction,
        _references(values, identity),
        {**values, **{name: values[alias] for alias, name in names.items()}},
    )


def _references(values: Mapping[str, Any], identity: str) -> tuple[str, ...]:
    found = values.get("reference", values.get("answer"))
    if found is None:
        return ()
    texts = [
        str(text) if isinstance(text, int | float) and not isinstance(text, bool) else text
        for text in (found if isinstance(found, list) else [found])
    ]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise PairError(f"id {identity!r}: reference {found!r:.60} is neither a text nor a list of texts")
    return tuple(texts)

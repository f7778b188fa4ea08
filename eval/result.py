"""What scoring gives back: sections of columns over groups of cases, each figure with its n and interval.

Plain values: a table, a file or a picture can be made of them without the texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MICRO = "all cases"  # every case counts the same
MACRO = "mean of groups"  # every group counts the same, from unrounded cells


@dataclass(frozen=True)
class Cell:
    """One figure in the table's unit (mostly 0–100), unrounded; None where nothing was counted."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0


@dataclass(frozen=True)
class Group:
    """One row: a group of cases, or one of the averages MICRO and MACRO."""

    name: str
    n: int
    cells: Mapping[str, Cell]  # by column name, in the order of Section.columns
    empty: int = 0  # answers that say nothing, scored as such
    missing: int = 0  # no answer at all: missing or failed


@dataclass(frozen=True)
class Column:
    """What a column is: its name and the receipt of how it was computed."""

    name: str
    receipt: str
    lower_is_better: bool = False
    percent: bool = True


@dataclass(frozen=True)
class Section:
    """One table: the columns of a profile ("echovlm") or of what else the cases allow ("closed",
    "clinical")."""

    name: str
    title: str
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]  # the groups in order of their name, then MACRO (when grouped), then MICRO
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """Everything `score` found, ready to be written."""

    system: str  # the file's name without its ending, or what the caller said
    sections: tuple[Section, ...]
    group_by: str | None
    n: int
    empty: int
    missing: int
    seed: int
    resamples: int
    cluster: str | None
    without_truth: int = 0  # cases that nothing can be compared with
    warnings: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)  # file -> sha256
    cases: tuple[Mapping[str, Any], ...] = ()  # --per-case: {"id": …, "echovlm": {"BLEU-1": …}}

    @property
    def complete(self) -> bool:
        """Whether every case had a prediction and something to be compared with."""
        return not self.missing and not self.without_truth

    def cell(self, section: str, column: str, group: str = MICRO) -> Cell:
        """One cell. KeyError names what there is instead."""
        found = {part.name: part for part in self.sections}
        rows = {row.name: row for row in found[section].groups} if section in found else {}
        if group not in rows or column not in rows[group].cells:
            there = list(rows[group].cells) if group in rows else list(rows) or list(found)
            raise KeyError(f"no {section!r} · {column!r} · {group!r}; there are {', '.join(there)}")
        return rows[group].cells[column]

    def value(self, section: str, column: str, group: str = MICRO) -> float | None:
        """One figure in the table's unit, unrounded."""
        return self.cell(section, column, group).value

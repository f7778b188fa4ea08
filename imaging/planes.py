"""The protocol of abdominal standard planes, read from planes.yaml: structures, deductions, score, grade.

AbVLM-Q (2025), Methods, "clinical scoring mechanism": an image starts with ten points; each key structure
that is not displayed or incomplete, and acoustic attenuation by its share of the sector, take points away.
The file marks each entry as the paper's or ours and may be replaced by a hospital's own.

Knows nothing of pixels, boxes or models: shares and states in, planes, deductions and points out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import yaml

SOURCES = ("paper", "ours", "hospital")
STATES = ("not_displayed", "incomplete", "displayed")
FAULTS = STATES[:2]
NON_STANDARD = "non_standard"
ATTENUATION = "attenuation"
PUBLISHED = Path(__file__).with_name("planes.yaml")


class PlanesError(ValueError):
    """A protocol that cannot be used; the message names the file, the line and the key."""


@dataclass(frozen=True)
class Name:
    """What a plane, structure, state or grade is called, and where that entry comes from (SOURCES)."""

    zh: str
    en: str
    source: str

    def text(self, language: str) -> str:
        """The name in "zh" or "en"."""
        return {"zh": self.zh, "en": self.en}[language]


@dataclass(frozen=True)
class Demand:
    """A structure that a plane must show, and the points taken for each of FAULTS."""

    structure: str
    points: Mapping[str, float]
    source: str


@dataclass(frozen=True)
class Plane:
    """An image is this plane when all `needs`, and `at_least` of its structures, are displayed in part."""

    key: str
    name: Name
    demands: tuple[Demand, ...]
    needs: tuple[str, ...]
    at_least: int

    @property
    def structures(self) -> tuple[str, ...]:
        return tuple(demand.structure for demand in self.demands)


@dataclass(frozen=True)
class Step:
    """One step of a scale: its values reach up to `limit`, which is its own when `inclusive`, else the next
    step's. `points` is what it costs (0 for a grade of the score)."""

    key: str
    limit: float
    inclusive: bool
    name: Name
    points: float = 0


@dataclass(frozen=True)
class Deduction:
    """Points taken (a positive number) for one reason. `subject` is a structure or "attenuation"; `fault` one
    of FAULTS, or the key of the attenuation's grade."""

    subject: str
    fault: str
    points: float

    @property
    def item(self) -> str:
        """ "gallbladder_neck.incomplete": how a case's `deductions` name it."""
        return f"{self.subject}.{self.fault}"


@dataclass(frozen=True)
class Planes:
    """A whole protocol. `below` holds the share under which a structure is in each of FAULTS."""

    planes: Mapping[str, Plane]
    structures: Mapping[str, Name]
    states: Mapping[str, Name]
    below: Mapping[str, float]
    grades: tuple[Step, ...]
    attenuation: Name
    attenuation_grades: tuple[Step, ...]
    attenuation_ignored: float
    non_standard: Name
    highest: float
    lowest: float

    def state(self, share: float) -> str:
        """One of STATES for the displayed share (0 to 1) of a structure's area."""
        return next((fault for fault in FAULTS if share < self.below[fault]), STATES[-1])

    def shown(self, states: Mapping[str, str]) -> tuple[str, ...]:
        """The planes that an image is, in the file's order; ("non_standard",) when it is none.

        `states` maps structures to STATES; one that is not named is not displayed.
        """
        seen = {structure for structure, state in states.items() if state != "not_displayed"}
        found = tuple(
            plane.key
            for plane in self.planes.values()
            if seen.issuperset(plane.needs) and len(seen & set(plane.structures)) >= plane.at_least
        )
        return found or (NON_STANDARD,)

    def key_structures(self, planes: Iterable[str]) -> tuple[str, ...]:
        """The structures that these planes must show, each once; none for "non_standard"."""
        names = [name for key in planes if key != NON_STANDARD for name in self.planes[key].structures]
        return tuple(dict.fromkeys(names))

    def deductions(
        self, planes: Iterable[str], states: Mapping[str, str], attenuation_share: float
    ) -> tuple[Deduction, ...]:
        """What an image of these planes loses: its structures in the file's order, then attenuation.

        A structure of two planes is counted once, with the higher points. A non-standard view is not scored:
        no deductions. `attenuation_share` is 0 to 1 of the scan sector.
        """
        planes = [key for key in planes if key != NON_STANDARD]
        worst: dict[tuple[str, str], float] = {}
        for demand in (demand for key in planes for demand in self.planes[key].demands):
            fault = states.get(demand.structure, "not_displayed")
            points = demand.points.get(fault, 0)
            worst[demand.structure, fault] = max(points, worst.get((demand.structure, fault), 0))
        found = [Deduction(*fault, points) for fault, points in worst.items() if points]
        step = self.attenuation_grade(attenuation_share)
        if planes and step and step.points:
            found.append(Deduction(ATTENUATION, step.key, step.points))
        return tuple(found)

    def score(self, deductions: Iterable[Deduction]) -> float:
        """Highest score minus all points, not below the lowest."""
        return max(self.lowest, self.highest - sum(deduction.points for deduction in deductions))

    def grade(self, score: float) -> Step:
        """Poor, Moderate, Good or Excellent; ValueError for a score outside the scale."""
        if not self.lowest <= score <= self.highest:
            raise ValueError(f"score {score!r} is not from {self.lowest} to {self.highest}")
        return _step(self.grades, score)

    def attenuation_grade(self, share: float) -> Step | None:
        """Mild, moderate or severe for a share (0 to 1) of the sector; None where it is too small to see."""
        return None if share <= self.attenuation_ignored else _step(self.attenuation_grades, share)

    def name(self, key: str, language: str) -> str:
        """The name of a plane, structure or state, or of "attenuation", in "zh" or "en"; else KeyError."""
        if key in self.planes:
            return self.planes[key].name.text(language)
        single = {NON_STANDARD: self.non_standard, ATTENUATION: self.attenuation}
        return (single | {**self.states, **self.structures})[key].text(language)


def _step(steps: tuple[Step, ...], value: float) -> Step:
    slack = 1e-9  # shares and sums of points in floating point
    return next(
        step for step in steps if value < step.limit - slack or step.inclusive and value <= step.limit + slack
    )


def load_planes(path: str | Path | None = None) -> Planes:
    """The protocol of a file, or the published one.

    Raises PlanesError ("planes.yaml line 93: points -3 of not_displayed …") and OSError where the file cannot
    be opened.
    """
    return _published() if path is None else _read(Path(path))


@lru_cache(maxsize=1)
def _published() -> Planes:
    return _read(PUBLISHED)


def _read(path: Path) -> Planes:
    try:
        node = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PlanesError(f"{path.name} line {line}: not YAML: {error.problem}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PlanesError(f"{path.name}: not a YAML text in UTF-8: {error}.") from error
    if node is None:
        raise PlanesError(f"{path.name} line 1: the file is empty; copy planes.yaml and change the copy.")
    return _protocol(_Entry(path.name, "the file", node))


class _Entry:
    """One value of the file that knows its key and its line, so that every refusal can name them."""

    def __init__(self, file: str, key: str, node: yaml.Node):
        self.file, self.key, self.node = file, key, node

    def error(self, problem: str) -> PlanesError:
        return PlanesError(f"{self.file} line {self.node.start_mark.line + 1}: {problem}")

    def items(self) -> dict[str, _Entry]:
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error(f"{self.key} must hold keys with values.")
        found: dict[str, _Entry] = {}
        for key, value in self.node.value:
            entry = _Entry(self.file, str(key.value), value)
            if entry.key in found:
                raise _Entry(self.file, entry.key, key).error(f"{entry.key} is there twice; remove one.")
            found[entry.key] = entry
        return found

    def fields(self, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, _Entry]:
        found = self.items()
        missing = [name for name in needed if name not in found]
        if missing:
            raise self.error(f"{self.key} lacks {missing[0]}; add it.")
        for name, entry in found.items():
            if name not in needed + optional:
                allowed = ", ".join(needed + optional)
                raise entry.error(f"{self.key} has the unknown key {name}; it may have {allowed}.")
        return found

    def sequence(self) -> Iterator[_Entry]:
        if not isinstance(self.node, yaml.SequenceNode) or not self.node.value:
            raise self.error(f"{self.key} must be a list that is not empty.")
        return (_Entry(self.file, self.key, node) for node in self.node.value)

    def text(self) -> str:
        value = self.node.value
        if not isinstance(self.node, yaml.ScalarNode) or not value.strip():
            raise self.error(f"{self.key} must be a text that is not empty.")
        return value

    def word(self) -> str:
        """A text that an answer can hold."""
        value = self.text()
        if "\n" in value or "<|" in value:
            raise self.error(f"{self.key} {value!r:.40} must be one line without the signs <|.")
        return value

    def number(self, low: float, high: float) -> float:
        try:
            value = yaml.safe_load(self.node.value) if isinstance(self.node, yaml.ScalarNode) else None
        except yaml.YAMLError:
            value = None
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(f"{self.key} {self.node.value!r:.40} is not a number from {low:g} to {high:g}.")
        return value

    def one_of(self, choices: Iterable[str]) -> str:
        value = self.text()
        if value not in choices:
            raise self.error(f"{self.key} {value!r} is not one of {', '.join(choices)}.")
        return value

    def name(self, *more: str) -> tuple[Name, dict[str, _Entry]]:
        """The names and the source of an entry that also holds `more`."""
        found = self.fields(("zh", "en", "source", *more))
        name = Name(found["zh"].word(), found["en"].word(), found["source"].one_of(SOURCES))
        return name, found


def _protocol(file: _Entry) -> Planes:
    parts = file.fields(("score", "grades", "states", "attenuation", "structures", "planes", "non_standard"))
    score = parts["score"].fields(("highest", "lowest", "source"))
    score["source"].one_of(SOURCES)
    lowest = score["lowest"].number(0, 100)
    highest = score["highest"].number(lowest + 1, 100)
    states, below = _states(parts["states"])
    attenuation, found = parts["attenuation"].name("ignored_upto", "grades")
    structures = _structures(parts["structures"])
    planes = {key: _plane(entry, structures, highest) for key, entry in parts["planes"].items().items()}
    if not planes:
        raise parts["planes"].error("planes is empty; name at least one plane.")
    _require_own_names([*parts["planes"].items().values(), parts["non_standard"]])
    _require_own_names([parts["attenuation"], *parts["structures"].items().values()])
    _require_own_names([parts["states"].items()[fault] for fault in FAULTS])
    _require_own_names(found["grades"].sequence())
    _require_own_names(parts["grades"].sequence())
    return Planes(
        planes=planes,
        structures=structures,
        states=states,
        below=below,
        grades=_steps(parts["grades"], lowest, highest),
        attenuation=attenuation,
        attenuation_grades=_steps(found["grades"], 0, 1, most_points=highest),
        attenuation_ignored=found["ignored_upto"].number(0, 1),
        non_standard=parts["non_standard"].name()[0],
        highest=highest,
        lowest=lowest,
    )


def _require_own_names(entries: Iterable[_Entry]) -> None:
    """An answer says the name and not the key: no two of a kind may share one, in either language."""
    taken: dict[str, int] = {}
    for number, entry in enumerate(entries):
        for field in map(entry.items().get, ("zh", "en")):
            word = " ".join(field.text().split()).casefold()
            if taken.setdefault(word, number) != number:
                raise field.error(f"the name {field.text()!r} is also another's; choose another.")


def _structures(entry: _Entry) -> dict[str, Name]:
    found = entry.items()
    for key in (ATTENUATION, NON_STANDARD, *STATES):
        if key in found:
            raise found[key].error(f"{key} names something else already; give the structure another key.")
    return {key: each.name()[0] for key, each in found.items()}


def _states(entry: _Entry) -> tuple[dict[str, Name], dict[str, float]]:
    found = entry.fields(STATES)
    below: dict[str, float] = {}
    names: dict[str, Name] = {}
    for fault in FAULTS:
        names[fault], fields = found[fault].name("below")
        below[fault] = fields["below"].number(max(below.values(), default=0), 1)
    names["displayed"] = found["displayed"].name()[0]
    return names, below


def _steps(
    entry: _Entry, lowest: float, highest: float, most_points: float | None = None
) -> tuple[Step, ...]:
    steps: list[Step] = []
    for item in entry.sequence():
        border = "below" if "below" in item.items() else "upto"
        more = ("key", border) if most_points is None else ("key", border, "points")
        name, found = item.name(*more)
        limit = found[border].number(steps[-1].limit if steps else lowest, highest)
        points = found["points"].number(0, most_points) if most_points is not None else 0
        if steps and points < steps[-1].points:
            raise found["points"].error(f"points {points:g} are fewer than the {steps[-1].points:g} of less.")
        key = found["key"].text()
        if key in STATES or "." in key or any(step.key == key for step in steps):
            raise found["key"].error(f"key {key!r} is another's, or holds a dot; choose another.")
        steps.append(Step(key, limit, border == "upto", name, points))
    if steps[-1].limit != highest or not steps[-1].inclusive:
        raise item.error(f"the last of {entry.key} must have upto: {highest:g}.")
    return tuple(steps)


def _plane(entry: _Entry, structures: Mapping[str, Name], highest: float) -> Plane:
    if entry.key == NON_STANDARD or entry.key in structures:
        raise entry.error(f"{entry.key} names something else already; give the plane another key.")
    name, found = entry.name("needs", "at_least", "structures")
    demands = []
    for key, demand in found["structures"].items().items():
        if key not in structures:
            raise demand.error(f"plane {entry.key}: {key} is not in the list of structures; add it there.")
        fields = demand.fields((*FAULTS, "source"))
        points = {fault: fields[fault].number(0, highest) for fault in FAULTS}
        for worse, better in pairwise(FAULTS):
            if points[worse] < points[better]:
                raise fields[worse].error(
                    f"{key}: {worse} costs {points[worse]:g}, less than {better}, {points[better]:g}."
                )
        demands.append(Demand(key, points, fields["source"].one_of(SOURCES)))
    if not demands:
        raise found["structures"].error(f"plane {entry.key} has no structures; name at least one.")
    own = [demand.structure for demand in demands]
    needs = tuple(need.one_of(own) for need in found["needs"].sequence())
    at_least = found["at_least"].number(1, len(own))
    if at_least != int(at_least):
        raise found["at_least"].error(f"at_least '{at_least}' is not a whole number.")
    return Plane(entry.key, name, tuple(demands), needs, int(at_least))

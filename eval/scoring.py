"""From pairs to a result: what applies is measured, summed by group, and given its interval.

Every measure is counts per case (`eval.measure`), so a group is a sum of rows, an average over groups is
a mean of unrounded cells, and an interval is the same formula on resampled sums: a percentile bootstrap
over cases, or over patients with `cluster`; Wilson's interval for shares of independent cases. Which
tables appear depends on what the cases hold: the chosen profiles and short-answer scores for texts, then
closed questions, clinical facts, boxes, planes, grades and levels.

Knows nothing of files' shapes, of printing, or of how a prediction came about.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eval import profiles
from eval.intervals import bootstrap, percentile, wilson
from eval.measure import Measure
from eval.metrics import (
    agreement,
    closed,
    comparison,
    correlation,
    detection,
    grades,
    levels,
    planes,
    prompts,
)
from eval.pairs import Pair, PairError, pair_of
from eval.result import MACRO, MICRO, Cell, Column, Group, Result, Section
from eval.rows import some
from eval.texts import Texts

SMALL_GROUP = 30  # cases under which a group's figures are warned about
MISSING = ("wrong", "skip")
_SHORT = 3  # tokens at the median under which overlap metrics cannot reach 100
_PACKAGES = ("jieba", "rjieba", "rapidfuzz", "numpy")


@dataclass(frozen=True)
class Options:
    """How to score. All of it stands in the result: in the receipts, or beside seed and resamples.

    `profiles` are names of `eval.profiles`, or "all". `missing` says what a case without a prediction is:
    "wrong" counts it as a blank answer, "skip" leaves it out; both are reported. `cluster` names the key
    whose equal values belong together ("patient"). `bertscore` is an opened `eval.metrics.bertscore`
    scorer or None.
    """

    profiles: Sequence[str] = ("echovlm",)
    group_by: str | None = None
    tokenize: str = "jieba"
    user_dictionary: str | Path | None = None
    normalize: Sequence[str] = ()
    lower: bool = False
    missing: str = "wrong"
    resamples: int = 1000
    seed: int = 12345
    cluster: str | None = None
    iou: Sequence[float] = (0.5, 0.3)
    matching: str = "greedy"  # of boxes: greedy or hungarian
    per_structure: bool = False
    bertscore: Any = None
    per_case: bool = False
    sections: Sequence[str] = field(default_factory=tuple)  # empty: every one that applies


@dataclass(frozen=True)
class Measured:
    """One section before it is summed: its measures have one row of counts for each pair."""

    name: str
    title: str
    measures: Sequence[Measure]


def score(
    predictions: Sequence[str | None],
    references: Sequence[str | Sequence[str]],
    *,
    profile: str | Sequence[str] = "echovlm",
    **options: Any,
) -> Result:
    """Score texts against references of the same index; `options` are the fields of `Options`.

    >>> from eval import score
    >>> result = score(["肝脏回声均匀，可见占位。"], ["肝脏回声均匀，未见占位。"], resamples=0)
    >>> round(result.value("echovlm", "BLEU-1"), 1), round(result.value("clinical", "findings F1"), 1)
    (85.7, 0.0)
    """
    if isinstance(predictions, str) or isinstance(references, str):
        raise PairError("expected a list of predictions and a list of references, not one text")
    if None in references:
        raise PairError(
            f"reference {list(references).index(None)} is None; expected a text or a list of texts"
        )
    if len(predictions) != len(references):
        raise PairError(f"{len(predictions)} predictions for {len(references)} references")
    rows = zip(predictions, references, strict=True)
    pairs = [
        pair_of({"id": str(i), "prediction": p, "reference": r if isinstance(r, str) else list(r)})
        for i, (p, r) in enumerate(rows)
    ]
    wanted = (profile,) if isinstance(profile, str) else tuple(profile)
    return score_pairs(pairs, Options(profiles=wanted, **options))


def score_pairs(
    pairs: Sequence[Pair],
    options: Options | None = None,
    *,
    system: str = "predictions",
    inputs: dict[str, str] | None = None,
) -> Result:
    """Score pairs. PairError where nothing can be scored, ValueError for an unknown profile, tokenizer,
    step."""
    options = options or Options()
    scored = kept(pairs, options)
    sections = measured(scored, options)
    if not sections:
        raise PairError(_nothing(scored, options))
    groups = group_members(scored, options.group_by)
    cells = _Cells(scored, sections, options)
    everyone = np.arange(len(scored))
    summed = tuple(_section(cells, section, groups, everyone, scored) for section in sections)
    return Result(
        system=system,
        sections=summed,
        group_by=options.group_by,
        n=len(scored),
        empty=sum(map(_is_empty, scored)),
        missing=sum(pair.prediction is None for pair in pairs),
        without_truth=len(_without_truth(scored)),
        seed=options.seed,
        resamples=options.resamples,
        cluster=options.cluster,
        warnings=tuple(_warnings(pairs, scored, groups, summed, options)),
        versions=versions(),
        inputs=inputs or {},
        cases=tuple(_case_rows(scored, sections)) if options.per_case else (),
    )


def kept(pairs: Sequence[Pair], options: Options) -> list[Pair]:
    """The pairs that are scored; those without a prediction are left out when `options.missing` is "skip"."""
    if options.missing not in MISSING:
        raise ValueError(f"missing {options.missing!r} is not one of {', '.join(MISSING)}")
    if options.missing == "wrong":
        return list(pairs)
    left = [pair for pair in pairs if pair.prediction is not None]
    if not left:
        raise PairError("no pair has a prediction")
    return left


def measured(pairs: Sequence[Pair], options: Options) -> list[Measured]:
    """Everything that applies to these pairs, section by section, chosen profiles first."""
    makers: dict[str, tuple[str, Callable[[], Sequence[Measure]]]] = {}
    wanted = profiles.named(options.profiles)
    texts = Texts(
        pairs,
        tokenize=options.tokenize,
        user_dictionary=options.user_dictionary,
        normalize=options.normalize,
        lower=options.lower,
    )
    if len(texts):
        for name in wanted:
            makers[name] = (profiles.TITLES[name], partial(_profile, name, texts, options))
        makers["answers"] = ("Exact match and shared tokens", partial(profiles.answer_measures, texts))
    for name, (title, measures) in _OTHERS.items():
        makers[name] = (title, partial(measures, pairs, options))
    if unknown := set(options.sections) - set(profiles.PROFILES) - set(SECTIONS):
        known = ", ".join([*profiles.PROFILES, *SECTIONS])
        raise ValueError(f"no section is called {sorted(unknown)[0]!r}; choose from {known}")
    sections = [
        Measured(name, title, make())
        for name, (title, make) in makers.items()
        if not options.sections or name in options.sections
    ]
    return [section for section in sections if any(m.applies.any() for m in section.measures)]


def _profile(name: str, texts: Texts, options: Options) -> list[Measure]:
    columns = profiles.measures(name, texts)
    if name == "echovlm" and options.bertscore is not None:
        columns += _bertscore(texts, options.bertscore)
    return columns


def _bertscore(texts: Texts, scorer: Any) -> list[Measure]:
    """BERTScore of the texts as they were rewritten; the receipt says how."""
    from eval.metrics import bertscore

    columns = bertscore.measures(texts.rewritten(), scorer)
    return [replace(column, receipt=f"{column.receipt}|{texts.signature}") for column in columns]


def _detection(pairs: Sequence[Pair], options: Options) -> list[Measure]:
    return detection.measures(
        pairs, iou=tuple(options.iou), matching=options.matching, per_structure=options.per_structure
    )


_OTHERS: dict[str, tuple[str, Callable[[Sequence[Pair], Options], Sequence[Measure]]]] = {
    "closed": ("Closed questions", lambda pairs, _: closed.measures(pairs)),
    "clinical": (
        "Clinical agreement (facts read from both texts)",
        lambda pairs, _: agreement.measures(pairs),
    ),
    "detection": ("Structures with boxes", _detection),
    "planes": ("Standard planes (several labels)", lambda pairs, _: planes.measures(pairs)),
    "grades": ("Score and grade", lambda pairs, _: grades.measures(pairs)),
    "levels": ("Image quality levels", lambda pairs, _: levels.measures(pairs)),
    "correlation": ("Image quality scores", lambda pairs, _: correlation.measures(pairs)),
    "prompts": ("Prompt sensitivity", lambda pairs, _: prompts.measures(pairs)),
    "comparison": ("Best of several images", lambda pairs, _: comparison.measures(pairs)),
}


SECTIONS = ("answers", *_OTHERS)  # beside the profiles
_TRUTHS = (
    "level",
    "boxes",
    "plane",
    "score",
    "best_first",
    "levels",
)  # what a case may be compared with beside a text


def _without_truth(pairs: Sequence[Pair]) -> list[str]:
    """The ids of pairs that nothing can be compared with."""
    return [
        pair.id
        for pair in pairs
        if not pair.references and not any(pair.values.get(key) not in (None, []) for key in _TRUTHS)
    ]


def _nothing(pairs: Sequence[Pair], options: Options) -> str:
    """Why nothing was scored."""
    if len(_without_truth(pairs)) == len(pairs):
        found = ", ".join(list(pairs[0].values)[:12]) or "none"
        return (
            f"nothing to score: no row has a reference or answer, or one of {', '.join(_TRUTHS)}; "
            f"the first has the keys {found}. References in another file: --references FILE."
        )
    hint = " Closed questions are those with answer_type closed." if "closed" in options.sections else ""
    return f"no case has anything for the sections {', '.join(options.sections)}.{hint}"


def group_members(pairs: Sequence[Pair], group_by: str | None) -> dict[str, np.ndarray]:
    """The indices of each group's pairs, by the group's name in order."""
    if group_by is None:
        return {}
    members: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        name = pair.group(group_by)
        members.setdefault(f"{name} (group)" if name in (MICRO, MACRO) else name, []).append(index)
    if set(members) == {"–"}:
        raise PairError(f"no pair has a key {group_by!r} to group by")
    return {name: np.array(members[name]) for name in sorted(members)}


class _Cells:
    """Figures and intervals of all measures over any subset of the pairs; each subset is resampled once."""

    def __init__(self, pairs: Sequence[Pair], sections: Sequence[Measured], options: Options):
        measures = [measure for section in sections for measure in section.measures]
        self._counts = np.concatenate([measure.counts for measure in measures], axis=1)
        ends = np.cumsum([measure.counts.shape[1] for measure in measures])
        self._columns = {
            id(m): slice(end - m.counts.shape[1], end) for m, end in zip(measures, ends, strict=True)
        }
        self._applies = {id(measure): measure.applies for measure in measures}
        self._clusters = cluster_names(pairs, options.cluster) if options.cluster else None
        self._options = options
        self._replicates: list[tuple[np.ndarray, np.ndarray]] = []

    @property
    def resamples(self) -> int:
        """How often each subset is resampled; 0 for no intervals."""
        return self._options.resamples

    def applying(self, section: Measured) -> np.ndarray:
        """bool [pairs]: which pairs any measure of the section speaks of."""
        return np.any([self._applies[id(measure)] for measure in section.measures], axis=0)

    def cell(self, measure: Measure, members: np.ndarray) -> Cell:
        """One figure over the pairs of these indices."""
        sums = self._counts[members, self._columns[id(measure)]].sum(axis=0)
        n = int(self._applies[id(measure)][members].sum())
        value = float(measure.of(sums))
        if not n or np.isnan(value):
            return Cell(None, n=n)
        return Cell(value, *self._interval(measure, members, sums), n)

    def can_vary(self, measure: Measure, members: np.ndarray) -> bool:
        """Whether resampling can say anything: more than one case or cluster speaks of the measure."""
        here = members[self._applies[id(measure)][members]]
        return len({self._clusters[i] for i in here} if self._clusters else here) > 1

    def replicates(self, measure: Measure, members: np.ndarray) -> np.ndarray:
        """The figure in every resample, float64 [resamples]."""
        drawn = next((drawn for known, drawn in self._replicates if known is members), None)
        if drawn is None:
            clusters = [self._clusters[i] for i in members] if self._clusters else None
            seed = (self._options.seed, len(self._replicates))  # groups are drawn apart from one another
            drawn = bootstrap(self._counts[members], self._options.resamples, seed, clusters)
            self._replicates.append((members, drawn))
        return measure.of(drawn[:, self._columns[id(measure)]])

    def _interval(
        self, measure: Measure, members: np.ndarray, sums: np.ndarray
    ) -> tuple[float | None, float | None]:
        if measure.share and self._clusters is None:
            low, high = wilson(round(sums[0]), round(sums[1]))
            return low * measure.scale, high * measure.scale
        if not self.resamples or not self.can_vary(measure, members):
            return None, None
        return self.spread(self.replicates(measure, members))

    @staticmethod
    def spread(values: np.ndarray) -> tuple[float | None, float | None]:
        """The 95 % percentile interval of replicates; None where no replicate has a figure."""
        return (None, None) if np.isnan(values).all() else percentile(values)


def cluster_names(pairs: Sequence[Pair], key: str) -> list[str]:
    """The cluster of each pair; a pair without the key is a cluster of its own. PairError where none has
    it."""
    if all(pair.group(key) == "–" for pair in pairs):
        raise PairError(f"no pair has a key {key!r} to cluster by")
    return [f"\0{pair.id}" if pair.group(key) == "–" else pair.group(key) for pair in pairs]


def _section(
    cells: _Cells,
    section: Measured,
    groups: dict[str, np.ndarray],
    everyone: np.ndarray,
    pairs: Sequence[Pair],
) -> Section:
    every = [_group(cells, section, name, members, pairs) for name, members in groups.items()]
    rows = [row for row in every if row.n]  # the others have nothing that the section speaks of
    if groups:
        rows.append(_macro(cells, section, groups, rows))
    rows.append(_group(cells, section, MICRO, everyone, pairs))
    columns = tuple(
        Column(m.name, m.receipt, lower_is_better=m.lower_is_better, percent=m.scale == 100.0)
        for m in section.measures
    )
    return Section(section.name, section.title, columns, tuple(rows), tuple(_notes(section, pairs)))


def _group(cells: _Cells, section: Measured, name: str, members: np.ndarray, pairs: Sequence[Pair]) -> Group:
    applying = cells.applying(section)
    mine = [pairs[i] for i in members if applying[i]]
    return Group(
        name,
        len(mine),
        {measure.name: cells.cell(measure, members) for measure in section.measures},
        empty=sum(map(_is_empty, mine)),
        missing=sum(pair.prediction is None for pair in mine),
    )


def _macro(cells: _Cells, section: Measured, groups: dict[str, np.ndarray], rows: Sequence[Group]) -> Group:
    """The unweighted mean of the groups that have a figure; each group resampled by itself for the
    interval."""
    averages = {}
    for measure in section.measures:
        having = [row.name for row in rows if row.cells[measure.name].value is not None]
        values = [row.cells[measure.name].value for row in rows if row.name in having]
        if not values:
            averages[measure.name] = Cell(None)
            continue
        low = high = None
        if cells.resamples and all(cells.can_vary(measure, groups[name]) for name in having):
            drawn = np.array([cells.replicates(measure, groups[name]) for name in having])
            low, high = cells.spread(drawn.mean(axis=0))  # NaN where one of the groups has no figure
        n = sum(row.cells[measure.name].n for row in rows)
        averages[measure.name] = Cell(float(np.mean(values)), low, high, n)
    return Group(
        MACRO,
        sum(row.n for row in rows),
        averages,
        empty=sum(row.empty for row in rows),
        missing=sum(row.missing for row in rows),
    )


def _thin(sections: Sequence[Section]) -> list[str]:
    """Columns behind which there are few cases though the table has many."""
    overall = [(section, section.groups[-1]) for section in sections]
    return [
        f"{section.name} {name} ({cell.n})"
        for section, row in overall
        for name, cell in row.cells.items()
        if 0 < cell.n < SMALL_GROUP <= row.n
    ]


def _is_empty(pair: Pair) -> bool:
    return pair.prediction is not None and not pair.prediction.strip()


def _notes(section: Measured, pairs: Sequence[Pair]) -> Iterable[str]:
    if section.name == "levels":
        yield from _level_notes(pairs)
    if section.name == "prompts":
        yield (
            "Resampled prompts differ more than the prompts do: intervals of Spread and Deviation lean "
            "upwards and may lie above the figure."
        )
    if section.name == "grades":
        yield _confusion(grades.confusion(pairs), grades.GRADES, (*grades.GRADES, "none"))
    if section.name == "sacrebleu":
        yield "13a cuts at spaces: Chinese text scores about 0 with it whatever it says. Read zh."
    if section.name not in ("echovlm", "llamafactory", "swift", "nltk"):
        return
    lengths = [min(len(reference) for reference in pair.references) for pair in pairs if pair.references]
    if float(np.median(lengths)) <= _SHORT * 2:
        yield (
            "Most references are short. An identical answer of one token scores BLEU-4 35.4 with method3 "
            "and METEOR 50: read exact match, F1 and closed accuracy first."
        )


def _level_notes(pairs: Sequence[Pair]) -> Iterator[str]:
    """A confusion matrix for every way to decide and, of a rater's answers, every setting."""
    stated = (*levels.LEVELS, "unparsed")
    settings: dict[str, list[Pair]] = {}
    for pair in pairs:
        settings.setdefault(pair.group("setting"), []).append(pair)
    for setting, mine in settings.items():
        for way in (None, *levels.WAYS):
            table = levels.confusion(mine, way)
            if table.any():
                known = "" if setting == "–" else f"{setting}, {way or 'raw'}: "
                yield known + _confusion(table, levels.LEVELS, stated)


def _confusion(table: np.ndarray, truths: Sequence[str], stated: Sequence[str]) -> str:
    """Counts as one line: what was said of the cases of each truth."""
    rows = [
        f"{truth}: " + ", ".join(f"{count} {name}" for name, count in zip(stated, row, strict=True))
        for truth, row in zip(truths, table.tolist(), strict=True)
    ]
    return "Cases by truth, and what was said of them. " + " · ".join(rows)


def _warnings(
    pairs: Sequence[Pair],
    scored: Sequence[Pair],
    groups: dict[str, np.ndarray],
    sections: Sequence[Section],
    options: Options,
) -> Iterable[str]:
    missing = [pair.id for pair in pairs if pair.prediction is None]
    if missing:
        fate = "counted as wrong" if options.missing == "wrong" else "left out"
        yield f"{len(missing)} of {len(pairs)} cases have no prediction and are {fate}: {some(missing)}."
    alone = _without_truth(scored)
    if alone:
        yield f"{len(alone)} cases have nothing to be compared with and count nowhere: {some(alone)}."
    blank = [pair.id for pair in scored if any(not reference.strip() for reference in pair.references)]
    if blank:
        yield (
            f"{len(blank)} references are blank and score 0 unless the prediction is blank too "
            f"(exact match): {some(blank)}."
        )
    small = [f"{name} ({len(members)})" for name, members in groups.items() if len(members) < SMALL_GROUP]
    if small:
        yield f"Fewer than {SMALL_GROUP} cases, so little can be concluded: {some(small, 20)}."
    elif not groups and len(scored) < SMALL_GROUP:
        yield f"Only {len(scored)} cases, fewer than {SMALL_GROUP}, so little can be concluded."
    if thin := _thin(sections):
        yield f"Fewer than {SMALL_GROUP} cases behind {some(thin, 20)}."


def _case_rows(pairs: Sequence[Pair], sections: Sequence[Measured]) -> Iterable[dict[str, Any]]:
    values = {
        section.name: {m.name: (m.per_case * m.case_scale).tolist() for m in section.measures}
        for section in sections
    }
    for index, pair in enumerate(pairs):
        row: dict[str, Any] = {"id": pair.id}
        for section, columns in values.items():
            row[section] = {name: _number(column[index]) for name, column in columns.items()}
        yield row


def _number(value: float) -> float | None:
    return None if value != value else value


def versions() -> dict[str, str]:
    """The versions that the figures depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found

"""A rater's answers as pairs for Ultrasound-QBench's Table I: one for every prompt, levelled in every way.

A rater answers one image by several prompts (`prediction_by_prompt`). Each becomes a pair of its own, with
the key `setting` ("IVUSQA basic") that the table's columns are, and up to three levels: the word that was
written (raw), the likeliest level (softmax), and the cluster of its score (section III.B b, step 2). Clusters
come from the scores of the set itself, which is how the paper's table has it, or from cut points that another
set left behind. Labels play no part in either: `assistants.qbench.clustering` is given numbers alone.

A failed image is a wrong answer to every prompt that the others were asked. Knows nothing of metrics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from assistants.qbench.clustering import TOGETHER, CutPoints, brief, fit, load, place, save
from eval.pairs import Pair, PairError
from eval.result import Result

SETTING, IMAGE = "setting", "image"
SIMULATED = {"ivus": "simulated IVUS", "apical_four_chamber": "simulated A4C"} | {
    organ: f"simulated {organ}" for organ in ("thyroid", "breast", "liver", "kidney", "gynaecology")
}  # views of the simulator
COMPARATIVE = "comparative"
_TEXTS = ("answer", "reference", "score", "answer_type", "options")  # truths of other tables


def is_rated(pairs: Sequence[Pair]) -> bool:
    """Whether a rater wrote these predictions."""
    return any("prediction_by_prompt" in pair.values or "prediction_ranking" in pair.values for pair in pairs)


def by_setting(pairs: Sequence[Pair], cut_points: Sequence[CutPoints] | None = None) -> list[Pair]:
    """One pair for every image and prompt, and one for every comparison.

    `cut_points` place the scores; None clusters those of each setting by themselves. A setting stays unplaced
    where none of the cut points was fitted for its model, prompt, wording and language on another population:
    PairError where that is so of all.
    """
    asked = _asked(pairs)
    apart = [each for pair in pairs for each in _apart(pair, asked)]
    own = fitted(pairs)
    placing = own
    if cut_points is not None:
        placing = {source: _other(source, cuts, cut_points) for source, cuts in own.items()}
        if placing and not any(placing.values()):
            raise PairError(
                "no cut points of another set fit: they must be of the same model, language and words (with "
                "--tell-organ two prompts name the organ). Fit them: score OTHER.jsonl --save-cut-points FILE"
            )
    return [_clustered(each, placing) for each in apart]


def fitted(pairs: Sequence[Pair]) -> dict[tuple, CutPoints]:
    """Cut points of every setting's own scores, by what they belong to (`_source`)."""
    scores: dict[tuple, list[float]] = defaultdict(list)
    for pair in pairs:
        for each in _apart(pair, {}):
            if (score := _score(each)) is not None:
                scores[_source(each)].append(score)
    organs = _organs(pairs)
    return {
        (dataset, *source): fit(values, dataset, **_named(source), organ=organs[dataset])
        for (dataset, *source), values in scores.items()
    }


def pooled(pairs: Sequence[Pair]) -> tuple[CutPoints, ...]:
    """Cut points of the scores of several sets together, for an image of which nobody said what it shows;
    none where there is one set."""
    scores: dict[tuple, list[float]] = defaultdict(list)
    sets: dict[tuple, dict[str, None]] = defaultdict(dict)
    for pair in pairs:
        for each in _apart(pair, {}):
            if (score := _score(each)) is not None:
                dataset, *source = _source(each)
                scores[tuple(source)].append(score)
                sets[tuple(source)][dataset] = None
    return tuple(
        fit(values, TOGETHER.join(sets[source]), **_named(source))
        for source, values in scores.items()
        if len(sets[source]) > 1
    )


def _organs(pairs: Sequence[Pair]) -> dict[str, str | None]:
    """Of every set the organ that all its images show; None where they show several."""
    found: dict[str, set[str | None]] = defaultdict(set)
    for pair in pairs:
        found[dataset_of(pair)].add(pair.values.get("organ"))
    return {dataset: organs.pop() if len(organs) == 1 else None for dataset, organs in found.items()}


def named_after_cuts(system: str, apart: Sequence[Pair]) -> str:
    """The system's name with the populations whose cuts placed its scores."""
    used = dict.fromkeys(brief(pair.values["cuts_of"]) for pair in apart if pair.values.get("cuts_of"))
    return f"{system}, cuts of {', '.join(used)}" if used else system


def with_cuts_noted(result: Result, apart: Sequence[Pair]) -> Result:
    """The result with a note under its levels that says whose cuts placed the scores of each set."""
    used = dict.fromkeys((pair.values["dataset"], pair.values.get("cuts_of")) for pair in apart)
    named = [f"{dataset} by cuts of {cuts}" for dataset, cuts in used if cuts]
    note = (f"Clusters: {', '.join(named)}.",) if named else ()
    rated = [pair for pair in apart if _score(pair) is not None and not pair.values.get("cuts_of")]
    if unplaced := dict.fromkeys(pair.values[SETTING] for pair in rated):
        note += (f"No cut points fit the words that were asked: {', '.join(unplaced)}.",)
    sections = [
        replace(section, notes=(*note, *section.notes)) if section.name == "levels" else section
        for section in result.sections
    ]
    return replace(result, sections=tuple(sections))


def add_cut_points(found: Sequence[CutPoints], path: Path) -> None:
    """Write cut points beside those of other sets that `path` holds, and in place of those of the same
    scores, or of a set of the same name asked the same."""
    scores, sets = {each.scores for each in found}, {_set_of(each) for each in found}
    kept = [each for each in load(path) if each.scores not in scores and _set_of(each) not in sets]
    save([*kept, *found], path)


def _set_of(cuts: CutPoints) -> tuple:
    return (cuts.population, cuts.organ, cuts.model, cuts.prompt, cuts.wording, cuts.language)


def failures(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """A sentence that counts and names the images without an answer; none where all have one."""
    from eval.rows import some

    failed = [pair.id for pair in pairs if pair.prediction is None]
    if not failed:
        return ()
    return (f"{len(failed)} of {len(pairs)} images or comparisons failed: {some(failed)}.",)


def dataset_of(pair: Pair) -> str:
    """The set that an image is of: its own word, the simulator's view, or its organ."""
    known = SIMULATED.get(str(pair.values.get("view")))
    return str(pair.values.get("dataset") or known or pair.values.get("organ") or "all images")


def _asked(pairs: Sequence[Pair]) -> dict[str, dict[str, None]]:
    """Of every prompt the keys of all ways in which some image was levelled, with no level: what an image
    that failed was asked, too."""
    found: dict[str, dict[str, None]] = {}
    for pair in pairs:
        for prompt, answer in _answers(pair).items():
            levelled = _levels(answer)
            ways = [key for key in levelled if key.startswith("prediction_level")]
            ways += ["prediction_level_clustered"] if levelled.get("prediction_score") is not None else []
            found.setdefault(prompt, {}).update(dict.fromkeys(ways))
    return found


def _answers(pair: Pair) -> Mapping[str, Mapping[str, Any]]:
    return pair.values.get("prediction_by_prompt") or {}


def _apart(pair: Pair, asked: Mapping[str, Mapping[str, None]]) -> Iterator[Pair]:
    """The pair of every prompt; of a failed image one for each that the others were `asked`."""
    kept = {key: value for key, value in pair.values.items() if key not in _TEXTS}
    kept |= {"dataset": dataset_of(pair), IMAGE: pair.id, "image_score": pair.values.get("score")}
    kept = {key: value for key, value in kept.items() if not key.startswith("prediction_level")}
    if pair.values.get("task") == "compare":
        kept |= {"prompt": COMPARATIVE, SETTING: f"{kept['dataset']} {COMPARATIVE}"}
        yield Pair(pair.id, pair.prediction, (), kept | {"level": None, "image_score": None})
        return
    answers = {prompt: _levels(answer) for prompt, answer in _answers(pair).items()}
    for prompt, found in (asked if pair.prediction is None else answers).items():
        values = kept | {"prompt": prompt, SETTING: f"{kept['dataset']} {prompt}"} | found
        yield Pair(f"{pair.id} {prompt}", pair.prediction, (), values)


def _levels(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What was found by one prompt, under the keys of `eval.metrics.levels`."""
    found: dict[str, Any] = {
        "prediction_score": answer.get("score"),
        "prediction_wording": answer.get("wording"),
    }
    if answer.get("text") is not None:
        found["prediction_level"] = answer.get("word")
    if shares := answer.get("probabilities"):
        found["prediction_level_softmax"] = max(("low", "medium", "high"), key=shares.__getitem__)
    return found


def _score(pair: Pair) -> float | None:
    return pair.values.get("prediction_score") if pair.prediction is not None else None


def _source(pair: Pair) -> tuple:
    """The population that a score belongs to: its set, and what scores must share to be compared."""
    values = pair.values
    model, wording = values.get("prediction_model") or "", values.get("prediction_wording") or ""
    return (values["dataset"], model, values["prompt"], wording, values.get("language") or "en")


def _named(source: Sequence[str]) -> dict[str, str]:
    return dict(zip(("model", "prompt", "wording", "language"), source, strict=True))


def _other(source: tuple, own: CutPoints, cut_points: Sequence[CutPoints]) -> CutPoints | None:
    """The first of the cut points that fits and does not come from these very scores; those of images of the
    same organ go before others. None where none fits."""
    others = [each for each in _others(own, cut_points) if each.fits(**_named(source[1:]))]
    return min(others, key=lambda each: each.organ != own.organ, default=None)


def _others(own: CutPoints, cut_points: Sequence[CutPoints]) -> list[CutPoints]:
    """Without the population to be placed, and without what it was clustered together with."""
    others = [each for each in cut_points if each.scores != own.scores]
    if len(others) == len(cut_points):
        return others
    return [each for each in others if own.population not in each.population.split(TOGETHER)]


def _clustered(pair: Pair, placing: Mapping[tuple, CutPoints | None]) -> Pair:
    score = _score(pair)
    cuts = None if score is None else placing[_source(pair)]
    if cuts is None:
        return pair
    level, borderline = place(score, cuts)
    found = {"prediction_level_clustered": level, "borderline": borderline, "cuts_of": cuts.population}
    return Pair(pair.id, pair.prediction, pair.references, {**pair.values, **found})

"""Images of known quality, with questions about it: the maker of the tasks `quality` and `compare`.

Ultrasound-QBench (sections II and III): intravascular ultrasound and the apical four-chamber view at three
levels, rated by three prompts (qualitative), by indicators (quantitative) and against each other
(comparative). A level is not an opinion here: it follows from the strengths of the artefacts by the rule in
wording/quality.yaml, which also holds every weight and every word. Other organs are drawn on order.

Knows nothing of files. No reader has rated these images: how far the rule agrees with sonographers is open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import yaml

from simulator.anatomy import ivus
from simulator.anatomy.registry import DRAW, GROUND, VIEWS
from simulator.artefacts import ARTEFACTS, EXCLUSIVE, STEPS, Strengths, degraded_image, depth_setting
from simulator.cases import Examined, Order, OrderError, examination_name, languages
from simulator.draw import INK, Picture
from simulator.population import sample_examination
from simulator.probe import SIZE, TOP, ScanGrid, scan_grid
from simulator.scene import Scene
from simulator.speckle import Machine

LEVELS = ("high", "medium", "low")
BENCHMARK = ("ivus", "apical_four_chamber")  # the paper's two views, drawn unless an organ is ordered
PROMPTS = ("basic", "contextual", "diagnostic")
LETTERS = "ABCD"
TRIES = 10_000  # draws before a rule that cannot be met is an error


@cache
def rules() -> dict:
    """wording/quality.yaml, read once."""
    return yaml.safe_load((Path(__file__).parent / "wording" / "quality.yaml").read_text(encoding="utf-8"))


def overall_score(strengths: Strengths) -> float:
    """The rule: 10 less the pooled penalties of all artefacts, not below 0 (wording/quality.yaml)."""
    return _score({name: row["penalty"] for name, row in rules()["artefacts"].items()}, strengths)


def level_of(score: float) -> str:
    """One of LEVELS for an overall score of 0 … 10."""
    return next(level for level in LEVELS if score >= rules()["levels"][level])


def attribute_scores(strengths: Strengths) -> dict[str, float]:
    """The seven indicators of Ultrasound-QBench, each 0 (worst) … 10, rounded to a tenth."""
    scores = {name: _score(penalties, strengths) for name, penalties in rules()["attributes"].items()}
    return {name: round(score, 1) for name, score in (scores | {"overall": overall_score(strengths)}).items()}


def _score(penalties: Mapping[str, float], strengths: Strengths) -> float:
    power = rules()["pooling"]
    total = sum((penalties.get(name, 0) * strength) ** power for name, strength in strengths.items())
    return max(0.0, 10.0 - total ** (1 / power))


def sample_strengths(rng: np.random.Generator, level: str) -> dict[str, float]:
    """Artefacts of an image of this level; its overall score is even over the level's range."""
    sampling, floors = rules()["sampling"], rules()["levels"]
    top = {"high": 10.0, "medium": floors["high"], "low": floors["medium"]}[level]
    bottom = max(floors[level], sampling["least_score"])
    for _ in range(TRIES):
        count = int(rng.choice(sampling["artefacts_at_once"][level]))
        strengths = _split(rng, 10.0 - float(rng.uniform(bottom, top)), count)
        if strengths is not None and level_of(overall_score(strengths)) == level:
            return strengths
    raise ValueError(f"wording/quality.yaml: no artefacts found that make an image of level {level}")


def _split(rng: np.random.Generator, penalty: float, count: int) -> dict[str, float] | None:
    """Strengths of `count` random artefacts that cost `penalty` together; None if one would be above 1."""
    names = [str(name) for name in rng.choice(ARTEFACTS, count, replace=False)]
    if any(one in names and other in names for one, other in EXCLUSIVE):
        return None
    strengths = {}
    for name, share in zip(names, rng.dirichlet(np.full(count, 1.5)), strict=True):
        strength = penalty * float(share) ** (1 / rules()["pooling"]) / rules()["artefacts"][name]["penalty"]
        steps = STEPS.get(name, 100)
        strength = round(strength * steps) / steps
        if strength > 1:
            return None
        if strength >= rules()["sampling"]["faintest"]:
            strengths[name] = round(strength, 3)
    return dict(sorted(strengths.items()))


# ------------ pictures ------------


@dataclass(frozen=True)
class Subject:
    """Who is scanned in which view: `shoot(strengths, seed)` takes one more picture of the same anatomy."""

    view: str  # a key of the wording's `views`
    truth: dict
    shoot: Callable[[Strengths, int], Picture]


@dataclass(frozen=True)
class Shot:
    """One picture with what spoils it; `score` is the overall score, not rounded."""

    strengths: dict[str, float]
    picture: Picture

    @property
    def score(self) -> float:
        return overall_score(self.strengths)

    @property
    def level(self) -> str:
        return level_of(self.score)


def sample_subject(rng: np.random.Generator, view: str) -> Subject:
    """A random artery for "ivus"; for any other view a random examination of its organ, principal view."""
    if view == "ivus":
        artery = ivus.sample_artery(rng)

        def shoot(strengths: Strengths, seed: int) -> Picture:
            scene = Scene(
                scan_grid(artery.probe, depth_setting(artery.depth_mm, strengths)),
                np.random.default_rng(seed),
                ivus.GROUND,
            )
            ivus.draw(scene, artery)
            return _picture(scene, strengths, seed, ruler_mm=1.0)

        return Subject(view, artery.truth(), shoot)
    exam = sample_examination(rng, rules()["views"][view]["organ"])
    still = replace(exam.views[0], doppler=False)

    def shoot_organ(strengths: Strengths, seed: int) -> Picture:
        shot = replace(still, depth_mm=depth_setting(still.depth_mm, strengths), seed=seed)
        probe = VIEWS[exam.organ][shot.name].probe
        scene = Scene(scan_grid(probe, shot.depth_mm), np.random.default_rng(seed), GROUND[exam.organ])
        DRAW[exam.organ](scene, exam, shot)
        return _picture(scene, strengths, seed, ruler_mm=10.0)

    return Subject(view, replace(exam, views=(still,)).truth(), shoot_organ)


def _picture(scene: Scene, strengths: Strengths, seed: int, ruler_mm: float) -> Picture:
    rng, sampling = scene.rng, rules()["sampling"]
    machine = Machine(
        gain_db=float(rng.uniform(-1, 1)) * sampling["gain_db"],
        dynamic_range_db=float(rng.uniform(*sampling["dynamic_range_db"])),
        tilt_db=float(rng.uniform(-1, 1)) * sampling["tilt_db"],
        looks=int(rng.integers(1, 3)),
    )
    grey = degraded_image(scene, machine, strengths, seed).astype(np.uint8)
    pixels = np.repeat(grey[..., None], 3, axis=2)
    _ruler(pixels, scene.grid, ruler_mm)
    return Picture(pixels, scene.grid.labels_to_image(scene.label), scene.grid.mm_per_pixel)


def _ruler(pixels: np.ndarray, grid: ScanGrid, every_mm: float) -> None:
    """Ticks down the right edge, every fifth one longer, as on the other images."""
    for k in range(int(float(np.ptp(grid.z)) / every_mm) + 1):
        row = round(TOP + k * every_mm / grid.mm_per_pixel)
        if row < SIZE:
            pixels[row, SIZE - (7 if k % 5 == 0 else 4) : SIZE - 1] = INK


# ------------ examinations ------------


def make(order: Order, number: int) -> Examined:
    """Examination `number` of the order: one picture to rate, or two to four of one view to compare.

    Levels and views are even over every six examinations. Raises OrderError for an organ without a view.
    """
    view, level = _place(order, number)
    rng = np.random.default_rng([order.seed, number])
    subject = sample_subject(rng, view)
    if "compare" in order.tasks:
        spoiled = _sample_comparison(rng, level)
    else:
        spoiled = [sample_strengths(rng, level)]
    shots = [Shot(each, subject.shoot(each, int(rng.integers(2**31)))) for each in spoiled]
    rng = np.random.default_rng([order.seed, number, 1])
    rows = []
    for task in order.tasks:
        write = _quality_rows if task == "quality" else _compare_rows
        rows += [_common(subject, row) for row in write(order, subject, shots, rng)]
    return Examined(examination_name(order, number), tuple(shot.picture for shot in shots), tuple(rows))


def _place(order: Order, number: int) -> tuple[str, str]:
    """View and level: every block of examinations holds each pair once, in random order."""
    views = _views(order.organ)
    pairs = [(view, level) for view in views for level in LEVELS]
    block = np.random.default_rng([order.seed, number // len(pairs), 2])
    return pairs[int(block.permutation(len(pairs))[number % len(pairs)])]


def _views(organ: str | None) -> list[str]:
    if organ is None:
        return list(BENCHMARK)
    found = [view for view, words in rules()["views"].items() if words["organ"] == organ]
    if not found:
        known = sorted({words["organ"] for words in rules()["views"].values()})
        raise OrderError(f"no image quality view of the organ {organ!r}: choose one of {', '.join(known)}")
    return found


def _sample_comparison(rng: np.random.Generator, level: str) -> list[dict[str, float]]:
    """Strengths of two to four pictures, one of them of `level`, scores apart by the least gap, shuffled."""
    sizes, gap = rules()["compare"]["pictures"], rules()["compare"]["least_gap"]
    count = int(rng.choice(list(sizes), p=list(sizes.values())))
    others = [other for other in LEVELS if other != level]
    levels = [level, *rng.permutation(others)[: count - 1]]
    if count > len(LEVELS):
        levels.append(str(rng.choice(LEVELS)))
    for _ in range(TRIES):
        spoiled = [sample_strengths(rng, str(each)) for each in levels]
        scores = sorted(overall_score(strengths) for strengths in spoiled)
        if all(better - worse >= gap for worse, better in pairwise(scores)):
            return [spoiled[i] for i in rng.permutation(count)]
    raise ValueError(f"wording/quality.yaml: no {count} images found whose scores differ by {gap}")


# ------------ questions and answers ------------


def _common(subject: Subject, row: dict) -> dict:
    organ = rules()["views"][subject.view]["organ"]
    return {"organ": organ, "answer_type": "closed", "view": subject.view, "examination": subject.truth} | row


def _quality_rows(
    order: Order, subject: Subject, shots: Sequence[Shot], rng: np.random.Generator
) -> Iterator[dict]:
    """Rows that rate one picture each; three rows hold the three prompts."""
    prompts: list[str] = []
    for _ in range(order.rows):
        prompts = prompts or [str(prompt) for prompt in rng.permutation(PROMPTS)]
        prompt, tongue, at = prompts.pop(), languages(order, rng), int(rng.integers(len(shots)))
        shot = shots[at]
        yield {
            "task": "quality",
            "language": tongue,
            "question": _say(rules()["prompts"][prompt][tongue], subject, tongue, rng),
            "answer": rules()["answers"][tongue][shot.level],
            "prompt": prompt,
            "pictures": (at,),
            "level": shot.level,
            "score": round(shot.score, 2),
            "artefacts": shot.strengths,
            "attributes": attribute_scores(shot.strengths),
        }


def _compare_rows(
    order: Order, subject: Subject, shots: Sequence[Shot], rng: np.random.Generator
) -> Iterator[dict]:
    """Rows that ask for the best, the worst or the order of all pictures; the answer is an option."""
    best_first = sorted(range(len(shots)), key=lambda i: -shots[i].score)
    for _ in range(order.rows):
        tongue = languages(order, rng)
        about = "best" if rng.random() < 0.8 else "worst"
        if len(shots) > 2 and rng.random() < rules()["compare"]["order_share"]:
            about = "order"
        options, true = _options(about, best_first, tongue, rng)
        question = _say(rules()["comparisons"][about][tongue], subject, tongue, rng, n=len(shots))
        listed = [
            rules()["option"].format(letter=letter, text=text)
            for letter, text in zip(LETTERS, options, strict=False)
        ]
        yield {
            "task": "compare",
            "language": tongue,
            "question": "\n".join([question, *listed]),
            "answer": listed[true],
            "about": about,
            "pictures": tuple(range(len(shots))),
            "levels": [shot.level for shot in shots],
            "scores": [round(shot.score, 2) for shot in shots],
            "best_first": best_first,
            "artefacts": [shot.strengths for shot in shots],
            "attributes": [attribute_scores(shot.strengths) for shot in shots],
        }


def _say(
    variants: list[str], subject: Subject, tongue: str, rng: np.random.Generator, n: int | None = None
) -> str:
    words = rules()["views"][subject.view][tongue]
    variant = variants[int(rng.integers(len(variants)))]
    return variant.format(**words, n=rules()["numbers"][tongue].get(n, ""))


def _options(
    about: str, best_first: list[int], tongue: str, rng: np.random.Generator
) -> tuple[list[str], int]:
    """The options' texts and the index of the true one."""
    image = rules()["image"][tongue]
    if about != "order":
        true = best_first[0 if about == "best" else -1]
        return [image.format(i=i + 1) for i in range(len(best_first))], true
    orders = [tuple(best_first)]
    while len(orders) < len(LETTERS):
        other = tuple(int(i) for i in rng.permutation(len(best_first)))
        if other not in orders:
            orders.append(other)
    placed = [orders[i] for i in rng.permutation(len(orders))]
    texts = [rules()["then"][tongue].join(image.format(i=i + 1) for i in order) for order in placed]
    return texts, placed.index(tuple(best_first))

"""Images of known quality, with questions about it: the maker of the tasks `quality` and `compare`.

Ultrasound-QBench (sections II and III): intravascular ultrasound and the apical four-chamber view at three
levels, rated by three prompts (qualitative), by indicators (quantitative) and against each other
(comparative). A level is not an opinion here: it follows from the strengths of the artefacts by the rule in
wording/quality.yaml, which also holds every weight and every word. A strength is a dose that is given, but
for depth_shallow: there it is measured in the scene, as the share that the worst part of the view's
target (a chamber of the heart) has outside the picture, so that the level is true to what can be seen. Other
organs are drawn on order.

Knows nothing of files. No reader has rated these images: how far the rule agrees with sonographers is open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import yaml

from simulator.anatomy import heart, ivus
from simulator.anatomy.registry import DRAW, GROUND, VIEWS
from simulator.artefacts import (
    ARTEFACTS,
    EXCLUSIVE,
    STEPS,
    Strengths,
    deep_setting,
    degraded_image,
    rows_of,
    shallow_settings,
)
from simulator.cases import Examined, Order, OrderError, examination_name, languages
from simulator.draw import INK, Picture
from simulator.population import sample_examination
from simulator.probe import SIZE, TOP, ScanGrid, scan_grid
from simulator.scene import Scene
from simulator.speckle import Machine
from simulator.tissue import LABELS

LEVELS = ("high", "medium", "low")
BENCHMARK = ("ivus", "apical_four_chamber")  # the paper's two views, drawn unless an organ is ordered
PROMPTS = ("basic", "contextual", "diagnostic")
LETTERS = "ABCD"
TRIES = 10_000  # draws before a rule that cannot be met is an error


@cache
def rules() -> dict:
    """wording/quality.yaml, read once."""
    return yaml.safe_load((Path(__file__).parent / "wording" / "quality.yaml").read_text(encoding="utf-8"))


EVERY = "all"  # in place of an organ: the views of all of them, evenly
ORGANS = (*dict.fromkeys(view["organ"] for view in rules()["views"].values()), EVERY)


def overall_score(strengths: Strengths) -> float:
    """The rule: 10 less the pooled penalties of all artefacts, not below 0 (wording/quality.yaml)."""
    rows = rules()["artefacts"]
    least = {name: row["least"] for name, row in rows.items() if "least" in row}
    return _score({name: row["penalty"] for name, row in rows.items()}, strengths, least)


def level_of(score: float) -> str:
    """One of LEVELS for an overall score of 0 … 10."""
    return next(level for level in LEVELS if score >= rules()["levels"][level])


def attribute_scores(strengths: Strengths) -> dict[str, float]:
    """The seven indicators of Ultrasound-QBench, each 0 (worst) … 10, rounded to a tenth."""
    scores = {name: _score(penalties, strengths) for name, penalties in rules()["attributes"].items()}
    scores["overall"] = overall_score(strengths)
    return {name: rounded(score, 1) for name, score in scores.items()}


def rounded(score: float, digits: int) -> float:
    """Rounded, but never over the border of a level: 3.998 is low and becomes 3.99, not 4.0."""
    near = round(score, digits)
    return near if level_of(near) == level_of(score) else round(near - 10**-digits, digits)


def _score(
    penalties: Mapping[str, float], strengths: Strengths, least: Mapping[str, float] | None = None
) -> float:
    """`least` is what an artefact costs at least as soon as it is there."""
    power, total = rules()["pooling"], 0.0
    for name, strength in strengths.items():
        cost = penalties.get(name, 0) * strength
        total += max(cost, (least or {}).get(name, 0.0) if strength else 0.0) ** power
    return max(0.0, 10.0 - total ** (1 / power))


Settings = Callable[[], Mapping[float, float]]  # strength of depth_shallow → depth (mm), worked out on demand


def sample_strengths(rng: np.random.Generator, level: str, shallow: Settings) -> dict[str, float]:
    """Artefacts of an image of this level; its overall score is even over the level's range.

    `shallow` are the depth settings that the picture can have (`artefacts.shallow_settings`).
    """
    sampling, floors = rules()["sampling"], rules()["levels"]
    top = {"high": 10.0, "medium": floors["high"], "low": floors["medium"]}[level]
    bottom = max(floors[level], sampling["least_score"])
    wanted = float(rng.uniform(bottom, top))  # once: what is hard to reach must not become rare
    for _ in range(TRIES):
        count = int(rng.choice(sampling["artefacts_at_once"][level]))
        strengths = _split(rng, 10.0 - wanted, count, shallow)
        if strengths is not None and level_of(overall_score(strengths)) == level:
            return strengths
    raise ValueError(f"wording/quality.yaml: no artefacts found that make an image of level {level}")


def _split(
    rng: np.random.Generator, penalty: float, count: int, shallow: Settings
) -> dict[str, float] | None:
    """Strengths of `count` random artefacts that cost about `penalty` together; None where one would be above
    1, or where no setting is too shallow."""
    names = [str(name) for name in rng.choice(ARTEFACTS, count, replace=False)]
    if any(one in names and other in names for one, other in EXCLUSIVE):
        return None
    strengths = {}
    for name, share in zip(names, rng.dirichlet(np.full(count, 1.5)), strict=True):
        strength = penalty * float(share) ** (1 / rules()["pooling"]) / rules()["artefacts"][name]["penalty"]
        if name == "depth_shallow":
            strength = _nearest(shallow(), strength) if strength <= 1 and shallow() else 2.0
        else:
            steps = STEPS.get(name, 100)
            strength = round(strength * steps) / steps
        if strength > 1:
            return None
        if strength >= rules()["sampling"]["faintest"]:
            strengths[name] = round(strength, 3)
    return dict(sorted(strengths.items()))


def _nearest(choices: Mapping[float, float], wanted: float) -> float:
    return min(choices, key=lambda each: abs(each - wanted))


# ------------ pictures ------------


@dataclass(frozen=True, eq=False)
class Subject:
    """Who is scanned in which view: `shoot` takes one more picture of the same anatomy."""

    view: str  # a key of the wording's `views`
    truth: dict
    right_mm: float  # the depth setting that shows the target and little else
    ruler_mm: float
    scene: Callable[[float, int], Scene]  # (depth setting in mm, seed)
    parts: Callable[[int], list[np.ndarray]]  # seed → `rows_of` the target's parts at the right depth

    def shallow(self, seed: int) -> dict[float, float]:
        """Strength of depth_shallow → depth setting (mm) for the picture of this seed."""
        return shallow_settings(self.parts(seed), self.right_mm)

    def shoot(self, strengths: Strengths, seed: int) -> Picture:
        """One picture. A strength of depth_shallow must be one of `shallow(seed)`, else KeyError."""
        depth_mm = deep_setting(self.right_mm, strengths.get("depth_deep", 0.0))
        if cut := strengths.get("depth_shallow"):
            depth_mm = self.shallow(seed)[cut]
        return _picture(self.scene(depth_mm, seed), strengths, seed, self.ruler_mm)


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

        def vessel(depth_mm: float, seed: int) -> Scene:
            scene = Scene(scan_grid(artery.probe, depth_mm), np.random.default_rng(seed), ivus.GROUND)
            ivus.draw(scene, artery)
            return scene

        parts = partial(_label_parts, vessel, artery.depth_mm, view)
        return Subject(view, artery.truth(), artery.depth_mm, 1.0, vessel, parts)
    exam = sample_examination(rng, rules()["views"][view]["organ"])
    still = replace(exam.views[0], doppler=False)

    def empty(depth_mm: float, seed: int) -> Scene:
        grid = scan_grid(VIEWS[exam.organ][still.name].probe, depth_mm)
        return Scene(grid, np.random.default_rng(seed), GROUND[exam.organ])

    def organ(depth_mm: float, seed: int) -> Scene:
        scene = empty(depth_mm, seed)
        DRAW[exam.organ](scene, exam, replace(still, depth_mm=depth_mm, seed=seed))
        return scene

    def chambers(seed: int) -> list[np.ndarray]:
        scene = empty(still.depth_mm, seed)
        return [rows_of(part, scene.grid) for part in heart.chambers(scene, exam, still).values()]

    by_label = partial(_label_parts, organ, still.depth_mm, view)
    parts = chambers if rules()["views"][view]["target"] == "chambers" else by_label
    return Subject(view, replace(exam, views=(still,)).truth(), still.depth_mm, 10.0, organ, parts)


def _label_parts(
    scene: Callable[[float, int], Scene], right_mm: float, view: str, seed: int
) -> list[np.ndarray]:
    """The target as one part: some classes of the label map."""
    whole = scene(right_mm, seed)
    mask = np.isin(whole.label, [LABELS[name] for name in rules()["views"][view]["target"]])
    return [rows_of(mask, whole.grid)]


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
        spoiled = _sample_comparison(rng, level, subject)
    else:
        seed = int(rng.integers(2**31))
        spoiled = [(sample_strengths(rng, level, cache(partial(subject.shallow, seed))), seed)]
    shots = [Shot(strengths, subject.shoot(strengths, seed)) for strengths, seed in spoiled]
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
    found = [view for view, words in rules()["views"].items() if organ in (words["organ"], EVERY)]
    if not found:
        raise OrderError(f"no image quality view of the organ {organ!r}: choose one of {', '.join(ORGANS)}")
    return found


def _sample_comparison(
    rng: np.random.Generator, level: str, subject: Subject
) -> list[tuple[dict[str, float], int]]:
    """Strengths and seeds of two to four pictures, one of them of `level`, scores apart by the least gap,
    shuffled."""
    sizes, gap = rules()["compare"]["pictures"], rules()["compare"]["least_gap"]
    count = int(rng.choice(list(sizes), p=list(sizes.values())))
    others = [other for other in LEVELS if other != level]
    levels = [level, *rng.permutation(others)[: count - 1]]
    if count > len(LEVELS):
        levels.append(str(rng.choice(LEVELS)))
    seeds = [int(seed) for seed in rng.integers(2**31, size=count)]
    settings = [cache(partial(subject.shallow, seed)) for seed in seeds]
    for _ in range(TRIES):
        spoiled = [
            sample_strengths(rng, str(each), shallow) for each, shallow in zip(levels, settings, strict=True)
        ]
        scores = sorted(overall_score(strengths) for strengths in spoiled)
        if all(better - worse >= gap for worse, better in pairwise(scores)):
            return [(spoiled[i], seeds[i]) for i in rng.permutation(count)]
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
            "score": rounded(shot.score, 2),
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
            "scores": [rounded(shot.score, 2) for shot in shots],
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

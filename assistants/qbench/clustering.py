"""Cut a population's scores into low, medium and high without ever seeing a label.

Ultrasound-QBench, section III.B b, step 2: k-means on the scores, clusters named in the order of their
centroids. The paper gives neither k, nor seed, nor what is clustered; here k is 3 and a score is one number.
Clusters depend on the whole population, so one image can only be placed by cuts that some population left
behind: `CutPoints` says which, with the model and the wording its scores came from.

Knows nothing of images, labels or models: numbers in, cuts out.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans

FILE = "cut_points.json"  # beside the weights whose scores were clustered
RISING = ("low", "medium", "high")  # names of the clusters, by centroid
SEED, STARTS = 0, 10  # k-means starts ten times from this seed and keeps the tightest clusters (chosen)
SCALE = 10.0  # the highest score
TOGETHER = " + "  # between the names of sets whose scores were clustered together
BORDERLINE = 0.1  # of the distance between the centroids on both sides of a cut (chosen; not tuned)


@dataclass(frozen=True)
class CutPoints:
    """Two cuts and three centroids on the scale of scores, and where they come from.

    `method` is "k-means", or "thirds of the scale" for a population of fewer than three distinct scores,
    which cannot be three clusters. `scores` is a hash of the population's sorted scores, `prompt` the
    prompt's name, `wording` the fingerprint of its words, `model` the weights' fingerprint. `organ` is
    that of all the population's images, None where they show several or nobody said.
    """

    cuts: tuple[float, float]
    centroids: tuple[float, float, float]
    population: str
    n: int
    scores: str
    model: str
    prompt: str
    wording: str
    language: str
    organ: str | None = None
    method: str = "k-means"
    seed: int = SEED
    starts: int = STARTS

    def fits(self, *, model: str, prompt: str, wording: str, language: str) -> bool:
        """Whether scores of this model, prompt, wording and language may be placed by these cuts."""
        ours = (self.model, self.prompt, self.wording, self.language)
        return ours == (model, prompt, wording, language)


def fit(
    scores: Sequence[float],
    population: str,
    *,
    model: str,
    prompt: str,
    wording: str,
    language: str,
    organ: str | None = None,
) -> CutPoints:
    """Cluster the scores of a population, named for people; ValueError for none, or for one that is no
    number. A score halfway between two centroids is the cut, as k-means itself divides a line."""
    values = np.sort(np.asarray(scores, dtype=np.float64))
    if not len(values) or not np.isfinite(values).all():
        raise ValueError("scores to cluster must be numbers, and at least one")
    receipt = {
        "population": population,
        "n": len(values),
        "scores": hashlib.sha256(values.tobytes()).hexdigest()[:12],
        "model": model,
        "prompt": prompt,
        "wording": wording,
        "language": language,
        "organ": organ,
    }
    if len(np.unique(values)) < len(RISING):
        thirds = (SCALE / 6, SCALE / 2, SCALE * 5 / 6)
        return CutPoints(_between(thirds), thirds, method="thirds of the scale", **receipt)
    means = KMeans(len(RISING), n_init=STARTS, random_state=SEED).fit(values[:, None]).cluster_centers_
    centroids = tuple(sorted(means[:, 0].tolist()))
    return CutPoints(_between(centroids), centroids, **receipt)


def brief(population: str) -> str:
    """A population's name for a sentence: of many sets together the first, and how many they are."""
    first, *others = population.split(TOGETHER)
    return population if len(others) < 2 else f"{first}{TOGETHER}… ({len(others) + 1})"


def choose(cut_points: Sequence[CutPoints], organ: str | None, **source: str) -> CutPoints | None:
    """Which of stored cuts place an image of `organ` (None: nobody said); `source` as in `CutPoints.fits`.

    The organ's own, else those of several organs. Another organ's serve only where no organ was named.
    """
    fitting = [each for each in cut_points if each.fits(**source)]
    for wanted in dict.fromkeys((organ, None)):
        if found := next((each for each in fitting if each.organ == wanted), None):
            return found
    return fitting[0] if fitting and organ is None else None


def place(score: float, cut_points: CutPoints) -> tuple[str, bool]:
    """The level of a score, and whether it is borderline: nearer to a cut than a tenth of the distance
    between the centroids on both sides of it. A score on a cut belongs to the higher level."""
    level = RISING[bisect_right(cut_points.cuts, score)]
    gaps = [above - below for below, above in pairwise(cut_points.centroids)]
    near = any(abs(score - cut) < BORDERLINE * gap for cut, gap in zip(cut_points.cuts, gaps, strict=True))
    return level, near


def save(cut_points: Sequence[CutPoints], path: Path) -> None:
    """One JSON list, whole or not at all."""
    text = json.dumps([asdict(each) for each in cut_points], ensure_ascii=False, indent=1)
    unfinished = path.with_name(path.name + ".writing")
    unfinished.write_text(text + "\n", "utf-8")
    unfinished.replace(path)


def load(path: Path) -> tuple[CutPoints, ...]:
    """What `save` wrote; none where there is no file. ValueError for a file of another kind."""
    if not path.is_file():
        return ()
    try:
        entries = json.loads(path.read_text("utf-8"))
        found = tuple(CutPoints(**entry) for entry in entries)
        return tuple(_checked(each) for each in found)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} does not hold cut points: {error}") from error


def _checked(found: CutPoints) -> CutPoints:
    cuts, centroids = tuple(found.cuts), tuple(found.centroids)
    line = [*centroids[:1], *cuts[:1], *centroids[1:2], *cuts[1:], *centroids[2:]]
    whole = (len(cuts), len(centroids)) == (2, 3) and all(map(math.isfinite, line))
    if not whole or line != sorted(line):
        raise ValueError(f"cuts {cuts} do not lie between centroids {centroids}")
    return CutPoints(**{**asdict(found), "cuts": cuts, "centroids": centroids})


def _between(centroids: Sequence[float]) -> tuple[float, float]:
    low, high = ((below + above) / 2 for below, above in pairwise(centroids))
    return low, high

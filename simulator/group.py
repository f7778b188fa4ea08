"""A group of near-identical frames under one text, of which few show what it says. The maker of `group`.

LLaVA-Ultra (2024), sections 3.3 and 4.1: one text often comes with several frames of the same sweep, and only
those that meet the lesion are valid. Here two to eight frames are picked from a sweep (`cine`), in its order:
always the one in which the lesion is largest, so that all that is stated can be seen, up to two more that
show it, and others that do not. In about one of six groups the lesion is small, SMALL_PX pixels long. What
shows the lesion is counted on the label maps; where that makes more frames valid than were picked as such, or
all of them, the group is drawn anew.

The rows are a diagnosis that names the site, one that does not, and questions about the finding (the paper's
two versions of its data, section 4.2). A row's `valid_images` are the frames whose share of the largest
cross-section in the group, `cross_section`, is at least `valid_share`, as in `cine`. Each row carries its
findings in its own language, which no question tells: the text that Eq. 4 compares with the frames.

Knows nothing of files; how a frame is drawn is in `cine`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from simulator import language
from simulator.anatomy.registry import VIEWS
from simulator.cases import Examined, Order, examination_name, languages
from simulator.cine import FINDING, VALID_SHARE, Sweep, draw_sweep, one_view, sample_sweep
from simulator.examination import Examination
from simulator.population import sample_examination
from simulator.probe import scan_grid
from simulator.tissue import LESION

FRAMES = (2, 8)
MOST_VALID = 3
POSITIONS = 16  # of the sweep that the frames are picked from; chosen
SMALL_SHARE = 0.25  # of the groups whose lesion may be; chosen
SMALL_PX = (6.0, 10.0)  # long axis of a small lesion in pixels
NEVER_SMALL_ORGANS = ("vessel",)  # a plaque is as long as the vessel's wall lets it be
NEVER_SMALL_KINDS = ("isoechoic",)  # a few pixels as bright as what lies around would stand in no report


def make(order: Order, number: int) -> Examined:
    """Group `number` of the order, with `order.rows` rows."""
    rng = np.random.default_rng([order.seed, number])
    valid, pictures = [], []
    while not 0 < len(valid) <= MOST_VALID or len(valid) == len(pictures):
        examination = _with_lesion(rng, order.organ)
        mm_per_pixel = _scale(examination)
        if rng.random() < SMALL_SHARE and _may_be_small(examination):
            examination = _small(examination, float(rng.uniform(*SMALL_PX)) * mm_per_pixel)
        pictures = draw_sweep(examination, _picked(sample_sweep(rng, examination, POSITIONS), rng))
        areas = np.array([(picture.labels == LESION).sum() for picture in pictures])
        valid = [i for i, area in enumerate(areas) if area and area >= VALID_SHARE * areas.max()]
    truth = {
        "valid_images": valid,
        "valid_share": VALID_SHARE,
        "cross_section": [round(float(area / areas.max()), 3) for area in areas],
        "examination": examination.truth(),
        "lesion_px": round(examination.lesion.long_mm / mm_per_pixel, 1),
    }
    rows = tuple(row | truth for row in _rows(order, examination, number))
    return Examined(examination_name(order, number), tuple(pictures), rows)


def _with_lesion(rng: np.random.Generator, organ: str | None) -> Examination:
    """A random examination that has a lesion, in one view that shows it."""
    while True:
        examination = sample_examination(rng, organ)
        if examination.lesion is not None:
            return one_view(examination, rng)


def _scale(examination: Examination) -> float:
    view = examination.views[0]
    return scan_grid(VIEWS[examination.organ][view.name].probe, view.depth_mm).mm_per_pixel


def _may_be_small(examination: Examination) -> bool:
    organ, kind = examination.organ, examination.lesion.kind
    return organ not in NEVER_SMALL_ORGANS and kind not in NEVER_SMALL_KINDS


def _small(examination: Examination, long_mm: float) -> Examination:
    """The same lesion with another long axis, its shape kept."""
    lesion = examination.lesion
    ratio = long_mm / lesion.long_mm
    small = replace(lesion, long_mm=round(long_mm, 1), short_mm=round(ratio * lesion.short_mm, 1))
    return replace(examination, lesion=small)


def _picked(sweep: Sweep, rng: np.random.Generator) -> Sweep:
    """The sweep at a few of its positions: the middle one, more that are valid, and some that are not."""
    middle = int(np.argmin(np.abs(sweep.positions_mm)))
    shows = np.array([sweep.share(position) ** 2 >= VALID_SHARE for position in sweep.positions_mm])
    shows[middle] = False  # is taken in any case
    others, empty = np.flatnonzero(shows), np.flatnonzero(~shows)
    empty = empty[empty != middle]
    count = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
    more = min(int(rng.integers(min(MOST_VALID, count - 1))), len(others))
    kept = [middle, *rng.permutation(others)[:more], *rng.permutation(empty)[: count - 1 - more]]
    return replace(sweep, positions_mm=tuple(sweep.positions_mm[i] for i in sorted(kept)))


def _rows(order: Order, examination: Examination, number: int) -> Iterator[dict]:
    """In turn: a diagnosis whose request names the site, one whose request does not, a question."""
    rng = np.random.default_rng([order.seed, number, 1])
    for row in range(order.rows):
        tongue = languages(order, rng)
        common = {
            "organ": examination.organ,
            "language": tongue,
            "findings": language.findings(examination, tongue, rng),
        }
        if row % 3 < 2:
            named = row % 3 == 0
            yield common | {
                "question": language.request("diagnosis", tongue, rng, examination.organ if named else None),
                "answer": language.diagnosis(examination, tongue, rng),
                "task": "diagnosis",
                "answer_type": "open",
                "site_named": named,
            }
        else:
            asked = [q for q in language.questions(examination, tongue, rng) if q.about in FINDING]
            drawn = asked[int(rng.integers(len(asked)))]
            yield common | {
                "question": drawn.question,
                "answer": drawn.answer,
                "task": "vqa",
                "answer_type": drawn.answer_type,
            }

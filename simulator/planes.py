"""Abdominal standard planes with their faults: the maker of the task `plane`.

AbVLM-Q (2025), Methods: eleven standard planes and non-standard views, key structures with boxes, a score of
ten points less deductions. A view is planned with its faults (`plane_views`) and drawn. What a row states is
then read off the finished label map with the rules of `imaging/planes.yaml`: a structure's displayed share is
its area on the map over the area that it would have without faults. So boxes, planes, deductions and score
follow from the picture, whatever was planned.

Every structure of the protocol that is painted has its class in the label map and, where it can be seen, its
box: also one that lies beside what the view is taken for. That one makes no plane and costs no points (the
aorta across does not make a pancreas the longitudinal view of the aorta), and it has no displayed share: how
much of it belongs into the image is nowhere said.

Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy import ndimage

from imaging.planes import ATTENUATION, NON_STANDARD, Deduction, load_planes
from simulator import plane_texts
from simulator.anatomy.registry import VIEWS as VIEWS_OF_ORGANS
from simulator.anatomy.standard_planes import paint
from simulator.cases import Examined, Order, examination_name, languages
from simulator.draw import Picture, draw_view
from simulator.plane_views import (
    FIRST_STRUCTURE,
    VIEWS,
    Setting,
    View,
    any_of,
    check_organ,
    non_standard_view,
    organs_of_views,
    standard_view,
    structure_ids,
)
from simulator.population import sample_examination
from simulator.probe import scan_grid
from simulator.scene import Scene
from simulator.screens import STYLES, sample_machine, show, tinted
from simulator.shadows import cast
from simulator.speckle import form_image

ORGANS = organs_of_views()
OUTSIDE, OTHER, ATTENUATED = 0, 1, 2  # classes of the label map; from FIRST_STRUCTURE on, one a structure
FEWEST_PIXELS = 12  # less of a structure than this cannot be seen
PIECE_SHARE = 0.05  # of a structure's largest piece: a smaller one, or one of fewer pixels, moves no box
NON_STANDARD_SHARE = 0.2
STANDARD = {None, *(view.organ for view in VIEWS)}  # organs with a standard plane, or any
FOREIGN_SHARE = 0.2  # of the non-standard views: not abdominal at all, as in the paper's data
FOREIGN = ("thyroid", "breast", "gynaecology", "vessel", "heart")


@dataclass(frozen=True, eq=False)
class Shot:
    """A drawn view and what its label map shows.

    `shares` are the displayed shares of the structures' areas (0 to 1) and `states` what they amount to;
    `boxes` (x1, y1, x2, y2) in pixels, x2 and y2 the first column and row outside, of these structures and of
    those `beside`, around their main pieces (`main_pieces`); `attenuation` is the dark share of the sector (0
    to 1); `score` is None for a non-standard view.
    """

    picture: Picture
    view: View
    shares: Mapping[str, float]
    states: Mapping[str, str]
    boxes: Mapping[str, tuple[int, int, int, int]]
    beside: tuple[str, ...]
    attenuation: float
    planes: tuple[str, ...]
    deductions: tuple[Deduction, ...]
    score: float | None


def make(order: Order, number: int) -> Examined:
    """Picture `number` of the order, with `order.rows` rows. OrderError for an organ without planes."""
    check_organ(order.organ)
    shot = draw(np.random.default_rng([order.seed, number]), order.organ)
    rng = np.random.default_rng([order.seed, number, 1])
    rows = tuple(_row(shot, languages(order, rng), rng) for _ in range(order.rows))
    return Examined(examination_name(order, number), (shot.picture,), rows)


def draw(rng: np.random.Generator, organ: str | None = None) -> Shot:
    """One picture: a standard view, with faults or without, or a non-standard one."""
    if rng.random() >= NON_STANDARD_SHARE and organ in STANDARD:
        return scan(standard_view(rng, organ), rng)
    if organ is None and rng.random() < FOREIGN_SHARE:
        return _foreign(rng)
    return scan(non_standard_view(rng, organ), rng)


def scan(view: View, rng: np.random.Generator) -> Shot:
    """Draw the view, and read off its label map what it shows."""
    setting = view.setting
    grid = scan_grid(setting.probe, view.plan.depth_mm)
    scene = Scene(grid, rng, view.plan.ground)
    found = paint(scene, view.plan, structure_ids())
    dark = cast(scene, setting.shadows)
    classes = np.where(dark, ATTENUATED, np.maximum(found, OTHER)).astype(np.uint8)
    grey = form_image(scene, sample_machine(rng, setting.style))
    pixels = show(grey, grid, setting.style)
    return read(Picture(pixels, grid.labels_to_image(classes), grid.mm_per_pixel), view)


def read(picture: Picture, view: View) -> Shot:
    """What a label map shows by the protocol's rules: shares, boxes, planes, deductions, score."""
    protocol, ids = load_planes(), structure_ids()
    counts = np.bincount(picture.labels.ravel(), minlength=FIRST_STRUCTURE + len(ids))
    attenuation = float(counts[ATTENUATED] / counts[OTHER:].sum())
    shares = {}
    for name, area in view.whole_mm2.items():
        seen = counts[ids[name]] if counts[ids[name]] >= FEWEST_PIXELS else 0
        shares[name] = min(float(seen) * picture.mm_per_pixel**2 / area, 1.0)
    states = {name: protocol.state(share) for name, share in shares.items()}
    seen = [name for name, state in states.items() if state != "not_displayed"]
    beside = [name for name in ids if name not in states and counts[ids[name]] >= FEWEST_PIXELS]
    planes = protocol.shown(states)
    deductions = protocol.deductions(planes, states, attenuation)
    return Shot(
        picture=picture,
        view=view,
        shares=shares,
        states=states,
        boxes={name: box_of(picture.labels == ids[name]) for name in seen + beside},
        beside=tuple(beside),
        attenuation=attenuation,
        planes=planes,
        deductions=deductions,
        score=None if planes == (NON_STANDARD,) else protocol.score(deductions),
    )


def _foreign(rng: np.random.Generator) -> Shot:
    """Non-standard: no abdominal view at all."""
    organ = str(rng.choice(FOREIGN))
    examination = sample_examination(rng, organ)
    shown = replace(examination.views[0], doppler=False)
    drawn = draw_view(examination, shown)
    style = any_of(rng, STYLES)
    labels = np.where(drawn.labels > 0, OTHER, OUTSIDE).astype(np.uint8)
    picture = Picture(tinted(drawn.pixels, style), labels, drawn.mm_per_pixel)
    setting = Setting(VIEWS_OF_ORGANS[organ][shown.name].probe, style)
    return read(picture, View(None, setting, organ, {}, {}))


def main_pieces(mask: np.ndarray) -> np.ndarray:
    """A mask without its slivers: its largest connected piece (corners connect), and every other piece of
    FEWEST_PIXELS or more that has PIECE_SHARE of the largest."""
    pieces, count = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    kept = sizes >= max(FEWEST_PIXELS, PIECE_SHARE * sizes.max())
    kept[sizes.argmax()] = True
    return kept[pieces] & mask


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The tight box of the main pieces of a mask that is not empty: x1, y1, x2, y2, the last two the first
    pixel outside."""
    main = main_pieces(mask)
    rows, columns = np.flatnonzero(main.any(1)), np.flatnonzero(main.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _region(shot: Shot, deduction: Deduction) -> dict[str, list]:
    """The region of the picture that a deduction is about, where no structure's box says it: the shadows."""
    if deduction.subject != ATTENUATION:
        return {}
    return {"boxes": [list(box_of(shot.picture.labels == ATTENUATED))]}


def _row(shot: Shot, language: str, rng: np.random.Generator) -> dict[str, Any]:
    """One row: fields of `imaging.case.Case`, and the truth behind them."""
    view, ids = shot.view, structure_ids()
    return {
        "task": "plane",
        "organ": view.organ,
        "language": language,
        "question": plane_texts.request(language, rng),
        "answer": plane_texts.answer(
            language,
            shot.planes,
            shot.states,
            shot.beside,
            shot.deductions,
            shot.score,
            shot.attenuation,
            view.causes,
        ),
        "answer_type": "open",
        "boxes": [{"label": name, "box": list(box)} for name, box in shot.boxes.items()],
        "plane": list(shot.planes),
        "score": shot.score,
        "deductions": [
            {"item": deduction.item, **asdict(deduction), **_region(shot, deduction)}
            for deduction in shot.deductions
        ],
        "probe": view.setting.probe.name,
        "vendor": view.setting.style.name,
        "shadows": sorted({shadow.kind for shadow in view.setting.shadows}),
        "attenuation_share": round(shot.attenuation, 4),
        "structures": {
            name: {
                "state": state,
                "share": round(shot.shares[name], 4),
                "whole_mm2": view.whole_mm2[name],
                "label": ids[name],
            }
            | ({"cause": view.causes[name]} if state != "displayed" else {})
            for name, state in shot.states.items()
        },
        "beside": {name: ids[name] for name in shot.beside},
    }

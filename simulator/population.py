"""Who comes to be examined: random examinations with plausible anatomy and lesions.

Ranges of normal measurements follow common reference values for adults (rounded; not fitted to any data
set). Kinds of lesion are drawn evenly rather than by prevalence, so that a model sees rare ones as often as
common ones, and four in ten examinations are normal. Which features go together is stated here: a cyst is
circumscribed and enhances, a calcification shadows, a plaque has no blood flow that colour Doppler shows.

Knows nothing of pixels or wording.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simulator.anatomy.registry import VIEWS
from simulator.examination import KINDS, ORGANS, PLACES, SIDED, Examination, Lesion, View

NORMAL_SHARE = 0.4
DOPPLER_SHARE = 0.35
VIEW_COUNTS = ((1, 0.26), (2, 0.30), (3, 0.20), (4, 0.12), (5, 0.07), (6, 0.05))

MEASURE_RANGES = {
    "thyroid": {"lobe_width": (13, 20), "lobe_depth": (12, 19), "isthmus": (2, 4)},
    "breast": {"gland_thickness": (10, 18)},
    "liver": {"portal_vein": (9, 13)},
    "kidney": {"length": (95, 118), "width": (44, 56), "parenchyma": (13, 18)},
    "gynaecology": {"uterus_length": (62, 84), "uterus_depth": (36, 50), "endometrium": (5, 12)},
    "vessel": {"lumen": (5.6, 7.6), "intima_media": (0.5, 0.9)},  # from 1.0 mm it is called thickened
    "heart": {"left_ventricle": (42, 54), "left_atrium": (30, 38), "septum": (8, 11)},
}
# Long axis in mm; further limited by the organ's own size below.
LESION_LONG = {
    "thyroid": (6, 15),
    "breast": (7, 20),
    "liver": (16, 42),
    "kidney": (13, 34),
    "gynaecology": (16, 40),
    "vessel": (6, 16),
    "heart": (13, 26),
}


def sample_examination(rng: np.random.Generator, organ: str | None = None) -> Examination:
    """One random examination; `organ` is drawn evenly from ORGANS unless given."""
    organ = organ or str(rng.choice(ORGANS))
    measures = {
        name: round(float(rng.uniform(low, high)), 1 if high < 10 and organ == "vessel" else 0)
        for name, (low, high) in MEASURE_RANGES[organ].items()
    }
    lesion = None if rng.random() < NORMAL_SHARE else _sample_lesion(rng, organ, measures)
    views = _sample_views(rng, organ, lesion)
    if lesion and not any(view.doppler for view in views if view.shows_lesion):
        lesion = _without_doppler(lesion)
    return Examination(
        organ=organ,
        side=str(rng.choice(("left", "right"))) if organ in SIDED else None,
        background=str(rng.choice(("homogeneous", "coarse"), p=(0.7, 0.3))),
        measures=measures,
        lesion=lesion,
        views=views,
    )


def _sample_lesion(rng: np.random.Generator, organ: str, measures: dict[str, float]) -> Lesion:
    kinds = [
        k for k in KINDS if not (k == "anechoic" and organ in ("vessel", "heart"))
    ]  # blood is anechoic itself
    kind = str(rng.choice(kinds))
    shape, margin = _outline(rng, organ, kind)
    long_mm = float(rng.uniform(*LESION_LONG[organ]))
    ratio = {
        "round": (0.92, 1.0),
        "oval": (0.55, 0.8),
        "irregular": (0.6, 0.88),
        "taller_than_wide": (0.62, 0.85),
    }
    short_mm = long_mm * float(rng.uniform(*ratio[shape]))
    room = {
        "thyroid": 0.78 * measures.get("lobe_depth", 0),
        "breast": 0.88 * measures.get("gland_thickness", 0),
        "vessel": 0.5 * measures.get("lumen", 0),
        "kidney": 0.55 * measures.get("width", 0),
        "gynaecology": 0.62 * measures.get("uterus_depth", 0),
        "heart": 0.5 * measures.get("left_atrium", 0),
    }.get(organ, np.inf)
    tall = shape == "taller_than_wide"
    scale = min(1.0, room / (long_mm if tall else short_mm))
    if organ == "vessel":  # plaques are long and flat: only their thickness is limited
        short_mm = float(rng.uniform(1.8, max(room, 2.2)))
        scale = 1.0
    return Lesion(
        kind=kind,
        shape=shape,
        margin=margin,
        long_mm=max(round(long_mm * scale, 1), round(short_mm * scale, 1)),
        short_mm=round(short_mm * scale, 1),
        place=str(rng.choice(PLACES[organ])),
        posterior=_posterior(rng, organ, kind),
        microcalcification=bool(
            kind in ("hypoechoic", "isoechoic", "mixed")
            and organ in ("thyroid", "breast")
            and rng.random() < 0.25
        ),
        vascularity=_vascularity(rng, organ, kind),
    )


def _outline(rng: np.random.Generator, organ: str, kind: str) -> tuple[str, str]:
    if organ == "vessel":
        return ("oval", "circumscribed") if rng.random() < 0.6 else ("irregular", "indistinct")
    if kind == "anechoic":
        return str(rng.choice(("oval", "round"))), "circumscribed"
    shapes = ["oval", "round", "irregular"] + (["taller_than_wide"] if organ in ("thyroid", "breast") else [])
    shape = str(rng.choice(shapes))
    if shape in ("oval", "round"):
        return shape, str(rng.choice(("circumscribed", "indistinct"), p=(0.8, 0.2)))
    margins = (
        ("circumscribed", "indistinct", "spiculated")
        if organ == "breast"
        else ("circumscribed", "indistinct")
    )
    return shape, str(rng.choice(margins))


def _posterior(rng: np.random.Generator, organ: str, kind: str) -> str:
    if kind == "anechoic":
        return "enhancement"
    if kind == "calcified":
        return "shadow"
    if kind == "hypoechoic" and organ in ("breast", "thyroid"):
        return str(rng.choice(("none", "shadow", "enhancement"), p=(0.6, 0.3, 0.1)))
    return "none"


def _vascularity(rng: np.random.Generator, organ: str, kind: str) -> str:
    if kind in ("anechoic", "calcified"):
        return "none"
    found = str(rng.choice(("none", "sparse", "rich"), p=(0.3, 0.4, 0.3)))
    # What feeds a plaque is too thin for colour Doppler: contrast agents are needed to see it.
    return "none" if organ == "vessel" else found


def _without_doppler(lesion: Lesion) -> Lesion:
    return replace(lesion, vascularity=None)


def _sample_views(rng: np.random.Generator, organ: str, lesion: Lesion | None) -> tuple[View, ...]:
    """The principal view first (it carries the measurements), then others; at least one shows the lesion."""
    names = list(VIEWS[organ])
    counts, shares = zip(*VIEW_COUNTS, strict=True)
    count = int(rng.choice(counts, p=shares))
    chosen = [names[0], *(str(rng.choice(names)) for _ in range(count - 1))]
    if lesion:
        fitting = views_of_lesion(organ, lesion)
        if not set(chosen) & set(fitting):
            chosen.append(str(rng.choice(fitting)))
        can_show = [i for i, name in enumerate(chosen) if name in fitting]
        shows = {i for i in can_show if rng.random() < 0.6} or {int(rng.choice(can_show))}
    else:
        shows = set()
    doppler_at = -1
    if organ in ("vessel", "heart"):
        doppler_at = int(rng.integers(len(chosen))) if rng.random() < DOPPLER_SHARE else -1
    elif rng.random() < DOPPLER_SHARE:  # also without a lesion: a colour box must not give one away
        doppler_at = int(rng.choice(sorted(shows))) if shows else int(rng.integers(len(chosen)))
    return tuple(
        View(
            name=name,
            depth_mm=float(rng.choice(VIEWS[organ][name].depths_mm)),
            shows_lesion=i in shows,
            doppler=i == doppler_at,
            seed=int(rng.integers(2**31)),
        )
        for i, name in enumerate(chosen)
    )


def views_of_lesion(organ: str, lesion: Lesion) -> list[str]:
    """The views in which a lesion at this place can be seen."""
    if organ == "liver":
        return ["left_sagittal"] if lesion.place == "left_lobe" else ["right_intercostal", "right_subcostal"]
    if organ == "gynaecology":
        return ["adnexa"] if lesion.place.endswith("ovary") else ["sagittal", "transverse"]
    if organ == "kidney" and lesion.place != "middle":
        return ["longitudinal"]
    if organ == "heart" and lesion.place == "right_atrium":
        return ["apical_four_chamber"]
    return list(VIEWS[organ])

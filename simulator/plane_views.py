"""Which view of the abdomen is scanned, with which faults: everything about a plane's picture but its pixels.

A standard view is planned (`anatomy/planes_liver.py`, `planes_organs.py`) and faults are put into it: a
structure is left out, cut short, moved towards the sector's edge, or lies behind a shadow. On a coarse
raster that is wider than the sector it is seen what each structure loses and to what. A view is planned again
when it shows another plane than it should, or when a share comes near a rule's border (`MARGINS`), where a
person could not tell either. Non-standard views are off their plane, across an organ, or of nothing in
particular.

How often each fault occurs is chosen so that all four grades are there to learn from (AbVLM-Q's Fig. A2 is
not at hand; its text says that most scans are good or excellent). Knows nothing of pixels, boxes and texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

import numpy as np

from imaging.planes import NON_STANDARD, load_planes
from simulator.anatomy import planes_liver as liver
from simulator.anatomy import planes_organs as organs
from simulator.anatomy.standard_planes import Names, Plan, behind, cuttable, named, structure_map
from simulator.cases import OrderError
from simulator.probe import Probe
from simulator.screens import STYLES, Style
from simulator.shadows import Shadow, sample_shadows

FIRST_STRUCTURE = 3  # class of the first key structure in a label map, after outside, other and attenuated
PROBES = (
    Probe("convex 50 mm", 3.5, radius_mm=50.0, angle_deg=62.0, f_number=3.5),
    Probe("convex 45 mm", 4.0, radius_mm=45.0, angle_deg=64.0, f_number=3.2),
    Probe("convex 60 mm", 3.0, radius_mm=60.0, angle_deg=60.0, f_number=3.8),
)
FAULTY_STRUCTURES = ((0, 0.54), (1, 0.26), (2, 0.20))  # how many, and how often
SHADED = (  # dark shares of the sector (from, to), and how often
    (None, 0.70),
    ((0.05, 0.23), 0.14),
    ((0.27, 0.48), 0.11),
    ((0.52, 0.66), 0.05),
)
HOPELESS_KEPT = 0.25  # of the views that have no point left: else most poor images would have none
MARGINS = {"not_displayed": (0.05, 0.22), "incomplete": (0.76, 0.90)}  # displayed shares that are drawn again
CAUSES = ("plane", "sector", "shadow")  # a structure is not scanned, beyond the edge, behind a shadow
RASTER_MM = 1.25
TRIES = 60
TRIES_A_PATIENT = 6

T = TypeVar("T")


@dataclass(frozen=True)
class StandardView:
    """A way to draw one or two planes; `planes` are those it may show, its own first. `ground` names what
    fills the sector around the view's own structures, () where it is no structure."""

    make: Callable[[np.random.Generator], Plan]
    planes: tuple[str, ...]
    organ: str
    weight: float = 1.0
    ground: Names = ()

    def plan(self, rng: np.random.Generator) -> Plan:
        """A faultless plan with every structure named."""
        plan = self.make(rng)
        ground = (behind(self.ground, GROUND_X_MM),) if self.ground else ()
        return replace(plan, parts=(*ground, *plan.parts))


RIGHT_LOBE = named("right_lobe_of_liver")
GROUND_X_MM = -8.0  # where the middle hepatic vein runs: the border of the two lobes
BOTH_LOBES = ((0.0, "right_lobe_of_liver"), *named("left_lobe_of_liver"))
# Eleven planes with about the same share; the views of two planes take their share from those planes.
VIEWS = (
    StandardView(liver.left_lobe_aorta, ("left_lobe_aorta",), "liver"),
    StandardView(liver.left_portal_branch, ("left_portal_branch",), "liver"),
    StandardView(liver.hepatic_veins, ("hepatic_veins",), "liver", ground=BOTH_LOBES),
    StandardView(liver.right_portal_branch, ("right_portal_branch",), "liver", 0.7, RIGHT_LOBE),
    StandardView(
        liver.right_portal_branch_with_gallbladder,
        ("right_portal_branch", "gallbladder_longitudinal"),
        "liver",
        0.4,
        RIGHT_LOBE,
    ),
    StandardView(liver.gallbladder_longitudinal, ("gallbladder_longitudinal",), "liver", 0.8, RIGHT_LOBE),
    StandardView(liver.bile_duct_longitudinal, ("bile_duct_longitudinal",), "liver", ground=RIGHT_LOBE),
    StandardView(organs.right_liver_kidney, ("right_liver_kidney",), "liver", 0.7),
    StandardView(
        organs.right_liver_whole_kidney,
        ("right_liver_kidney", "right_kidney_longitudinal"),
        "kidney",
        0.5,
    ),
    StandardView(organs.right_kidney_longitudinal, ("right_kidney_longitudinal",), "kidney", 0.7),
    StandardView(organs.pancreas_transverse, ("pancreas_transverse",), "pancreas"),
    StandardView(organs.spleen_longitudinal, ("spleen_longitudinal",), "spleen", 0.8),
    StandardView(
        organs.spleen_and_left_kidney,
        ("spleen_longitudinal", "left_kidney_longitudinal"),
        "spleen",
        0.4,
    ),
    StandardView(organs.left_kidney_longitudinal, ("left_kidney_longitudinal",), "kidney", 0.8),
)
OFF_PLANE_SHARE = 0.35  # of the non-standard views where the organ has both kinds
OFF_PLANE = (  # all of the liver
    "left_lobe_aorta",
    "left_portal_branch",
    "hepatic_veins",
    "right_portal_branch",
    "bile_duct_longitudinal",
)
NOT_PLANES = {
    organs.liver_only: "liver",
    organs.kidney_transverse: "kidney",
    organs.gallbladder_transverse: "liver",
    organs.great_vessels_transverse: "liver",
    organs.bowel: "abdomen",
}


@dataclass(frozen=True)
class Setting:
    """How a view is scanned."""

    probe: Probe
    style: Style
    shadows: tuple[Shadow, ...] = ()


@dataclass(frozen=True, eq=False)
class View:
    """A view with its faults, ready to be drawn. `whole_mm2` is each structure's area without faults;
    `causes` says what hides most of it (CAUSES)."""

    plan: Plan | None  # None for a view that is not abdominal
    setting: Setting
    organ: str
    whole_mm2: Mapping[str, float]
    causes: Mapping[str, str]


def structure_ids() -> dict[str, int]:
    """The class that each key structure has in the label map, in the protocol's order."""
    return {name: FIRST_STRUCTURE + i for i, name in enumerate(load_planes().structures)}


def organs_of_views() -> tuple[str, ...]:
    """The organs that can be ordered. "abdomen" is of views that show no organ, and are never standard."""
    return tuple(sorted({*(view.organ for view in VIEWS), *NOT_PLANES.values()}))


def check_organ(organ: str | None) -> None:
    """OrderError for an organ that no view shows; None is any."""
    known = organs_of_views()
    if organ is not None and organ not in known:
        raise OrderError(
            f"no abdominal view shows the organ {organ}: choose one of {', '.join(known)}, or none"
        )


def standard_view(rng: np.random.Generator, organ: str | None) -> View:
    """A view that shows at least one of its planes and no other; faults are drawn until it does."""
    protocol = load_planes()
    choices = [view for view in VIEWS if organ in (None, view.organ)]
    weights = np.array([view.weight for view in choices])
    chosen = choices[int(rng.choice(len(choices), p=weights / weights.sum()))]
    faults, shade = pick(rng, FAULTY_STRUCTURES), pick(rng, SHADED)
    for attempt in range(TRIES):
        if attempt % TRIES_A_PATIENT == 0:  # another patient
            whole, bare = placed(rng, chosen.plan(rng)), Setting(any_of(rng, PROBES), any_of(rng, STYLES))
            before = mapped(whole, bare)
        # What cannot be had in many tries (a shadow over half the sector, and still a plane) is given up.
        wanted = faults if attempt < TRIES // 2 else 0
        plan = _with_faults(rng, whole, wanted)
        setting = _shaded(rng, bare, plan, shade if attempt < 2 * TRIES // 3 else None)
        after = before if plan is whole else mapped(plan, setting)
        view, shares, dark = measured(whole, before, plan, after, setting, chosen.organ)
        states = {name: protocol.state(share) for name, share in shares.items()}
        if wanted and set(states.values()) == {"displayed"}:
            continue  # the fault cannot be seen
        if _acceptable(rng, protocol.shown(states), chosen.planes, states, shares, dark):
            return view
    raise RuntimeError(f"the view of {chosen.planes[0]} never showed its plane in {TRIES} tries")


def non_standard_view(rng: np.random.Generator, organ: str | None) -> View:
    """A view that shows no plane: off a standard plane, or across an organ, or of nothing in particular.

    Where there is none of the organ it is of any organ.
    """
    if organ not in NOT_PLANES.values():
        organ = None
    for _ in range(TRIES):
        off = organ in (None, "liver") and rng.random() < OFF_PLANE_SHARE
        whole, plan, of = _off_plane(rng) if off else _no_plane(rng, organ)
        bare = Setting(any_of(rng, PROBES), any_of(rng, STYLES))
        setting = _shaded(rng, bare, plan, pick(rng, SHADED))
        before, after = mapped(whole, setting), mapped(plan, setting)
        found, shares, _ = measured(whole, before, plan, after, setting, of)
        states = {name: load_planes().state(share) for name, share in shares.items()}
        if load_planes().shown(states) == (NON_STANDARD,) and not _unclear(shares):
            return found
    raise RuntimeError(f"no non-standard view was found in {TRIES} tries")


def placed(rng: np.random.Generator, plan: Plan) -> Plan:
    """The plan as one patient has it: a little larger, turned, shifted."""
    return plan.moved(
        float(rng.uniform(-5, 5)),
        float(rng.uniform(-5, 5)),
        float(rng.uniform(-7, 7)),
        float(rng.uniform(0.9, 1.05)),
    )


def _with_faults(rng: np.random.Generator, plan: Plan, count: int) -> Plan:
    """`count` structures left out, cut short, or moved towards the sector's edge."""
    for structure in rng.permutation(plan.structures)[:count]:
        structure, way = str(structure), rng.random()
        if not cuttable(plan, structure) or way < 0.2:
            plan = plan.moved(dx=float(rng.choice((-1, 1)) * rng.uniform(10, 48)))
        elif way < 0.65:
            plan = plan.without(structure)
        else:
            plan = plan.shortened(structure, float(rng.uniform(0.25, 0.65)))
    return plan


def _no_plane(rng: np.random.Generator, organ: str | None) -> tuple[Plan, Plan, str]:
    """A view across an organ, or of nothing in particular: without faults, as it is, and the organ."""
    choices = [make for make, of in NOT_PLANES.items() if organ in (None, of)]
    make = any_of(rng, tuple(choices))
    plan = placed(rng, make(rng))
    return plan, plan, NOT_PLANES[make]


def _off_plane(rng: np.random.Generator) -> tuple[Plan, Plan, str]:
    """A standard view of the liver from which structures are left out, in any order, until what is left is
    no plane: without faults, as it is, and the organ."""
    view = any_of(rng, tuple(view for view in VIEWS if view.planes[0] in OFF_PLANE))
    whole = plan = placed(rng, view.plan(rng))
    for structure in rng.permutation(whole.structures):
        plan = plan.without(str(structure))
        if load_planes().shown(dict.fromkeys(plan.structures, "displayed")) == (NON_STANDARD,):
            break
    return whole, plan, view.organ


def _shaded(
    rng: np.random.Generator, bare: Setting, plan: Plan, shade: tuple[float, float] | None
) -> Setting:
    """The setting with shadows over a share of the sector between these two."""
    if shade is None:
        return bare
    share = float(rng.uniform(*shade))
    return replace(bare, shadows=sample_shadows(rng, bare.probe, plan.depth_mm, plan.wall_mm, share))


def mapped(plan: Plan, setting: Setting) -> np.ndarray:
    """Where the plan's structures lie on the coarse raster, whether the sector holds them or not."""
    return structure_map(plan, *_raster(), setting.probe.radius_mm, structure_ids())


def measured(
    whole: Plan, before: np.ndarray, plan: Plan, after: np.ndarray, setting: Setting, organ: str
) -> tuple[View, dict[str, float], float]:
    """The view with areas and causes, the displayed shares and the dark share of the sector to expect, from
    the maps of the plan without faults and with them."""
    inside, dark = _reached(setting, plan.depth_mm)
    ids = structure_ids()
    boundless = {name for part in whole.parts if part.open for name in part.structures}
    areas, causes, shares = {}, {}, {}
    for name in whole.structures:
        full, kept = before == ids[name], after == ids[name]
        held, seen, lit = full & inside, kept & inside, kept & inside & ~dark
        cells = int(held.sum() if name in boundless else full.sum())
        unseen, hidden = cells - seen.sum(), seen.sum() - lit.sum()
        areas[name] = cells * RASTER_MM**2
        causes[name] = "shadow" if hidden > unseen else "plane" if name in plan.cut else "sector"
        shares[name] = min(float(lit.sum() / cells), 1.0)
    return View(plan, setting, organ, areas, causes), shares, float(dark[inside].mean())


def _reached(setting: Setting, depth_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Which points of the coarse raster lie in the sector, and which in shadow."""
    (x, z), probe = _raster(), setting.probe
    reach = np.hypot(x, z + probe.radius_mm) - probe.radius_mm
    beam = np.arctan2(x, z + probe.radius_mm) / (np.deg2rad(probe.angle_deg) / 2)
    dark = np.zeros(x.shape, bool)
    for shadow in setting.shadows:
        dark |= shadow.covers(beam, reach)
    return (np.abs(beam) < 1) & (reach > 0) & (reach < depth_mm), dark


def _acceptable(
    rng: np.random.Generator,
    shown: tuple[str, ...],
    planes: tuple[str, ...],
    states: Mapping[str, str],
    shares: Mapping[str, float],
    dark: float,
) -> bool:
    """Whether a view shows its planes only, no share is unclear, and it is not one hopeless view too many."""
    if not set(shown) <= set(planes) or _unclear(shares):
        return False
    protocol = load_planes()
    score = protocol.score(protocol.deductions(shown, states, dark))
    return score > protocol.lowest or rng.random() < HOPELESS_KEPT


def _unclear(shares: Mapping[str, float]) -> bool:
    """Whether a share lies where a person could not tell on which side of a border it is."""
    return any(low < share < high for share in shares.values() for low, high in MARGINS.values())


@cache
def _raster() -> tuple[np.ndarray, np.ndarray]:
    """x and z (mm) of a raster that is wider than any sector, float32 [rows, columns]."""
    z, x = np.mgrid[4:140:RASTER_MM, -130:130:RASTER_MM].astype(np.float32)
    return x, z


def pick(rng: np.random.Generator, choices: tuple[tuple[T, float], ...]) -> T:
    """One of (value, probability)."""
    return choices[int(rng.choice(len(choices), p=[share for _, share in choices]))][0]


def any_of(rng: np.random.Generator, choices: tuple[T, ...]) -> T:
    return choices[int(rng.integers(len(choices)))]

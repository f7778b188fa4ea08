"""What a standard plane is drawn from: shapes in millimetres that know which key structure they are.

A plan is a list of parts, painted back to front. Each part is an ellipse or a bent tube; along its length it
may be one or several key structures (a gallbladder is neck, body and fundus). Every structure of the protocol
that is drawn has its name: those that the view is taken for, and those that lie beside them and make no plane
(the tip of the spleen before the left kidney, the aorta across behind the pancreas). Plans are made in
`planes_liver.py` and `planes_organs.py`; here they can be moved, cut, and painted onto a scan grid, or
measured on any other raster to know how large a structure is where no sector cuts it.

Where a tube is cut, and where a vessel ends that opens into no other, it leaves the scan plane: the slice
that the probe sees is some millimetres thick, so what slants out of it fades into what lies around it (and a
vessel tapers), with no wall across its end. It counts as there as far as half of it is in the slice.

Knows nothing of deductions, shadows, screens or files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from simulator import tissue as t
from simulator.anatomy.abdominal_wall import abdominal_wall
from simulator.scene import Scene, bend, dents, outline
from simulator.tissue import Tissue

FAR = np.float32(99)  # mm: "not near this shape"
MARGIN = 6.0  # mm around a shape in which its distance is worked out: interfaces need the slope there
PIVOT = (0.0, 60.0)  # mm: what `moved` turns and scales a plan around
# How a tube leaves the scan plane: chosen by eye, for a slice about 4 mm thick that it crosses at a slant.
FADE_MM, FADE_A_RADIUS = 10.0, 0.6  # over which it fades, and what each mm of its radius adds
MOST_FADED = 0.4  # of a short tube's length, at either end
TAPER = 0.6  # of its radius, which a vessel has lost where it is gone
RAGGED_MM = 1.2  # how unevenly it fades
STEM_MM = 12.0  # of a stem beyond the root of a named branch: a cut never takes that away

VISCERA = Tissue(-8, 0.5, 2.5)  # fat and bowel around the organs, darker than they are
PANCREAS = Tissue(6, 0.5, 2.0, t.PARENCHYMA)
RENAL_CORTEX = Tissue(-6, 0.5, 1.0, t.PARENCHYMA)
RENAL_FAT = Tissue(3, 0.5, 1.5)
HILAR_FAT = Tissue(9, 0.5, 2.0)

Names = tuple[tuple[float, str | None], ...]  # (position along the shape up to which, structure)


@dataclass(frozen=True, eq=False)
class Ellipse:
    """Centre and radii in mm; `shape` holds the dents of its outline (`scene.dents`). `outside` turns it
    inside out. Position along: -1 at the left end of the first axis, 1 at the right."""

    cx: float
    cz: float
    rx: float
    rz: float
    tilt_deg: float = 0.0
    shape: np.ndarray | None = None
    outside: bool = False

    def locate(self, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Signed distance to the outline (mm, negative inside) and position along, both float32 like `x`."""
        reach = 1.3 * max(self.rx, self.rz) + MARGIN
        near = (np.abs(x - np.float32(self.cx)) < reach) & (np.abs(z - np.float32(self.cz)) < reach)
        turn = np.deg2rad(self.tilt_deg)
        cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        dx, dz = x[near] - np.float32(self.cx), z[near] - np.float32(self.cz)
        u = (dx * cos + dz * sin) / np.float32(self.rx)
        v = (dz * cos - dx * sin) / np.float32(self.rz)
        radius = np.hypot(u, v)
        border = np.float32(1) if self.shape is None else outline(np.arctan2(v, u), self.shape)
        scale = np.hypot(u * np.float32(self.rx), v * np.float32(self.rz)) / np.maximum(radius, 1e-3)
        distance, along = np.full_like(x, FAR), np.zeros_like(x)
        distance[near], along[near] = (radius - border) * scale, u
        return (-distance if self.outside else distance), along

    def moved(self, dx: float, dz: float, turn_deg: float, scale: float) -> Ellipse:
        cx, cz = _moved((self.cx, self.cz), dx, dz, turn_deg, scale)
        return replace(
            self,
            cx=cx,
            cz=cz,
            rx=self.rx * scale,
            rz=self.rz * scale,
            tilt_deg=self.tilt_deg + turn_deg,
        )


@dataclass(frozen=True, eq=False)
class Tube:
    """A bent tube through `points` (mm) with a radius at each. Position along: 0 at the first, 1 at the
    last."""

    points: tuple[tuple[float, float], ...]
    radii: tuple[float, ...]

    def locate(self, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Signed distance to the outline (mm, negative inside) and position along, both float32 like `x`."""
        points = np.asarray(self.points, np.float32)
        pad = max(self.radii) + MARGIN
        (left, top), (right, bottom) = points.min(0) - pad, points.max(0) + pad
        near = (x > left) & (x < right) & (z > top) & (z < bottom)
        px, pz = x[near], z[near]
        best, place = np.full(px.shape, FAR, np.float32), np.zeros(px.shape, np.float32)
        starts = self._starts()
        for i, ((x0, z0), (x1, z1)) in enumerate(zip(points, points[1:], strict=False)):
            dx, dz = x1 - x0, z1 - z0
            share = np.clip(((px - x0) * dx + (pz - z0) * dz) / (dx * dx + dz * dz + np.float32(1e-9)), 0, 1)
            radius = np.float32(self.radii[i]) + share * np.float32(self.radii[i + 1] - self.radii[i])
            away = np.hypot(px - x0 - share * dx, pz - z0 - share * dz) - radius
            nearer = away < best
            best[nearer] = away[nearer]
            place[nearer] = (starts[i] + share * (starts[i + 1] - starts[i]))[nearer]
        distance, along = np.full_like(x, FAR), np.zeros_like(x)
        distance[near], along[near] = best, place
        return distance, along

    def moved(self, dx: float, dz: float, turn_deg: float, scale: float) -> Tube:
        points = tuple(_moved(point, dx, dz, turn_deg, scale) for point in self.points)
        return Tube(points, tuple(radius * scale for radius in self.radii))

    @property
    def length(self) -> float:
        """Millimetres from the first point to the last."""
        return float(self._steps().sum())

    def _steps(self) -> np.ndarray:
        return np.hypot(*np.diff(np.asarray(self.points, np.float64), axis=0).T)

    def _starts(self) -> np.ndarray:
        """Position along of every point [n], float32."""
        steps = self._steps()
        return (np.concatenate([[0.0], np.cumsum(steps)]) / steps.sum()).astype(np.float32)


@dataclass(frozen=True)
class Ground:
    """Everything behind the parts, the parenchyma of an organ that fills the sector. Position along: mm to
    the right of a line through `point`, upright where `turn_deg` is 0."""

    point: tuple[float, float] = PIVOT
    turn_deg: float = 0.0

    def locate(self, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """-FAR everywhere (there is no outline), and position along, both float32 like `x`."""
        turn = np.deg2rad(self.turn_deg)
        cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        along = (x - np.float32(self.point[0])) * cos + (z - np.float32(self.point[1])) * sin
        return np.full_like(x, -FAR), along

    def moved(self, dx: float, dz: float, turn_deg: float, scale: float) -> Ground:
        return Ground(_moved(self.point, dx, dz, turn_deg, scale), self.turn_deg + turn_deg)


def _moved(
    point: tuple[float, float], dx: float, dz: float, turn_deg: float, scale: float
) -> tuple[float, float]:
    turn = np.deg2rad(turn_deg)
    u, v = (point[0] - PIVOT[0]) * scale, (point[1] - PIVOT[1]) * scale
    return (
        float(PIVOT[0] + u * np.cos(turn) - v * np.sin(turn) + dx),
        float(PIVOT[1] + u * np.sin(turn) + v * np.cos(turn) + dz),
    )


@dataclass(frozen=True, eq=False)
class Place:
    """A part on a raster: signed distance to its outline (mm), position along, and which share of it lies in
    the scanned slice (0 to 1; None: all of it, everywhere)."""

    distance: np.ndarray
    along: np.ndarray
    there: np.ndarray | None

    @property
    def inside(self) -> np.ndarray:
        inside = self.distance < 0
        return inside if self.there is None else inside & (self.there >= 0.5)


@dataclass(frozen=True, eq=False)
class Part:
    """One shape of one tissue, or of what is there already where `tissue` is None. `names` says which
    structure it is along its length; () is none: what it covers is no longer displayed. What is `beside` has
    a name but is not what the view is taken for. A `detail` (a pyramid in a kidney's pole) leaves the
    structures under it as they are. `open` marks a structure that no sector holds (a lobe of the liver): it
    is whole when what a faultless image shows of it is seen.
    """

    shape: Ellipse | Tube | Ground
    tissue: Tissue | None
    names: Names = ()
    wall: Tissue | None = None  # a bright wall inside the outline
    wall_mm: float = 0.0
    edge: Tissue | None = None  # a bright interface along the outline
    edge_mm: float = 0.8
    texture_db: float = 0.0
    detail: bool = False
    open: bool = False
    beside: bool = False
    kept: tuple[float, float] = (0.0, 1.0)  # of a tube: what is in the plane
    round_start: bool = False  # a vessel that comes straight at the probe where it begins

    @property
    def vessel(self) -> bool:
        return self.tissue is t.BLOOD

    def locate(self, x: np.ndarray, z: np.ndarray, free: tuple[bool, bool] = (False, False)) -> Place:
        """Where it lies; `free` says which ends of a vessel open into no other (`free_ends`)."""
        distance, along = self.shape.locate(x, z)
        borders = self._borders(free) if isinstance(self.shape, Tube) else ()
        if not borders:
            return Place(distance, along, None)
        near = distance < MARGIN
        ragged = np.sin(0.6 * x[near] - 0.9 * z[near]) + np.sin(1.3 * z[near] + 0.4 * x[near])
        place = along[near] + np.float32(RAGGED_MM / 2 / self.shape.length) * ragged
        there = np.ones(x.shape, np.float32)
        for border, way, width in borders:
            there[near] = np.minimum(there[near], np.clip(0.5 + way * (border - place) / width, 0, 1))
        if self.vessel:
            distance = distance + (1 - there) * np.float32(TAPER * np.mean(self.shape.radii))
        return Place(distance, along, there)

    def _borders(self, free: tuple[bool, bool]) -> list[tuple[float, int, float]]:
        """Where the tube leaves the plane: position along, way (1: what lies beyond is gone, -1: what lies
        before), and the share of its length over which it fades around that position."""
        (first, last), length = self.kept, self.shape.length
        fade = FADE_MM + FADE_A_RADIUS * float(np.mean(self.shape.radii))
        width = min(fade / length, MOST_FADED * (last - first) + 1e-6)
        borders = []
        if first > 0 or (free[0] and not self.round_start):
            borders.append((first or width / 2, -1, width))
        if last < 1 or free[1]:
            borders.append((last if last < 1 else 1 - width / 2, 1, width))
        return borders

    @property
    def structures(self) -> tuple[str, ...]:
        """What the view is taken for: nothing of what is `beside`."""
        return () if self.beside else tuple(name for _, name in self.names if name)


@dataclass(frozen=True, eq=False)
class Plan:
    """A view before it is scanned: parts back to front on `ground`. `wall_mm` is the abdominal wall's depth
    along the beam, `coarse_db` the strength of a coarse echotexture of the ground, `cut` the structures that
    were left out or shortened."""

    parts: tuple[Part, ...]
    ground: Tissue
    depth_mm: float
    wall_mm: float
    coarse_db: float = 0.0
    cut: frozenset[str] = frozenset()

    @property
    def structures(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for part in self.parts for name in part.structures))

    @property
    def beside(self) -> tuple[str, ...]:
        """The structures that are drawn besides those that the view is taken for."""
        names = dict.fromkeys(name for part in self.parts for _, name in part.names if name)
        return tuple(name for name in names if name not in self.structures and name not in self.cut)

    def moved(self, dx: float = 0.0, dz: float = 0.0, turn_deg: float = 0.0, scale: float = 1.0) -> Plan:
        """The same view, all but the abdominal wall turned and scaled around PIVOT, then shifted (mm)."""
        parts = [replace(part, shape=part.shape.moved(dx, dz, turn_deg, scale)) for part in self.parts]
        return replace(self, parts=tuple(parts))

    def without(self, structure: str) -> Plan:
        """The structure's part is not in the plane, or, of a tube with several names, its piece is not."""
        parts = []
        for part in self.parts:
            if structure not in part.structures:
                parts.append(part)
            elif len(part.structures) > 1:
                parts.append(_trimmed(part, structure, 0.0))
        return self._cut(structure, parts)

    def shortened(self, structure: str, share: float) -> Plan:
        """Only `share` of the structure's length is in the plane; a tube keeps the end where it begins, and
        at least as much as bears the named branches that leave it."""
        parts = []
        for part in self.parts:
            if structure in part.structures:
                part = _trimmed(part, structure, max(share, self._bears(part)))
            parts.append(part)
        return self._cut(structure, parts)

    def _cut(self, structure: str, parts: list[Part]) -> Plan:
        """The plan with these parts, less the nameless branches that have lost the vessel they left."""
        lost = _rooted(self.parts) - _rooted(parts)
        kept = tuple(part for part in parts if id(part) not in lost)
        return replace(self, parts=kept, cut=self.cut | {structure})

    def _bears(self, stem: Part) -> float:
        """The share of a vessel's length that reaches past the roots of its named branches; 0 for none."""
        if not (stem.vessel and isinstance(stem.shape, Tube)):
            return 0.0
        branches = [p for p in self.parts if p is not stem and p.vessel and p.structures]
        roots = [p.shape.points[0] for p in branches if isinstance(p.shape, Tube)]
        distance, along = stem.shape.locate(*_columns(roots))
        held = along[(distance < 0) & (along > 0)]
        return min(float(held.max()) + STEM_MM / stem.shape.length, 1.0) if held.size else 0.0


def _rooted(parts: Sequence[Part]) -> set[int]:
    """The nameless vessels (`id`) that begin in a named one."""
    twigs = [part for part in parts if part.vessel and isinstance(part.shape, Tube) and not part.names]
    x, z = _columns([part.shape.points[0] for part in twigs])
    held = np.zeros(x.shape, bool)
    for stem in parts:
        if stem.vessel and stem.names:
            held |= stem.locate(x, z).inside
    return {id(part) for part, inside in zip(twigs, held, strict=True) if inside}


def free_ends(parts: Sequence[Part]) -> list[tuple[bool, bool]]:
    """Of each part whether its first and its last end leave the plane on their own: those of vessels that lie
    in no other vessel. A vessel that opens into another, and whatever is no tube of blood, has none."""
    tubes = [k for k, part in enumerate(parts) if part.vessel and isinstance(part.shape, Tube)]
    x, z = _columns([point for k in tubes for point in (parts[k].shape.points[0], parts[k].shape.points[-1])])
    joined = np.zeros(x.shape, bool)
    for k, part in enumerate(parts):
        if part.vessel:
            held = part.locate(x, z).inside
            if k in tubes:
                held[2 * tubes.index(k) : 2 * tubes.index(k) + 2] = False
            joined |= held
    ends = [(False, False)] * len(parts)
    for i, k in enumerate(tubes):
        ends[k] = (not joined[2 * i], not joined[2 * i + 1])
    return ends


def _columns(points: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """x and z (mm) of points [n], float32."""
    x, z = np.asarray(points, np.float32).reshape(-1, 2).T
    return x, z


def cuttable(plan: Plan, structure: str) -> bool:
    """Whether `without` and `shortened` can act on it: a tube, and one of its ends."""
    part = next(part for part in plan.parts if structure in part.structures)
    return isinstance(part.shape, Tube) and structure in (part.names[0][1], part.names[-1][1])


def _trimmed(part: Part, structure: str, share: float) -> Part:
    """`part` with only `share` of one of its end structures."""
    borders = [0.0, *(min(upto, 1.0) for upto, _ in part.names)]
    names = [name for _, name in part.names]
    first, last = part.kept
    if len(names) > 1 and names[0] == structure:
        return replace(part, kept=(borders[1] * (1 - share), last))
    start = borders[-2]
    return replace(part, kept=(first, start + share * (1 - start)))


def structure_map(
    plan: Plan, x: np.ndarray, z: np.ndarray, radius_mm: float, ids: Mapping[str, int]
) -> np.ndarray:
    """Which structure lies at each point of a raster (mm), without sector and shadow: uint8, 0 for none."""
    found = np.zeros(x.shape, np.uint8)
    for part, free in zip(plan.parts, free_ends(plan.parts), strict=True):
        if not part.detail and (part.names or found.any()):
            _mark(found, part, part.locate(x, z, free), ids)
    found[np.hypot(x, z + np.float32(radius_mm)) - np.float32(radius_mm) < plan.wall_mm] = 0
    return found


def paint(scene: Scene, plan: Plan, ids: Mapping[str, int]) -> np.ndarray:
    """Paint the plan into `scene`; returns which structure every sample is: uint8 [SAMPLES, BEAMS].

    Of vessels that follow one another all walls come before all blood (as in `vessels.paint_vessels`): they
    open into each other.
    """
    found = np.zeros(scene.x.shape, np.uint8)
    if plan.coarse_db:
        scene.add_texture(scene.z > 0, plan.coarse_db)
    ends = zip(plan.parts, free_ends(plan.parts), strict=True)
    for vessels, run in groupby(ends, lambda one: one[0].vessel):
        located = [(part, part.locate(scene.x, scene.z, free)) for part, free in run]
        if vessels:
            for part, place in located:
                _paint_edge(scene, part, place)
                _paint_wall(scene, part, place)
            for part, place in located:
                _paint_body(scene, part, place, place.distance < -part.wall_mm)
        else:
            for part, place in located:
                _paint_edge(scene, part, place)
                _paint_body(scene, part, place, place.distance < 0)
                _paint_wall(scene, part, place)
        for part, place in located:
            _mark(found, part, place, ids)
    reach = abdominal_wall(scene, plan.wall_mm)
    found[reach < plan.wall_mm] = 0
    return found


def _paint_edge(scene: Scene, part: Part, place: Place) -> None:
    if part.edge:
        _paint_sheet(scene, place, -0.1, part.edge_mm, part.edge)


def _paint_wall(scene: Scene, part: Part, place: Place) -> None:
    if part.wall:
        _paint_sheet(scene, place, -part.wall_mm, 0.4, part.wall)


def _paint_sheet(scene: Scene, place: Place, low: float, high: float, tissue: Tissue) -> None:
    sheet = (place.distance > low) & (place.distance < high)
    _blend(scene, place, sheet, lambda: scene.paint_interface(place.distance, low, high, tissue))


def _paint_body(scene: Scene, part: Part, place: Place, inside: np.ndarray) -> None:
    if part.tissue:
        _blend(scene, place, inside, lambda: scene.paint(inside, part.tissue))
    if part.texture_db:
        scene.add_texture(inside if place.there is None else place.inside, part.texture_db)


def _blend(scene: Scene, place: Place, where: np.ndarray, draw: Callable[[], None]) -> None:
    """`draw`, which paints `where`, as far as the part is in the slice; between what was there before and
    what is drawn halves are halves of the grey, so that the eye sees the border where the label map has it.
    """
    if place.there is None:
        draw()
        return
    share = place.there[where]
    before = scene.echo_db[where], scene.attenuation[where]
    draw()
    for values, old in zip((scene.echo_db, scene.attenuation), before, strict=True):
        values[where] = old + share * (values[where] - old)


def _mark(found: np.ndarray, part: Part, place: Place, ids: Mapping[str, int]) -> None:
    if part.detail:
        return
    inside, along = place.inside, place.along
    found[inside] = 0
    low = -np.inf
    for upto, name in part.names:
        if name:
            found[inside & (along >= low) & (along < upto)] = ids[name]
        low = upto


def named(name: str | None) -> Names:
    """The whole length is one structure."""
    return ((np.inf, name),)


def behind(names: Names, x: float = PIVOT[0]) -> Part:
    """Names for the plan's ground, which is beside what the view is taken for; positions are mm from `x`."""
    return Part(Ground((x, PIVOT[1])), None, names, beside=True)


def vessel(
    rng: np.random.Generator,
    points: list[tuple[float, float]],
    radius: tuple[float, float],
    name: str | None = None,
    wall_mm: float = 0.0,
    **more,
) -> Part:
    """A bent vessel with an even or tapering radius (mm). Portal veins and arteries have a bright wall,
    hepatic veins none."""
    path = bend(points, 7)
    scale = rng.uniform(0.93, 1.07)
    radii = tuple(float(r) for r in np.linspace(radius[0], radius[1], len(path)) * scale)
    wall = t.WALL if wall_mm else None
    names = named(name) if name else ()
    return Part(Tube(tuple(path), radii), t.BLOOD, names, wall=wall, wall_mm=wall_mm, **more)


def dented(
    rng: np.random.Generator, cx: float, cz: float, rx: float, rz: float, tilt: float, dent: float
) -> Ellipse:
    """An ellipse with a random outline; `dent` is the relative depth of its dents."""
    return Ellipse(cx, cz, rx, rz, tilt, dents(rng, dent))

"""Heart, apical four- and two-chamber views with a phased array: apex at the top, left ventricle on the right
of the screen.

Everything is laid out along the long axis of the left ventricle: `v` mm from its endocardial apex towards the
base, `u` mm across, positive towards the lateral (anterior) wall. The axis itself is shifted, turned and
foreshortened anew in every view. Chambers are signed distances in mm, so that a wall is as thick as stated:
the widest section of the left ventricle is `left_ventricle`, of the left atrium `left_atrium`, and the two
ventricles lie `septum` apart. Proportions that are not stated follow echocardiography texts (tricuspid
annulus 3-8 mm nearer to the apex, right ventricle ending short of it); chosen, not fitted to patients.

Does not know: the beat itself (each view is one moment, systole or diastole), wall motion, other windows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from simulator import tissue as t
from simulator.anatomy import Setting
from simulator.examination import Examination, Lesion, View
from simulator.lesion import paint_flow, paint_lesion
from simulator.probe import PHASED
from simulator.scene import Scene, bend, smooth_field

VIEWS = {
    "apical_four_chamber": Setting(PHASED, (150.0, 160.0)),
    "apical_two_chamber": Setting(PHASED, (150.0, 160.0)),
}
FREE_WALL, ATRIAL_WALL = 4.0, 2.2  # mm
LEFT, RIGHT = -1.0, 1.0

Point = tuple[float, float]  # u, v in mm
Mouth = tuple[list[Point], list[float]]  # a blind tube: its line and its radii in mm


@dataclass(frozen=True)
class Egg:
    """Two half-ellipses, joined where they are widest: `half` mm wide to each side of `u`, reaching `up` mm
    towards the apex of the heart and `down` mm towards its base from `v`.

    `square` above 0 fills the corners (a flat roof), below 0 empties them (a wedge); `lean` moves the middle
    across by that much for each mm towards the apex.
    """

    u: float
    v: float
    half: float
    up: float
    down: float
    square: float = 0.0
    lean: float = 0.0

    def distance(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Signed distance in mm to the border, of first order: exact across the widest section."""
        across, along = u - np.float32(self.u), v - np.float32(self.v)
        if self.lean:
            across = across + np.float32(self.lean) * along
        reach = np.where(along < 0, np.float32(1 / self.up), np.float32(1 / self.down))
        a, b = across * np.float32(1 / self.half), along * reach
        a2, b2 = a * a, b * b
        slope_a, slope_b = a * np.float32(1 / self.half), b * reach
        square = a2 + b2
        if self.square:
            corner_a, corner_b = (np.minimum(each, 1) * np.float32(self.square) for each in (a2, b2))
            square -= corner_a * np.minimum(b2, 1)
            slope_a *= 1 - corner_b
            slope_b *= 1 - corner_a
        radius = np.sqrt(square)
        steep = np.sqrt(slope_a * slope_a + slope_b * slope_b) + np.float32(1e-6)
        return (radius - 1) * radius / steep


@dataclass(frozen=True)
class Heart:
    """One heart at one moment: where its axis lies on the screen (`apex` x and z in mm, `turn` radians) and
    its chambers. `opening` is 0 for closed valves and up to 1 for open ones; `two` is the two-chamber view,
    which has no right heart."""

    apex: Point
    turn: float
    base: float  # v of the mitral annulus
    offset: float  # mm from the tricuspid to the mitral annulus, along v
    wall: float
    annulus: float  # half the mitral opening
    opening: float
    chambers: dict[str, Egg]
    two: bool

    def local(self, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """u and v of points on the screen."""
        cos, sin = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
        dx, dz = x - np.float32(self.apex[0]), z - np.float32(self.apex[1])
        return dx * cos - dz * sin, dx * sin + dz * cos

    def screen(self, u: float, v: float) -> Point:
        """x and z of a point of the heart."""
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return self.apex[0] + u * cos + v * sin, self.apex[1] - u * sin + v * cos


@dataclass(frozen=True, eq=False)
class Maps:
    """Float32 [SAMPLES, BEAMS]: `u`, `v`, and the distance to each chamber, negative in its blood (what cuts
    a chamber short included)."""

    u: np.ndarray
    v: np.ndarray
    blood: dict[str, np.ndarray]
    outer: np.ndarray  # distance to the outside of the heart


def draw(scene: Scene, examination: Examination, view: View) -> None:
    """Paint the view back to front; the lesion last, so that the heart is the same with and without it."""
    heart = sample_heart(scene.rng, examination.measures, view.name == "apical_two_chamber")
    maps = _maps(scene, heart)
    _surroundings(scene)
    mouths = sample_mouths(scene.rng, heart)
    _around_the_base(scene, heart, maps, mouths)
    _walls(scene, heart, maps, examination.background == "coarse")
    _blood(scene, maps, mouths)
    _coronary_sinus(scene, heart, maps)
    _papillary_muscles(scene, heart, maps)
    _moderator_band(scene, heart, maps)
    _valves(scene, heart, maps)
    _near_field(scene)
    if view.doppler:
        _flow(scene, heart, maps)
    if view.shows_lesion:
        _mass(scene, heart, maps, examination.lesion, view.doppler)


# ------------ proportions ------------


def sample_heart(rng: np.random.Generator, measures: dict[str, float], two: bool) -> Heart:
    """A heart of the stated measures in a random position and moment. The same draws whatever the measures
    are."""
    half, wall = measures["left_ventricle"] / 2, measures["septum"]
    systole = rng.random() < 0.4
    base = rng.uniform(64, 72) if systole else rng.uniform(68, 76)
    widest = base * rng.uniform(0.58, 0.7)
    taper = rng.uniform(0.64, 0.76)  # the annulus as a share of the widest section
    down = (base - widest) / np.sqrt(1 - taper**2)
    annulus = min(taper * half, 0.82 * measures["left_atrium"] / 2)
    offset = rng.uniform(3, 8)
    chambers = {"left_ventricle": Egg(0.0, widest, half, widest, down, rng.uniform(0.0, 0.22))}
    chambers["left_atrium"] = _left_atrium(rng, measures["left_atrium"], base)
    right = _right_heart(rng, half, wall, base, offset, chambers["left_atrium"])
    opening = rng.uniform(0.45, 1.0)
    turn = rng.uniform(-9, 7) if two else rng.uniform(-2, 10)
    apex = (rng.uniform(-4, 4) + (0 if two else 6), rng.uniform(20, 26))
    if not two:
        chambers |= right
    opening = 0.0 if systole else opening
    return Heart(apex, np.deg2rad(turn), base, offset, wall, annulus, opening, chambers, two)


def _left_atrium(rng: np.random.Generator, width: float, base: float) -> Egg:
    length = min(width * rng.uniform(1.0, 1.28), 45.0)
    middle = base + length * rng.uniform(0.48, 0.58)
    up = (middle - base) / np.sqrt(1 - 0.8**2)  # at the annulus it is 0.8 of its widest section
    return Egg(rng.uniform(-2, 3), middle, width / 2, up, base + length - middle, rng.uniform(0.15, 0.6))


def _right_heart(
    rng: np.random.Generator, half: float, wall: float, base: float, offset: float, left: Egg
) -> dict[str, Egg]:
    """Right ventricle and atrium: both reach under the septum, which then cuts them off."""
    width, top = rng.uniform(24, 31), base - offset
    widest = base * rng.uniform(0.66, 0.76)
    ventricle = Egg(
        -(half + wall) - 0.42 * width,
        widest,
        0.58 * width,
        widest - rng.uniform(10, 20),
        (top - widest) / np.sqrt(1 - rng.uniform(0.75, 0.9) ** 2),
        rng.uniform(-0.5, 0.0),
        rng.uniform(0.08, 0.2),
    )
    length, across = rng.uniform(38, 45), rng.uniform(18, 21)
    middle = top + length * rng.uniform(0.45, 0.55)
    atrium = Egg(
        left.u - left.half - 0.9 * across,
        middle,
        across,
        (middle - top) / 0.55,
        top + length - middle,
        rng.uniform(0.1, 0.6),
    )
    return {"right_ventricle": ventricle, "right_atrium": atrium}


# ------------ maps and walls ------------


def _maps(scene: Scene, heart: Heart) -> Maps:
    """Distances to the chambers; the fine irregularity of the endocardium is part of them."""
    u, v = heart.local(scene.x, scene.z)
    raw = {name: egg.distance(u, v) for name, egg in heart.chambers.items()}
    trabeculae = np.clip(smooth_field(scene.rng, 64, 34), -2, 2)
    outer = np.minimum(
        np.maximum(raw["left_ventricle"] - np.float32(heart.wall), v - np.float32(heart.base + 4)),
        raw["left_atrium"] - np.float32(ATRIAL_WALL),
    )
    if not heart.two:
        ventricle = np.maximum(raw["right_ventricle"], v - np.float32(heart.base))
        atrium = np.maximum(raw["right_atrium"], np.float32(heart.base - heart.offset) - v)
        outer = np.minimum(outer, ventricle - np.float32(FREE_WALL))
        outer = np.minimum(outer, atrium - np.float32(ATRIAL_WALL))
    return Maps(u, v, _cavities(heart, raw, u, v, trabeculae), outer)


def _cavities(
    heart: Heart,
    raw: dict[str, np.ndarray],
    u: np.ndarray,
    v: np.ndarray,
    trabeculae: np.ndarray | float = 0.0,
) -> dict[str, np.ndarray]:
    """Distance in mm to each chamber's blood at points u, v, from the distances to its whole egg: what valve
    planes and septa leave of it. `trabeculae` (unit strength) roughen the ventricles, the apex most."""
    base, wall = np.float32(heart.base), np.float32(heart.wall)
    rough = np.clip(1.1 - v / base, 0.1, 1) * np.float32(0.55) * trabeculae
    septum = np.maximum(raw["left_ventricle"], v - base)
    blood = {
        "left_ventricle": np.maximum(raw["left_ventricle"] + rough, v - base),
        "left_atrium": np.maximum(raw["left_atrium"], base - v),
    }
    if not heart.two:
        tricuspid = base - np.float32(heart.offset)
        right = np.maximum(raw["right_ventricle"] + np.float32(0.6) * trabeculae, v - tricuspid)
        blood["right_ventricle"] = np.maximum(right, wall - septum)
        thin = np.float32(ATRIAL_WALL)
        between = thin + (wall - thin) * np.clip((base + 8 - v) / 10, 0, 1)  # thick where valves insert
        right = np.maximum(raw["right_atrium"], tricuspid - v)
        blood["right_atrium"] = np.maximum(right, np.maximum(between - raw["left_atrium"], wall - septum))
    return blood


def _surroundings(scene: Scene) -> None:
    """Lung beside and behind the heart: a haze with streaks along the beams and reverberations across them,
    fading with the depth."""
    rng = scene.rng
    scene.paint(scene.z > -1, t.LUNG_HAZE)
    streaks = rng.uniform(2, 6) * smooth_field(rng, 3, 26) + rng.uniform(2, 5) * smooth_field(rng, 60, 5)
    fade = np.linspace(rng.uniform(4, 8), -rng.uniform(3, 7), len(scene.z), dtype=np.float32)[:, None]
    scene.echo_db += streaks.astype(np.float32) + fade


def _around_the_base(scene: Scene, heart: Heart, maps: Maps, mouths: list[Mouth]) -> None:
    """Fat in the groove and behind the atria, the descending aorta, and what opens into the left atrium."""
    rng, left = scene.rng, heart.chambers["left_atrium"]
    behind = (maps.outer < rng.uniform(2, 6)) & (maps.v > heart.base - 8)
    scene.paint(behind, t.EPICARDIAL_FAT)
    aorta, radius, across = rng.random() < 0.45, rng.uniform(8, 11), rng.uniform(0.2, 1.1)
    if aorta:
        at = left.u + left.half * across, left.v + left.down + ATRIAL_WALL + radius + 3
        _vessel(scene, maps, at, radius)
    for points, radii in mouths:
        if heart.two:
            _stroke(scene, maps, points, [radius + 1.2 for radius in radii], t.WALL_OF_ATRIUM)
        _stroke(scene, maps, points, radii, t.BLOOD)


def sample_mouths(rng: np.random.Generator, heart: Heart) -> list[Mouth]:
    """What opens into the left atrium: a pulmonary vein at its roof or, in the two-chamber view, the
    appendage below the anterior wall; often neither is met."""
    left = heart.chambers["left_atrium"]
    there, way, wide, far = rng.random(), rng.choice((-0.6, 0.7)), rng.uniform(2.0, 4.0), rng.uniform(10, 17)
    if heart.two and there < 0.5:
        inner, outer = (left.u + 0.7 * left.half, heart.base + 11), (left.u + left.half + far, heart.base + 5)
        return [([inner, outer], [5.5, 3.2])]
    if there < 0.5:
        roof = left.v + left.down
        inner, outer = (left.u + way * left.half, roof - 7), (left.u + 1.8 * way * left.half, roof + far)
        return [([inner, outer], [wide, wide])]
    return []


def _vessel(scene: Scene, maps: Maps, at: Point, radius: float) -> None:
    """A vessel cut across."""
    distance = np.hypot(maps.u - np.float32(at[0]), maps.v - np.float32(at[1])) - np.float32(radius)
    scene.paint_interface(distance, 0, 1.6, t.ANNULUS)
    scene.paint(distance < 0, t.BLOOD)


def _walls(scene: Scene, heart: Heart, maps: Maps, coarse: bool) -> None:
    """Pericardium, then myocardium and the thin walls of the atria, with fibres, and drop-out where a wall
    runs along the beam."""
    rng = scene.rng
    scene.paint_interface(maps.outer, 0, 1.4, t.PERICARDIUM)
    muscle = maps.outer < 0
    scene.paint(muscle, t.MYOCARDIUM)
    atrial = muscle & (maps.v > heart.base + 4)
    scene.paint(atrial, t.WALL_OF_ATRIUM)
    fibres = rng.uniform(1.0, 2.2) * smooth_field(rng, 26, 60)
    change = (fibres + _facing_db(rng, heart, maps)).astype(np.float32)
    scene.echo_db[muscle] += change[muscle]
    if coarse:
        scene.add_texture(muscle, 4.5)
    if not heart.two:  # the fossa ovalis is thin and runs along the beam: its echo is lost
        left = heart.chambers["left_atrium"]
        at = left.u - left.half, left.v + rng.uniform(-0.25, 0.1) * left.down
        gap = np.hypot(maps.u - np.float32(at[0]), (maps.v - np.float32(at[1])) / 1.6) < rng.uniform(3, 6)
        scene.brighten(gap & atrial, -rng.uniform(8, 18))


def _facing_db(rng: np.random.Generator, heart: Heart, maps: Maps) -> np.ndarray:
    """What the direction of a wall does to its echo (dB): patchy loss in both side walls, a little more from
    the septum in the middle of the scan."""
    half, wall = np.float32(heart.chambers["left_ventricle"].half), np.float32(heart.wall)
    lateral = np.clip(maps.u / half - 0.35, 0, 1)
    other = -maps.u / half - 0.35 if heart.two else -(maps.u + half + wall) / 12 - 0.3
    patchy = 1 + np.float32(0.5) * smooth_field(rng, 9, 12)
    lost = (rng.uniform(5, 14) * lateral + rng.uniform(3, 10) * np.clip(other, 0, 1)) * patchy
    septal = np.clip(1 - np.abs(maps.u + half + wall / 2) / wall, 0, 1) * rng.uniform(1, 3)
    return septal - np.clip(lost, 0, 16)


def _blood(scene: Scene, maps: Maps, mouths: list[Mouth]) -> None:
    for distance in maps.blood.values():
        scene.paint(distance < 0, t.BLOOD)
    for (inner, outer), radii in mouths:  # through the wall of the atrium
        middle = (0.6 * inner[0] + 0.4 * outer[0]), (0.6 * inner[1] + 0.4 * outer[1])
        _stroke(scene, maps, [inner, middle], radii[0], t.BLOOD)


def _coronary_sinus(scene: Scene, heart: Heart, maps: Maps) -> None:
    """In the two-chamber view, cut across: a dot in the groove between inferior wall and left atrium."""
    there, radius = scene.rng.uniform((0, 2.4), (1, 3.8))
    left = heart.chambers["left_atrium"]
    if heart.two and there < 0.75:
        _vessel(scene, maps, (left.u - left.half - radius - 1, heart.base + radius + 2), radius)


def _papillary_muscles(scene: Scene, heart: Heart, maps: Maps) -> None:
    """From the side wall towards the valve, above the widest section, with a chord to the leaflet. The septum
    carries none."""
    rng, ventricle = scene.rng, heart.chambers["left_ventricle"]
    for way in (RIGHT, LEFT) if heart.two else (RIGHT,):
        there = rng.random() < 0.5
        root, tip, inwards, thick = rng.uniform((0.34, 0.5, 0.58, 1.9), (0.42, 0.56, 0.7, 2.8))
        if not there:
            continue
        foot = way * 0.99 * _width(ventricle, root * heart.base), root * heart.base
        end = way * inwards * _width(ventricle, tip * heart.base), tip * heart.base
        leaflet = way * heart.annulus * (0.1 + 0.6 * heart.opening), heart.base - 5 - 9 * heart.opening
        _stroke(scene, maps, [foot, end], [thick + 0.8, thick * 0.7], t.PAPILLARY)
        _stroke(scene, maps, [end, leaflet], 0.5, t.CHORDA)


def _moderator_band(scene: Scene, heart: Heart, maps: Maps) -> None:
    """Across the right ventricle, from the septum to the free wall in its apical half."""
    there, at, thick = scene.rng.uniform((0, 0.32, 0.7), (1, 0.48, 1.4))
    if heart.two or there > 0.6:
        return
    left, right = heart.chambers["left_ventricle"], heart.chambers["right_ventricle"]
    septal = -_width(left, at * heart.base) - heart.wall + 2, at * heart.base
    free = -(left.half + heart.wall) - 1.6 * right.half, (at + 0.12) * heart.base
    band = bend([septal, (free[0] * 0.7, septal[1]), free], 4)
    _stroke(scene, maps, band, thick, t.MODERATOR, "right_ventricle")


def _width(egg: Egg, v: float) -> float:
    """Half its width at `v`, 0 beyond its ends."""
    along = (v - egg.v) / (egg.up if v < egg.v else egg.down)
    return egg.half * float(np.sqrt(max(0.0, 1 - along**2)))


# ------------ valves ------------


def _valves(scene: Scene, heart: Heart, maps: Maps) -> None:
    """Annulus and leaflets: a shallow tent when closed, along the walls when open."""
    left = heart.chambers["left_ventricle"]
    _valve(scene, heart, maps, 0.0, heart.annulus, heart.base, 1.3 * left.half)
    if not heart.two:
        inner = -_width(left, heart.base - heart.offset) - heart.wall
        right = heart.chambers["right_ventricle"]
        level = heart.base - heart.offset
        outer = right.u - right.lean * (level - right.v) - _width(right, level)
        middle, half = (inner + outer) / 2, max((inner - outer) / 2 - 1.5, 9.0)
        _valve(scene, heart, maps, middle, half, level, half + 2)


def _valve(
    scene: Scene, heart: Heart, maps: Maps, middle: float, half: float, level: float, end: float
) -> None:
    """Two leaflets that hinge `half` mm to each side of `middle` at `level`; tissue of the annulus from there
    out to `end`. The leaflet on the side of the screen's left is the longer one."""
    rng, opening = scene.rng, heart.opening
    tent, longer, sag = rng.uniform(3, 7), rng.uniform(1.05, 1.3), rng.uniform(1, 4)
    for way, length in ((LEFT, longer), (RIGHT, 2 - longer)):
        hinge = middle + way * half, level
        _stroke(scene, maps, [(middle + way * end, level), hinge], [2.4, 1.2], t.ANNULUS)
        if opening:
            tip = (
                middle + way * half * (0.25 + 0.6 * opening),
                level - half * length * (0.75 + 0.25 * opening),
            )
            belly = middle + way * half * (0.9 + 0.1 * opening), level - 0.5 * half
            tissue = t.VALVE_ALONG
        else:
            tip = middle + half * (1 - longer), level - tent
            belly = (hinge[0] + tip[0]) / 2, level - tent * 0.4 + sag * 0.5
            tissue = t.VALVE
        _stroke(scene, maps, bend([hinge, belly, tip], 5), [0.8, 0.6, 0.6, 0.7, 1.0], tissue)


def _stroke(
    scene: Scene,
    maps: Maps,
    points: list[Point],
    radius: float | list[float],
    tissue: t.Tissue,
    within: str | None = None,
) -> None:
    """Paint a bent band through `points`, `radius` mm to each side; only where the chamber `within` has
    blood, if one is named. Works on the part of the scene around the points, which is small."""
    line = np.asarray(points, np.float32)
    radii = np.broadcast_to(np.asarray(radius, np.float32), len(line))
    low, high = line.min(0) - radii.max(), line.max(0) + radii.max()
    near = (maps.v > low[1]) & (maps.v < high[1]) & (maps.u > low[0]) & (maps.u < high[0])
    if within:
        near &= maps.blood[within] < 0
    at = np.flatnonzero(near)
    u, v = maps.u.ravel()[at], maps.v.ravel()[at]
    (u0, v0), (du, dv) = line[:-1].T[..., None], np.diff(line, axis=0).T[..., None]  # each [segments, 1]
    share = np.clip(((u - u0) * du + (v - v0) * dv) / (du * du + dv * dv + 1e-6), 0, 1)
    reach = radii[:-1, None] + share * np.diff(radii)[:, None]
    inside = (np.hypot(u - u0 - share * du, v - v0 - share * dv) < reach).any(0)
    mask = np.zeros(maps.u.shape, bool)
    mask.ravel()[at[inside]] = True
    scene.paint(mask, tissue)


def _near_field(scene: Scene) -> None:
    """The chest wall above the apex, the probe's own clutter that veils the blood behind it, and the outer
    beams that ribs and lung weaken."""
    rng = scene.rng
    deep = scene.grid.z
    chest = deep < rng.uniform(11, 15)
    stripes = np.interp(deep[chest], np.arange(0.0, 16.0, 2.5), rng.normal(3, 5, 7))
    scene.paint(chest, t.MUSCLE)
    scene.brighten(chest, stripes.astype(np.float32))
    veil = rng.uniform(-24, -14) - rng.uniform(0.4, 0.6) * (deep - 10) + 3 * smooth_field(rng, 40, 8)
    np.maximum(scene.echo_db, veil, out=scene.echo_db, where=deep < 70)
    edge = np.linspace(-1, 1, scene.z.shape[1], dtype=np.float32)
    for way in (LEFT, RIGHT):
        scene.echo_db -= rng.uniform(0, 9) * np.clip((way * edge - rng.uniform(0.7, 0.85)) / 0.2, 0, 1)


# ------------ flow and masses ------------


def _flow(scene: Scene, heart: Heart, maps: Maps) -> None:
    """Diastole: inflow through both valves, a jet that spreads. Systole: slow flow towards the outflow tract
    and, at times, the short narrow jet of a valve that leaks a little, as in health: nothing that a report
    would call abnormal."""
    rng, left = scene.rng, heart.chambers["left_ventricle"]
    strength, aim, trivial = rng.uniform(0.6, 1.0), rng.uniform(-0.05, 0.15), rng.random() < 0.4
    length, thick = rng.uniform(9, 15), rng.uniform(1.8, 2.8)
    atrium = heart.base + 0.9 * heart.chambers["left_atrium"].half
    if heart.opening:
        reach = rng.uniform(0.12, 0.35) * heart.base
        _jet(scene, heart, maps, (0.0, atrium), (aim * left.half, reach), 0.9 * heart.annulus, strength)
        if not heart.two:
            right = heart.chambers["right_ventricle"]
            start, end = (right.u - 4, atrium - heart.offset), (right.u + 5, 0.55 * heart.base)
            _jet(scene, heart, maps, start, end, 0.5 * right.half, 0.7 * strength)
        return
    septal = (-0.45 * left.half, 0.45 * heart.base), (-0.5 * left.half, heart.base - 3)
    _jet(scene, heart, maps, *septal, 0.4 * left.half, -0.6 * strength)
    if trivial:
        _jet(scene, heart, maps, (1.0, heart.base - 2), (aim * 40, heart.base + length), thick, -1.0)


def _jet(
    scene: Scene, heart: Heart, maps: Maps, start: Point, end: Point, radius: float, strength: float
) -> None:
    """Flow from `start` to `end` that widens by half and slows down on the way, in blood alone."""
    du, dv = end[0] - start[0], end[1] - start[1]
    along = ((maps.u - start[0]) * du + (maps.v - start[1]) * dv) / (du * du + dv * dv)
    away = ((maps.u - start[0]) * dv - (maps.v - start[1]) * du) / np.hypot(du, dv)
    ragged = 1 + np.clip(0.2 * smooth_field(scene.rng, 50, 30), -0.4, 0.4)
    across = away * ragged / (radius * (0.85 + 0.6 * np.clip(along, 0, 1)))
    inside = (across**2 + (2 * along - 1) ** 4 * ragged < 1) & (scene.label == t.FLUID)
    pace = strength * np.clip(1.25 - np.abs(along - 0.35) * 1.3, 0.3, 1)
    scene.flow[inside] = pace[inside]


def _mass(scene: Scene, heart: Heart, maps: Maps, lesion: Lesion, doppler: bool) -> None:
    """A thrombus lies on the apex of the ventricle; a myxoma hangs by a stalk from the atrial septum (in the
    two-chamber view from the inferior wall)."""
    chamber = heart.chambers[lesion.place]
    blood = maps.blood[lesion.place] < 0
    ventricle = "ventricle" in lesion.place
    u, v = _place_of(heart, lesion, scene.rng.uniform(-1, 1))
    around = t.MYOCARDIUM.echo_db + 3
    if ventricle:
        scene.paint(blood & (maps.v < v - 0.2 * lesion.short_mm), t.MYOCARDIUM)
    else:
        side = LEFT if lesion.place == "left_atrium" else RIGHT
        root = chamber.u + side * (chamber.half + 1), v + 2
        _stroke(scene, maps, [root, (u, v)], [2.6, 1.8], replace(t.MYOCARDIUM, echo_db=around))
    x, z = heart.screen(u, v)
    paint_lesion(scene, lesion, x, z, around, clip=blood, halo=False)
    scene.flow[scene.label == t.LESION] = 0
    if doppler:
        paint_flow(scene, lesion, x, z)


def _place_of(heart: Heart, lesion: Lesion, chance: float) -> Point:
    """Middle of the mass: as near to its root as the chamber has room for all of it. `chance` (-1 … 1) moves
    it a little."""
    chamber = heart.chambers[lesion.place]
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    turns = np.deg2rad((-12, 0, 12))[:, None]  # as far as a lesion may be tilted
    a, b = 0.52 * lesion.long_mm * np.cos(angle), 0.52 * lesion.short_mm * np.sin(angle)
    x, z = a * np.cos(turns) - b * np.sin(turns), a * np.sin(turns) + b * np.cos(turns)
    cos, sin = np.cos(heart.turn), np.sin(heart.turn)
    rim_u, rim_v = (x * cos - z * sin).ravel(), (x * sin + z * cos).ravel()
    if "ventricle" in lesion.place:
        v = np.linspace(4, 0.75 * heart.base, 90)
        u = np.full_like(v, 0.1 * chance * chamber.half)
    else:
        side = LEFT if lesion.place == "left_atrium" else RIGHT
        u = chamber.u + side * np.linspace(chamber.half, -0.2 * chamber.half, 60)
        v = np.full_like(u, chamber.v + 0.08 * chance * chamber.down)
    rim_u, rim_v = u[:, None] + rim_u, v[:, None] + rim_v
    raw = {name: egg.distance(rim_u, rim_v) for name, egg in heart.chambers.items()}
    far = _cavities(heart, raw, rim_u, rim_v)[lesion.place].max(1)
    fits = np.flatnonzero(far < -1.5)
    best = fits[0] if len(fits) else int(far.argmin())
    return float(u[best]), float(v[best])

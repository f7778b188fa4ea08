"""Heart, apical four- and two-chamber views with a phased array: apex at the top, left ventricle on the right
of the screen.

Where the chambers lie is `heart_chambers.py`'s; here they are painted, in its coordinates `u` and `v`: walls,
blood and what stands in it, valves, flow, masses. What carries no measurement follows echocardiography texts;
chosen by eye, not fitted to patients.

Does not know: the beat itself (each view is one moment, systole or diastole), wall motion, other windows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simulator import tissue as t
from simulator.anatomy import Setting
from simulator.anatomy.heart_chambers import (
    ATRIAL_WALL,
    Heart,
    Maps,
    Mouth,
    Point,
    cavities,
    chamber_maps,
    sample_heart,
    sample_mouths,
)
from simulator.examination import Examination, Lesion, View
from simulator.lesion import paint_flow, paint_lesion
from simulator.probe import PHASED
from simulator.scene import Scene, bend, smooth_field

VIEWS = {
    "apical_four_chamber": Setting(PHASED, (150.0, 160.0)),
    "apical_two_chamber": Setting(PHASED, (150.0, 160.0)),
}
LEFT, RIGHT = -1.0, 1.0


def draw(scene: Scene, examination: Examination, view: View) -> None:
    """Paint the view back to front; the lesion last, so that the heart is the same with and without it."""
    heart = sample_heart(scene.rng, examination.measures, view.name == "apical_two_chamber")
    maps = chamber_maps(scene, heart)
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
    _measured(scene, heart)


def _measured(scene: Scene, heart: Heart) -> None:
    """Where the left atrium and the septum are measured: at the widest sections of atrium and ventricle."""
    atrium, ventricle = heart.chambers["left_atrium"], heart.chambers["left_ventricle"]
    spans = {"left_atrium": (atrium.v, atrium.u - atrium.half, atrium.u + atrium.half)}
    if not heart.two:
        spans["septum"] = (ventricle.v, -ventricle.half - heart.wall, -ventricle.half)
    for name, (v, *ends) in spans.items():
        scene.measured[name] = tuple(heart.screen(u, v) for u in ends)


def chambers(scene: Scene, examination: Examination, view: View) -> dict[str, np.ndarray]:
    """Which samples belong to each chamber, blood and what stands in it, bool [SAMPLES, BEAMS]. `scene` is
    one that nothing was painted into: the heart is then the same that `draw` paints."""
    heart = sample_heart(scene.rng, examination.measures, view.name == "apical_two_chamber")
    return {name: distance < 0 for name, distance in chamber_maps(scene, heart).blood.items()}


# ------------ around the heart ------------


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


def _vessel(scene: Scene, maps: Maps, at: Point, radius: float) -> None:
    """A vessel cut across."""
    distance = np.hypot(maps.u - np.float32(at[0]), maps.v - np.float32(at[1])) - np.float32(radius)
    scene.paint_interface(distance, 0, 1.6, t.ANNULUS)
    scene.paint(distance < 0, t.BLOOD)


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


# ------------ walls, blood, and what stands in it ------------


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
        foot = way * 0.99 * ventricle.half_at(root * heart.base), root * heart.base
        end = way * inwards * ventricle.half_at(tip * heart.base), tip * heart.base
        leaflet = way * heart.annulus * (0.1 + 0.6 * heart.opening), heart.base - 5 - 9 * heart.opening
        _stroke(scene, maps, [foot, end], [thick + 0.8, thick * 0.7], t.PAPILLARY)
        _stroke(scene, maps, [end, leaflet], 0.5, t.CHORDA)


def _moderator_band(scene: Scene, heart: Heart, maps: Maps) -> None:
    """Across the right ventricle, from the septum to the free wall in its apical half."""
    there, at, thick = scene.rng.uniform((0, 0.32, 0.7), (1, 0.48, 1.4))
    if heart.two or there > 0.6:
        return
    left, right = heart.chambers["left_ventricle"], heart.chambers["right_ventricle"]
    septal = -left.half_at(at * heart.base) - heart.wall + 2, at * heart.base
    free = -(left.half + heart.wall) - 1.6 * right.half, (at + 0.12) * heart.base
    band = bend([septal, (free[0] * 0.7, septal[1]), free], 4)
    _stroke(scene, maps, band, thick, t.MODERATOR, "right_ventricle")


# ------------ valves ------------


def _valves(scene: Scene, heart: Heart, maps: Maps) -> None:
    """Annulus and leaflets: a shallow tent when closed, along the walls when open."""
    left = heart.chambers["left_ventricle"]
    _valve(scene, heart, maps, 0.0, heart.annulus, heart.base, 1.3 * left.half)
    if not heart.two:
        inner = -left.half_at(heart.base - heart.offset) - heart.wall
        right = heart.chambers["right_ventricle"]
        level = heart.base - heart.offset
        outer = right.u - right.lean * (level - right.v) - right.half_at(level)
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
    far = cavities(heart, raw, rim_u, rim_v)[lesion.place].max(1)
    fits = np.flatnonzero(far < -1.5)
    best = fits[0] if len(fits) else int(far.argmin())
    return float(u[best]), float(v[best])

"""Uterus and ovaries, seen through the filled bladder with a convex probe.

Cranial is on the left of a sagittal picture, as usual: an anteverted uterus turns its fundus up to the
bladder, a retroverted one down to the spine. Proportions come from the examination's measures; the filling
of the bladder, the tilt, the follicles, bowel and a little free fluid are typical (chosen; not measured).

Knows nothing of reports, or of how an echo becomes a pixel.
"""

from __future__ import annotations

import numpy as np

from simulator import tissue as t
from simulator.anatomy import Setting
from simulator.anatomy.abdominal_wall import abdominal_wall
from simulator.anatomy.axis import Axis, Point
from simulator.anatomy.bowel import gas_loop
from simulator.anatomy.patch import Patch, spot
from simulator.examination import Examination, View
from simulator.lesion import paint_flow, paint_lesion
from simulator.probe import CONVEX
from simulator.scene import Scene, bend, smooth_field

VIEWS = {
    "sagittal": Setting(CONVEX, (100.0, 110.0)),
    "transverse": Setting(CONVEX, (100.0, 110.0)),
    "adnexa": Setting(CONVEX, (100.0, 110.0)),
}
PELVIC_FAT = t.Tissue(5, 0.5, 2.5)  # fat and collapsed bowel around the organs, brighter than they are
SEROSA = t.Tissue(15, 0.6)
JUNCTIONAL_ZONE = t.Tissue(-9, 0.5, 1.0, t.PARENCHYMA)  # the dark inner layer of the myometrium
LINING_DARK = t.Tissue(-9, 0.5, 1.0)  # the layers between the three lines of the endometrium


def draw(scene: Scene, examination: Examination, view: View) -> None:
    rng = scene.rng
    scene.paint(scene.z > 0, PELVIC_FAT)
    scene.add_texture(scene.z > 0, 4)
    wall = float(rng.uniform(10, 14))
    floor = _bladder(scene, wall, view.name == "sagittal")
    site = {"sagittal": _sagittal, "transverse": _transverse, "adnexa": _adnexa}[view.name](
        scene, examination, floor
    )
    abdominal_wall(scene, wall)
    if view.shows_lesion:
        around = t.OVARY if view.name == "adnexa" else t.MYOMETRIUM
        paint_lesion(scene, examination.lesion, *site, around.echo_db)
        if view.doppler:
            paint_flow(scene, examination.lesion, *site)


def _bladder(scene: Scene, wall_mm: float, lengthwise: bool) -> float:
    """The bladder, more or less full, with the haze of reverberation in its near part; returns the depth
    (mm) at which the pelvic organs begin."""
    rng = scene.rng
    deep = float(rng.uniform(7.5, 13.5))
    cx, cz = float(rng.uniform(-6, 14) if lengthwise else rng.uniform(-6, 6)), wall_mm + 1.5 + deep
    wide, tilt = (
        float(rng.uniform(28, 34) + deep),
        float(rng.uniform(-3, 8) if lengthwise else rng.uniform(-4, 4)),
    )
    bladder = scene.ellipse(cx, cz, wide, deep, tilt, 0.05)
    if not lengthwise:  # across, a full bladder is a rounded box
        box = ((np.abs(scene.x - cx) / wide) ** 3 + (np.abs(scene.z - cz) / deep) ** 3) ** np.float32(
            1 / 3
        ) - 1
        bladder = 0.5 * (bladder + box)
    scene.paint_interface(bladder, -0.06, 1.6 / deep, t.WALL)
    lumen = bladder < 0
    scene.paint(lumen, t.FLUID_CLEAR)
    scene.attenuation[lumen] = 0.35  # sonographers turn the gain down behind a full bladder
    below = scene.z[lumen] - np.float32(wall_mm + 1.5)
    haze = np.float32(rng.uniform(30, 40)) * np.exp(-np.maximum(below, 0) / np.float32(rng.uniform(4, 8)))
    scene.echo_db[lumen] += haze * (1 + 0.25 * np.cos(below * np.float32(2 * np.pi / 4.5)))
    return cz + deep + 1.6


def _sagittal(scene: Scene, examination: Examination, floor: float) -> Point:
    """Body and cervix along the long axis, `uterus_length` from end to end; returns the lesion's place."""
    m, rng = examination.measures, scene.rng
    length, depth = m["uterus_length"], m["uterus_depth"]
    turn = float(rng.uniform(2, 22) if rng.random() < 0.72 else rng.uniform(-20, -6))
    bow = float(rng.uniform(-4, 14)) * (1 if turn > 0 else -0.5)  # the cervix is bent against the body
    long, high = 0.34 * length, 0.5 * depth
    height = float(np.hypot(long * np.sin(np.deg2rad(turn)), high * np.cos(np.deg2rad(turn))))
    axis = Axis(float(rng.uniform(-12, -2)) - 0.1 * length, floor + height + float(rng.uniform(1, 3)), turn)
    body = scene.ellipse(axis.x, axis.z, long, high, turn, 0.03)
    joint = axis.point(0.24 * length)
    neck = Axis(*joint, turn - bow)
    # From the fundus to the outer end of the cervix it is `length`, whatever the bend.
    tip = np.array(axis.point(-long))
    reach = _reach(np.array(joint) - tip, neck.turn_deg, length)
    half = 0.5 * reach + 0.05 * length
    cervix = scene.ellipse(*neck.point(reach - half), half, 0.3 * depth, neck.turn_deg)
    whole = np.minimum(body, cervix)
    _behind_the_uterus(scene, whole, axis, high)
    _muscle(scene, whole, examination)
    _lining(scene, axis, 0.24 * length, m["endometrium"], 0.03 * length)
    canal = [neck.point(0.1 * reach), neck.point(0.55 * reach, 0.5), neck.point(0.92 * reach)]
    patch = Patch.around(scene, canal, 2)
    patch.paint(patch.tube(canal, (1.0, 0.8, 0.8)) < 0, t.SEPTUM)
    _vagina(scene, neck, reach)
    if rng.random() < 0.25:  # a Nabothian cyst
        size = float(rng.uniform(1.6, 3))
        patch, cyst = spot(
            scene, *neck.point(float(rng.uniform(0.4, 0.7)) * reach, -0.14 * depth), size, size
        )
        patch.paint(cyst < 0, t.FLUID_CLEAR)
    scene.measured["uterus_length"] = tuple(tip), neck.point(reach)
    lesion = examination.lesion
    if lesion is None:
        return axis.point(0)
    out = high - 0.42 * lesion.short_mm
    sites = {"anterior_wall": (0.02 * length, -out), "posterior_wall": (0.02 * length, out)}
    return axis.point(*sites.get(lesion.place, (-0.30 * length + 0.25 * lesion.long_mm, -2.0)))


def _reach(start: np.ndarray, turn_deg: float, length: float) -> float:
    """How far to go in the direction `turn_deg` from `start` to be `length` away from the origin (mm)."""
    way = np.array((np.cos(np.deg2rad(turn_deg)), np.sin(np.deg2rad(turn_deg))))
    along = float(start @ way)
    return float(-along + np.sqrt(along**2 + length**2 - start @ start))


def _muscle(scene: Scene, whole: np.ndarray, examination: Examination) -> None:
    """Serosa and myometrium, with slits of the arcuate vessels in its outer third."""
    rng = scene.rng
    scene.paint_interface(whole, -0.04, 0.05, SEROSA)
    inside = whole < 0
    scene.paint(inside, t.MYOMETRIUM)
    scene.add_texture(inside, 4.0 if examination.background == "coarse" else 1.8)
    slits = smooth_field(rng, 44, 26)
    scene.echo_db[(whole < -0.14) & (whole > -0.34) & (slits > float(rng.uniform(1.5, 2.2)))] -= 9


def _lining(scene: Scene, axis: Axis, half_length: float, thick: float, aside: float) -> None:
    """The endometrium, as thick as stated over all: one bright stripe, or three lines with dark between."""
    rng = scene.rng
    three_lines = rng.random() < 0.45
    x, z = axis.point(aside)
    patch, lining = spot(scene, x, z, half_length, thick / 2, axis.turn_deg)
    patch.paint((lining < 0.3) & (patch.label == t.PARENCHYMA), JUNCTIONAL_ZONE)
    patch.paint(lining < 0, t.ENDOMETRIUM)
    if three_lines:
        inner = patch.ellipse(x, z, half_length - 1.2, max(thick / 2 - 1.2, 0.5), axis.turn_deg)
        patch.paint(inner < 0, LINING_DARK)
        middle = Axis(x, z, axis.turn_deg)
        line = [middle.point(-0.85 * half_length), middle.point(0.85 * half_length)]
        patch.paint(patch.tube(line, (0.55, 0.55)) < 0, t.ENDOMETRIUM)
    at = Axis(x, z, axis.turn_deg)
    scene.measured["endometrium"] = at.point(0, -thick / 2), at.point(0, thick / 2)


def _vagina(scene: Scene, neck: Axis, reach: float) -> None:
    """The bright line between the walls of the vagina, from the cervix downwards to the right."""
    start = neck.point(reach + 1)
    path = bend([start, (start[0] + 16, start[1] + 2), (start[0] + 44, start[1] - 4)], 5)
    patch = Patch.around(scene, path, 5)
    away = patch.tube(path, (4.0,) * 5)
    free = (away < 0) & (patch.label == t.OTHER)
    patch.paint(free, t.MUSCLE)
    patch.paint(free & (away < -3.2), t.SEPTUM)


def _behind_the_uterus(scene: Scene, whole: np.ndarray, axis: Axis, high: float) -> None:
    """Bowel with gas and its haze behind the uterus, and at times a little fluid in the pouch of Douglas."""
    rng = scene.rng
    for _ in range(int(rng.integers(1, 4))):
        x = float(rng.uniform(-46, 46))
        low = axis.z + high + float(rng.uniform(10, 24))
        gas_loop(scene, x, low, float(rng.uniform(9, 15)), float(rng.uniform(6, 8)), float(rng.uniform(4, 9)))
    if rng.random() < 0.25:
        x, z = axis.point(float(rng.uniform(6, 20)), high + 1.5)
        patch, pouch = spot(
            scene, x, z, float(rng.uniform(12, 20)), float(rng.uniform(3, 5.5)), axis.turn_deg
        )
        patch.paint((pouch < 0) & (whole[patch.at] > 0.05), t.FLUID_CLEAR)


def _transverse(scene: Scene, examination: Examination, floor: float) -> Point:
    """The uterus across between the ovaries; returns the lesion's place."""
    m, rng = examination.measures, scene.rng
    depth = m["uterus_depth"]
    axis = Axis(
        float(rng.uniform(-6, 6)), floor + depth / 2 + float(rng.uniform(1, 3)), float(rng.uniform(-9, 9))
    )
    body = scene.ellipse(
        axis.x, axis.z, depth * float(rng.uniform(0.56, 0.66)), depth / 2, axis.turn_deg, 0.04
    )
    _behind_the_uterus(scene, body, axis, depth / 2)
    for way in (-1, 1):
        if rng.random() < 0.85:
            _ovary(
                scene,
                axis.x + way * (depth * 0.6 + float(rng.uniform(12, 17))),
                axis.z + float(rng.uniform(-6, 8)),
            )
    _muscle(scene, body, examination)
    _lining(scene, axis, depth * float(rng.uniform(0.22, 0.3)), m["endometrium"], 0.0)
    aside, lesion = float(rng.uniform(-5, 5)), examination.lesion
    if lesion is None:
        return axis.x, axis.z
    way = {"anterior_wall": -1.0, "posterior_wall": 1.0}.get(lesion.place, -0.6)
    return axis.point(aside, way * (depth / 2 - 0.42 * lesion.short_mm))


def _adnexa(scene: Scene, examination: Examination, floor: float) -> Point:
    """One ovary with its follicles beside the edge of the uterus; with a lesion, the ovary is what is left
    of it. Returns the lesion's place."""
    rng = scene.rng
    right = examination.lesion is None or examination.lesion.place != "left_ovary"
    way = -1 if right else 1
    low = floor + float(rng.uniform(22, 30))
    edge = scene.ellipse(
        -way * float(rng.uniform(38, 48)),
        low,
        28,
        float(rng.uniform(18, 23)),
        float(rng.uniform(-12, 12)),
        0.05,
    )
    _muscle(scene, edge, examination)
    x, z = way * float(rng.uniform(4, 10)), low + float(rng.uniform(-2, 4))
    gas_loop(
        scene,
        way * float(rng.uniform(34, 46)),
        z + float(rng.uniform(-2, 18)),
        float(rng.uniform(10, 16)),
        8.0,
        6.0,
    )
    if rng.random() < 0.55:
        _iliac_vessels(scene, x, z)
    _ovary(scene, x, z)
    return x + way * 2, z


def _iliac_vessels(scene: Scene, x: float, z: float) -> None:
    """The internal iliac vessels behind the ovary, by which it is found."""
    rng = scene.rng
    low, turn = z + float(rng.uniform(15, 24)), float(rng.uniform(-20, 20))
    axis, long = Axis(x + float(rng.uniform(-14, 14)), low, turn), float(rng.uniform(12, 26))
    path = bend([axis.point(-long), axis.point(0, float(rng.uniform(-8, 8))), axis.point(long)], 6)
    radii = np.linspace(float(rng.uniform(1.0, 1.8)), float(rng.uniform(1.6, 2.8)), 6)
    patch = Patch.around(scene, path, 5)
    away = patch.tube(path, radii)
    patch.paint_sheet(away, -0.2, 0.5, t.WALL)
    patch.paint(away < 0, t.BLOOD)
    scene.flow[patch.at][away < -0.4] = 0.5


def _ovary(scene: Scene, x: float, z: float) -> None:
    """An ovary and its follicles, few or many, at times one of them leading."""
    rng = scene.rng
    rx, rz, tilt = float(rng.uniform(12, 17)), float(rng.uniform(8, 10.5)), float(rng.uniform(-30, 30))
    axis, count = Axis(x, z, tilt), int(rng.integers(2, 9))
    patch, ovary = spot(scene, x, z, rx, rz, tilt)
    patch.paint_sheet(ovary * np.float32(rz), -0.3, 0.7, t.FASCIA)
    patch.paint(ovary < 0, t.OVARY)
    sizes = rng.uniform(1.3, 2.6, count)
    if rng.random() < 0.3:
        sizes[0] = rng.uniform(3.5, 5.5)
    angles = (
        rng.uniform(0, 2 * np.pi) + 2 * np.pi * (np.arange(count) + rng.uniform(-0.2, 0.2, count)) / count
    )
    for angle, size, share in zip(angles, sizes, rng.uniform(0.5, 1.0, count), strict=True):
        along, across = share * (rx - size - 1) * np.cos(angle), share * (rz - size - 1) * np.sin(angle)
        here, follicle = spot(scene, *axis.point(along, across), size, 0.9 * size, tilt)
        here.paint(follicle < 0, t.FLUID_CLEAR)

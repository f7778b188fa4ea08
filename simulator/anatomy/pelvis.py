"""Uterus and ovaries, seen through the filled bladder with a convex probe."""

from __future__ import annotations

import numpy as np

from simulator import tissue as t
from simulator.anatomy import Setting
from simulator.examination import Examination, View
from simulator.lesion import paint_flow, paint_lesion
from simulator.probe import CONVEX
from simulator.scene import Scene

VIEWS = {
    "sagittal": Setting(CONVEX, (100.0, 110.0)),
    "transverse": Setting(CONVEX, (100.0, 110.0)),
    "adnexa": Setting(CONVEX, (100.0, 110.0)),
}
BLADDER_FLOOR = 40.0  # mm: where the bladder ends and the pelvic organs begin


def draw(scene: Scene, examination: Examination, view: View) -> None:
    rng = scene.rng
    scene.paint(scene.z > 0, t.SOFT)
    scene.add_texture(scene.z > 0, 4)
    skin = np.hypot(scene.x, scene.z + scene.grid.probe.radius_mm) - scene.grid.probe.radius_mm
    bladder = scene.ellipse(rng.uniform(-6, 6), 27, rng.uniform(38, 48), 13.5, rng.uniform(-6, 6), 0.05)
    scene.paint_interface(bladder, -0.1, 0.14, t.WALL)
    scene.paint(bladder < 0, t.FLUID_CLEAR)
    scene.attenuation[bladder < 0] = 0.35  # sonographers turn the gain down behind a full bladder
    {"sagittal": _sagittal, "transverse": _transverse, "adnexa": _adnexa}[view.name](scene, examination, view)
    scene.paint(skin < 12, t.MUSCLE)
    scene.paint(skin < 7, t.FAT)
    scene.paint(skin < 2.5, t.SKIN)


def _sagittal(scene: Scene, examination: Examination, view: View) -> None:
    """Body and cervix along the long axis, `uterus_length` from fundus to cervix; fundus on the left."""
    m, rng = examination.measures, scene.rng
    length, depth = m["uterus_length"], m["uterus_depth"]
    tilt = rng.uniform(-4, 10)
    cz = BLADDER_FLOOR + depth / 2 + rng.uniform(1, 3)
    cx = rng.uniform(-8, 0)
    body = scene.ellipse(cx - 0.16 * length, cz, 0.34 * length, depth / 2, tilt, 0.03)
    turn = np.deg2rad(tilt)
    neck_x, neck_z = cx + 0.29 * length * np.cos(turn), cz + 0.36 * length * np.sin(turn) + 1
    cervix = scene.ellipse(neck_x, neck_z, 0.21 * length, 0.3 * depth, tilt + 4)
    whole = np.minimum(body, cervix)
    scene.paint_interface(whole, -0.05, 0.07, t.FASCIA)
    scene.paint(whole < 0, t.MYOMETRIUM)
    if examination.background == "coarse":
        scene.add_texture(whole < 0, 4.0)
    lining = scene.ellipse(cx - 0.13 * length, cz, 0.24 * length, m["endometrium"] / 2, tilt)
    scene.paint(lining < 0.25, t.PYRAMID)  # the dark inner zone around the lining
    scene.paint(lining < 0, t.ENDOMETRIUM)
    if view.shows_lesion:
        place = examination.lesion.place
        reach = depth / 2 - 0.42 * examination.lesion.short_mm
        site = {
            "anterior_wall": (cx - 0.14 * length, cz - reach),
            "posterior_wall": (cx - 0.14 * length, cz + reach),
        }
        x, z = site.get(place, (cx - 0.46 * length + 0.25 * examination.lesion.long_mm, cz - 2))
        _lesion(scene, examination, view, x, z, t.MYOMETRIUM.echo_db)


def _transverse(scene: Scene, examination: Examination, view: View) -> None:
    m, rng = examination.measures, scene.rng
    depth = m["uterus_depth"]
    cx, cz = rng.uniform(-4, 4), BLADDER_FLOOR + depth / 2 + rng.uniform(1, 3)
    body = scene.ellipse(cx, cz, depth * 0.6, depth / 2, 0, 0.04)
    scene.paint_interface(body, -0.05, 0.07, t.FASCIA)
    scene.paint(body < 0, t.MYOMETRIUM)
    if examination.background == "coarse":
        scene.add_texture(body < 0, 4.0)
    lining = scene.ellipse(cx, cz, depth * 0.26, m["endometrium"] / 2)
    scene.paint(lining < 0.25, t.PYRAMID)
    scene.paint(lining < 0, t.ENDOMETRIUM)
    for way in (-1, 1):
        _ovary(scene, cx + way * (depth * 0.6 + 14), cz + 2)
    if view.shows_lesion:
        reach = depth / 2 - 0.42 * examination.lesion.short_mm
        way = {"anterior_wall": -1.0, "posterior_wall": 1.0}.get(examination.lesion.place, -0.6)
        _lesion(scene, examination, view, cx + rng.uniform(-5, 5), cz + way * reach, t.MYOMETRIUM.echo_db)


def _adnexa(scene: Scene, examination: Examination, view: View) -> None:
    """One ovary with its follicles beside the edge of the uterus; with a lesion, the ovary is what is left
    of it."""
    rng = scene.rng
    right = examination.lesion is None or examination.lesion.place != "left_ovary"
    way = -1 if right else 1
    edge = scene.ellipse(-way * 44, 66, 28, 22, 0, 0.05)
    scene.paint_interface(edge, -0.05, 0.06, t.FASCIA)
    scene.paint(edge < 0, t.MYOMETRIUM)
    x, z = way * rng.uniform(4, 9), rng.uniform(64, 70)
    _ovary(scene, x, z)
    if view.shows_lesion:
        _lesion(scene, examination, view, x + way * 2, z, t.OVARY.echo_db)


def _ovary(scene: Scene, x: float, z: float) -> None:
    rng = scene.rng
    ovary = scene.ellipse(x, z, rng.uniform(13, 16), rng.uniform(8, 10), rng.uniform(-20, 20), 0.04)
    scene.paint_interface(ovary, -0.05, 0.08, t.FASCIA)
    scene.paint(ovary < 0, t.OVARY)
    for angle in rng.uniform(0, 2 * np.pi) + np.arange(rng.integers(3, 6)) * 1.25:
        at = rng.uniform(0.35, 0.6)
        size = rng.uniform(1.6, 2.6)
        follicle = scene.ellipse(x + at * 13 * np.cos(angle), z + at * 8 * np.sin(angle), size, size)
        scene.paint(follicle < 0, t.FLUID_CLEAR)


def _lesion(scene: Scene, examination: Examination, view: View, x: float, z: float, around_db: float) -> None:
    paint_lesion(scene, examination.lesion, x, z, around_db)
    if view.doppler:
        paint_flow(scene, examination.lesion, x, z)

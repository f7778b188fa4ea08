"""Liver, scanned with a convex probe through the abdominal wall: between the ribs, below them, lengthwise.

The anatomy follows any atlas of abdominal ultrasound: portal branches have bright walls, hepatic veins none
and run into the vena cava. Where the probe stands differs from scene to scene. Proportions are typical
adults' (chosen; not measured); the portal vein is as wide as stated.

Knows nothing of the standard planes, of reports, or of how an echo becomes a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator import tissue as t
from simulator.anatomy import Setting
from simulator.anatomy.abdominal_wall import abdominal_wall
from simulator.anatomy.axis import Point
from simulator.anatomy.liver_surroundings import (
    paint_diaphragm_on_the_left,
    paint_dome,
    paint_gallbladder,
    paint_kidney_behind,
    paint_spine,
    paint_stomach,
)
from simulator.anatomy.patch import Patch, spot
from simulator.anatomy.vessels import PORTAL_TRACT, Vessel, branching, clearance, paint_vessels, stand
from simulator.examination import Examination, View
from simulator.lesion import paint_flow, paint_lesion
from simulator.probe import BEAMS, CONVEX
from simulator.scene import Scene, bend

VIEWS = {
    "right_intercostal": Setting(CONVEX, (130.0, 150.0)),
    "right_subcostal": Setting(CONVEX, (130.0, 150.0)),
    "left_sagittal": Setting(CONVEX, (120.0, 130.0)),
}
BESIDE_MM = 2.0  # between a lesion and the nearest large vessel, capsule or edge of the scan
OMENTUM = t.Tissue(-6, 0.5, 2.5)  # fat below and behind the liver


def draw(scene: Scene, examination: Examination, view: View) -> None:
    """Paint the view back to front, the abdominal wall over it, and the lesion last."""
    rng = scene.rng
    wall = float(rng.uniform(12, 18))
    scene.add_texture(scene.label == t.PARENCHYMA, 4.5 if examination.background == "coarse" else 1.3)
    paint_view = {
        "right_intercostal": _intercostal,
        "right_subcostal": _subcostal,
        "left_sagittal": _left_sagittal,
    }[view.name]
    inside, vessels = paint_view(scene, examination)
    _small_vessels(scene, int(rng.integers(12, 24)), wall)
    abdominal_wall(scene, wall)
    if view.shows_lesion:
        x, z = _site(scene, 0.5 * examination.lesion.long_mm, wall, inside, vessels)
        paint_lesion(scene, examination.lesion, x, z, t.LIVER.echo_db)
        if view.doppler:
            paint_flow(scene, examination.lesion, x, z)


def _intercostal(scene: Scene, examination: Examination) -> tuple[np.ndarray, list[Vessel]]:
    """The right portal vein, as wide as stated up to its fork, and a hepatic vein between the branches.

    Returns the distance (mm) to the liver's border, negative inside, and the vessels. Nothing else in the
    middle of the picture is as wide as a portal vein: calipers look for it by its width.
    """
    rng = scene.rng
    inside = paint_dome(scene, float(rng.uniform(-24, 12)), float(rng.uniform(56, 66)))
    kidneys = []
    if rng.random() < 0.2:
        kidneys.append(
            paint_kidney_behind(scene, float(rng.uniform(20, 44)), float(rng.uniform(116, 124)), inside)
        )
    half = examination.measures["portal_vein"] / 2
    here = stand(rng, (10.0, 78.0), 15.0, (14.0, 8.0))
    fork, up = (float(rng.uniform(-6, 10)), float(rng.uniform(74, 80))), float(rng.uniform(-7, 7))
    wall = float(rng.uniform(1.0, 1.8))
    path = bend(here.place([(108, 94 + up), (56, 98 + 0.5 * up), (34, 72 - up), fork]), 7)
    # Narrower towards the fork: nowhere but along the stem is the lumen as wide as stated.
    stem = Vessel(tuple(path), tuple(half * np.array((1, 1, 1, 1, 0.96, 0.86, 0.74))), wall, 0.7)
    front = [fork, (fork[0] - 12, fork[1] - 5), (-8, 58), (-24 + float(rng.uniform(-12, 18)), 34)]
    back = [fork, (fork[0] - 16, fork[1] + 2), (-34, 96), (-60, 86 + float(rng.uniform(-10, 12)))]
    vein = [(16, 30), (26, 48), (52, 60), (80, 62)]
    vein = np.asarray(vein) + rng.uniform(-8, 8, 2)
    # The gallbladder lies where the vein would: whole, for a cut one may be as narrow as the portal vein.
    gallbladder = rng.random() < 0.25
    vessels = [] if gallbladder else branching(rng, here, vein, (1.0, 3.2), 0.0, -0.6)
    cut = rng.random()  # the plane of the scan holds both branches, or only one of them
    if cut > 0.2:
        vessels += branching(rng, here, front, (0.62 * half, 0.26 * half), 0.8 * wall, 0.6)
    if cut < 0.8:
        vessels += branching(rng, here, back, (0.62 * half, 0.26 * half), 0.8 * wall, -0.55)
    vessels.append(stem)
    paint_vessels(scene, vessels)
    if gallbladder:
        vessels.append(paint_gallbladder(scene, (float(rng.uniform(18, 26)), float(rng.uniform(47, 52)))))
    return inside, [*vessels, *kidneys]


def _subcostal(scene: Scene, examination: Examination) -> tuple[np.ndarray, list[Vessel]]:
    """Three hepatic veins without bright walls, widening into the oval of the vena cava; see `_intercostal`
    for what is returned."""
    rng = scene.rng
    here = stand(rng, (0.0, 100.0), 16.0, (14.0, 8.0))
    inside = paint_dome(scene, float(rng.uniform(-12, 12)), float(rng.uniform(54, 62)))
    end = (0.0, 102.0)
    veins = (
        [(-78, 62 + float(rng.uniform(-8, 8))), (-50, 84), (-24, 92), end],
        [(-14 + float(rng.uniform(-8, 8)), 44), (-14, 66), (-4, 84), end],
        [(54, 62 + float(rng.uniform(-10, 8))), (40, 82), (18, 88), end],
    )
    vessels = []
    for points in veins:
        width = float(rng.uniform(3.6, 5.2))
        vessels += branching(rng, here, points, (1.2, width), 0.0, -0.6)
    long, high = float(rng.uniform(15, 19)), float(rng.uniform(7, 9.5))
    steps = np.linspace(-1, 1, 7)
    cava = here.place([(end[0] + step * 0.8 * long, end[1] + 3 + step) for step in steps])
    oval = high * np.sqrt(1 - (0.85 * steps) ** 2)
    vessels.append(Vessel(tuple(cava), tuple(oval), 0.0, -0.5))
    for _ in range(int(rng.integers(2, 5))):  # portal branches, cut across or aslant
        x, z = float(rng.uniform(-48, 48)), float(rng.uniform(44, 82))
        points = [(x, z), (x + float(rng.uniform(-14, 14)), z + float(rng.uniform(-6, 6)))]
        vessels.append(here.vessel(points, (2.3, 1.4), 1.1, 0.5))
    paint_vessels(scene, vessels)
    if rng.random() < 0.5:
        vessels.append(paint_gallbladder(scene, (float(rng.uniform(36, 46)), float(rng.uniform(50, 64)))))
    return inside, vessels


def _left_sagittal(scene: Scene, examination: Examination) -> tuple[np.ndarray, list[Vessel]]:
    """The wedge of the left lobe with its sharp edge, the caudate lobe behind the ligamentum venosum, the
    aorta with its branches before the spine; see `_intercostal` for what is returned."""
    rng = scene.rng
    here = stand(rng, (0.0, 80.0), 8.0, (12.0, 4.0))
    edge = (float(rng.uniform(24, 44)), float(rng.uniform(34, 44)))
    back = float(rng.uniform(80, 88))
    # The lower border from the diaphragm to the sharp edge, where it meets the abdominal wall.
    front, tip = (edge[0] + 6, edge[1] - 4), (edge[0] + 14, 10.0)
    border = np.asarray(
        bend([(-110, back), (-40, back + 4), (4, back + 2), (edge[0] - 2, 64), front, tip], 11)
    )
    floor = np.interp(scene.x, border[:, 0], border[:, 1], right=0.0).astype(np.float32)
    away = scene.z - floor
    scene.paint(away > 0, OMENTUM)
    scene.add_texture(away > 0, 4)
    scene.paint_interface(away, 0, 1.1, t.FASCIA)
    paint_spine(scene, here)
    caudate = _caudate(scene, back)
    paint_stomach(scene, edge)
    z = float(rng.uniform(96, 102))
    origin = float(rng.uniform(-24, 8))
    aorta = here.vessel([(-120, z - 4), (0, z), (120, z + 8)], (8.0, 7.4), 1.4, 0.8)
    coeliac = [(origin - 13, z - 5), (origin - 15, z - 14), (origin - 24, z - 20)]
    lift = float(rng.uniform(14, 24))
    mesenteric = [(origin, z - 5), (origin + 4, z - lift), (origin + 34, z - lift), (origin + 76, z - 8)]
    arteries = [
        here.vessel(coeliac, (2.7, 1.8), 0.6, 0.6),
        here.vessel(mesenteric, (3.0, 2.4), 0.7, 0.6),
    ]
    dot = (float(rng.uniform(-12, 12)), float(rng.uniform(60, 68)))  # the umbilical part of the portal vein
    veins = [
        *branching(rng, here, [(14, 40), (-14, 58), (-46, 52), (-84, 72)], (1.0, 3.8), 0.0, -0.6),
        here.vessel([dot, (dot[0] + float(rng.uniform(2, 12)), dot[1] + 2)], (3.0, 2.4), 1.3, 0.5),
    ]
    inside = np.maximum(away, paint_diaphragm_on_the_left(scene))
    paint_vessels(scene, [aorta, *(arteries if rng.random() < 0.75 else arteries[1:]), *veins])
    return inside, [*veins, caudate, Vessel(tuple(map(tuple, border)), (0.0,) * len(border))]


def _caudate(scene: Scene, back: float) -> Vessel:
    """The caudate lobe below the bright line of the ligamentum venosum; returned as what a lesion of the left
    lobe keeps clear of."""
    rng = scene.rng
    cx, rx, rz = float(rng.uniform(-44, -34)), float(rng.uniform(26, 32)), float(rng.uniform(8, 10.5))
    cz = back + rz - 2
    patch, lobe = spot(scene, cx, cz, rx, rz, 2.0)
    patch.paint(lobe < 0, t.LIVER)
    patch.paint_sheet(lobe * np.float32(rz), -0.5, 0.7, t.FASCIA)
    line = bend([(cx - rx, cz - 2), (cx, back - 3), (cx + rx + 4, cz + 1)], 5)
    patch = Patch.around(scene, line, 2)
    patch.paint(patch.tube(line, [0.7] * 5) < 0, t.SEPTUM)
    return Vessel(tuple(line), (1.0,) * 5)


def _small_vessels(scene: Scene, count: int, wall_mm: float) -> None:
    """Small vessels all over the parenchyma: dark dots and commas of veins, bright ones of portal triads."""
    rng = scene.rng
    half = np.deg2rad(scene.grid.probe.angle_deg) / 2
    for reach, angle in zip(
        rng.uniform(wall_mm + 8, scene.grid.depth_mm - 8, count), rng.uniform(-half, half, count), strict=True
    ):
        radius = scene.grid.probe.radius_mm
        x = float((radius + reach) * np.sin(angle))
        z = float((radius + reach) * np.cos(angle) - radius)
        way, length = rng.uniform(-0.7, 1.2), rng.uniform(1.5, 11.0)
        tip = (x + length * np.cos(way), z + length * np.sin(way))
        width, bright = float(rng.uniform(0.9, 1.9)), rng.random() < 0.5
        patch = Patch.around(scene, [(x, z), tip], width)
        liver = patch.label == t.PARENCHYMA
        away = patch.tube([(x, z), tip], (width, 0.6 * width))
        if bright:
            patch.paint((away < 1.1) & liver, PORTAL_TRACT)
        patch.paint((away < (-0.4 if bright else 0.0)) & liver, t.BLOOD)


def _site(
    scene: Scene, half_mm: float, wall_mm: float, inside: np.ndarray, vessels: Sequence[Vessel]
) -> Point:
    """A place for a lesion of this half length: whole in the scan and in the liver, clear of large vessels.

    Any such place, near the capsule, deep, or beside a vein; if all are too narrow, the widest.
    """
    depth, radius = scene.grid.depth_mm, scene.grid.probe.radius_mm
    half = np.deg2rad(scene.grid.probe.angle_deg) / 2
    reach, angle = scene.rng.uniform(wall_mm, depth, 160), scene.rng.uniform(-half, half, 160)
    x, z = (radius + reach) * np.sin(angle), (radius + reach) * np.cos(angle) - radius
    rows = (reach / scene.grid.sample_mm).astype(int)
    columns = ((angle / half + 1) / 2 * (BEAMS - 1)).astype(int)
    room = np.minimum(reach - wall_mm, depth - reach)
    room = np.minimum(room, (radius + reach) * np.sin(half - np.abs(angle)))
    room = np.minimum(room, -inside[rows, columns])
    for vessel in vessels:
        room = np.minimum(room, clearance(vessel, x, z))
    wide = np.flatnonzero(room > half_mm + BESIDE_MM)
    pick = int(wide[0]) if len(wide) else int(room.argmax())
    return float(x[pick]), float(z[pick])

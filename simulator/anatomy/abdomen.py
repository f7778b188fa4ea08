"""Liver and kidney, scanned with a convex probe through the abdominal wall."""

from __future__ import annotations

import numpy as np

from simulator import tissue as t
from simulator.anatomy import Setting
from simulator.examination import Examination, View
from simulator.lesion import paint_flow, paint_lesion
from simulator.probe import CONVEX
from simulator.scene import Scene, bend

LIVER_VIEWS = {
    "right_intercostal": Setting(CONVEX, (130.0, 150.0)),
    "right_subcostal": Setting(CONVEX, (130.0, 150.0)),
    "left_sagittal": Setting(CONVEX, (120.0, 130.0)),
}
KIDNEY_VIEWS = {
    "longitudinal": Setting(CONVEX, (110.0, 120.0)),
    "transverse": Setting(CONVEX, (100.0, 110.0)),
}


def abdominal_wall(scene: Scene, thickness: float) -> np.ndarray:
    """Paint skin, fat and a muscle between two bright sheets; returns the depth along the beam (mm)."""
    reach = np.hypot(scene.x, scene.z + scene.grid.probe.radius_mm) - scene.grid.probe.radius_mm
    scene.paint(reach < thickness, t.MUSCLE)
    scene.paint(reach < 0.6 * thickness, t.FAT)
    scene.paint(reach < 2.5, t.SKIN)
    for depth in (0.6 * thickness, thickness - 1.2):
        scene.paint((reach > depth) & (reach < depth + 1.2), t.FASCIA)
    return reach


def draw_liver(scene: Scene, examination: Examination, view: View) -> None:
    rng = scene.rng
    if examination.background == "coarse":
        scene.add_texture(scene.label == t.PARENCHYMA, 4.5)
    left = view.name == "left_sagittal"
    if left:
        floor = rng.uniform(78, 92) + 0.35 * scene.x
        scene.paint(scene.z > floor, t.SOFT)
        scene.add_texture(scene.z > floor, 5)
        spine = scene.ellipse(8, float(rng.uniform(110, 120)), 20, 12)
        scene.paint((spine < 0) & (spine > -0.3), t.BONE)
        aorta = scene.tube([(-70, 96), (70, 104)], 8.0)
        scene.paint_interface(aorta, 0.9, 1.15, t.WALL)
        scene.paint(aorta < 1, t.BLOOD)
        _vein(scene, [(-45, 55), (-5, 62), (30, 58)], (2.5, 3.5))
    else:
        dome = scene.ellipse(rng.uniform(-12, 8), 62, 108, rng.uniform(72, 84), rng.uniform(-12, 4))
        scene.paint(dome > 0, t.LUNG)
        scene.paint_interface(dome, 0, 0.03, t.DIAPHRAGM)
        _vessels(scene, examination, view)
    abdominal_wall(scene, rng.uniform(12, 18))
    if view.shows_lesion:
        # Depth and side where the view shows parenchyma, clear of the large vessels.
        x, z = (rng.uniform(-18, 14), 47) if left else (rng.uniform(-32, -14), rng.uniform(60, 72))
        paint_lesion(scene, examination.lesion, x, z, t.LIVER.echo_db)
        if view.doppler:
            paint_flow(scene, examination.lesion, x, z)


def _vessels(scene: Scene, examination: Examination, view: View) -> None:
    """Portal vein (bright walls, the stated width) in the intercostal view; hepatic veins and gallbladder
    below."""
    rng = scene.rng
    if view.name == "right_intercostal":
        half = examination.measures["portal_vein"] / 2
        points = bend([(66, 92), (30, 70), (4, 96), (-30, 104)])
        portal = scene.tube(points, list(half * np.linspace(1.0, 0.8, len(points))))
        scene.paint_interface(portal, 0.9, 1 + 2.4 / half, t.WALL)
        scene.paint(portal < 1, t.BLOOD)
        scene.flow[portal < 0.9] = 0.7
        _vein(scene, [(10, 40), (30, 52), (55, 58)], (1.8, 3.0))
        return
    confluence = (rng.uniform(-4, 8), 112.0)
    for end in ((-55, 75), (-4, 62), (48, 80)):
        _vein(
            scene,
            [end, ((end[0] + confluence[0]) / 2, (end[1] + confluence[1]) / 2 + 4), confluence],
            (1.6, 4.6),
        )
    if rng.random() < 0.5:
        bladder = scene.ellipse(44, 62, 24, 11, -28)
        scene.paint_interface(bladder, -0.1, 0.12, t.WALL)
        scene.paint(bladder < 0, t.FLUID_CLEAR)


def _vein(scene: Scene, points: list[tuple[float, float]], radius: tuple[float, float]) -> None:
    """A hepatic vein: blood without the portal vein's bright wall."""
    path = bend(points)
    tube = scene.tube(path, list(np.linspace(radius[0], radius[-1], len(path))))
    scene.paint(tube < 1, t.BLOOD)
    scene.flow[tube < 0.9] = -0.6


def draw_kidney(scene: Scene, examination: Examination, view: View) -> None:
    m, rng = examination.measures, scene.rng
    lateral = -1.0 if examination.side == "right" else 1.0
    scene.paint(scene.z > 0, t.SOFT)
    scene.add_texture(scene.z > 0, 4)
    neighbour = scene.ellipse(-58 * (1 if lateral < 0 else 0.9), 42, 62, 34, 12)
    scene.paint(neighbour < 0, t.LIVER)  # liver on the right, spleen on the left: the same grey
    scene.paint_interface(neighbour, 0, 0.03, t.FASCIA)
    long_axis = view.name == "longitudinal"
    cx, cz = rng.uniform(-4, 6), rng.uniform(62, 68)
    tilt = rng.uniform(4, 14) if long_axis else rng.uniform(-10, 10)
    rx = (m["length"] if long_axis else m["width"] * 1.12) / 2
    rz = m["width"] / 2
    kidney = scene.ellipse(cx, cz, rx, rz, tilt, 0.03)
    scene.paint((kidney > 0) & (kidney < 0.16), t.SEPTUM)  # perirenal fat
    scene.paint_interface(kidney, 0, 0.04, t.FASCIA)
    scene.paint(kidney < 0, t.CORTEX)
    if examination.background == "coarse":
        scene.add_texture(kidney < 0, 4.0)
    _medulla(scene, m, (cx, cz, rx, rz, tilt))
    muscle = scene.wavy(cz + rz + 14, 3)
    scene.paint(scene.z > muscle, t.MUSCLE)
    abdominal_wall(scene, rng.uniform(11, 16))
    if view.shows_lesion:
        x, z = _site_in_kidney(scene, examination, view, (cx, cz, rx, rz, tilt))
        paint_lesion(
            scene,
            examination.lesion,
            x,
            z,
            t.CORTEX.echo_db + (2 if examination.lesion.kind == "isoechoic" else 0),
        )
        if view.doppler:
            paint_flow(scene, examination.lesion, x, z)


def _medulla(scene: Scene, m: dict[str, float], body: tuple[float, float, float, float, float]) -> None:
    """The bright sinus in the middle and the dark pyramids around it; what is left is parenchyma of stated
    thickness."""
    cx, cz, rx, rz, tilt = body
    sx, sz = rx - m["parenchyma"], rz - m["parenchyma"]
    sinus = scene.ellipse(cx, cz, sx, sz, tilt, 0.12)
    turn = np.deg2rad(tilt)
    for angle in np.arange(0, 2 * np.pi, np.pi / 4) + 0.2:
        u, v = (sx + 4.5) * np.cos(angle), (sz + 4.0) * np.sin(angle)
        x, z = cx + u * np.cos(turn) - v * np.sin(turn), cz + u * np.sin(turn) + v * np.cos(turn)
        scene.paint(scene.ellipse(x, z, 4.6, 3.6, np.rad2deg(angle) + tilt) < 0, t.PYRAMID)
    scene.paint(sinus < 0, t.SINUS)
    scene.add_texture(sinus < 0, 4)


def _site_in_kidney(
    scene: Scene, examination: Examination, view: View, body: tuple[float, float, float, float, float]
) -> tuple[float, float]:
    """Poles lie at the ends of the long axis (upper pole on the left); the middle bulges from the front."""
    cx, cz, rx, rz, tilt = body
    lesion = examination.lesion
    if view.name == "transverse" or lesion.place == "middle":
        return cx + scene.rng.uniform(-6, 6), cz - rz + 0.62 * lesion.short_mm * 0.9
    way = -1 if lesion.place == "upper_pole" else 1
    along = way * max(rx - 0.5 * lesion.long_mm - 2, 0.45 * rx)
    turn = np.deg2rad(tilt)
    return cx + along * np.cos(turn), cz + along * np.sin(turn)

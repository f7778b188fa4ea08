"""What a view of the liver shows around it: diaphragm and lung, gallbladder, kidney, spine, stomach.

The anatomy follows any atlas of abdominal ultrasound. Lung reflects all sound, so that what lies beyond the
diaphragm is the liver's mirror image. Proportions are typical adults' (chosen; not measured).

Knows nothing of the liver's own vessels, of lesions (what one keeps clear of is returned), or of reports.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simulator import tissue as t
from simulator.anatomy.axis import Axis, Point
from simulator.anatomy.bowel import gas_loop
from simulator.anatomy.patch import spot
from simulator.anatomy.vessels import Stand, Vessel
from simulator.scene import Scene


def paint_dome(scene: Scene, cx: float, cz: float) -> np.ndarray:
    """The diaphragm around the dome of the liver; returns the distance (mm), negative inside the liver."""
    rng = scene.rng
    rx, rz = float(rng.uniform(100, 114)), float(rng.uniform(70, 84))
    return _beyond(scene, scene.ellipse(cx, cz, rx, rz, float(rng.uniform(-12, 10)), 0.012), rz)


def paint_diaphragm_on_the_left(scene: Scene) -> np.ndarray:
    """The diaphragm at the cranial end of a sagittal view; returns the distance (mm), negative below it."""
    rng = scene.rng
    dome = scene.ellipse(float(rng.uniform(40, 58)), 66, 112, float(rng.uniform(86, 100)))
    return _beyond(scene, np.where(scene.z < 88, dome, np.float32(-1)), 100)  # it ends before the aorta


def _beyond(scene: Scene, dome: np.ndarray, radius_mm: float) -> np.ndarray:
    """Paint the diaphragm on the border of `dome` and, behind it, the haze of the liver's mirror image.

    Lung reflects all sound: what a scanner shows beyond the diaphragm is liver again, weaker with depth.
    """
    away = dome * np.float32(radius_mm)
    outside = away > 0
    scene.paint(outside, t.LUNG)
    scene.echo_db[outside] -= np.minimum(np.float32(0.45) * away[outside], 14)
    scene.paint_interface(away, 0, float(scene.rng.uniform(1.6, 2.6)), t.DIAPHRAGM)
    return away


def paint_gallbladder(scene: Scene, at: Point) -> Vessel:
    """Paint a gallbladder lengthwise, fundus up on the right: long and with a bright wall, as no cyst is, and
    too wide to be taken for a portal vein. Returned as what a lesion keeps clear of."""
    rng = scene.rng
    short = float(rng.uniform(9.5, 11.5))
    long = short * float(rng.uniform(1.7, 2.1))
    patch, sac = spot(scene, *at, long, short, float(rng.uniform(-34, -14)))
    patch.paint_sheet(sac * np.float32(short), -0.4, 2.0, t.WALL)
    patch.paint(sac < 0, t.FLUID_CLEAR)
    near = (sac < 0) & (sac > -0.5) & (patch.z < at[1])
    scene.echo_db[patch.at][near] += 28 * (1 + 2 * sac[near])  # reverberation behind the near wall
    return Vessel((at, (at[0] + 0.1, at[1])), (0.0, 0.0), long)


def paint_kidney_behind(scene: Scene, x: float, z: float, inside: np.ndarray) -> Vessel:
    """Paint the kidney that a view of the liver shows at its lower border. Returned as what a lesion keeps
    clear of."""
    rng = scene.rng
    rx, rz, tilt = float(rng.uniform(38, 46)), float(rng.uniform(17, 20)), float(rng.uniform(-14, 4))
    cortex = replace(t.CORTEX, echo_db=t.CORTEX.echo_db - 5)  # so deep, only contrast tells it from the liver
    sinus = replace(t.SINUS, echo_db=t.SINUS.echo_db - 4)
    for size, tissue in ((1.1, t.SEPTUM), (1.0, cortex), (0.42, sinus)):
        part = scene.ellipse(x, z, size * rx, size * rz, tilt, 0.04 * (size < 1.1))
        scene.paint((part < 0) & (inside < 0), tissue)
    axis = Axis(x, z, tilt)
    return Vessel((axis.point(rz - rx), axis.point(rx - rz)), (1.1 * rz,) * 2)


def paint_spine(scene: Scene, here: Stand) -> None:
    """The front of the vertebral bodies: shallow arcs, and gaps where the discs lie; nothing behind."""
    rng = scene.rng
    pitch, phase = float(rng.uniform(27, 33)), float(rng.uniform(0, 1))
    turn = np.float32(np.tan(np.deg2rad(here.turn_deg)))
    position = (scene.x - np.float32(here.shift[0])) / np.float32(pitch) + np.float32(phase)
    within = position - np.floor(position)  # 0 … 1 along one body and the disc below it
    front = np.float32(rng.uniform(113, 117) + here.shift[1]) + turn * scene.x
    front = front + np.float32(2.4) * np.cos(np.pi * within) ** 4
    scene.paint(scene.z > front, t.MUSCLE)
    bone = (scene.z > front) & (scene.z < front + 2.2) & (within > 0.1) & (within < 0.9)
    scene.paint(bone, t.BONE)


def paint_stomach(scene: Scene, edge: Point) -> None:
    """Stomach or colon below the liver's edge: a bright ragged surface of gas and a dirty shadow."""
    gas_loop(scene, edge[0] + float(scene.rng.uniform(8, 16)), edge[1] + 2, 13.0, 8.0)
    if scene.rng.random() < 0.6:  # the antrum, collapsed: a dark muscle ring around a bright middle
        x, z = edge[0] - float(scene.rng.uniform(6, 14)), edge[1] + float(scene.rng.uniform(26, 32))
        patch, ring = spot(scene, x, z, 10.0, 7.0, -20.0)
        patch.paint(ring < 0, t.MUSCLE)
        patch.paint(ring < -0.5, t.SEPTUM)

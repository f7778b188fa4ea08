"""Breast: skin, fat lobules between Cooper's ligaments, fibroglandular tissue, pectoral muscle, ribs."""

from __future__ import annotations

import numpy as np

from simulator import tissue as t
from simulator.anatomy import Setting
from simulator.examination import Examination, View
from simulator.lesion import paint_flow, paint_lesion
from simulator.probe import WIDE_LINEAR
from simulator.scene import Scene

VIEWS = {
    "radial": Setting(WIDE_LINEAR, (40.0, 45.0)),
    "antiradial": Setting(WIDE_LINEAR, (40.0, 45.0)),
}


def draw(scene: Scene, examination: Examination, view: View) -> None:
    m, rng = examination.measures, scene.rng
    scene.paint(scene.layer(0, 2.0), t.SKIN)
    gland_top = rng.uniform(6.0, 9.0)
    top = scene.wavy(gland_top, 1.0, 2.0)
    bottom = top + m["gland_thickness"]
    scene.paint(scene.layer(2.0, top), t.FAT)
    _ligaments(scene, gland_top)
    scene.paint(scene.layer(top, bottom), t.GLAND)
    gland = scene.layer(top, bottom)
    scene.add_texture(gland, 5.0 if examination.background == "coarse" else 2.0)
    for _ in range(rng.integers(2, 5)):  # fat lobules inside the gland
        x, z = rng.uniform(-22, 22), gland_top + rng.uniform(0.2, 0.8) * m["gland_thickness"]
        scene.brighten(
            (scene.ellipse(x, z, rng.uniform(2, 4), rng.uniform(0.8, 1.4), rng.uniform(-20, 20)) < 0) & gland,
            -6,
        )
    _chest_wall(scene, bottom)
    if view.shows_lesion:
        x = rng.uniform(-7, 7)
        z = gland_top + m["gland_thickness"] * rng.uniform(0.46, 0.54)
        paint_lesion(scene, examination.lesion, x, z, t.GLAND.echo_db)
        if view.doppler:
            paint_flow(scene, examination.lesion, x, z)


def _ligaments(scene: Scene, gland_top: float) -> None:
    """Cooper's ligaments: thin bright arcs of uneven height that hang fat lobules from the skin."""
    x = -28.0
    while x < 26:
        width = scene.rng.uniform(6, 15)
        height = scene.rng.uniform(0.55, 1.0) * (gland_top - 2.2)
        arc = scene.ellipse(
            x + width / 2, gland_top + 1.0, width / 2, height, scene.rng.uniform(-10, 10), 0.08
        )
        arc[(scene.z > gland_top + 0.5) | (scene.z < 2)] = 9
        scene.paint_interface(arc, -0.07, 0.07, t.SEPTUM)
        x += width * scene.rng.uniform(0.7, 1.1)


def _chest_wall(scene: Scene, bottom: np.ndarray) -> None:
    muscle = bottom + scene.rng.uniform(2.5, 4.0)
    scene.paint(scene.layer(bottom, muscle), t.FAT)
    scene.paint(scene.z > muscle, t.MUSCLE)
    scene.paint(scene.layer(muscle, muscle + 0.6), t.FASCIA)
    for step in np.arange(1.6, 7.0, 1.5):
        scene.brighten(scene.layer(muscle + step, muscle + step + 0.3), 7)
    rib_x = scene.rng.uniform(-20, 20)
    rib_z = float(muscle[0, np.abs(scene.x[0] - rib_x).argmin()]) + 7.5
    rib = scene.ellipse(rib_x, rib_z + 2.5, 7, 3.2)
    scene.paint((rib < 0) & (rib > -0.3) & (scene.z < rib_z + 2.0), t.BONE)
    lung = scene.wavy(rib_z + 5, 0.4)
    scene.paint(scene.layer(lung, lung + 0.9) & (rib > 0), t.DIAPHRAGM)  # the pleural line

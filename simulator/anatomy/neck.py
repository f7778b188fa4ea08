"""Thyroid and common carotid artery, scanned with a linear probe from the front of the neck.

Orientation as on every screen: a transverse image shows the patient's right on the left; a longitudinal one
shows the head on the left.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simulator import tissue as t
from simulator.anatomy import Setting
from simulator.examination import Examination, Lesion, View
from simulator.lesion import paint_flow, paint_lesion
from simulator.probe import LINEAR
from simulator.scene import Scene

THYROID_VIEWS = {
    "transverse": Setting(LINEAR, (35.0, 40.0)),
    "longitudinal": Setting(LINEAR, (35.0, 40.0)),
}
VESSEL_VIEWS = {
    "longitudinal": Setting(LINEAR, (35.0, 40.0)),
    "transverse": Setting(LINEAR, (35.0, 40.0)),
}


def _front_of_neck(scene: Scene, muscle_to: float) -> None:
    """Skin, fat and strap muscles down to `muscle_to` mm."""
    scene.paint(scene.layer(0, 1.6), t.SKIN)
    fascia = scene.wavy(4.0, 0.4)
    scene.paint(scene.layer(1.6, fascia), t.FAT)
    scene.paint(scene.layer(fascia, muscle_to), t.MUSCLE)
    for depth in (4.2, muscle_to - 0.4):
        edge = scene.wavy(depth, 0.3)
        scene.paint(scene.layer(edge, edge + 0.45), t.FASCIA)
    for depth in np.arange(5.4, muscle_to - 0.8, 1.3):  # muscle fibres
        fibre = scene.wavy(depth, 0.25, 2.5)
        scene.brighten((scene.z > fibre) & (scene.z < fibre + 0.25), 7)


def draw_thyroid(scene: Scene, examination: Examination, view: View) -> None:
    m, rng = examination.measures, scene.rng
    top = rng.uniform(8.5, 10.5)
    _front_of_neck(scene, top + 1.0)
    deep = scene.wavy(top + m["lobe_depth"] + 3, 0.8)
    scene.paint(scene.z > deep, t.MUSCLE)  # longus colli
    scene.add_texture(scene.z > deep, 3)
    lateral = -1.0 if examination.side == "right" else 1.0
    cz = top + m["lobe_depth"] / 2
    if view.name == "transverse":
        cx = lateral * rng.uniform(1.5, 3.0)
        lobe = _transverse_lobe(scene, m, cx, cz, lateral, top)
    else:
        cx = rng.uniform(-1.5, 1.5)
        lobe = scene.ellipse(cx, cz, rng.uniform(22, 26), m["lobe_depth"] / 2, rng.uniform(-3, 3), 0.04)
        scene.paint_interface(lobe, 0, 0.05, t.FASCIA)
        scene.paint(lobe < 0, t.THYROID)
    if examination.background == "coarse":
        scene.add_texture(scene.label == t.PARENCHYMA, 4.0)
    if view.shows_lesion:
        x, z = _site_in_lobe(scene, examination, view, cx, cz)
        paint_lesion(scene, examination.lesion, x, z, t.THYROID.echo_db, clip=lobe < 0.15)
        if view.doppler:
            paint_flow(scene, examination.lesion, x, z)


def _transverse_lobe(
    scene: Scene, m: dict[str, float], cx: float, cz: float, lateral: float, top: float
) -> np.ndarray:
    """Lobe, isthmus, trachea and the carotid artery beside the lobe; returns the lobe's distance map."""
    trachea_x = cx - lateral * (m["lobe_width"] / 2 + 7.5)
    lobe = scene.ellipse(cx, cz, m["lobe_width"] / 2, m["lobe_depth"] / 2, lateral * -8, 0.05)
    scene.paint_interface(lobe, 0, 0.09, t.FASCIA)
    isthmus = scene.layer(top + 1.2, top + 1.2 + m["isthmus"]) & (lateral * (scene.x - cx) < 0)
    scene.paint(isthmus, t.THYROID)
    scene.paint(lobe < 0, t.THYROID)
    ring = scene.ellipse(trachea_x, top + 1.6 + m["isthmus"] + 8.0, 8.5, 8.0)
    below = (ring < 0) | ((np.abs(scene.x - trachea_x) < 8.0) & (scene.z > top + 9 + m["isthmus"]))
    scene.paint(below, t.BEHIND_GAS)
    scene.paint((ring < 0) & (ring > -0.14), t.CARTILAGE)
    air = (ring < -0.14) & (ring > -0.21) & (scene.z < top + 8 + m["isthmus"])
    scene.paint(air, t.GAS)
    for echo in range(1, 4):  # reverberation of the air column
        scene.brighten((ring < -0.21 - 0.14 * echo) & (ring > -0.26 - 0.14 * echo), 14 - 4 * echo)
    artery = scene.ellipse(cx + lateral * (m["lobe_width"] / 2 + 4.4), cz + 1.0, 3.3, 3.2)
    scene.paint_interface(artery, -0.1, 0.18, t.WALL)
    scene.paint(artery < 0, t.BLOOD)
    scene.flow[artery < -0.1] = lateral * 0.8
    return lobe


def _site_in_lobe(
    scene: Scene, examination: Examination, view: View, cx: float, cz: float
) -> tuple[float, float]:
    lesion, m = examination.lesion, examination.measures
    height = lesion.long_mm if lesion.shape == "taller_than_wide" else lesion.short_mm
    spare_z = max(m["lobe_depth"] - height, 0) / 2
    z = cz + scene.rng.uniform(-0.5, 0.5) * spare_z
    if view.name == "transverse":
        width = lesion.short_mm if lesion.shape == "taller_than_wide" else lesion.long_mm
        return cx + scene.rng.uniform(-0.4, 0.4) * max(m["lobe_width"] - width, 0) / 2, z
    third = {"upper": -9.0, "middle": 0.0, "lower": 9.0}[lesion.place]
    return cx + third + scene.rng.uniform(-1.5, 1.5), cz + (z - cz) * 0.6


def draw_vessel(scene: Scene, examination: Examination, view: View) -> None:
    m, rng = examination.measures, scene.rng
    top = rng.uniform(8.0, 11.0)
    _front_of_neck(scene, top - 1.5)
    scene.paint(scene.z > top + m["lumen"] + 6, t.MUSCLE)
    scene.add_texture(scene.z > top + m["lumen"] + 6, 3)
    if view.name == "longitudinal":
        _long_artery(scene, examination, view, top)
    else:
        _round_artery(scene, examination, view, top)


def _long_artery(scene: Scene, examination: Examination, view: View, top: float) -> None:
    """Near wall, lumen, far wall: adventitia bright, media dark, intima bright; the lumen is blood."""
    m, rng = examination.measures, scene.rng
    slope = rng.uniform(-0.05, 0.05)
    near = top + slope * scene.x + scene.wavy(0, 0.15, 1.0)
    far = near + m["lumen"]
    thick = m["intima_media"]
    scene.paint(scene.layer(near - thick - 1.3, far + thick + 1.3), t.ADVENTITIA)
    scene.paint(scene.layer(near - thick, far + thick), t.MEDIA)
    scene.paint(scene.layer(near - 0.25, far + 0.25), t.INTIMA)
    lumen = scene.layer(near, far)
    scene.paint(lumen, t.BLOOD)
    scene.flow[lumen] = 0.9 if slope > 0 else -0.9
    if examination.background == "coarse":  # an uneven wall
        scene.brighten(scene.layer(far, far + thick) & (scene.field > 0.4), 8)
    if view.shows_lesion:
        lesion = examination.lesion
        x = rng.uniform(-6, 6)
        wall = top + slope * x + (m["lumen"] if lesion.place == "far_wall" else 0)
        _plaque(scene, lesion, x, wall, lumen)


def _round_artery(scene: Scene, examination: Examination, view: View, top: float) -> None:
    m, rng = examination.measures, scene.rng
    lateral = -1.0 if examination.side == "right" else 1.0
    x, z, r = rng.uniform(-3, 3), top + m["lumen"] / 2, m["lumen"] / 2
    vein = scene.ellipse(x + lateral * (r + 6.5), z - 2.0, 5.5, 3.2, lateral * 12, 0.06)
    scene.paint_interface(vein, -0.1, 0.1, t.WALL)
    scene.paint(vein < 0, t.BLOOD)
    scene.flow[vein < -0.05] = -0.7
    gland = scene.ellipse(x - lateral * (r + 10), z, 8, 7, 0, 0.06)
    scene.paint(gland < 0, t.THYROID)
    wall = scene.ellipse(x, z, r, r)
    thick = m["intima_media"] / r
    for limit, tissue in (
        (thick + 1.2 / r, t.ADVENTITIA),
        (thick, t.MEDIA),
        (0.25 / r, t.INTIMA),
        (0, t.BLOOD),
    ):
        scene.paint(wall < limit, tissue)
    scene.flow[wall < 0] = 0.9
    if view.shows_lesion:
        lesion = examination.lesion
        _plaque(scene, lesion, x, z + (r if lesion.place == "far_wall" else -r), wall < 0)


def _plaque(scene: Scene, lesion: Lesion, x: float, wall_z: float, lumen: np.ndarray) -> None:
    """A plaque grows from the wall into the lumen: half an ellipse of twice its thickness."""
    whole = replace(lesion, short_mm=2 * lesion.short_mm, long_mm=lesion.long_mm)
    scene.flow[scene.ellipse(x, wall_z, lesion.long_mm / 2, lesion.short_mm) < 0.1] = 0
    paint_lesion(scene, whole, x, wall_z, t.THYROID.echo_db - 2, clip=lumen)

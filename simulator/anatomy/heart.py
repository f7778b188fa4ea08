"""Heart, apical four-chamber view with a phased array: apex at the top, left ventricle on the right of the
screen."""

from __future__ import annotations

import numpy as np

from simulator import tissue as t
from simulator.anatomy import Setting
from simulator.examination import Examination, View
from simulator.lesion import paint_lesion
from simulator.probe import PHASED
from simulator.scene import Scene

VIEWS = {
    "apical_four_chamber": Setting(PHASED, (150.0, 160.0)),
    "apical_two_chamber": Setting(PHASED, (150.0, 160.0)),
}
APEX, VALVES = 22.0, 92.0  # mm: where the ventricles begin and where the valve plane lies


def draw(scene: Scene, examination: Examination, view: View) -> None:
    m, rng = examination.measures, scene.rng
    scene.add_texture(scene.z > 0, 4)
    scene.paint(np.hypot(scene.x, scene.z) < 10, t.MUSCLE)
    valves = VALVES + rng.uniform(-3, 3)
    wall, half = m["septum"], m["left_ventricle"] / 2
    four = view.name == "apical_four_chamber"
    lv_x = 18 + rng.uniform(-2, 2) if four else rng.uniform(-3, 3)
    height = (valves - APEX) / 2
    chambers = {"left_ventricle": (lv_x, APEX + height, half, height + 4, 6.0 if four else 0.0)}
    chambers["left_atrium"] = (
        lv_x - 2,
        valves + m["left_atrium"] / 2 + 2,
        m["left_atrium"] / 2 + 1,
        m["left_atrium"] / 2,
        0.0,
    )
    if four:
        rv_x = lv_x - half - wall - 15
        chambers["right_ventricle"] = (rv_x, APEX + height + 8, 15, height - 4, -10.0)
        chambers["right_atrium"] = (rv_x - 2, valves + 18, 18, 17, 0.0)
    _chambers(scene, chambers, wall)
    _valves(scene, chambers, valves, four)
    if examination.background == "coarse":
        scene.add_texture(scene.label == t.PARENCHYMA, 4.5)
    if view.doppler:
        x, z, rx, rz, _ = chambers["left_atrium"]
        inflow = scene.tube([(x, z), (lv_x, APEX + height)], [rx * 0.5, rx * 0.35]) < 1
        scene.flow[inflow & (scene.label == t.FLUID)] = 0.8
    if view.shows_lesion:
        x, z, rx, rz, _ = chambers[examination.lesion.place]
        # Masses hang near the apex of a ventricle, near the wall of an atrium.
        dz = -0.45 * rz if "ventricle" in examination.lesion.place else 0.1 * rz
        paint_lesion(
            scene, examination.lesion, x + rng.uniform(-0.15, 0.15) * rx, z + dz, t.MYOCARDIUM.echo_db + 3
        )


def _chambers(
    scene: Scene, chambers: dict[str, tuple[float, float, float, float, float]], wall: float
) -> None:
    """Myocardium around all chambers, then the chambers' blood. The septum is what two ellipses leave
    between them."""
    maps = {name: scene.ellipse(*where, wobble=0.04) for name, where in chambers.items()}
    for name, distance in maps.items():
        x, z, rx, rz, tilt = chambers[name]
        thick = wall if name == "left_ventricle" else (4.5 if name == "right_ventricle" else 3.0)
        outer = scene.ellipse(x, z, rx + thick, rz + thick, tilt)
        scene.paint_interface(outer, 0, 0.06, t.FASCIA)  # pericardium
        scene.paint((outer < 0) & (distance > 0), t.MYOCARDIUM)
    for distance in maps.values():
        scene.paint(distance < 0, t.BLOOD)


def _valves(
    scene: Scene, chambers: dict[str, tuple[float, float, float, float, float]], valves: float, four: bool
) -> None:
    """Open leaflets: two bright lines at each valve plane, pointing into the ventricle."""
    for ventricle in ("left_ventricle", "right_ventricle") if four else ("left_ventricle",):
        x, _, rx, _, _ = chambers[ventricle]
        level = valves if ventricle == "left_ventricle" else valves - 4
        opening = np.float32(scene.rng.uniform(0.25, 0.8))
        for way in (-1, 1):
            hinge, tip = (x + way * rx * 0.8, level), (x + way * rx * opening, level - 14)
            scene.paint(scene.tube([hinge, tip], 1.3) < 1, t.VALVE)
            scene.paint(scene.tube([(x + way * rx * 1.25, level + 1), hinge], 3.0) < 1, t.MYOCARDIUM)

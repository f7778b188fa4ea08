"""Breast: skin, fat lobules between Cooper's ligaments, fibroglandular tissue, pectoral muscle, ribs.

The composition follows the BI-RADS lexicon's three patterns: mostly fat, mixed, mostly fibroglandular. The
gland is as thick as measured in the middle third of the image and may thin out towards the sides.

Knows nothing of reports or BI-RADS categories. Not modelled: the nipple and what lies behind it, lymph nodes.
"""

from __future__ import annotations

import numpy as np

from simulator import tissue as t
from simulator.anatomy import Setting
from simulator.examination import Examination, View
from simulator.lesion import paint_flow, paint_lesion
from simulator.probe import WIDE_LINEAR
from simulator.scene import Scene, smooth_field

VIEWS = {
    "radial": Setting(WIDE_LINEAR, (40.0, 45.0)),
    "antiradial": Setting(WIDE_LINEAR, (40.0, 45.0)),
}
PATTERNS = {"fatty": 0.1, "mixed": 0.8, "dense": 1.8}  # level of a smooth field above which gland is fat


def draw(scene: Scene, examination: Examination, view: View) -> None:
    m, rng = examination.measures, scene.rng
    skin = rng.uniform(1.5, 2.3)
    top = _course(scene, rng.uniform(6.5, 9.8), 1.7)
    bottom = top + np.float32(m["gland_thickness"]) * _wedge(scene)
    scene.paint(scene.layer(0, skin), t.SKIN)
    scene.brighten(scene.layer(0.45, skin - 0.45), -7)  # the dermis between its two bright borders
    scene.paint(scene.layer(skin, top), t.FAT)
    _subcutaneous(scene, skin, top)
    _gland(scene, top, bottom, view, coarse=examination.background == "coarse")
    _chest_wall(scene, bottom)
    if view.shows_lesion:
        x = rng.uniform(-7, 7)
        local = float(top[top.shape[0] // 4, np.abs(scene.x[0] - x).argmin()])
        z = local + m["gland_thickness"] * rng.uniform(0.47, 0.53)
        paint_lesion(scene, examination.lesion, x, z, t.GLAND.echo_db)
        if view.doppler:
            paint_flow(scene, examination.lesion, x, z)


def _course(scene: Scene, depth: float, amplitude: float) -> np.ndarray:
    """The depth (mm) of a border [SAMPLES, BEAMS]: three bends of random length, strength and phase."""
    x = scene.across()
    course = np.float32(depth)
    for waves, share in ((0.3, 0.8), (0.9, 0.5), (2.4, 0.2)):
        pace = np.float32(2 * np.pi / 50 * waves * scene.rng.uniform(0.7, 1.9))
        strength = np.float32(amplitude * share * scene.rng.uniform(0.2, 1.0))
        course = course + strength * np.sin(pace * x + np.float32(scene.rng.uniform(0, 2 * np.pi)))
    return np.broadcast_to(course, scene.x.shape)


def _wedge(scene: Scene) -> np.ndarray:
    """Thickness of the gland relative to its middle, 1 row or all; it may run out towards each side."""
    x = scene.across()
    way = np.clip((np.abs(x) - 9) / 16, 0, 1)
    left, right = scene.rng.uniform(0, 0.6, 2) * (scene.rng.random(2) < 0.6)
    return 1 - way * way * np.where(x < 0, np.float32(left), np.float32(right))


def _subcutaneous(scene: Scene, skin: float, top: np.ndarray) -> None:
    """Cooper's ligaments: thin bright lines that rise from the gland to the skin, leaning and bent, each
    its own way; and broken septa between the lobules of fat."""
    rng = scene.rng
    rows = slice(0, int((float(top.max()) + 1) / scene.grid.sample_mm) + 1)
    x, z, border = scene.x[rows], scene.z[rows], top[rows]
    rise = np.clip((border - z) / (border - skin), 0, 1)
    fat = (z > skin) & (z < border)
    for _ in range(rng.integers(3, 7)):
        lean, bent = rng.uniform(-9, 9), rng.uniform(-1.6, 1.6)
        middle = rng.uniform(-25, 25) + lean * rise + bent * rise * (1 - rise) * 4
        width = np.float32(rng.uniform(0.25, 0.45)) * (1.3 - rise) * (1 + abs(lean) / 8)
        line = (np.abs(x - np.float32(middle)) < width) & fat & (rise < rng.uniform(0.55, 1.0))
        scene.echo_db[rows][line] = t.SEPTUM.echo_db + rng.uniform(-5, 1) + 3 * scene.field[rows][line]
    for _ in range(rng.integers(1, 4)):  # arched lobules of fat
        wave = np.float32(rng.uniform(0.12, 0.35)) * x + np.float32(rng.uniform(0, 6.3))
        level = rng.uniform(0.25, 0.6) + rng.uniform(0.15, 0.4) * np.abs(np.sin(wave))
        here = np.sin(np.float32(rng.uniform(0.1, 0.3)) * x + np.float32(rng.uniform(0, 6.3))) > -0.3
        line = (np.abs(rise - level) < 0.035) & fat & here
        scene.echo_db[rows][line] = t.SEPTUM.echo_db - 4 + 3 * scene.field[rows][line]


def _gland(scene: Scene, top: np.ndarray, bottom: np.ndarray, view: View, coarse: bool) -> None:
    """Fibroglandular tissue: streaks along the layer, islands of fat by the pattern, ducts."""
    rng = scene.rng
    inside = scene.layer(top, bottom)
    scene.paint(inside, t.GLAND)
    pattern = str(rng.choice(list(PATTERNS)))
    rows, columns = int(rng.integers(9, 15)), int(rng.integers(7, 12))
    fat = smooth_field(rng, rows, columns) + 0.35 * smooth_field(rng, 26, 14)
    change = -7.0 * np.clip((fat - PATTERNS[pattern]) / 0.35, 0, 1)
    change += (3.2 if coarse else 2.4) * smooth_field(rng, 60, 9)
    if coarse:
        change += 3.0 * smooth_field(rng, 26, 18)
    scene.brighten(inside, change[inside])
    _ducts(scene, top, bottom, view, inside)
    border = scene.layer(top - 0.3, top + 0.15) | scene.layer(bottom - 0.1, bottom + 0.3)
    scene.brighten(border & (scene.field > -0.3), 4)


def _ducts(scene: Scene, top: np.ndarray, bottom: np.ndarray, view: View, inside: np.ndarray) -> None:
    """Thin dark strokes along a radial scan, dark points across it."""
    rng = scene.rng
    rows = slice(int(top.min() / scene.grid.sample_mm), int(bottom.max() / scene.grid.sample_mm) + 2)
    x, z, first, inside = scene.x[rows], scene.z[rows], top[rows], inside[rows]
    thick = bottom[rows] - first
    for _ in range(rng.integers(1, 5)):
        middle, level = np.float32(rng.uniform(-20, 20)), rng.uniform(0.2, 0.8)
        half = rng.uniform(4, 9) if view.name == "radial" else rng.uniform(0.6, 1.0)
        lean = np.float32(rng.uniform(-0.15, 0.15))
        away = np.abs(z - first - np.float32(level) * thick - lean * (x - middle))
        stroke = (away < rng.uniform(0.3, 0.5)) & (np.abs(x - middle) < half) & inside
        scene.echo_db[rows][stroke] -= 8


def _chest_wall(scene: Scene, bottom: np.ndarray) -> None:
    """Fat behind the gland, pectoral muscle, ribs and the pleura between them."""
    rng = scene.rng
    muscle = _course(scene, 0, 0.5) + bottom + np.float32(rng.uniform(1.6, 3.6))
    level = float(muscle.mean())
    muscle = np.maximum(0.65 * muscle + np.float32(0.35 * level), bottom + np.float32(0.8))
    end = _course(scene, level + rng.uniform(4.5, 8.0), 0.6)
    scene.paint(scene.layer(bottom, muscle), t.FAT)
    scene.paint(scene.z >= muscle, t.MUSCLE)
    fibres = smooth_field(rng, 100, int(rng.integers(4, 8)))
    shift = (rng.uniform(-0.12, 0.12) * scene.x[0] + muscle[0] - level) / scene.grid.sample_mm
    rows = np.clip(np.arange(len(fibres))[:, None] - shift.astype(int), 0, len(fibres) - 1)
    fibres = fibres[rows, np.arange(fibres.shape[1])]
    scene.brighten(scene.z >= muscle, np.clip(13 * (fibres[scene.z >= muscle] - 0.45), -3, 14))
    fascia = scene.layer(muscle, muscle + 0.5)
    scene.paint(fascia, t.FASCIA)
    scene.brighten(fascia, 3 * scene.field[fascia] - 3)
    _pleura(scene, end + np.float32(rng.uniform(6.0, 7.5)))
    first, apart = rng.uniform(-26, -4), rng.uniform(20, 30)
    cartilage = rng.random() < 0.45
    for k in range(2):
        _rib(scene, first + k * apart, float(end.mean()) + rng.uniform(0.0, 1.0), cartilage)


def _pleura(scene: Scene, course: np.ndarray) -> None:
    """A bright line, and below it air: dark with a weak repeat."""
    lung = scene.z > course
    scene.paint(lung, t.LUNG)
    depth = scene.z[lung] - course[lung]
    scene.brighten(lung, -5 - 1.2 * depth)
    line = scene.layer(course, course + 0.7)
    scene.paint(line, t.DIAPHRAGM)
    scene.brighten(line, 2 * scene.field[line] - 3)


def _rib(scene: Scene, cx: float, cz: float, cartilage: bool) -> None:
    """An oval: cartilage, dark with a thin bright border, or bone, a bright front and a soft-edged shadow."""
    rng = scene.rng
    rx = rng.uniform(5.0, 7.0)
    rib = scene.ellipse(cx, cz + 2.6, rx, rng.uniform(2.8, 3.6), rng.uniform(-8, 8), 0.05)
    if cartilage:
        scene.paint_interface(rib, 0, 0.1, t.FASCIA)
        scene.paint(rib < 0, t.CARTILAGE)
        scene.brighten((rib < -0.72), 9)
        return
    below = (np.abs(scene.x - np.float32(cx)) < rx) & (scene.z > cz + 2.6)
    away = ((scene.x - np.float32(cx)) / np.float32(rx)) ** 2
    dark = (rib < 0) | below
    scene.paint(dark, t.BEHIND_GAS)
    scene.brighten(dark, -20 * np.sqrt(np.clip(1 - away[dark], 0, 1)) + 2)
    front = (rib > -0.13) & (rib < 0.03) & (scene.z < cz + 2.2)
    scene.paint(front, t.BONE)
    scene.attenuation[front] = 0.5  # the loss is in the level of what lies below
    scene.brighten(front, -9 * away[front])

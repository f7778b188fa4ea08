"""Thyroid and common carotid artery, scanned with a linear probe from the front of the neck.

Orientation as on every screen: a transverse image shows the patient's right on the left; a longitudinal one
shows the head on the left. Layers, proportions and their neighbours follow textbooks of head and neck
ultrasound; how far a fascia bends or a muscle reaches is chosen by eye, not measured.

The measured parts are drawn first (lobe, lumen, wall) and nothing is painted over them. What does not carry
a measurement (muscles, fasciae, trachea, oesophagus, spine) varies freely.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simulator import tissue as t
from simulator.anatomy import Setting
from simulator.examination import Examination, Lesion, View
from simulator.lesion import paint_flow, paint_lesion
from simulator.probe import BEAMS, LINEAR, SAMPLES
from simulator.scene import Scene, blob, dents, outline, smooth_field

THYROID_VIEWS = {
    "transverse": Setting(LINEAR, (35.0, 40.0)),
    "longitudinal": Setting(LINEAR, (35.0, 40.0)),
}
VESSEL_VIEWS = {
    "longitudinal": Setting(LINEAR, (35.0, 40.0)),
    "transverse": Setting(LINEAR, (35.0, 40.0)),
}
FAR_MUSCLE = replace(t.MUSCLE, attenuation=0.75)  # longus colli: the sound is spent there
INTIMA_MM = 0.25


# ------------ layers that all four views share ------------


def _course(scene: Scene, depth: float | np.ndarray, amplitude: float) -> np.ndarray:
    """The depth (mm) of a fascia [SAMPLES, BEAMS]: one slow bend and one quicker, both of random length."""
    slow, quick = scene.rng.uniform(0.3, 0.8), scene.rng.uniform(1.2, 2.6)
    return depth + scene.wavy(0, 0.7 * amplitude, slow) + scene.wavy(0, 0.2 * amplitude, quick)


def _muscle(scene: Scene, top: np.ndarray, bottom: np.ndarray, tissue: t.Tissue = t.MUSCLE) -> None:
    """A muscle between two courses: dark, with bright fibres along it and a thin bright fascia around it."""
    inside = scene.layer(top, bottom)
    scene.paint(inside, tissue)
    middle = (top[0] + bottom[0]) / 2 / scene.grid.sample_mm
    rows = np.arange(SAMPLES)[:, None] - np.round(middle - middle.mean()).astype(int)
    fibres = smooth_field(scene.rng, 100, 7)[np.clip(rows, 0, SAMPLES - 1), np.arange(BEAMS)]
    scene.brighten(inside, np.clip(8 * (fibres[inside] - 0.7), -1, 11))
    there = bottom - top > 0.5  # where the two fasciae have met there is one line, the deep one
    _fascia(scene, top, 0.35, there)
    _fascia(scene, bottom, 0.4, there)


def _fascia(scene: Scene, course: np.ndarray, thick: float, where: np.ndarray | None = None) -> None:
    """A thin bright line of uneven brightness along a course."""
    line = scene.layer(course, course + thick)
    if where is not None:
        line &= where
    scene.paint(line, t.FASCIA)
    scene.brighten(line, 3.5 * scene.field[line] - 2)


def _skin(scene: Scene) -> np.ndarray:
    """Skin, subcutaneous fat and platysma; returns the course (mm) of the fascia below them."""
    rng = scene.rng
    skin = rng.uniform(1.1, 1.7)
    fascia = _course(scene, rng.uniform(3.0, 4.6), 0.5)
    scene.paint(scene.layer(0, skin), t.SKIN)
    scene.paint(scene.layer(skin, fascia), t.FAT)
    _fascia(scene, _course(scene, rng.uniform(2.0, 2.6), 0.25), 0.25, scene.field > -0.2)
    return fascia


def _lens(
    scene: Scene, middle: float, half: float, cx: float, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower course (mm) of a muscle cut across: thick at `cx`, gone `reach` mm beside it."""
    away = np.clip((scene.x - np.float32(cx)) / np.float32(reach), -1, 1)
    thick = np.float32(half) * np.sqrt(1 - away * away)
    bent = np.float32(middle) + np.float32(0.9) * away * away
    return bent - thick, bent + thick


def _spine(scene: Scene, depth: float) -> None:
    """The front of the vertebral bodies: a bright broken line that stops the sound."""
    rng = scene.rng
    phase, length = rng.uniform(0, np.pi), rng.uniform(13, 18)
    wave = np.abs(np.cos(np.float32(np.pi / length) * scene.x + np.float32(phase)))
    front = np.float32(depth) + np.float32(1.4) * (1 - wave) + scene.wavy(0, 0.25, 3.0)
    line = scene.layer(front, front + 0.8) & (wave > 0.3)  # discs let the sound pass
    scene.paint(line, t.BONE)
    scene.brighten(line, -9 + 3 * scene.field[line])
    scene.attenuation[line] = 8.0


# ------------ thyroid ------------


def draw_thyroid(scene: Scene, examination: Examination, view: View) -> None:
    m, rng = examination.measures, scene.rng
    fascia = _skin(scene)
    top = rng.uniform(8.5, 10.5)
    cz = top + m["lobe_depth"] / 2
    lateral = -1.0 if examination.side == "right" else 1.0
    if view.name == "transverse":
        cx = lateral * rng.uniform(1.5, 3.0)
        lobe = _transverse_neck(scene, m, cx, cz, lateral, top, fascia)
    else:
        cx = rng.uniform(-2.5, 2.5)
        lobe = _longitudinal_neck(scene, m, cx, cz, top, fascia)
    gland = scene.label == t.PARENCHYMA
    _small_vessels(scene, lobe, cx, cz, m)
    scene.add_texture(gland, 4.0 if examination.background == "coarse" else 0.8)
    if view.shows_lesion:
        x, z = _site_in_lobe(scene, examination, view, cx, cz)
        paint_lesion(scene, examination.lesion, x, z, t.THYROID.echo_db, clip=lobe < 0.15)
        if view.doppler:
            paint_flow(scene, examination.lesion, x, z)


def _transverse_neck(
    scene: Scene,
    m: dict[str, float],
    cx: float,
    cz: float,
    lateral: float,
    top: float,
    fascia: np.ndarray,
) -> np.ndarray:
    """Everything around a lobe that is cut across; returns the lobe's distance map."""
    rng = scene.rng
    trachea_x = cx - lateral * (m["lobe_width"] / 2 + rng.uniform(6.5, 8.0))
    artery_x = cx + lateral * (m["lobe_width"] / 2 + rng.uniform(3.9, 4.8))
    artery_z = cz + rng.uniform(-0.5, 2.5)
    deep = top + m["lobe_depth"] + rng.uniform(1.0, 2.0)
    colli = _lens(scene, deep + 3.2, rng.uniform(2.6, 3.4), cx + lateral * rng.uniform(-1, 2), 13)
    _muscle(scene, *colli, FAR_MUSCLE)
    _spine(scene, deep + rng.uniform(7.5, 9.5))
    strap = fascia + np.float32(0.3)
    scene.paint(scene.layer(fascia, top + 2.0), t.SOFT)
    _muscle(scene, strap, np.maximum(_course(scene, top - 0.4, 0.5), strap + 1.0))
    # The sternocleidomastoid lies over the artery and overlaps the strap muscles.
    scm = _lens(scene, (4.2 + top) / 2 + 0.8, rng.uniform(2.6, 3.4), cx + lateral * rng.uniform(15, 19), 13)
    _muscle(scene, np.maximum(scm[0], fascia), scm[1])
    lobe = _lobe(scene, cx, cz, m["lobe_width"], m["lobe_depth"], 0.14)
    scene.paint_interface(lobe, 0, 0.07, t.FASCIA)
    medial = lateral * (scene.x - np.float32(cx)) < 0
    bridge = scene.wavy(top + 1.0, 0.3, 0.8) - np.float32(0.004) * (scene.x - np.float32(trachea_x)) ** 2
    isthmus = scene.layer(bridge, bridge + m["isthmus"]) & medial
    _fascia(scene, bridge - np.float32(0.3), 0.3, medial)
    scene.paint(isthmus, t.THYROID)
    scene.paint(lobe < 0, t.THYROID)
    kept = scene.label == t.PARENCHYMA
    _trachea(scene, trachea_x, top + 1.6 + m["isthmus"], kept)
    if lateral > 0 and rng.random() < 0.7:  # the oesophagus lies a little to the left of the trachea
        _oesophagus(scene, trachea_x + rng.uniform(8.5, 10.0), top + m["lobe_depth"] + 0.5, kept)
    artery = scene.ellipse(artery_x, artery_z, 3.3, 3.2)
    scene.paint_interface(artery, 0, 0.2, t.ADVENTITIA)
    scene.paint(artery < 0, t.BLOOD)
    scene.flow[artery < -0.1] = lateral * 0.8
    return lobe


def _longitudinal_neck(
    scene: Scene, m: dict[str, float], cx: float, cz: float, top: float, fascia: np.ndarray
) -> np.ndarray:
    """Everything around a lobe that is cut along; returns the lobe's distance map."""
    rng = scene.rng
    deep = _course(scene, top + m["lobe_depth"] + rng.uniform(0.5, 1.5), 1.0)
    _muscle(scene, deep, deep + np.float32(rng.uniform(5, 7)), FAR_MUSCLE)
    _spine(scene, top + m["lobe_depth"] + rng.uniform(8.0, 9.5))
    strap = _course(scene, (4.0 + top) / 2, 0.7)
    _muscle(scene, strap, np.float32(top + 1.5) + scene.wavy(0, 0.3, 0.6))
    _muscle(scene, fascia, strap)
    lobe = _lobe(scene, cx, cz, 2 * rng.uniform(21, 25), m["lobe_depth"], 0.08)
    scene.paint_interface(lobe, 0, 0.05, t.FASCIA)
    scene.paint(lobe < 0, t.THYROID)
    return lobe


def _lobe(scene: Scene, cx: float, cz: float, width: float, depth: float, dent: float) -> np.ndarray:
    """Normalised distance to a lobe of any shape whose whole extent is `width` x `depth` mm."""
    shape = dents(scene.rng, dent, (2, 3, 4, 6))
    angle = np.linspace(0, 2 * np.pi, 180)
    radius = outline(angle, shape)
    across, down = radius * np.cos(angle), radius * np.sin(angle)
    rx, rz = width / float(np.ptp(across)), depth / float(np.ptp(down))
    cx -= rx * float(across.max() + across.min()) / 2
    cz -= rz * float(down.max() + down.min()) / 2
    return blob(scene.x, scene.z, cx, cz, rx, rz, 0.0, shape)


def _small_vessels(scene: Scene, lobe: np.ndarray, cx: float, cz: float, m: dict[str, float]) -> None:
    """A few short vessels in the gland, too thin for a lumen: dark specks and strokes."""
    rng = scene.rng
    for _ in range(rng.integers(1, 4)):
        x = cx + rng.uniform(-0.4, 0.4) * m["lobe_width"]
        z = cz + rng.uniform(-0.4, 0.4) * m["lobe_depth"]
        speck = scene.ellipse(x, z, rng.uniform(0.5, 1.2), rng.uniform(0.35, 0.55), rng.uniform(-40, 40))
        scene.brighten((speck < 0) & (lobe < -0.05), -9)


def _trachea(scene: Scene, cx: float, front: float, kept: np.ndarray) -> None:
    """Cartilage, the bright border of the air, and below it nothing but its repeats, which fade.

    The repeats are as far apart as skin-side wall and air; they are brighter here and weaker there, as comet
    tails are. `kept` is not painted over.
    """
    rng = scene.rng
    away = (scene.x - np.float32(cx)) / np.float32(rng.uniform(7.5, 9.0))
    roof = np.float32(front) + np.float32(8.0) * (1 - np.sqrt(np.clip(1 - away * away, 0, 1)))
    below = scene.z - roof
    beside = np.abs(away)
    column = (beside < 0.98) & ~kept
    scene.paint(column & (below > 0) & (below < 1.5), t.CARTILAGE)
    scene.brighten(column & (below > 0) & (below < 0.3), 13 * (1 - min(1.0, 0.3)))
    dark = column & (below >= 1.4) & (beside < 0.93)
    scene.paint(dark, t.BEHIND_GAS)
    air = dark & (below < 1.95)
    scene.paint(air, t.GAS)
    scene.brighten(air, -14 * beside[air] ** 2)
    scene.attenuation[air] = 0.5  # the loss is in the level of what lies below
    period = np.float32(rng.uniform(1.5, 2.6))
    depth = below[dark] - np.float32(1.7)
    comb = np.exp(-(((depth / period + 0.5) % 1 - 0.5) ** 2) / 0.02) * (depth > 0.5 * period)
    tails = np.clip(1 + 0.9 * smooth_field(rng, 3, 22)[dark], 0, 2) * (1 - beside[dark] ** 2)
    scene.brighten(dark & ~air, 0)
    scene.echo_db[dark] += (30 * comb * np.exp(-depth / 5) + 7 * np.exp(-depth / 9)) * tails - 8


def _oesophagus(scene: Scene, cx: float, cz: float, kept: np.ndarray) -> None:
    """A small target: dark muscular wall around bright mucosa and gas."""
    tube = scene.ellipse(cx, cz, scene.rng.uniform(4.0, 5.2), 3.0, scene.rng.uniform(-15, 15), 0.05)
    wall = (tube < 0) & ~kept
    scene.paint(wall, t.MUSCLE)
    scene.paint_interface(np.where(kept, 9, tube), 0, 0.12, t.FASCIA)
    scene.brighten((tube < -0.5) & wall, 14 + 4 * scene.field[(tube < -0.5) & wall])


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


# ------------ common carotid artery ------------


def draw_vessel(scene: Scene, examination: Examination, view: View) -> None:
    fascia = _skin(scene)
    axis = scene.rng.uniform(12.0, 15.5)  # depth of the middle of the lumen
    if view.name == "longitudinal":
        _long_artery(scene, examination, view, axis, fascia)
    else:
        _round_artery(scene, examination, view, axis, fascia)


def _long_artery(
    scene: Scene, examination: Examination, view: View, axis: float, fascia: np.ndarray
) -> None:
    """Near wall, lumen, far wall below muscle, at times a vein between; the spine far below."""
    m, rng = examination.measures, scene.rng
    slope, bow = rng.uniform(-0.09, 0.09), rng.uniform(-0.0045, 0.0045)
    course = np.float32(axis) + np.float32(slope) * scene.x + np.float32(bow) * scene.x**2
    course = course + scene.wavy(0, 0.15, 1.0)
    half = np.float32(m["lumen"] / 2) * _bulb(scene)
    bottom = _course(scene, axis + rng.uniform(8.0, 11.0), 1.2)
    _muscle(scene, bottom, bottom + np.float32(rng.uniform(5, 8)), FAR_MUSCLE)
    _spine(scene, axis + rng.uniform(14.5, 19.0))
    roof = course - np.float32(rng.uniform(5.3, 6.3))  # of the carotid sheath
    if rng.random() < 0.35:
        roof = _vein_above(scene, roof, fascia)
    _muscle(scene, fascia, np.maximum(roof, fascia + 1.0))
    near, far = course - half, course + half
    _walls(scene, near, far, m["intima_media"], examination.background == "coarse")
    lumen = scene.layer(near, far)
    scene.flow[lumen] = 0.9 if slope > 0 else -0.9
    if view.shows_lesion:
        lesion = examination.lesion
        x = rng.uniform(-6, 6)
        wall = far if lesion.place == "far_wall" else near
        at = float(wall[SAMPLES // 3, np.abs(scene.x[SAMPLES // 3] - x).argmin()])
        _plaque(scene, lesion, x, at, lumen, sag=wall - np.float32(at))


def _bulb(scene: Scene) -> np.ndarray | float:
    """How much wider than measured the lumen is: at times it opens into the bulb at the head's end."""
    if scene.rng.random() > 0.35:
        return 1.0
    way = np.clip((-scene.x - np.float32(scene.rng.uniform(8, 12))) / 10, 0, 1)
    return 1 + np.float32(scene.rng.uniform(0.25, 0.6)) * way * way * (3 - 2 * way)


def _vein_above(scene: Scene, roof: np.ndarray, fascia: np.ndarray) -> np.ndarray:
    """The jugular vein cut along, pressed flat between muscle and artery; returns the course above it."""
    thick = np.float32(scene.rng.uniform(1.2, 2.2)) + scene.wavy(0, 0.4, 0.9)
    above = np.maximum(roof - thick, fascia + np.float32(1.8))
    vein = scene.layer(above, roof - np.float32(0.4))
    scene.paint(vein, t.BLOOD)
    scene.label[vein] = t.OTHER  # fluid stands for the artery alone, which is measured
    scene.flow[vein] = -0.5
    _fascia(scene, roof - np.float32(0.5), 0.35)
    return above


def _walls(scene: Scene, near: np.ndarray, far: np.ndarray, thick: float, uneven: bool) -> None:
    """Intima bright, media dark, adventitia bright on both sides of the lumen [mm courses].

    The double line is clear on the far wall; echoes of the near wall trail into the lumen.
    """
    inside, out = far - near > 0.02, np.maximum(near - scene.z, scene.z - far)
    if thick <= 0:
        return
    outer = out - np.float32(thick)
    scene.echo_db += np.where(outer > 0, 9 * np.exp(-np.clip(outer, 0, 9) / 0.7) + 0, 0)
    line = (outer >= 0) & (outer < 0.45)
    scene.paint(line, t.ADVENTITIA)
    scene.brighten(line, 2 * scene.field[line] - np.where(scene.z[line] < near[line], 3, 0))
    scene.paint((out >= 0) & (outer < 0), t.MEDIA)
    intima = (out >= 0) & (out < INTIMA_MM) & inside
    scene.paint(intima, t.INTIMA)
    scene.brighten(intima & (scene.z < near), -7)
    if uneven:
        rough = (out > 0) & (outer < 0) & (scene.field > 0.4)
        scene.brighten(rough, 8)
    lumen = out < 0
    scene.paint(lumen, t.BLOOD)
    scene.brighten(lumen, 17 * np.exp(-(scene.z[lumen] - near[lumen]) / 0.55))


def _round_artery(
    scene: Scene, examination: Examination, view: View, axis: float, fascia: np.ndarray
) -> None:
    """The artery cut across, the jugular vein and muscle outside it, the thyroid lobe inside."""
    m, rng = examination.measures, scene.rng
    lateral = -1.0 if examination.side == "right" else 1.0
    x, r = rng.uniform(-3, 3), m["lumen"] / 2
    colli = _lens(
        scene, axis + rng.uniform(9.5, 12), rng.uniform(3, 4.5), x - lateral * rng.uniform(2, 8), 17
    )
    _muscle(scene, *colli, FAR_MUSCLE)
    _spine(scene, axis + rng.uniform(15.5, 19))
    # Over the lobe the thin strap muscles, over the vessels the thick sternocleidomastoid.
    gland = _lobe(
        scene, x - lateral * (4.6 + 9.5), axis + rng.uniform(-1, 1.5), 18.0, rng.uniform(13, 17), 0.14
    )
    strap = _lens(scene, axis - 7.2, rng.uniform(1.2, 1.8), x - lateral * 13, 14)
    _muscle(scene, np.maximum(strap[0], fascia), strap[1])
    scm = _lens(
        scene, (fascia[0, 0] + axis - 5.2) / 2, (axis - 5.4 - fascia[0, 0]) / 2, x + lateral * 6, 17
    )
    _muscle(scene, np.maximum(scm[0], fascia), scm[1])
    scene.paint_interface(gland, 0, 0.07, t.FASCIA)
    scene.paint(gland < 0, t.THYROID)
    _jugular(scene, x + lateral * (4.6 + rng.uniform(3.5, 5.0)), axis - rng.uniform(1.0, 2.5), lateral)
    wall = scene.ellipse(x, axis, r, r)
    _round_wall(scene, wall * np.float32(r), m["intima_media"], axis)
    scene.flow[wall < 0] = 0.9
    if view.shows_lesion:
        lesion = examination.lesion
        _plaque(scene, lesion, x, axis + (r if lesion.place == "far_wall" else -r), wall < 0, 0.85 * r)


def _jugular(scene: Scene, cx: float, cz: float, lateral: float) -> None:
    """The vein gives way to the probe: oval, or pressed to a slit."""
    rng = scene.rng
    vein = scene.ellipse(cx, cz, rng.uniform(4.2, 5.8), rng.uniform(1.2, 3.4), lateral * rng.uniform(5, 22), 0.1)
    scene.paint_interface(vein, 0, 0.14, t.WALL)
    scene.paint(vein < 0, t.BLOOD)
    scene.flow[vein < -0.05] = -0.7


def _round_wall(scene: Scene, out: np.ndarray, thick: float, axis: float) -> None:
    """The artery's wall from `out`, mm outside the lumen: layers show where they face the beam."""
    outer = out - np.float32(thick)
    near = outer < 3
    scene.echo_db += np.where(near & (outer > 0), 8 * np.exp(-np.clip(outer, 0, 3) / 0.8), 0)
    scene.paint_interface(outer, 0, 0.5, t.ADVENTITIA)
    scene.paint((out >= 0) & (outer <= 0), t.MEDIA)
    scene.brighten((out >= 0) & (outer <= 0), 3)
    scene.paint_interface(out, 0, INTIMA_MM, t.INTIMA)
    scene.brighten((out >= 0) & (out < INTIMA_MM) & (scene.z < axis), -6)
    lumen = out < 0
    scene.paint(lumen, t.BLOOD)
    scene.brighten(lumen, 12 * np.exp(out[lumen] / 0.5) * (scene.z[lumen] < axis))


def _plaque(
    scene: Scene,
    lesion: Lesion,
    x: float,
    wall_z: float,
    lumen: np.ndarray,
    most_half_width: float = np.inf,
    sag: np.ndarray | float = 0.0,
) -> None:
    """A plaque grows from the wall into the lumen: half an ellipse of twice its thickness along the wall."""
    half = min(lesion.long_mm / 2, most_half_width)
    whole = replace(lesion, short_mm=2 * lesion.short_mm, long_mm=2 * half)
    scene.flow[blob(scene.x, scene.z - sag, x, wall_z, half, lesion.short_mm, 0, None) < 0.1] = 0
    paint_lesion(
        scene, whole, x, wall_z, t.THYROID.echo_db - 2, clip=lumen, sag=sag, tilt_deg=0.0, halo=False
    )

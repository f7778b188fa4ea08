"""Thyroid and common carotid artery, scanned with a linear probe from the front of the neck.

Orientation as on every screen: a transverse image shows the patient's right on the left; a longitudinal one
shows the head on the left. Layers, proportions and their neighbours follow textbooks of head and neck
ultrasound; how far a fascia bends or a muscle reaches is chosen by eye, not measured.

Lobe, lumen and wall are as large as measured, and nothing is painted over them. What carries no measurement
(muscles, fasciae, trachea, oesophagus, spine) varies freely. Not modelled: lymph nodes, nerves, the pulse.
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
WALL_AT = 9.0  # mm beside the middle, away from the bulb: where the intima-media is measured


# ------------ layers that all four views share ------------


def _course(scene: Scene, depth: float | np.ndarray, amplitude: float) -> np.ndarray:
    """The depth (mm) of a fascia [SAMPLES, BEAMS]: one slow bend and one quicker, both of random length."""
    x = scene.across()
    slow = np.float32(2 * np.pi / 40 * scene.rng.uniform(0.3, 0.8))
    quick = np.float32(2 * np.pi / 40 * scene.rng.uniform(1.2, 2.6))
    start, second, third = scene.rng.uniform(0, 2 * np.pi, 3).astype(np.float32)
    bends = (
        0.7 * np.sin(slow * x + start)
        + 0.25 * np.sin(2.3 * slow * x + second)
        + 0.2 * np.sin(quick * x + third)
    )
    return np.broadcast_to(depth + np.float32(amplitude) * bends, scene.x.shape)


def _muscle(scene: Scene, top: np.ndarray, bottom: np.ndarray, tissue: t.Tissue = t.MUSCLE) -> None:
    """A muscle between two courses: dark, with bright fibres along it and a thin bright fascia around it."""
    inside = scene.layer(top, bottom)
    scene.paint(inside, tissue)
    middle = (top[0] + bottom[0]) / 2 / scene.grid.sample_mm
    rows = np.arange(SAMPLES)[:, None] - np.round(middle - middle.mean()).astype(int)
    fibres = smooth_field(scene.rng, 110, 6)[np.clip(rows, 0, SAMPLES - 1), np.arange(BEAMS)]
    scene.brighten(inside, np.clip(13 * (fibres[inside] - 0.45), -3, 15))
    there = bottom - top > 0.5  # where the two fasciae have met there is one line, the deep one
    _fascia(scene, top, 0.35, there)
    _fascia(scene, bottom, 0.4, there)


def _fascia(scene: Scene, course: np.ndarray, thick: float, where: np.ndarray | None = None) -> None:
    """A thin bright line of uneven brightness along a course."""
    line = scene.layer(course, course + thick)
    if where is not None:
        line &= where
    scene.paint(line, t.FASCIA)
    scene.brighten(line, np.clip(5 * scene.field[line], -7, 5) - 3)


def _loose_tissue(scene: Scene) -> None:
    """What lies between the organs: darker than the gland, crossed by a few strands, dark in the depth."""
    scene.echo_db -= 4
    scene.attenuation += np.float32(0.14)
    strands = smooth_field(scene.rng, 34, 8)
    scene.echo_db += np.clip(9 * (strands - 0.9), 0, 9) - 2 * np.clip(-strands, 0, 2)


def _skin(scene: Scene) -> np.ndarray:
    """Skin, subcutaneous fat and platysma; returns the course (mm) of the fascia below them."""
    rng = scene.rng
    skin = rng.uniform(1.1, 1.7)
    fascia = _course(scene, rng.uniform(3.0, 4.6), 0.5)
    scene.paint(scene.layer(0, skin), t.SKIN)
    scene.paint(scene.layer(skin, fascia), t.FAT)
    _fascia(scene, _course(scene, rng.uniform(2.0, 2.6), 0.25), 0.25, scene.field > -0.2)
    return fascia


def _lens(scene: Scene, middle: float, half: float, cx: float, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower course (mm) of a muscle cut across: thick at `cx`, gone `reach` mm beside it."""
    away = np.clip((scene.across() - np.float32(cx)) / np.float32(reach), -1, 1)
    thick = np.float32(half) * np.sqrt(1 - away * away)
    bent = np.float32(middle) + np.float32(0.9) * away * away
    return np.broadcast_to(bent - thick, scene.x.shape), np.broadcast_to(bent + thick, scene.x.shape)


def _spine(scene: Scene, depth: float, lateral: float | None = None) -> None:
    """The front of the spine: a bright line that stops the sound. Along the neck one low arch a vertebra,
    across it (`lateral` given) one arch, bulging towards the midline's side."""
    rng = scene.rng
    if lateral is None:
        length = rng.uniform(14, 19)
        angle = np.float32(np.pi / length) * scene.x + np.float32(rng.uniform(0, np.pi))
        arch = np.sqrt(np.abs(np.cos(angle)))
        solid = np.clip((arch - 0.3) / 0.3, 0.35, 1)  # discs let some sound pass
    else:
        away = (scene.x + np.float32(lateral * rng.uniform(2, 9))) / np.float32(rng.uniform(11, 15))
        arch = 3.0 * (np.sqrt(np.clip(1 - away * away, 0, 1)) - 0.6)
        solid = np.clip((1 - np.abs(away)) / 0.2, 0, 1)
    front = np.float32(depth) - np.float32(1.1) * arch + scene.wavy(0, 0.3, 2.0)
    below = scene.z - front
    shadow = below > 0
    scene.echo_db -= shadow * (19 * solid)
    line = shadow & (below < 0.7)
    scene.brighten(line, (33 + 4 * scene.field[line]) * solid[line])
    scene.label[line & (solid > 0.5)] = t.INTERFACE


# ------------ thyroid ------------


def draw_thyroid(scene: Scene, examination: Examination, view: View) -> None:
    m, rng = examination.measures, scene.rng
    _loose_tissue(scene)
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
    artery_x = cx + lateral * (m["lobe_width"] / 2 + rng.uniform(4.6, 5.4))
    artery_z = cz + rng.uniform(-0.5, 2.5)
    deep = top + m["lobe_depth"] + rng.uniform(1.0, 2.0)
    _spine(scene, deep + rng.uniform(7.0, 9.0), lateral)
    _longus_colli(scene, cx + lateral * rng.uniform(-2, 3), deep + 3.4)
    _muscles_in_front(scene, top, cx + lateral * rng.uniform(15, 19), fascia)
    lobe = _lobe(scene, cx, cz, m["lobe_width"], m["lobe_depth"], 0.14)
    scene.paint_interface(lobe, 0, 0.07, t.FASCIA)
    medial = lateral * (scene.x - np.float32(cx)) < 0
    bridge = scene.wavy(top + 1.0, 0.3, 0.8) - np.float32(0.004) * (scene.x - np.float32(trachea_x)) ** 2
    isthmus = scene.layer(bridge, bridge + m["isthmus"]) & medial
    _fascia(scene, bridge - np.float32(0.3), 0.3, medial)
    scene.paint(isthmus, t.THYROID)
    scene.paint(lobe < 0, t.THYROID)
    scene.measured["lobe_width"] = _widest(scene, lobe < 0, m["lobe_width"])
    front = float(bridge[0, np.abs(scene.x[0] - trachea_x).argmin()])  # measured before the trachea
    scene.measured["isthmus"] = (trachea_x, front), (trachea_x, front + m["isthmus"])
    kept = scene.label == t.PARENCHYMA
    if lateral > 0 and rng.random() < 0.7:  # the oesophagus lies a little to the left of the trachea
        _oesophagus(scene, trachea_x + rng.uniform(9.5, 11.5), top + m["lobe_depth"] + 0.8, kept)
    _trachea(scene, trachea_x, top + 1.6 + m["isthmus"], kept)
    radius = rng.uniform(2.9, 3.4)
    artery = scene.ellipse(artery_x, artery_z, radius, radius)
    _round_wall(scene, artery * np.float32(radius), 0.7, artery_z, radius)
    scene.flow[artery < -0.1] = lateral * 0.8
    return lobe


def _widest(scene: Scene, inside: np.ndarray, width: float) -> tuple[tuple[float, float], ...]:
    """Ends (mm) of the chord that is as long as `width`: between the longest row of `inside`, which is
    shorter, and the line from its left end to its right end, which leans and is longer."""
    rows = np.flatnonzero(inside.any(axis=1))
    first, last = (np.array([where(np.flatnonzero(inside[row])) for row in rows]) for where in (min, max))
    middle, left, right = (int(each) for each in ((last - first).argmax(), first.argmin(), last.argmax()))
    half = float(scene.x[0, 1] - scene.x[0, 0]) / 2
    chords = []
    for share in np.linspace(0, 1, 13):
        low, high = (round(middle + share * (end - middle)) for end in (left, right))
        start = float(scene.x[rows[low], first[low]]) - half, float(scene.z[rows[low], 0])
        end = float(scene.x[rows[high], last[high]]) + half, float(scene.z[rows[high], 0])
        chords.append((abs(np.hypot(end[0] - start[0], end[1] - start[1]) - width), (start, end)))
    return min(chords)[1]


def _muscles_in_front(scene: Scene, top: float, scm_x: float, fascia: np.ndarray) -> None:
    """Strap muscles between the fascia and the gland at `top` mm, cut across; the sternocleidomastoid lies
    beside them over the artery and overlaps them."""
    strap = fascia + np.float32(0.3)
    scene.paint(scene.layer(fascia, top + 2.0), t.SOFT)
    _muscle(scene, strap, np.maximum(_course(scene, top - 0.4, 0.5), strap + 1.0))
    scm = _lens(scene, (4.2 + top) / 2 + 0.8, scene.rng.uniform(2.6, 3.4), scm_x, 13)
    _muscle(scene, np.maximum(scm[0], fascia), scm[1])


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
    """Normalised distance to a lobe of any shape, `width` mm across in all and `depth` mm deep at its
    deepest place (measured straight down, as calipers do)."""
    shape = dents(scene.rng, dent, (2, 3, 4, 6))
    angle = np.linspace(0, np.pi, 91)
    lower, upper = outline(angle, shape), outline(-angle, shape)
    ends = lower * np.cos(angle), upper * np.cos(angle)
    at = np.linspace(-1.2, 1.2, 97)  # depth of the lower and of the upper border at these places
    below, above = (
        np.interp(at, end[::-1], (radius * np.sin(angle))[::-1])
        for end, radius in zip(ends, (lower, upper), strict=True)
    )
    left, right = min(end.min() for end in ends), max(end.max() for end in ends)
    rx, rz = width / float(right - left), depth / float((below + above).max())
    cx -= rx * float(left + right) / 2
    cz -= rz * float(below.max() - above.max()) / 2
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
    below, beside = scene.z - roof, np.abs(away)
    column = (beside < 1) & ~kept
    scene.paint(column & (below > 0) & (below < 1.5), t.CARTILAGE)
    scene.brighten(column & (below > -0.1) & (below < 0.25), 9)  # perichondrium
    shadow = column & (below >= 1.4)
    depth = below[shadow] - np.float32(1.7)
    period = np.float32(rng.uniform(1.5, 2.6))
    comb = np.exp(-(((depth / period + 0.5) % 1 - 0.5) ** 2) / 0.02) * (depth > 0.5 * period)
    tails = np.clip(1 + 0.9 * smooth_field(rng, 3, 22)[shadow], 0, 2) * (1 - beside[shadow] ** 2)
    level = -24 + (28 * comb * np.exp(-depth / 5) + 13 * np.exp(-depth / 8)) * tails
    solid = np.clip((1 - beside[shadow]) / 0.09, 0, 1)  # the edge of the shadow is soft
    scene.echo_db[shadow] += solid * (level - scene.echo_db[shadow])
    air = shadow & (below < 1.95) & (beside < 0.95)
    scene.paint(air, t.GAS)
    scene.brighten(air, -16 * beside[air] ** 2)
    scene.attenuation[shadow] = 0.5  # the loss is in the level of what lies below


def _oesophagus(scene: Scene, cx: float, cz: float, kept: np.ndarray) -> None:
    """A small target: dark muscular wall around bright mucosa and gas."""
    tube = scene.ellipse(cx, cz, scene.rng.uniform(4.0, 5.2), 3.0, scene.rng.uniform(-15, 15), 0.05)
    wall = (tube < 0) & ~kept
    scene.paint(wall, t.MUSCLE)
    scene.brighten((tube > -0.12) & wall, 9)
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
    _loose_tissue(scene)
    fascia = _skin(scene)
    axis = scene.rng.uniform(12.0, 15.5)  # depth of the middle of the lumen
    if view.name == "longitudinal":
        _long_artery(scene, examination, view, axis, fascia)
    else:
        _round_artery(scene, examination, view, axis, fascia)


def _long_artery(scene: Scene, examination: Examination, view: View, axis: float, fascia: np.ndarray) -> None:
    """Near wall, lumen, far wall below muscle, at times a vein between; the spine far below."""
    m, rng = examination.measures, scene.rng
    slope, bow = rng.uniform(-0.09, 0.09), rng.uniform(-0.0045, 0.0045)
    course = np.float32(axis) + np.float32(slope) * scene.x + np.float32(bow) * scene.x**2
    course = course + scene.wavy(0, 0.15, 1.0)
    half = np.float32(m["lumen"] / 2) * _bulb(scene)
    bottom = _course(scene, axis + rng.uniform(8.0, 11.0), 1.2)
    _muscle(scene, bottom, bottom + np.float32(rng.uniform(5, 8)), FAR_MUSCLE)
    _spine(scene, axis + rng.uniform(14.5, 26.0))
    roof = course - np.float32(rng.uniform(5.3, 6.3))  # of the carotid sheath
    if rng.random() < 0.35:
        roof = _vein_above(scene, roof, fascia)
    _muscle(scene, fascia, np.maximum(roof, fascia + 1.0))
    near, far = course - half, course + half
    _walls(scene, near, far, m["intima_media"], examination.background == "coarse")
    column = np.abs(scene.x[0] - WALL_AT).argmin()
    x, z = float(scene.x[0, column]), float(far[SAMPLES // 3, column])
    scene.measured["intima_media"] = (x, z), (x, z + m["intima_media"])
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
    scene.echo_db += np.where(outer > 0, 9 * np.exp(-np.clip(outer, 0, 9) / 0.7), 0)
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
    _spine(scene, axis + rng.uniform(14.5, 24.0), lateral)
    _longus_colli(scene, x - lateral * rng.uniform(2, 7), axis + r + rng.uniform(5, 7))
    # Over the lobe the thin strap muscles, over the vessels the thick sternocleidomastoid.
    wide = rng.uniform(15, 21)
    gland_x = x - lateral * (r + m["intima_media"] + 1.2 + wide / 2)
    gland = _lobe(scene, gland_x, axis + rng.uniform(-1, 2), wide, rng.uniform(10.5, 14.5), 0.18)
    strap = _lens(scene, axis - 7.2, rng.uniform(1.2, 1.8), x - lateral * 13, 14)
    _muscle(scene, np.maximum(strap[0], fascia), strap[1])
    scm = _lens(scene, (fascia[0, 0] + axis - 5.2) / 2, (axis - 5.4 - fascia[0, 0]) / 2, x + lateral * 6, 17)
    _muscle(scene, np.maximum(scm[0], fascia), scm[1])
    scene.paint_interface(gland, 0, 0.07, t.FASCIA)
    scene.paint(gland < 0, t.THYROID)
    _jugular(scene, x + lateral * (4.6 + rng.uniform(3.5, 5.0)), axis - rng.uniform(1.0, 2.5), lateral)
    wall = scene.ellipse(x, axis, r, r)
    _round_wall(scene, wall * np.float32(r), m["intima_media"], axis, r)
    scene.flow[wall < 0] = 0.9
    if view.shows_lesion:
        lesion = examination.lesion
        _plaque(scene, lesion, x, axis + (r if lesion.place == "far_wall" else -r), wall < 0, 0.85 * r)


def _longus_colli(scene: Scene, cx: float, cz: float) -> None:
    """The muscle on the front of the spine, cut across: dark, without a border of its own below."""
    rng = scene.rng
    body = scene.ellipse(cx, cz, rng.uniform(7, 10), rng.uniform(2.2, 3.4), rng.uniform(-12, 12), 0.12)
    weight = np.clip(0.5 - body / 0.25, 0, 1)
    scene.echo_db += weight * (FAR_MUSCLE.echo_db - 2 + 2 * scene.field - scene.echo_db)
    scene.attenuation[body < 0] = FAR_MUSCLE.attenuation
    front = (np.abs(body) < 0.05) & (scene.z < cz)
    scene.brighten(front, 11 + np.clip(4 * scene.field[front], -5, 4))


def _jugular(scene: Scene, cx: float, cz: float, lateral: float) -> None:
    """The vein gives way to the probe: oval, or pressed to a slit."""
    rng = scene.rng
    vein = scene.ellipse(
        cx, cz, rng.uniform(4.2, 5.8), rng.uniform(1.2, 3.4), lateral * rng.uniform(5, 22), 0.1
    )
    scene.paint_interface(vein, 0, 0.14, t.WALL)
    scene.paint(vein < 0, t.BLOOD)
    scene.flow[vein < -0.05] = -0.7


def _round_wall(scene: Scene, out: np.ndarray, thick: float, axis: float, radius: float) -> None:
    """The artery's wall from `out`, mm outside the lumen: layers show where they face the beam."""
    outer = out - np.float32(thick)
    facing = (scene.z - np.float32(axis)) / (out + np.float32(radius))
    around = (outer > 0) & (outer < 3)
    strength = 5 * facing[around] ** 2 + 7 * np.clip(facing[around], 0, 1) ** 3  # most behind the vessel
    scene.echo_db[around] += strength * np.exp(-outer[around] / 0.9)
    scene.paint_interface(outer, 0, 0.4, t.ADVENTITIA)
    wall = (outer > 0) & (outer < 0.4)
    scene.brighten(wall, -9 * (1 - facing[wall] ** 2))
    scene.paint((out >= 0) & (outer <= 0), t.MEDIA)
    side = (out >= 0) & (outer <= 0)
    scene.brighten(side, 3 + 7 * (1 - facing[side] ** 2))  # from the side the layers run together
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

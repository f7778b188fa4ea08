"""Kidney, scanned with a convex probe from the flank: lengthwise and across.

The anatomy follows any atlas of abdominal ultrasound: the renal sinus is the brightest and the pyramids are
the darkest part of a kidney; liver or spleen lies before it, psoas and quadratus lumborum behind. Length,
width and parenchyma are as stated; what carries no measurement is typical (chosen; not measured).

Knows nothing of the standard planes, of reports, or of how an echo becomes a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator import tissue as t
from simulator.anatomy import Setting
from simulator.anatomy.abdominal_wall import abdominal_wall
from simulator.anatomy.axis import Axis, Point
from simulator.anatomy.bowel import gas_loop
from simulator.anatomy.patch import Patch, spot
from simulator.anatomy.vessels import PORTAL_TRACT, Vessel, paint_vessels
from simulator.examination import Examination, View
from simulator.lesion import paint_flow, paint_lesion
from simulator.probe import BEAMS, CONVEX
from simulator.scene import Scene, bend, blob, dents, outline, smooth_field

VIEWS = {
    "longitudinal": Setting(CONVEX, (110.0, 120.0)),
    "transverse": Setting(CONVEX, (100.0, 110.0)),
}


@dataclass(frozen=True)
class Body:
    """A kidney's outline: middle, half axes (mm), and how far its right end is turned down."""

    cx: float
    cz: float
    rx: float
    rz: float
    tilt_deg: float

    def point(self, along: float, across: float) -> Point:
        """The point so many mm along the long axis (to the right) and across it (down) from the middle."""
        return Axis(self.cx, self.cz, self.tilt_deg).point(along, across)


def draw(scene: Scene, examination: Examination, view: View) -> None:
    """Paint the view back to front, the abdominal wall and a rib over it, and the lesion last."""
    m, rng = examination.measures, scene.rng
    scene.paint(scene.z > 0, t.SOFT)
    scene.add_texture(scene.z > 0, 4)
    long_axis = view.name == "longitudinal"
    gas = long_axis and bool(rng.random() < 0.4)
    body = _body(scene, m, long_axis, gas)
    _muscles_behind(scene, body)
    _neighbour(scene, examination.side == "right")
    kidney = _outline_to_scale(scene, body, 0.03)
    fat = float(rng.uniform(0.08, 0.22))
    scene.paint((kidney > 0) & (kidney < fat), t.SEPTUM)  # perirenal fat
    scene.paint_interface(kidney, 0, 0.04, t.FASCIA)
    scene.paint(kidney < 0, t.CORTEX)
    scene.add_texture(kidney < 0, 4.0 if examination.background == "coarse" else 1.2)
    _pyramids(scene, m, body)
    _sinus(scene, m, body, kidney, None if long_axis else examination.side)
    site = _site(scene, examination, view, body)
    wall = float(rng.uniform(11, 16))
    if gas:
        _gas_at_the_lower_pole(scene, body, wall)
    abdominal_wall(scene, wall)
    _rib(scene, examination, body, site, wall, long_axis)
    if view.shows_lesion:
        lesion = examination.lesion
        around_db = t.CORTEX.echo_db + (2 if lesion.kind == "isoechoic" else 0)
        paint_lesion(scene, lesion, *site, around_db)
        if view.doppler:
            paint_flow(scene, lesion, *site)


def _body(scene: Scene, m: dict[str, float], long_axis: bool, gas: bool) -> Body:
    """Where the kidney lies: anywhere that shows it whole; bowel gas below it takes the room on the right."""
    rng = scene.rng
    cz, tilt = float(rng.uniform(60, 70)), float(rng.uniform(-6, 16) if long_axis else rng.uniform(-24, 24))
    rx, rz = (m["length"] if long_axis else m["width"] * 1.12) / 2, m["width"] / 2
    half = np.deg2rad(scene.grid.probe.angle_deg) / 2
    high = cz - rx * abs(
        np.sin(np.deg2rad(tilt))
    )  # the end that comes nearer to the probe sees a narrower fan
    room = max(0.0, np.tan(half) * (scene.grid.probe.radius_mm + high) - rx - 2)
    aside = -1.0 if gas else float(rng.uniform(-1, 1))
    return Body(aside * min(room, 14.0), cz, rx, rz, tilt)


def _outline_to_scale(scene: Scene, body: Body, wobble: float) -> np.ndarray:
    """Normalised distance to the dented outline whose extents are the body's axes, dents included."""
    shape = dents(scene.rng, wobble)
    angle = np.linspace(0, 2 * np.pi, 180)
    radius = outline(angle, shape)
    rx = 2 * body.rx / float(np.ptp(radius * np.cos(angle)))
    rz = 2 * body.rz / float(np.ptp(radius * np.sin(angle)))
    return blob(scene.x, scene.z, body.cx, body.cz, rx, rz, body.tilt_deg, shape)


def _muscles_behind(scene: Scene, body: Body) -> None:
    """Psoas and quadratus lumborum behind the kidney, striated along their fibres."""
    rng = scene.rng
    behind = scene.z > scene.wavy(body.cz + body.rz + float(rng.uniform(9, 15)), 3)
    scene.paint(behind, t.MUSCLE)
    scene.echo_db[behind] += 3 * smooth_field(rng, 110, 5)[behind]
    x, z = float(rng.uniform(-40, 40)), body.cz + body.rz + float(rng.uniform(38, 46))
    patch, psoas = spot(scene, x, z, float(rng.uniform(60, 80)), 26.0, float(rng.uniform(-8, 8)))
    patch.paint_sheet(psoas * np.float32(26), -0.6, 0.6, t.FASCIA)


def _neighbour(scene: Scene, right: bool) -> None:
    """Liver before a right kidney, the tip of the spleen before a left one, each with vessels of its own."""
    rng = scene.rng
    if right:
        x, rx, rz = float(rng.uniform(-64, -34)), float(rng.uniform(46, 68)), float(rng.uniform(24, 34))
    else:
        x, rx, rz = float(rng.uniform(-62, -44)), float(rng.uniform(36, 52)), float(rng.uniform(22, 30))
    z, tilt = float(rng.uniform(34, 44)), float(rng.uniform(4, 18))
    tissue = t.LIVER if right else t.SPLEEN
    organ = scene.ellipse(x, z, rx, rz, tilt, 0.03)
    scene.paint(organ < 0, tissue)
    scene.add_texture(organ < 0, 1.2)
    scene.paint_interface(organ * np.float32(rz), 0, 1.1, t.FASCIA)
    for _ in range(int(rng.integers(2, 6))):
        angle, share = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.7)
        at = np.array((x + share * rx * np.cos(angle), z + share * rz * np.sin(angle)))
        tip = at + rng.uniform(-9, 9, 2) * (1, 0.5)
        patch = Patch.around(scene, [at, tip], 2)
        away = patch.tube([tuple(at), tuple(tip)], (1.7, 1.0))
        within = organ[patch.at] < -0.06
        if rng.random() < 0.5:
            patch.paint((away < 1) & within, PORTAL_TRACT)
        patch.paint((away < 0) & within, t.BLOOD)


def _pyramids(scene: Scene, m: dict[str, float], body: Body) -> None:
    """Pyramids between sinus and cortex, darker than cortex by little or much, some cut and some not."""
    rng = scene.rng
    pyramid = t.Tissue(float(rng.uniform(-14, -8)), 0.45, 1.0, t.PARENCHYMA)
    sx, sz = body.rx - m["parenchyma"], body.rz - m["parenchyma"]
    count = int(rng.integers(6, 10))
    angles = (
        rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(count) / count + rng.uniform(-0.15, 0.15, count)
    )
    for angle, size, shown in zip(angles, rng.uniform(0.75, 1.2, count), rng.random(count), strict=True):
        if shown < 0.2:
            continue
        along, across = (sx + 4.5) * np.cos(angle), (sz + 4.0) * np.sin(angle)
        outwards = np.rad2deg(np.arctan2(across / (sz + 4.0) ** 2, along / (sx + 4.5) ** 2))
        x, z = body.point(along, across)
        patch, cone = spot(scene, x, z, 4.6 * size, 3.4 * size, float(outwards) + body.tilt_deg)
        patch.paint(cone < 0, pyramid)


def _sinus(scene: Scene, m: dict[str, float], body: Body, kidney: np.ndarray, open_side: str | None) -> None:
    """The bright sinus, what is left around it being parenchyma of stated thickness.

    Its fat is uneven; at times a slit of the collecting system lies in it. Cut across (`open_side` names the
    kidney), it opens towards the hilum, where the renal vein leaves.
    """
    rng = scene.rng
    sx, sz = body.rx - m["parenchyma"], body.rz - m["parenchyma"]
    sinus = scene.ellipse(body.cx, body.cz, sx, sz, body.tilt_deg, 0.12) < 0
    if open_side:
        way = 1 if open_side == "right" else -1  # the spine lies on the right of a right kidney's picture
        neck = [body.point(0, 0), body.point(way * (body.rx + 3), 3)]
        hilum = scene.tube(neck, [0.55 * sz, 0.3 * sz]) < 1
        sinus |= hilum & (kidney < 0.1)
    scene.paint(sinus, t.SINUS)
    scene.add_texture(sinus, 4.5)
    if open_side:
        bow, tip = body.point(way * body.rx, 0), body.point(way * (body.rx + 16), float(rng.uniform(2, 16)))
        vein = bend([body.point(way * 0.5 * body.rx, float(rng.uniform(-3, 3))), bow, tip], 6)
        paint_vessels(
            scene, [Vessel(tuple(vein), tuple(np.linspace(0.5, rng.uniform(1.2, 2.4), 6)), 0.0, -0.5)]
        )
    if rng.random() < 0.45:
        reach, low = 0.6 * sx * float(rng.uniform(0.4, 1)), float(rng.uniform(-0.2, 0.2)) * sz
        slit = [body.point(s * reach, low + float(rng.uniform(-1, 1))) for s in (-1, 0, 1)]
        patch = Patch.around(scene, slit, 2)
        width = float(rng.uniform(0.6, 1.7))
        patch.paint((patch.tube(slit, (0.5, width, 0.5)) < 0) & sinus[patch.at], t.FLUID_CLEAR)


def _gas_at_the_lower_pole(scene: Scene, body: Body, wall_mm: float) -> None:
    """Colon before the lower pole's tip, in the corner that the kidney leaves free."""
    radius = scene.grid.probe.radius_mm
    x, z = body.point(body.rx, 0)
    front = max(wall_mm + 10, z - 22)
    gas_loop(scene, x * (front + radius) / (z + radius) + 12, front, 14.0, 7.0)


def _rib(
    scene: Scene, examination: Examination, body: Body, site: Point, wall_mm: float, long_axis: bool
) -> None:
    """At times the soft-edged shadow of a rib: beside the ends of what is measured, and beside the lesion."""
    rng = scene.rng
    radius = scene.grid.probe.radius_mm
    wide, there, side = np.deg2rad(rng.uniform(3.5, 6)), rng.random() < 0.22, rng.choice((-1.0, 1.0))
    share = rng.uniform(0.5, 0.62)
    if not there:
        return
    x, z = body.point(side * share * body.rx, 0) if long_axis else body.point(side * (body.rx + 14), 0)
    middle = np.arctan2(x, z + radius)
    loss_db = 18.0
    if examination.lesion is not None:
        away = np.hypot(site[0], site[1] + radius)
        clear = np.arcsin(min(0.5 * examination.lesion.long_mm / away, 1)) + np.deg2rad(2.0) + wide
        gap = abs(middle - np.arctan2(site[0], site[1] + radius)) - clear
        loss_db *= np.clip(gap / np.deg2rad(2.0), 0, 1)  # fades near the lesion: no flicker in a cine
    if loss_db > 0:
        shade(scene, float(middle), float(wide), wall_mm, float(loss_db))


def shade(scene: Scene, middle: float, half_width: float, start_mm: float, loss_db: float) -> None:
    """A rib's soft-edged shadow around the beam at `middle` (radians), and its bright surface in the wall."""
    half = np.deg2rad(scene.grid.probe.angle_deg) / 2
    beam = np.linspace(-half, half, BEAMS, dtype=np.float32)
    across = np.abs(beam - np.float32(middle)) / np.float32(half_width)
    depth = np.clip(1.4 - 1.4 * across, 0, 1)  # 1 in the umbra, falling to 0 at its soft edge
    first = int(start_mm / scene.grid.sample_mm)
    scene.echo_db[first:] -= np.float32(loss_db) * depth
    rows, columns = slice(first - 3, first + 2), across < 0.9
    surface = t.DIAPHRAGM.echo_db - 6 * across[columns] ** 2
    scene.echo_db[rows, columns] += min(loss_db / 6, 1.0) * (surface - scene.echo_db[rows, columns])


def _site(scene: Scene, examination: Examination, view: View, body: Body) -> Point:
    """Poles lie at the ends of the long axis (upper pole on the left); the middle bulges from the front.

    Without a lesion, the middle of the kidney; the same random numbers are drawn either way.
    """
    aside = float(scene.rng.uniform(-6, 6))
    lesion = examination.lesion
    if lesion is None:
        return body.cx, body.cz
    if view.name == "transverse" or lesion.place == "middle":
        return body.cx + aside, body.cz - body.rz + 0.62 * lesion.short_mm * 0.9
    way = -1 if lesion.place == "upper_pole" else 1
    return body.point(way * max(body.rx - 0.5 * lesion.long_mm - 2, 0.45 * body.rx), 0.0)

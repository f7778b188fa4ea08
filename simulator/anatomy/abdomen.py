"""Liver and kidney, scanned with a convex probe through the abdominal wall.

The anatomy follows any atlas of abdominal ultrasound: portal branches have bright walls, hepatic veins none
and run into the vena cava; the renal sinus is the brightest and the pyramids are the darkest part of a
kidney. Where the probe stands differs from scene to scene: a view's vessels are turned, shifted and scaled
as a whole, never mirrored. Proportions are typical adults' (chosen; not measured).

Knows nothing of the standard planes, of reports, or of how an echo becomes a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from simulator import tissue as t
from simulator.anatomy import Setting
from simulator.examination import Examination, View
from simulator.lesion import paint_flow, paint_lesion
from simulator.probe import BEAMS, CONVEX, SAMPLES
from simulator.scene import Scene, bend, blob, dents, outline, smooth_field

LIVER_VIEWS = {
    "right_intercostal": Setting(CONVEX, (130.0, 150.0)),
    "right_subcostal": Setting(CONVEX, (130.0, 150.0)),
    "left_sagittal": Setting(CONVEX, (120.0, 130.0)),
}
KIDNEY_VIEWS = {
    "longitudinal": Setting(CONVEX, (110.0, 120.0)),
    "transverse": Setting(CONVEX, (100.0, 110.0)),
}
EDGE_MM = 7.0  # around a shape in which its distance is worked out; also what a cine may move the scene by
BESIDE_MM = 2.0  # between a lesion and the nearest large vessel, capsule or edge of the scan

OMENTUM = t.Tissue(-6, 0.5, 2.5)  # fat below and behind the liver
PORTAL_TRACT = t.Tissue(9, 0.5, 1.0, t.PARENCHYMA)  # the bright sheath of a small portal branch

Point = tuple[float, float]  # x, z in mm


class Patch:
    """The samples of a fan-shaped scene around a box (mm): a small shape is worked out only where it lies."""

    def __init__(self, scene: Scene, low: Point, high: Point):
        self.scene = scene
        probe = scene.grid.probe
        x = np.array((low[0], high[0])) + (-EDGE_MM, EDGE_MM)
        z = np.array((low[1], high[1])) + (-EDGE_MM, EDGE_MM) + probe.radius_mm
        corner_x, corner_z = np.meshgrid(x, np.maximum(z, 1.0))
        nearest = np.hypot(np.clip(0, *x), max(z[0], 0.0)) - probe.radius_mm
        furthest = np.hypot(corner_x, corner_z).max() - probe.radius_mm
        beam = np.arctan2(corner_x, corner_z) / np.deg2rad(probe.angle_deg) + 0.5
        rows = np.clip(np.array((nearest, furthest)) / scene.grid.sample_mm, 0, SAMPLES).astype(int)
        columns = np.clip(np.array((beam.min(), beam.max())) * (BEAMS - 1), 0, BEAMS).astype(int)
        self.at = np.s_[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1]
        self.x, self.z = scene.x[self.at], scene.z[self.at]
        self.label = scene.label[self.at]  # a view: what is painted later is seen here, too

    @classmethod
    def around(cls, scene: Scene, path: Sequence[Point], reach: float) -> Patch:
        places = np.asarray(path)
        return cls(scene, tuple(places.min(0) - reach), tuple(places.max(0) + reach))

    def paint(self, mask: np.ndarray, tissue: t.Tissue, flow: float = 0.0) -> None:
        scene = self.scene
        scene.echo_db[self.at][mask] = tissue.echo_db + tissue.texture * scene.field[self.at][mask]
        scene.attenuation[self.at][mask] = tissue.attenuation
        scene.label[self.at][mask] = tissue.label
        scene.flow[self.at][mask] = flow

    def paint_sheet(self, away_mm: np.ndarray, low: float, high: float, tissue: t.Tissue) -> None:
        """A thin sheet low < distance < high (mm): bright where it faces the beam."""
        sheet = (away_mm > low) & (away_mm < high)
        if min(sheet.shape) < 2 or not sheet.any():
            return
        down, across = np.gradient(away_mm)
        down, across = down / self.scene.grid.sample_mm, across / self.scene.grid.beam_mm()[self.at[0], None]
        facing = np.abs(down[sheet]) / (np.hypot(down[sheet], across[sheet]) + 1e-6)
        self.paint(sheet, tissue)
        self.scene.echo_db[self.at][sheet] -= 13 * (1 - facing) ** 1.2

    def tube(self, path: Sequence[Point], radii: Sequence[float]) -> np.ndarray:
        """Signed distance (mm) to a tube through `path`, negative inside."""
        best = np.full(self.x.shape, 99.0, np.float32)
        for (x0, z0), (x1, z1), r0, r1 in zip(path, path[1:], radii, radii[1:], strict=False):
            dx, dz = np.float32(x1 - x0), np.float32(z1 - z0)
            from_x, from_z = self.x - np.float32(x0), self.z - np.float32(z0)
            along = np.clip((from_x * dx + from_z * dz) / (dx * dx + dz * dz + np.float32(1e-6)), 0, 1)
            away = np.hypot(from_x - along * dx, from_z - along * dz)
            np.minimum(best, away - np.float32(r0) - along * np.float32(r1 - r0), out=best)
        return best

    def ellipse(self, cx: float, cz: float, rx: float, rz: float, tilt_deg: float = 0.0) -> np.ndarray:
        """Normalised distance, as `Scene.ellipse`."""
        return blob(self.x, self.z, cx, cz, rx, rz, tilt_deg, None)


def spot(scene: Scene, cx: float, cz: float, rx: float, rz: float, tilt_deg: float = 0.0) -> tuple:
    """The patch around a small ellipse, and the normalised distance to it there."""
    reach = max(rx, rz)
    patch = Patch(scene, (cx - reach, cz - reach), (cx + reach, cz + reach))
    return patch, patch.ellipse(cx, cz, rx, rz, tilt_deg)


@dataclass(frozen=True)
class Vessel:
    """A bent tube with a radius (mm) at each point; `wall_mm` is 0 for a hepatic vein."""

    path: tuple[Point, ...]
    radii: tuple[float, ...]
    wall_mm: float = 0.0
    flow: float = 0.0


@dataclass(frozen=True)
class Stand:
    """Where the probe stands: a view's vessels turned and scaled around `pivot`, then shifted (mm)."""

    pivot: Point
    shift: Point
    turn_deg: float
    scale: float

    def place(self, points: Sequence[Point]) -> list[Point]:
        turn = np.deg2rad(self.turn_deg)
        away = (np.asarray(points, float) - self.pivot) * self.scale
        x = away[:, 0] * np.cos(turn) - away[:, 1] * np.sin(turn) + self.pivot[0] + self.shift[0]
        z = away[:, 0] * np.sin(turn) + away[:, 1] * np.cos(turn) + self.pivot[1] + self.shift[1]
        return [(float(a), float(b)) for a, b in zip(x, z, strict=True)]

    def vessel(self, points: Sequence[Point], radii: tuple[float, float], *more: float) -> Vessel:
        """A vessel along the Bezier curve of `points`, tapering from the first to the second radius."""
        path = bend(self.place(points), 7)
        return Vessel(tuple(path), tuple(np.linspace(radii[0], radii[1], len(path))), *more)


def stand(rng: np.random.Generator, pivot: Point, turn_deg: float, shift: Point) -> Stand:
    """A stand within ± `turn_deg` and ± `shift` of the usual one."""
    moved = (float(rng.uniform(-1, 1) * shift[0]), float(rng.uniform(-1, 1) * shift[1]))
    return Stand(pivot, moved, float(rng.uniform(-turn_deg, turn_deg)), float(rng.uniform(0.88, 1.14)))


def abdominal_wall(scene: Scene, thickness: float) -> np.ndarray:
    """Paint skin, fat and a muscle between two bright sheets; returns the depth along the beam (mm)."""
    reach = np.hypot(scene.x, scene.z + scene.grid.probe.radius_mm) - scene.grid.probe.radius_mm
    rows = slice(0, int((thickness + EDGE_MM) / scene.grid.sample_mm))  # nothing of the wall lies deeper
    near = np.zeros(reach.shape, bool)
    waves = 1 + 0.05 * smooth_field(scene.rng, 2, 6)[:1]  # the sheet between fat and muscle undulates

    def paint(layer: np.ndarray, tissue: t.Tissue) -> None:
        near[rows] = layer
        scene.paint(near, tissue)

    depth = reach[rows]
    paint(depth < thickness, t.MUSCLE)
    scene.echo_db[near] += 2.5 * smooth_field(scene.rng, 130, 5)[near]  # fibres
    paint(depth < 0.6 * thickness * waves, t.FAT)
    paint(depth < 2.5, t.SKIN)
    for sheet in (0.6 * thickness * waves, thickness - 1.2):
        paint((depth > sheet) & (depth < sheet + 1.2), t.FASCIA)
    return reach


def draw_liver(scene: Scene, examination: Examination, view: View) -> None:
    rng = scene.rng
    wall = float(rng.uniform(12, 18))
    scene.add_texture(scene.label == t.PARENCHYMA, 4.5 if examination.background == "coarse" else 1.3)
    draw = {
        "right_intercostal": _intercostal,
        "right_subcostal": _subcostal,
        "left_sagittal": _left_sagittal,
    }[view.name]
    inside, vessels = draw(scene, examination)
    portal_triads(scene, int(rng.integers(12, 24)), wall)
    abdominal_wall(scene, wall)
    if view.shows_lesion:
        x, z = _site_in_liver(scene, 0.5 * examination.lesion.long_mm, wall, inside, vessels)
        paint_lesion(scene, examination.lesion, x, z, t.LIVER.echo_db)
        if view.doppler:
            paint_flow(scene, examination.lesion, x, z)


def _intercostal(scene: Scene, examination: Examination) -> tuple[np.ndarray, list[Vessel]]:
    """The right portal vein, as wide as stated up to its fork, and a hepatic vein between the branches.

    Returns the distance (mm) to the liver's border, negative inside, and the vessels. Nothing else in the
    middle of the picture is as wide as a portal vein: calipers look for it by its width.
    """
    rng = scene.rng
    inside = _dome(scene, float(rng.uniform(-24, 12)), float(rng.uniform(56, 66)))
    kidneys = []
    if rng.random() < 0.2:
        kidneys.append(
            _kidney_behind(scene, float(rng.uniform(20, 44)), float(rng.uniform(116, 124)), inside)
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
    vessels = [] if gallbladder else _branching(rng, here, vein, (1.0, 3.2), 0.0, -0.6)
    cut = rng.random()  # the plane of the scan holds both branches, or only one of them
    if cut > 0.2:
        vessels += _branching(rng, here, front, (0.62 * half, 0.26 * half), 0.8 * wall, 0.6)
    if cut < 0.8:
        vessels += _branching(rng, here, back, (0.62 * half, 0.26 * half), 0.8 * wall, -0.55)
    vessels.append(stem)
    paint_vessels(scene, vessels)
    if gallbladder:
        vessels.append(_gallbladder(scene, (float(rng.uniform(18, 26)), float(rng.uniform(47, 52)))))
    return inside, [*vessels, *kidneys]


def _subcostal(scene: Scene, examination: Examination) -> tuple[np.ndarray, list[Vessel]]:
    """Three hepatic veins without bright walls, widening into the oval of the vena cava; see `_intercostal`
    for what is returned."""
    rng = scene.rng
    here = stand(rng, (0.0, 100.0), 16.0, (14.0, 8.0))
    inside = _dome(scene, float(rng.uniform(-12, 12)), float(rng.uniform(54, 62)))
    end = (0.0, 102.0)
    veins = (
        [(-78, 62 + float(rng.uniform(-8, 8))), (-50, 84), (-24, 92), end],
        [(-14 + float(rng.uniform(-8, 8)), 44), (-14, 66), (-4, 84), end],
        [(54, 62 + float(rng.uniform(-10, 8))), (40, 82), (18, 88), end],
    )
    vessels = []
    for points in veins:
        width = float(rng.uniform(3.6, 5.2))
        vessels += _branching(rng, here, points, (1.2, width), 0.0, -0.6)
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
        vessels.append(_gallbladder(scene, (float(rng.uniform(36, 46)), float(rng.uniform(50, 64)))))
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
    _spine(scene, here)
    caudate = _caudate(scene, back)
    _bowel(scene, edge)
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
        *_branching(rng, here, [(14, 40), (-14, 58), (-46, 52), (-84, 72)], (1.0, 3.8), 0.0, -0.6),
        here.vessel([dot, (dot[0] + float(rng.uniform(2, 12)), dot[1] + 2)], (3.0, 2.4), 1.3, 0.5),
    ]
    inside = np.maximum(away, _diaphragm_on_the_left(scene))
    paint_vessels(scene, [aorta, *(arteries if rng.random() < 0.75 else arteries[1:]), *veins])
    return inside, [*veins, caudate, Vessel(tuple(map(tuple, border)), (0.0,) * len(border))]


def _spine(scene: Scene, here: Stand) -> None:
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


def _bowel(scene: Scene, edge: Point) -> None:
    """Stomach or colon below the liver's edge: a bright ragged surface of gas and a dirty shadow."""
    gas_loop(scene, edge[0] + float(scene.rng.uniform(8, 16)), edge[1] + 2, 13.0, 8.0)
    if scene.rng.random() < 0.6:  # the antrum, collapsed: a dark muscle ring around a bright middle
        x, z = edge[0] - float(scene.rng.uniform(6, 14)), edge[1] + float(scene.rng.uniform(26, 32))
        patch, ring = spot(scene, x, z, 10.0, 7.0, -20.0)
        patch.paint(ring < 0, t.MUSCLE)
        patch.paint(ring < -0.5, t.SEPTUM)


def gas_loop(scene: Scene, x: float, z: float, rx: float, rz: float, haze_db: float = 0.0) -> None:
    """A loop of bowel: its dark wall, gas along its front, and what gas leaves behind: a grey shadow."""
    rng = scene.rng
    patch, loop = spot(scene, x, z, rx, rz, float(rng.uniform(-20, 20)))
    patch.paint(loop < 0, t.MUSCLE)
    reach = 0.75 * rx
    steps = np.linspace(-1, 1, 7)
    tops = z - 0.55 * rz + 2 * steps**2 + rng.uniform(-1.3, 1.3, 7)
    ragged = list(zip(x + steps * reach, tops, strict=True))
    patch.paint(patch.tube(ragged, rng.uniform(0.3, 1.2, 7)) < 0, t.GAS)
    if haze_db:
        below = (np.abs(patch.x - x) < reach) & (patch.z > z - 0.4 * rz) & (patch.label == t.OTHER)
        fading = np.exp(-(patch.z[below] - z) / 12)
        scene.echo_db[patch.at][below] += np.float32(haze_db) * fading


def _diaphragm_on_the_left(scene: Scene) -> np.ndarray:
    """The diaphragm at the cranial end of a sagittal view; returns the distance (mm), negative below it."""
    rng = scene.rng
    dome = scene.ellipse(float(rng.uniform(40, 58)), 66, 112, float(rng.uniform(86, 100)))
    return _beyond(scene, np.where(scene.z < 88, dome, np.float32(-1)), 100)  # it ends before the aorta


def _dome(scene: Scene, cx: float, cz: float) -> np.ndarray:
    """The diaphragm around the dome of the liver; returns the distance (mm), negative inside the liver."""
    rng = scene.rng
    rx, rz = float(rng.uniform(100, 114)), float(rng.uniform(70, 84))
    return _beyond(scene, scene.ellipse(cx, cz, rx, rz, float(rng.uniform(-12, 10)), 0.012), rz)


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


def _gallbladder(scene: Scene, at: Point) -> Vessel:
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


def _kidney_behind(scene: Scene, x: float, z: float, inside: np.ndarray) -> Vessel:
    """Paint the kidney that a view of the liver shows at its lower border. Returned as what a lesion keeps
    clear of."""
    rng = scene.rng
    body = Body(x, z, float(rng.uniform(38, 46)), float(rng.uniform(17, 20)), float(rng.uniform(-14, 4)))
    cortex = replace(t.CORTEX, echo_db=t.CORTEX.echo_db - 5)  # so deep, only contrast tells it from the liver
    sinus = replace(t.SINUS, echo_db=t.SINUS.echo_db - 4)
    for size, tissue in ((1.1, t.SEPTUM), (1.0, cortex), (0.42, sinus)):
        part = scene.ellipse(x, z, size * body.rx, size * body.rz, body.tilt_deg, 0.04 * (size < 1.1))
        scene.paint((part < 0) & (inside < 0), tissue)
    ends = (body.point(body.rz - body.rx, 0), body.point(body.rx - body.rz, 0))
    return Vessel(ends, (1.1 * body.rz,) * 2)


def _branching(
    rng: np.random.Generator,
    here: Stand,
    points: Sequence[Point],
    radii: tuple[float, float],
    wall_mm: float,
    flow: float,
) -> list[Vessel]:
    """A tapering vessel and two or three twigs that leave it forwards, as branches do."""
    points = np.asarray(points, float)
    points[1:-1] += rng.uniform(-6, 6, (len(points) - 2, 2))
    main = here.vessel(points, radii, wall_mm, flow)
    path = np.asarray(main.path)
    thin_end = 0 if radii[0] < radii[1] else len(path) - 1
    twigs = []
    for k in sorted(rng.choice(np.arange(2, len(path) - 2), int(rng.integers(1, 3)), replace=False)):
        way = path[k - 1 if thin_end == 0 else k + 1] - path[k]
        angle = np.arctan2(way[1], way[0]) + rng.choice((-1, 1)) * rng.uniform(0.5, 0.95)
        length = rng.uniform(12, 24)
        tip = path[k] + length * np.array((np.cos(angle), np.sin(angle)))
        bow = (path[k] + tip) / 2 + rng.uniform(-2.5, 2.5, 2)
        width = 0.6 * main.radii[k]
        line = bend([tuple(path[k]), tuple(bow), tuple(tip)], 4)
        twigs.append(
            Vessel(tuple(line), tuple(np.linspace(width, 0.35 * width + 0.2, 4)), 0.8 * wall_mm, flow)
        )
    return [*twigs, main]


def paint_vessels(scene: Scene, vessels: Sequence[Vessel]) -> None:
    """All walls first and all blood after them, so that branches open into each other.

    A vessel without flow only stands for a place (the gallbladder, already painted) and is left alone.
    """
    drawn = []
    for vessel in vessels:
        if vessel.flow:
            patch = Patch.around(scene, vessel.path, max(vessel.radii) + vessel.wall_mm)
            drawn.append((vessel, patch, patch.tube(vessel.path, vessel.radii)))
    for vessel, patch, away in drawn:
        if vessel.wall_mm:
            patch.paint_sheet(away, -0.3, vessel.wall_mm, t.WALL)
    for vessel, patch, away in drawn:
        patch.paint(away < 0, t.BLOOD)
        scene.flow[patch.at][away < -0.1 * max(vessel.radii)] = vessel.flow


def portal_triads(scene: Scene, count: int, wall_mm: float) -> None:
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


def _site_in_liver(
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
        room = np.minimum(room, _clearance(vessel, x, z))
    wide = np.flatnonzero(room > half_mm + BESIDE_MM)
    pick = int(wide[0]) if len(wide) else int(room.argmax())
    return float(x[pick]), float(z[pick])


def _clearance(vessel: Vessel, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Distance (mm) of points [n] to the outside of a vessel's wall."""
    path, radii = np.asarray(vessel.path), np.asarray(vessel.radii)
    start, step = path[:-1], np.diff(path, axis=0)  # [k, 2]
    away = np.stack([x, z], -1)[:, None] - start  # [n, k, 2]
    along = np.clip((away * step).sum(-1) / ((step**2).sum(-1) + 1e-6), 0, 1)  # [n, k]
    gap = np.linalg.norm(away - along[..., None] * step, axis=-1) - radii[:-1] - along * np.diff(radii)
    return gap.min(1) - vessel.wall_mm


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
        turn = np.deg2rad(self.tilt_deg)
        return (
            float(self.cx + along * np.cos(turn) - across * np.sin(turn)),
            float(self.cz + along * np.sin(turn) + across * np.cos(turn)),
        )


def draw_kidney(scene: Scene, examination: Examination, view: View) -> None:
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
    site = _site_in_kidney(scene, examination, view, body)
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


def _site_in_kidney(scene: Scene, examination: Examination, view: View, body: Body) -> Point:
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

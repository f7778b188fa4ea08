"""Liver and kidney, scanned with a convex probe through the abdominal wall.

The anatomy follows any atlas of abdominal ultrasound: portal branches have bright walls, hepatic veins none
and run into the vena cava; the renal sinus is the brightest and the pyramids are the darkest part of a
kidney. Where the probe stands differs from scene to scene: a view's vessels are turned, shifted and scaled
as a whole, never mirrored. Proportions are typical adults' (chosen; not measured).

Knows nothing of the standard planes, of reports, or of how an echo becomes a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulator import tissue as t
from simulator.anatomy import Setting
from simulator.examination import Examination, View
from simulator.lesion import paint_flow, paint_lesion
from simulator.probe import BEAMS, CONVEX, SAMPLES
from simulator.scene import Scene, bend, blob, smooth_field

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
        """A thin sheet low < distance < high (mm): bright where it faces the beam, lost where it runs along."""
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
    """A bent tube with a radius (mm) at each point; `wall_mm` 0 for a hepatic vein, `flow` as on the scene."""

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
    rows = slice(0, int((thickness + EDGE_MM) / scene.grid.sample_mm))
    depth = reach[rows]
    waves = 1 + 0.05 * smooth_field(scene.rng, 2, 6)[:1]  # the sheets between fat and muscle undulate
    patch = Patch.around(scene, [(0.0, 0.0)], 0)
    patch.at, patch.x, patch.z = np.s_[rows, :], scene.x[rows], scene.z[rows]
    patch.paint(depth < thickness, t.MUSCLE)
    streaks = smooth_field(scene.rng, 130, 5)[rows]
    muscle = depth < thickness
    scene.echo_db[rows][muscle] += 2.5 * streaks[muscle]
    patch.paint(depth < 0.6 * thickness * waves, t.FAT)
    patch.paint(depth < 2.5, t.SKIN)
    for share, back in ((0.6 * waves, 0.0), (1.0, 1.2)):
        sheet = share * thickness - back
        patch.paint((depth > sheet) & (depth < sheet + 1.2), t.FASCIA)
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
    for vessel in vessels:
        paint_vessel(scene, vessel)
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
    if rng.random() < 0.3:
        kidney_behind(scene, float(rng.uniform(20, 44)), float(rng.uniform(116, 124)), inside)
    half = examination.measures["portal_vein"] / 2
    here = stand(rng, (10.0, 78.0), 17.0, (14.0, 8.0))
    fork = (float(rng.uniform(-4, 8)), float(rng.uniform(74, 80)))
    wall, calm = float(rng.uniform(1.6, 2.4)), 0.55
    stem = here.vessel([(78, 100), (46, 96), (26, 80), fork], (half, half), wall, 0.7)
    front = [fork, (fork[0] - 8, fork[1] - 8), (-16, 60), (-20 + float(rng.uniform(-8, 6)), 36)]
    back = [fork, (fork[0] - 14, fork[1] + 6), (-34, 92), (-58, 88 + float(rng.uniform(-6, 8)))]
    vessels = [
        *_branching(rng, here, [(16, 30), (26, 48), (52, 60), (80, 62)], (1.0, 3.2), 0.0, -0.6),
        *_branching(rng, here, front, (0.72 * half, 0.28 * half), 0.8 * wall, 0.6),
        *_branching(rng, here, back, (0.74 * half, 0.28 * half), 0.8 * wall, -calm),
        stem,
    ]
    if rng.random() < 0.3:
        vessels.append(_gallbladder(scene, (float(rng.uniform(60, 66)), float(rng.uniform(66, 78)))))
    return inside, vessels


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
        width = float(rng.uniform(3.2, 4.4))
        vessels += _branching(rng, here, points, (0.9, width), 0.0, -0.6)
    long, high = float(rng.uniform(10, 14)), float(rng.uniform(6.5, 9))
    cava = here.place([(end[0] - long + high, end[1] + 3), (end[0] + long - high, end[1] + 4)])
    vessels.append(Vessel(tuple(cava), (high, high), 0.0, -0.5))
    for _ in range(int(rng.integers(2, 5))):  # portal branches, cut across or aslant
        x, z = float(rng.uniform(-48, 48)), float(rng.uniform(44, 82))
        points = [(x, z), (x + float(rng.uniform(-14, 14)), z + float(rng.uniform(-6, 6)))]
        vessels.append(here.vessel(points, (2.3, 1.4), 1.1, 0.5))
    if rng.random() < 0.5:
        vessels.append(_gallbladder(scene, (float(rng.uniform(36, 46)), float(rng.uniform(50, 64)))))
    return inside, vessels


def _left_sagittal(scene: Scene, examination: Examination) -> tuple[np.ndarray, list[Vessel]]:
    """The wedge of the left lobe with its sharp edge, the caudate lobe behind the ligamentum venosum, the
    aorta with its branches before the spine; see `_intercostal` for what is returned."""
    rng = scene.rng
    here = stand(rng, (0.0, 80.0), 5.0, (8.0, 3.0))
    edge = (float(rng.uniform(46, 62)), float(rng.uniform(34, 44)))
    back = float(rng.uniform(80, 88))
    border = np.asarray(bend([(-110, back), (-40, back + 4), (8, back + 2), (edge[0] - 6, 62), edge], 9))
    floor = np.interp(scene.x, border[:, 0], border[:, 1], right=0.0).astype(np.float32)
    away = (scene.z - floor) * np.float32(0.85)  # the border slopes: a little less than the height over it
    scene.paint(away > 0, t.SOFT)
    scene.add_texture(away > 0, 4)
    scene.paint_interface(away, 0, 1.1, t.FASCIA)
    _spine(scene, here)
    cava = _caudate(scene, back)
    _bowel(scene, edge)
    z = float(rng.uniform(96, 102))
    origin = float(rng.uniform(-14, 2))
    aorta = here.vessel([(-120, z - 4), (0, z), (120, z + 8)], (8.0, 7.4), 1.4, 0.8)
    arteries = [
        here.vessel(
            [(origin - 15, z - 5), (origin - 15, z - 16), (origin - 2, z - 19)], (3.0, 2.2), 1.0, 0.6
        ),
        here.vessel([(origin, z - 5), (origin + 8, z - 20), (origin + 40, z - 14)], (3.4, 2.8), 1.1, 0.6),
    ]
    veins = [
        *_branching(rng, here, [(32, 52), (-10, 56), (-50, 56), (-84, 70)], (0.9, 3.4), 0.0, -0.6),
        here.vessel([(2, 64), (8, 66)], (3.0, 2.6), 1.5, 0.5),
    ]
    inside = np.maximum(away, _diaphragm_on_the_left(scene))
    for vessel in (aorta, *arteries):
        paint_vessel(scene, vessel)
    return inside, [*veins, cava]


def _spine(scene: Scene, here: Stand) -> None:
    """The front of the vertebral bodies: shallow arcs, and gaps where the discs lie; nothing behind."""
    rng = scene.rng
    pitch, phase = float(rng.uniform(27, 33)), float(rng.uniform(0, 1))
    turn = np.float32(np.tan(np.deg2rad(here.turn_deg)))
    position = (scene.x - np.float32(here.shift[0])) / np.float32(pitch) + np.float32(phase)
    within = position - np.floor(position)  # 0 … 1 along one body and the disc below it
    front = np.float32(rng.uniform(113, 117) + here.shift[1]) + turn * scene.x
    front = front + np.float32(2.4) * np.cos(2 * np.pi * within) ** 2
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
    patch.paint(loop < -0.25, t.BEHIND_GAS)
    reach = 0.75 * rx
    ragged = [
        (x + s * reach, z - 0.5 * rz + float(rng.uniform(-1.2, 1.2)) + 2 * s * s) for s in (-1, -0.4, 0.3, 1)
    ]
    patch.paint(patch.tube(ragged, (0.5, 1.3, 1.1, 0.5)) < 0, t.GAS)
    if haze_db:
        below = (np.abs(patch.x - x) < reach) & (patch.z > z - 0.4 * rz) & (patch.label == t.OTHER)
        fading = np.exp(-(patch.z[below] - z) / 12)
        scene.echo_db[patch.at][below] += np.float32(haze_db) * fading


def _diaphragm_on_the_left(scene: Scene) -> np.ndarray:
    """The diaphragm at the cranial end of a sagittal view; returns the distance (mm), negative below it."""
    rng = scene.rng
    return _beyond(
        scene, scene.ellipse(float(rng.uniform(34, 46)), 66, 112, float(rng.uniform(86, 100))), 100
    )


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
    """Paint a gallbladder, cut across: plump, so that it is nowhere as narrow as a portal vein. Returned as
    what a lesion keeps clear of."""
    rng = scene.rng
    short = float(rng.uniform(11, 14))
    long = short * float(rng.uniform(1.0, 1.2))
    patch, sac = spot(scene, *at, long, short, float(rng.uniform(-40, 20)))
    patch.paint_sheet(sac * np.float32(short), -0.4, 1.5, t.WALL)
    patch.paint(sac < 0, t.FLUID_CLEAR)
    near = (sac < 0) & (sac > -0.35) & (patch.z < at[1])
    scene.echo_db[patch.at][near] += 12  # reverberation in the near wall
    return Vessel((at, (at[0] + 0.1, at[1])), (0.0, 0.0), long)


def kidney_behind(scene: Scene, x: float, z: float, inside: np.ndarray) -> None:
    """The kidney that a view of the liver shows at its lower border, in the liver's bed."""
    rng = scene.rng
    long, short, tilt = float(rng.uniform(38, 46)), float(rng.uniform(17, 20)), float(rng.uniform(-14, 4))
    for size, tissue in ((1.1, t.SEPTUM), (1.0, t.CORTEX), (0.5, t.SINUS)):
        body = scene.ellipse(x, z, size * long, size * short, tilt, 0.04 if size < 1.1 else 0.0)
        scene.paint((body < 0) & (inside < 0), tissue)


def _branching(
    rng: np.random.Generator,
    here: Stand,
    points: Sequence[Point],
    radii: tuple[float, float],
    wall_mm: float,
    flow: float,
) -> list[Vessel]:
    """A tapering vessel and two or three twigs that leave it forwards, as branches do."""
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


def paint_vessel(scene: Scene, vessel: Vessel) -> None:
    """Wall and blood; a vessel without blood (radius 0, as a gallbladder already painted) is left alone."""
    if not vessel.flow:
        return
    patch = Patch.around(scene, vessel.path, max(vessel.radii) + vessel.wall_mm)
    away = patch.tube(vessel.path, vessel.radii)
    if vessel.wall_mm:
        patch.paint_sheet(away, -0.3, vessel.wall_mm, t.WALL)
    patch.paint(away < 0, t.BLOOD)
    patch.scene.flow[patch.at][away < -0.1 * max(vessel.radii)] = vessel.flow


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
        way, length = rng.uniform(-0.7, 1.2), rng.uniform(1.5, 8.0)
        tip = (x + length * np.cos(way), z + length * np.sin(way))
        width, bright = float(rng.uniform(0.6, 1.3)), rng.random() < 0.55
        patch = Patch.around(scene, [(x, z), tip], width)
        liver = patch.label == t.PARENCHYMA
        away = patch.tube([(x, z), tip], (width, 0.6 * width))
        if bright:
            patch.paint((away < 0.9) & liver, PORTAL_TRACT)
        patch.paint((away < (-0.2 if bright else 0.0)) & liver, t.BLOOD)


PORTAL_TRACT = t.Tissue(6, 0.5, 1.0, t.PARENCHYMA)  # the bright sheath of a small portal branch


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
    body = _body(scene, m, long_axis)
    _muscles_behind(scene, body)
    _neighbour(scene, examination.side == "right", body)
    kidney = scene.ellipse(body.cx, body.cz, body.rx, body.rz, body.tilt_deg, 0.03)
    fat = float(rng.uniform(0.08, 0.22))
    scene.paint((kidney > 0) & (kidney < fat), t.SEPTUM)  # perirenal fat
    scene.paint_interface(kidney, 0, 0.04, t.FASCIA)
    scene.paint(kidney < 0, t.CORTEX)
    scene.add_texture(kidney < 0, 4.0 if examination.background == "coarse" else 1.2)
    _pyramids(scene, m, body)
    _sinus(scene, m, body, kidney, None if long_axis else examination.side)
    site = _site_in_kidney(scene, examination, view, body)
    wall = float(rng.uniform(11, 16))
    if rng.random() < 0.3:
        _gas_at_the_lower_pole(scene, body, wall)
    abdominal_wall(scene, wall)
    _rib(scene, examination, body, site, wall, long_axis)
    if view.shows_lesion:
        lesion = examination.lesion
        around_db = t.CORTEX.echo_db + (2 if lesion.kind == "isoechoic" else 0)
        paint_lesion(scene, lesion, *site, around_db)
        if view.doppler:
            paint_flow(scene, lesion, *site)


def _body(scene: Scene, m: dict[str, float], long_axis: bool) -> Body:
    """Where the kidney lies: anywhere that shows it whole."""
    rng = scene.rng
    cz, tilt = float(rng.uniform(60, 70)), float(rng.uniform(-6, 16) if long_axis else rng.uniform(-24, 24))
    rx, rz = (m["length"] if long_axis else m["width"] * 1.12) / 2, m["width"] / 2
    half = np.deg2rad(scene.grid.probe.angle_deg) / 2
    high = cz - rx * abs(
        np.sin(np.deg2rad(tilt))
    )  # the end that comes nearer to the probe sees a narrower fan
    room = max(0.0, np.tan(half) * (scene.grid.probe.radius_mm + high) - rx - 2)
    return Body(float(rng.uniform(-1, 1) * min(room, 14.0)), cz, rx, rz, tilt)


def _muscles_behind(scene: Scene, body: Body) -> None:
    """Psoas and quadratus lumborum behind the kidney, striated along their fibres."""
    rng = scene.rng
    behind = scene.z > scene.wavy(body.cz + body.rz + float(rng.uniform(9, 15)), 3)
    scene.paint(behind, t.MUSCLE)
    scene.echo_db[behind] += 3 * smooth_field(rng, 110, 5)[behind]
    x, z = float(rng.uniform(-40, 40)), body.cz + body.rz + float(rng.uniform(20, 26))
    patch, psoas = spot(scene, x, z, float(rng.uniform(34, 50)), 12.0, float(rng.uniform(-10, 10)))
    patch.paint_sheet(psoas * np.float32(12), -0.6, 0.8, t.FASCIA)


def _neighbour(scene: Scene, right: bool, body: Body) -> None:
    """Liver before a right kidney, the tip of the spleen before a left one, each with vessels of its own."""
    rng = scene.rng
    if right:
        x, rx, rz = float(rng.uniform(-64, -30)), float(rng.uniform(50, 78)), float(rng.uniform(26, 36))
    else:
        x, rx, rz = float(rng.uniform(-62, -44)), float(rng.uniform(36, 52)), float(rng.uniform(22, 30))
    z, tilt = float(rng.uniform(34, 44)), float(rng.uniform(4, 18))
    tissue = t.LIVER if right else SPLEEN
    organ = scene.ellipse(x, z, rx, rz, tilt, 0.03)
    scene.paint(organ < 0, tissue)
    scene.add_texture(organ < 0, 1.2)
    scene.paint_interface(organ * np.float32(rz), 0, 1.1, t.FASCIA)
    for _ in range(int(rng.integers(2, 6))):
        angle, share = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.7)
        at = np.array((x + share * rx * np.cos(angle), z + share * rz * np.sin(angle)))
        tip = at + rng.uniform(-9, 9, 2) * (1, 0.5)
        patch = Patch.around(scene, [at, tip], 2)
        away = patch.tube([tuple(at), tuple(tip)], (1.5, 0.8))
        within = organ[patch.at] < -0.06
        if rng.random() < 0.5:
            patch.paint((away < 1) & within, PORTAL_TRACT)
        patch.paint((away < 0) & within, t.BLOOD)


SPLEEN = t.Tissue(1, 0.5, 0.8, t.PARENCHYMA)


def _pyramids(scene: Scene, m: dict[str, float], body: Body) -> None:
    """Pyramids between sinus and cortex, darker than cortex by little or much, some cut and some not."""
    rng = scene.rng
    pyramid = t.Tissue(float(rng.uniform(-11, -6.5)), 0.45, 1.0, t.PARENCHYMA)
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
        tip = body.point(way * (body.rx + 22), float(rng.uniform(4, 14)))
        paint_vessel(scene, Vessel((neck[0], neck[1], tip), (1.2, 2.2, 2.8), 0.0, -0.5))
    if rng.random() < 0.45:
        reach, low = 0.6 * sx * float(rng.uniform(0.4, 1)), float(rng.uniform(-0.2, 0.2)) * sz
        slit = [body.point(s * reach, low + float(rng.uniform(-1, 1))) for s in (-1, 0, 1)]
        patch = Patch.around(scene, slit, 2)
        width = float(rng.uniform(0.6, 1.7))
        patch.paint((patch.tube(slit, (0.5, width, 0.5)) < 0) & sinus[patch.at], t.FLUID_CLEAR)


def _gas_at_the_lower_pole(scene: Scene, body: Body, wall_mm: float) -> None:
    """Colon before the lower pole's tip, in the corner that the kidney leaves free."""
    x, z = body.point(body.rx + 12, 0)
    gas_loop(scene, x + 2, max(wall_mm + 9, z - 26), 9.0, 6.0)


def _rib(
    scene: Scene, examination: Examination, body: Body, site: Point, wall_mm: float, long_axis: bool
) -> None:
    """At times the soft-edged shadow of a rib: beside the ends of what is measured, and beside the lesion."""
    rng = scene.rng
    radius = scene.grid.probe.radius_mm
    wide, there, side = np.deg2rad(rng.uniform(3, 5)), rng.random() < 0.35, rng.choice((-1.0, 1.0))
    share = rng.uniform(0.5, 0.62)
    if not there:
        return
    x, z = body.point(side * share * body.rx, 0) if long_axis else body.point(side * (body.rx + 14), 0)
    middle = np.arctan2(x, z + radius)
    if examination.lesion is not None:
        away = np.hypot(site[0], site[1] + radius)
        clear = np.arcsin(min(0.5 * examination.lesion.long_mm / away, 1)) + np.deg2rad(2.0) + wide
        if abs(middle - np.arctan2(site[0], site[1] + radius)) < clear:
            return
    shade(scene, float(middle), float(wide), wall_mm)


def shade(scene: Scene, middle: float, half_width: float, start_mm: float, loss_db: float = 24.0) -> None:
    """A rib's soft-edged shadow around the beam at `middle` (radians), and its bright surface in the wall."""
    half = np.deg2rad(scene.grid.probe.angle_deg) / 2
    beam = np.linspace(-half, half, BEAMS, dtype=np.float32)
    across = np.abs(beam - np.float32(middle)) / np.float32(half_width)
    depth = np.clip(1.6 - 1.2 * across, 0, 1)  # 1 in the umbra, falling to 0 at its soft edge
    first = int(start_mm / scene.grid.sample_mm)
    scene.echo_db[first:] -= np.float32(loss_db) * depth
    rows, columns = slice(first - 3, first + 2), across < 0.9
    scene.echo_db[rows, columns] = t.DIAPHRAGM.echo_db - 6 * across[columns] ** 2


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

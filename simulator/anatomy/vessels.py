"""Vessels of the abdomen: bent tubes, with or without a bright wall, and where the probe stands.

The anatomy follows any atlas of abdominal ultrasound: portal branches and arteries have bright walls, hepatic
veins none; branches leave forwards and open into their stem. Where the probe stands differs from scene to
scene: a view's vessels are turned, shifted and scaled as a whole, never mirrored. Proportions are typical
adults' (chosen; not measured).

Knows nothing of organs: which vessels there are, and along which course, comes from the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulator import tissue as t
from simulator.anatomy.axis import Point
from simulator.anatomy.patch import Patch
from simulator.scene import Scene, bend

PORTAL_TRACT = t.Tissue(9, 0.5, 1.0, t.PARENCHYMA)  # the bright sheath of a small portal branch


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


def branching(
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


def clearance(vessel: Vessel, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Distance (mm) of points [n] to the outside of a vessel's wall."""
    path, radii = np.asarray(vessel.path), np.asarray(vessel.radii)
    start, step = path[:-1], np.diff(path, axis=0)  # [k, 2]
    away = np.stack([x, z], -1)[:, None] - start  # [n, k, 2]
    along = np.clip((away * step).sum(-1) / ((step**2).sum(-1) + 1e-6), 0, 1)  # [n, k]
    gap = np.linalg.norm(away - along[..., None] * step, axis=-1) - radii[:-1] - along * np.diff(radii)
    return gap.min(1) - vessel.wall_mm

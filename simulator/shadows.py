"""Acoustic attenuation: dark areas behind ribs, gas or poor contact, each over a stated share of the sector.

A shadow is a piece of the fan: between two beams, from a depth down to the bottom. A fan's area between two
depths follows from its geometry, so the share that is asked for gives the width or the depth of the shadow.

Chosen so that nothing behind a rib can be told and the border of every shadow can be seen; not measured.
Knows nothing of anatomy, planes or points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulator import tissue as t
from simulator.probe import BEAMS, SAMPLES, Probe
from simulator.scene import Scene, smooth_field

KINDS = ("rib", "gas", "contact", "deep")  # deep: nothing comes back from below a depth, as in fatty tissue
LARGEST = {"rib": 0.72, "gas": 0.42, "contact": 0.62, "deep": 0.72}  # shares that each kind can cover
LOSS_DB = 60.0
CAP_MM = 3.4  # thickness of the bright surface of rib or gas


@dataclass(frozen=True)
class Shadow:
    """`left` and `right` are beams, -1 (left edge) to 1; `start_mm` is the depth along the beam."""

    kind: str  # KINDS
    left: float
    right: float
    start_mm: float

    def covers(self, beam: np.ndarray, reach: np.ndarray) -> np.ndarray:
        """Which points lie in the shadow; `beam` -1 to 1 and `reach` mm along the beam, of one shape."""
        return (beam >= self.left) & (beam < self.right) & (reach >= self.start_mm)


def sample_shadows(
    rng: np.random.Generator, probe: Probe, depth_mm: float, wall_mm: float, share: float
) -> tuple[Shadow, ...]:
    """Shadows of one kind that together cover about `share` (0 to 0.7) of the sector."""
    kind = str(rng.choice([kind for kind in KINDS if share <= LARGEST[kind]]))
    if kind == "deep":
        near, far = probe.radius_mm**2, (probe.radius_mm + depth_mm) ** 2
        start = np.sqrt(far - share * (far - near)) - probe.radius_mm
        return (Shadow(kind, -1.0, 1.0, float(start)),)
    start = {"rib": wall_mm, "gas": float(rng.uniform(34, 50)), "contact": 0.0}[kind]
    width = 2 * share / _below(probe, depth_mm, start)
    if kind == "contact":
        left = -1.0 if rng.random() < 0.5 else 1 - width
        return (Shadow(kind, left, left + width, start),)
    count = 1 if kind == "gas" else int(rng.integers(1 + (width > 0.5), 4))
    return tuple(Shadow(kind, left, right, start) for left, right in _strips(rng, count, min(width, 1.9)))


def _below(probe: Probe, depth_mm: float, start_mm: float) -> float:
    """Share of the sector below a depth."""
    near, start, far = ((probe.radius_mm + depth) ** 2 for depth in (0.0, start_mm, depth_mm))
    return (far - start) / (far - near)


def _strips(rng: np.random.Generator, count: int, width: float) -> list[tuple[float, float]]:
    """`count` strips of `width` altogether (of 2), not overlapping, anywhere on the fan."""
    widths = width * rng.dirichlet(np.full(count, 8.0))
    gaps = (2 - width) * rng.dirichlet(np.full(count + 1, 2.0))
    lefts = -1 + np.cumsum(gaps[:-1]) + np.concatenate([[0], np.cumsum(widths)[:-1]])
    return [(float(left), float(left + wide)) for left, wide in zip(lefts, widths, strict=True)]


def cast(scene: Scene, shadows: Sequence[Shadow]) -> np.ndarray:
    """Darken the scene; returns which samples lie in shadow, bool [SAMPLES, BEAMS]."""
    beam = np.linspace(-1, 1, BEAMS, dtype=np.float32)[None]
    reach = np.linspace(0, scene.grid.depth_mm, SAMPLES, dtype=np.float32)[:, None]
    dark = np.zeros((SAMPLES, BEAMS), bool)
    for shadow in shadows:
        soft = 7.0 if shadow.kind == "deep" else 1.5  # mm over which it sets in
        ramp = np.clip(0.5 + (reach - shadow.start_mm) / soft, 0, 1)
        ramp = ramp * np.clip(0.5 + (beam - shadow.left) / 0.03 if shadow.left > -1 else 1, 0, 1)
        ramp = ramp * np.clip(0.5 + (shadow.right - beam) / 0.03 if shadow.right < 1 else 1, 0, 1)
        if shadow.kind in ("rib", "gas"):
            _cap(scene, shadow, beam, reach)
        uneven = np.float32(2.5) * smooth_field(scene.rng, 12, 10)
        scene.echo_db -= ramp * (np.float32(LOSS_DB) - _repeats(shadow, reach) - uneven)
        dark |= shadow.covers(beam, reach)
    return dark


def _cap(scene: Scene, shadow: Shadow, beam: np.ndarray, reach: np.ndarray) -> None:
    """The bright surface that stops the sound: curved for a rib, ragged for gas."""
    middle, half = (shadow.left + shadow.right) / 2, (shadow.right - shadow.left) / 2
    across = np.clip(np.abs(beam - middle) / half, 0, 1)
    if shadow.kind == "rib":
        lift = 2.2 * across**2
    else:
        lift = 3.0 * np.abs(smooth_field(scene.rng, 3, 16)[:1])
    top = np.float32(shadow.start_mm) - np.float32(CAP_MM) + lift
    scene.paint(
        (reach >= top) & (reach < shadow.start_mm + 0.6) & (np.abs(beam - middle) < half), t.DIAPHRAGM
    )


def _repeats(shadow: Shadow, reach: np.ndarray) -> np.ndarray:
    """Echoes that are repeated below gas and a badly coupled skin, fading with depth (dB)."""
    below = reach - np.float32(shadow.start_mm)
    if shadow.kind == "gas":
        return np.float32(30) * np.exp(-below / 16) * (np.cos(below * np.float32(2 * np.pi / 9)) > 0.3)
    if shadow.kind == "contact":
        return np.float32(52) * np.exp(-reach / 14) * (0.6 + 0.4 * np.cos(reach * np.float32(2 * np.pi / 4)))
    return np.zeros_like(reach)

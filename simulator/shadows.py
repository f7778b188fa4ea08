"""Acoustic attenuation: dark areas behind ribs, gas or poor contact, each over a stated share of the sector.

A shadow is a piece of the fan: between two beams, from a depth down to the bottom. A fan's area between two
depths follows from its geometry, so the share that is asked for gives the width or the depth of the shadow.

Gas is in loops of bowel right behind the abdominal wall at a side of the fan, where colon comes in front of
the organs. Each loop is dark wall, then a curved, ragged, bright front; behind it lies a
dirty shadow with echoes that went to and fro between probe and gas, at multiples of the gas's own depth.

No shadow is cut out of the image. Its edges are a beam wide and widen with depth, and within it there is not
nothing but a deep grey haze: side lobes, echoes to and fro, noise. What counts as attenuated is stated: where
DARK_DB or more are lost, half of what the middle of a shadow loses. That line is the geometric border of the
shadow, so that soft edges do not change the share.

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
SMALLEST = {"deep": 0.18}  # and the least: a drop-out of a few millimetres has not yet become dark
LOSS_DB = 44.0  # in the middle of a shadow: no echo from behind reaches the haze
DARK_DB = LOSS_DB / 2  # lost at the border: from here on a sample is attenuated
HAZE_DB = -28.0  # of the haze, relative to liver
EDGE_MM, EDGE_A_MM = 3.0, 0.06  # width of an edge at the probe's face, and what each mm of depth adds
SETS_IN_MM = {"rib": 2.0, "gas": 3.0, "contact": 1.0, "deep": 16.0}  # depth over which all of it is lost
CAP_MM = 3.4  # thickness of the bright surface of a rib
GAS_BEHIND_WALL_MM = (6.0, 14.0)  # how far behind the abdominal wall a loop's gas begins
LOOP_MM = 26.0  # about how wide a loop of bowel is
LOOP_ARC_MM, LOOP_WALL_MM = 5.0, 2.6  # how far its gas recedes at its sides; how thick its wall is
DIRTY_DB, DIRTY_MM = 14.0, 18.0  # how much brighter than other haze it is right behind gas, fading over
ECHO_DB, ECHO_MM = 13.0, 3.0  # the first echo to and fro, and its thickness; each further one is half of it


@dataclass(frozen=True)
class Shadow:
    """`left` and `right` are beams, -1 (left edge) to 1; `start_mm` is the depth along the beam. `loops` of
    bowel lie side by side in it, each with a front that is LOOP_ARC_MM deeper at its sides; 0: a straight
    one."""

    kind: str  # KINDS
    left: float
    right: float
    start_mm: float
    loops: int = 0

    def front_mm(self, beam: np.ndarray) -> np.ndarray:
        """Depth (mm along the beam) at which it begins at each `beam` between left and right."""
        return np.float32(self.start_mm) + np.float32(LOOP_ARC_MM if self.loops else 0) * self.off(beam) ** 2

    def off(self, beam: np.ndarray) -> np.ndarray:
        """How far a beam is from the middle of its loop: 0, to 1 at the loop's sides."""
        place = np.clip((beam - self.left) / np.float32(self.right - self.left), 0, 1) * max(self.loops, 1)
        return np.abs(2 * (place - np.floor(place)) - 1).astype(np.float32)

    def covers(self, beam: np.ndarray, reach: np.ndarray) -> np.ndarray:
        """Which points lie in the shadow; `beam` -1 to 1 and `reach` mm along the beam, of one shape."""
        return (beam >= self.left) & (beam < self.right) & (reach >= self.front_mm(beam))


def sample_shadows(
    rng: np.random.Generator, probe: Probe, depth_mm: float, wall_mm: float, share: float
) -> tuple[Shadow, ...]:
    """Shadows of one kind that together cover about `share` (0 to 0.7) of the sector."""
    kind = str(rng.choice([kind for kind in KINDS if SMALLEST.get(kind, 0) <= share <= LARGEST[kind]]))
    if kind == "deep":
        near, far = probe.radius_mm**2, (probe.radius_mm + depth_mm) ** 2
        start = np.sqrt(far - share * (far - near)) - probe.radius_mm
        return (Shadow(kind, -1.0, 1.0, float(start)),)
    if kind == "gas":
        return (_gas(rng, probe, depth_mm, wall_mm, share),)
    start = wall_mm if kind == "rib" else 0.0
    width = 2 * share / _below(probe, depth_mm, start)
    if kind == "contact":
        left = -1.0 if rng.random() < 0.5 else 1 - width
        return (Shadow(kind, left, left + width, start),)
    count = int(rng.integers(1 + (width > 0.5), 4))
    return tuple(Shadow(kind, left, right, start) for left, right in _strips(rng, count, min(width, 1.9)))


def _gas(rng: np.random.Generator, probe: Probe, depth_mm: float, wall_mm: float, share: float) -> Shadow:
    """Loops of bowel with gas side by side, from the left or the right side of the fan inwards."""
    start = wall_mm + float(rng.uniform(*GAS_BEHIND_WALL_MM))
    arc = LOOP_ARC_MM * np.linspace(-1, 1, 41) ** 2
    width = 2 * share / float(np.mean([_below(probe, depth_mm, start + deeper) for deeper in arc]))
    left = float(rng.choice((-1.0, 1 - width)))
    wide_mm = width * (probe.radius_mm + start) * np.deg2rad(probe.angle_deg) / 2
    return Shadow("gas", left, left + width, start, loops=max(1, round(wide_mm / LOOP_MM)))


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
    """Darken the scene; returns which samples lie in shadow, bool [SAMPLES, BEAMS]: those that have lost
    DARK_DB or more."""
    beam = np.linspace(-1, 1, BEAMS, dtype=np.float32)[None]
    reach = np.linspace(0, scene.grid.depth_mm, SAMPLES, dtype=np.float32)[:, None]
    dark = np.zeros((SAMPLES, BEAMS), bool)
    for shadow in shadows:
        if shadow.kind == "rib":
            _rib(scene, shadow, beam, reach)
        elif shadow.kind == "gas":
            _loops(scene, shadow, beam, reach)
        loss = loss_db(shadow, scene.grid.probe, beam, reach)
        at = loss > 0
        haze = (_haze_db(shadow, beam, reach) + np.float32(2.5) * smooth_field(scene.rng, 12, 10))[at]
        haze += (loss[at] - np.float32(LOSS_DB)) / 2  # it comes up as the echoes go down
        power = np.exp(np.stack([scene.echo_db[at] - loss[at], haze]) * np.float32(np.log(10) / 10)).sum(0)
        scene.echo_db[at] = np.float32(10 / np.log(10)) * np.log(power)
        dark |= loss >= DARK_DB
    return dark


def loss_db(shadow: Shadow, probe: Probe, beam: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """What a shadow takes away (0 to LOSS_DB) at `beam` [1, BEAMS] and `reach` [SAMPLES, 1]: float32
    [SAMPLES, BEAMS]. At the shadow's border, and nowhere outside, it is DARK_DB or more."""
    ramp = 0.5 + (reach - shadow.front_mm(beam)) / np.float32(SETS_IN_MM[shadow.kind])
    ramp = np.broadcast_to(ramp, (SAMPLES, BEAMS))
    half_mm = (np.float32(probe.radius_mm) + reach) * np.float32(np.deg2rad(probe.angle_deg) / 2)
    soft = (np.float32(EDGE_MM) + np.float32(EDGE_A_MM) * reach) / np.maximum(half_mm, 1)  # in beams, -1 to 1
    if shadow.left > -1:
        ramp = np.minimum(ramp, 0.5 + (beam - np.float32(shadow.left)) / soft)
    if shadow.right < 1:
        ramp = np.minimum(ramp, 0.5 + (np.float32(shadow.right) - beam) / soft)
    return np.float32(LOSS_DB) * np.clip(ramp, 0, 1)


def _rib(scene: Scene, shadow: Shadow, beam: np.ndarray, reach: np.ndarray) -> None:
    """The bright curved surface that stops the sound."""
    middle, half = (shadow.left + shadow.right) / 2, (shadow.right - shadow.left) / 2
    across = np.clip(np.abs(beam - middle) / half, 0, 1)
    top = np.float32(shadow.start_mm) - np.float32(CAP_MM) + 2.2 * across**2
    scene.paint(
        (reach >= top) & (reach < shadow.start_mm + 0.6) & (np.abs(beam - middle) < half), t.DIAPHRAGM
    )


def _loops(scene: Scene, shadow: Shadow, beam: np.ndarray, reach: np.ndarray) -> None:
    """In front of each loop's gas its dark wall between two bright sheets; the gas, ragged, brightest where
    it faces the probe."""
    front, off = shadow.front_mm(beam), shadow.off(beam)
    within = (beam >= shadow.left) & (beam < shadow.right)
    thick = 1.6 + 0.9 * np.abs(smooth_field(scene.rng, 2, 40)[:1])
    top = front - thick - np.float32(LOOP_WALL_MM)
    scene.paint(within & (reach >= top - 0.9) & (reach < front), t.FASCIA)
    scene.paint(within & (reach >= top) & (reach < front - thick), t.MUSCLE)
    gas = within & (reach >= front - thick) & (reach < front + 0.6)
    scene.paint(gas, t.DIAPHRAGM)
    dip = 5 * off**2 + 1.5 * np.abs(smooth_field(scene.rng, 2, 30)[:1])
    scene.echo_db[gas] -= np.broadcast_to(dip, gas.shape)[gas]


def _haze_db(shadow: Shadow, beam: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Level of the haze inside a shadow, [SAMPLES, 1] or [SAMPLES, BEAMS]: side lobes and echoes that go to
    and fro, below a badly coupled skin as bands that fade with depth, below gas as repeats of its front."""
    front = shadow.front_mm(beam) if shadow.kind == "gas" else np.float32(shadow.start_mm)
    below = np.maximum(reach - front, 0)
    haze = np.float32(HAZE_DB) - np.float32(0.03) * below
    if shadow.kind == "gas":
        haze = haze + np.float32(DIRTY_DB) * np.exp(-below / np.float32(DIRTY_MM))
        repeat = np.round(reach / front)  # 1 is the front itself
        away = np.abs(reach - repeat * front) / np.float32(ECHO_MM / 2)
        strength = np.where(repeat >= 2, ECHO_DB * np.float32(2) ** (2 - repeat), 0)
        return haze + strength * np.exp(-(away**2))
    if shadow.kind == "contact":
        bands = 0.6 + 0.4 * np.cos(reach * np.float32(2 * np.pi / 4))
        return haze + np.float32(26) * np.exp(-reach / 12) * bands
    return haze

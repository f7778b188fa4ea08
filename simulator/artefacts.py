"""What spoils an ultrasound image: ten artefacts, each with a strength from 0 (absent) to 1 (at its worst).

The names are those of Ultrasound-QBench (section I: multiple reflections, multiple internal reverberations,
refractive shadow, noise, blur) and of sonographers (gain, depth, drop-out). Each acts where it arises, which
for all but depth and gain is the scan-line domain: on echoes along beams, before compression and scan
conversion. Models follow ultrasound physics texts (Kremkau, Sonography: Principles and Instruments, chapter
on artifacts); what strength 1 means in dB or mm is chosen by eye, not measured.

multiple_reflections  an echo returns to the probe's face, is sent out again and arrives twice as late
reverberation         a pulse caught between the face and a near layer: equally spaced lines that fade
refractive_shadow     a beam that grazes a curved border is bent away: a narrow shadow from there on
noise                 the electronic noise floor rises, most in the depth where the gain curve lifts it
blur                  a wide beam and a long pulse (low frequency, wrong focus): coarse speckle, no detail
gain_low, gain_high   the receiver's gain is too low or too high; what leaves the display's range is lost
depth_shallow         the depth setting cuts the target off; its strength is measured (see `shallow_settings`)
depth_deep            the depth setting shows the target small
drop_out              part of the probe has no contact or is behind a rib: its beams are weak from the face on

Knows nothing of organs, levels or wording.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from simulator.probe import BEAMS, SAMPLES, Probe, ScanGrid, scan_grid
from simulator.scene import Scene
from simulator.speckle import (
    NOISE_DB,
    Machine,
    display,
    envelope,
    noise_floor,
    noise_gain,
    path_loss_db,
)
from simulator.tissue import FLUID

ARTEFACTS = (
    "multiple_reflections",
    "reverberation",
    "refractive_shadow",
    "noise",
    "blur",
    "gain_low",
    "gain_high",
    "depth_shallow",
    "depth_deep",
    "drop_out",
)
EXCLUSIVE = (("gain_low", "gain_high"), ("depth_shallow", "depth_deep"))  # only one of each pair at a time
STEPS = {"blur": 8, "depth_deep": 8}  # in eighths, so that few scan grids serve all images

GAIN_DB = 30.0
NOISE_RISE_DB = 48.0
DROP_OUT_DB = 36.0
REFRACTION_DB = 32.0
DEEPEST = 2.0  # times the right depth
SHALLOW = tuple(1 - 0.52 * step / 8 for step in range(1, 9))  # too shallow settings, times the right depth
LOST = 0.75  # share of a part outside the picture that makes depth_shallow as strong as it gets
PATH_TWICE = (0.1, 0.25, 0.3, 0.25, 0.1)  # over neighbouring beams
WIDEST_BEAM, LONGEST_PULSE = 7.0, 3.0  # times the sharp one

Strengths = Mapping[str, float]


def check(strengths: Strengths) -> None:
    """ValueError for a name that is no artefact, a strength outside 0 … 1, or two that exclude each other."""
    for name, strength in strengths.items():
        if name not in ARTEFACTS:
            raise ValueError(f"no artefact is called {name!r}; choose from {', '.join(ARTEFACTS)}")
        if not 0 <= strength <= 1:
            raise ValueError(f"artefact {name}: strength {strength!r} is not between 0 and 1")
    for one, other in EXCLUSIVE:
        if strengths.get(one) and strengths.get(other):
            raise ValueError(f"artefacts {one} and {other} exclude each other; give one of them")


def deep_setting(right_mm: float, strength: float) -> float:
    """The depth (mm) of depth_deep at this strength where `right_mm` would be right."""
    return right_mm * (1 + (DEEPEST - 1) * strength)


def rows_of(part: np.ndarray, grid: ScanGrid) -> np.ndarray:
    """Area of a part of the target, a mask [SAMPLES, BEAMS], at every depth [SAMPLES], adding up to 1.

    The scene shows all of the target. Raises ValueError where the part is empty.
    """
    area = part.sum(axis=1) * grid.beam_mm()
    if not area.any():
        raise ValueError("a part of the target is not in the scene: it cannot be cut off")
    return area / area.sum()


def shallow_settings(parts: Sequence[np.ndarray], right_mm: float) -> dict[float, float]:
    """Strength of depth_shallow → depth setting (mm), for all settings that cut some of the target away.

    The strength is measured, not chosen: the share of its area that the worst part has outside the picture
    over LOST, at most 1. A setting that is too shallow and loses nothing is no artefact. Where two settings
    are equally bad the deeper one stands. `parts` are `rows_of` the target's parts in the scene at
    `right_mm`, its right depth.
    """
    found: dict[float, float] = {}
    for times in SHALLOW:
        lost = max(rows[round(times * (SAMPLES - 1)) + 1 :].sum() for rows in parts)
        strength = round(min(float(lost) / LOST, 1.0), 3)
        if strength > 0:
            found.setdefault(strength, right_mm * times)
    return found


def degraded_image(scene: Scene, machine: Machine, strengths: Strengths, seed: int) -> np.ndarray:
    """Grey image float32 [SIZE, SIZE], 0 … 255, of a finished scene under the given artefacts.

    Without artefacts it equals `speckle.form_image` (round a catheter but for the seam, see `_all_round`).
    Places and sizes of artefacts come from `seed`, each from its own stream: a change of one strength moves
    no other artefact. Depth is the scene's own affair (its grid). Raises ValueError for
    strengths that `check` refuses.
    """
    check(strengths)
    loss_db = np.zeros((SAMPLES, BEAMS), np.float32)
    for name, model in LOSSES.items():
        if strengths.get(name):
            loss_db += model(scene, strengths[name], _stream(seed, name))
    received = _receive(scene, machine, loss_db, strengths.get("blur", 0.0))
    for name, model in ECHOES.items():  # in the order in which they arise: noise comes last
        if strengths.get(name):
            received = received + model(received, scene.grid, strengths[name], _stream(seed, name))
    received += noise_floor(scene.rng)
    gain_db = GAIN_DB * (strengths.get("gain_high", 0.0) - strengths.get("gain_low", 0.0))
    return display(received, scene.grid, replace(machine, gain_db=machine.gain_db + gain_db))


def _receive(scene: Scene, machine: Machine, loss_db: np.ndarray, blur: float) -> np.ndarray:
    """Envelope of all echoes [SAMPLES, BEAMS], after attenuation, averaged over the machine's looks."""
    echo_db = scene.echo_db + path_loss_db(scene) - loss_db
    amplitude = np.exp(echo_db * np.float32(np.log(10) / 20))
    grid = blurred(scene.grid, blur)
    look = _all_round if grid.probe.round else envelope
    return sum(look(amplitude, grid, scene.rng) for _ in range(machine.looks)) / machine.looks


def _all_round(amplitude: np.ndarray, grid: ScanGrid, rng: np.random.Generator) -> np.ndarray:
    """`speckle.envelope` round a catheter: a second look covers the seam where first and last beam meet.

    The second look is turned by half a circle, so that its own seam lies opposite; the two cross over halfway
    between the seams, where neither can be seen.
    """
    turn = (BEAMS - 1) // 2
    front = envelope(amplitude, grid, rng)
    turned = np.roll(amplitude[:, :-1], turn, axis=1)
    back = envelope(np.concatenate([turned, turned[:, :1]], axis=1), grid, rng)[:, :-1]
    back = np.roll(back, -turn, axis=1)
    share = np.clip((_beams_from(0, grid.probe) - BEAMS / 4) / 8 + 0.5, 0, 1)
    return share * front + (1 - share) * np.concatenate([back, back[:, :1]], axis=1)


def _stream(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, ARTEFACTS.index(name)])


# ------------ blur: a wider beam and a longer pulse ------------


def blurred(grid: ScanGrid, strength: float) -> ScanGrid:
    """The same grid with the point-spread function of a worse probe; the grid itself at strength 0."""
    if not strength:
        return grid
    worse = strength**0.8
    pulse = LONGEST_PULSE**worse
    probe: Probe = replace(
        grid.probe,
        frequency_mhz=grid.probe.frequency_mhz / pulse,
        f_number=grid.probe.f_number * WIDEST_BEAM**worse / pulse,
    )
    return scan_grid(probe, grid.depth_mm)


# ------------ losses: dB taken from the echoes of every sample ------------


def drop_out(scene: Scene, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A group of weak beams [1, BEAMS], dB; group and weakness grow with the strength."""
    centre, side = rng.uniform(0.15, 0.85), rng.uniform(0.7, 1.3)
    half = (0.05 + 0.16 * strength) * BEAMS * side
    away = _beams_from(centre * BEAMS, scene.grid.probe)
    return np.float32(DROP_OUT_DB * strength**0.7) / (1 + np.exp((away - half) / (0.12 * half + 0.8)))


def refractive_shadow(scene: Scene, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Narrow shadows [SAMPLES, BEAMS], dB, behind the places where beams run along a border of fluid.

    A beam's grazing is the length over which its neighbour is in fluid and it is not; the beams that graze
    longest throw the shadows, up to five, none within 10 beams of another.
    """
    fluid = scene.label == FLUID
    edge = (fluid[:, 1:] != fluid[:, :-1]).astype(np.float32)
    edge = np.concatenate([edge, edge[:, -1:]], axis=1)
    graze = edge.sum(axis=0) + rng.uniform(0, 2, BEAMS)
    loss = np.zeros((SAMPLES, BEAMS), np.float32)
    for _ in range(2 + round(3 * strength)):
        beam = int(graze.argmax())
        away = _beams_from(beam, scene.grid.probe)
        graze[away < 10] = -1
        start = int(edge[:, beam].argmax()) if edge[:, beam].any() else SAMPLES // 4
        rise = np.clip((np.arange(SAMPLES) - start) / (0.08 * SAMPLES), 0, 1)[:, None]
        width = rng.uniform(1.0, 1.6) * (1.2 + 1.4 * strength)
        loss += (rise * np.exp(-0.5 * (away / width) ** 2)).astype(np.float32)
    return np.float32(REFRACTION_DB * strength**0.7) * np.minimum(loss, 1)


def _beams_from(beam: float, probe: Probe) -> np.ndarray:
    """Distance of every beam to one, in beams [BEAMS]; round a catheter the last is next to the first."""
    away = np.abs(np.arange(BEAMS, dtype=np.float32) - np.float32(beam))
    return np.minimum(away, BEAMS - 1 - away) if probe.round else away


# ------------ echoes that should not be there: amplitude added to the received envelope ------------


def multiple_reflections(
    received: np.ndarray, grid: ScanGrid, strength: float, rng: np.random.Generator
) -> np.ndarray:
    """Copies of the strong reflectors at two and three times their depth [SAMPLES, BEAMS]."""
    face = _face(grid.probe) / grid.sample_mm
    strong = np.maximum(received - np.quantile(received[::4, ::4], 0.7), 0)
    strong = sum(w * np.roll(strong, k, axis=1) for k, w in enumerate(PATH_TWICE, start=-2))  # a wider beam
    ghosts = np.zeros_like(received)
    for bounce in (2, 3):
        source = ((np.arange(SAMPLES) - face) / bounce + face).astype(int)
        ghosts += strength**1.4 * 1.7 / (bounce - 1) * strong[np.clip(source, 0, SAMPLES - 1)]
    ghosts[: round(2 * face)] = 0
    return ghosts


def reverberation(
    received: np.ndarray, grid: ScanGrid, strength: float, rng: np.random.Generator
) -> np.ndarray:
    """Equally spaced lines parallel to the probe's face that fade with depth [SAMPLES, BEAMS]."""
    near = _face(grid.probe)
    spacing = rng.uniform(0.045, 0.07) * grid.depth_mm
    depth = np.arange(SAMPLES, dtype=np.float32)[:, None] * grid.sample_mm
    lines = np.zeros_like(received)
    for k in range(1, 4 + round(8 * strength)):
        at = near + k * spacing
        lines += np.exp(-0.18 * k - 0.5 * ((depth - at) / (0.13 * spacing)) ** 2)
    haze = np.exp(-np.maximum(depth - near, 0) / (4 * spacing)) * (depth > near) * 0.25
    centre, half = rng.uniform(0.3, 0.7) * BEAMS, BEAMS * (0.22 + 0.33 * strength)
    across = 1 / (1 + np.exp((_beams_from(centre, grid.probe) - half) / 4))
    grain = 0.55 + 0.45 * np.abs(rng.standard_normal(received.shape, dtype=np.float32))
    return np.float32(1.6 * strength**1.3) * (lines + haze) * across * grain


def noise(received: np.ndarray, grid: ScanGrid, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Electronic noise above the usual floor [SAMPLES, BEAMS]."""
    level = 10 ** (NOISE_DB / 20) * (10 ** (NOISE_RISE_DB * strength**0.5 / 20) - 1)
    field = np.abs(rng.standard_normal(received.shape, dtype=np.float32))
    return np.float32(level) * noise_gain() * field


def _face(probe: Probe) -> float:
    """Depth of the transducer's face (mm): a catheter's lies on its sheath, its origin is the axis."""
    return 0.5 if probe.round else 0.0


LOSSES = {"drop_out": drop_out, "refractive_shadow": refractive_shadow}
ECHOES = {"multiple_reflections": multiple_reflections, "reverberation": reverberation, "noise": noise}

"""From tissue maps to an ultrasound image: scatterers, point-spread function, attenuation, compression.

The usual linear model: every resolution cell holds many scatterers, so the received field is complex
Gaussian noise weighted by the tissue's backscatter amplitude and blurred by the point-spread function
(axial pulse length times depth-dependent beam width). Its envelope is Rayleigh distributed where speckle is
fully developed (mean / standard deviation = 1.91, Wagner et al. 1983; checked in the tests). Attenuation
accumulates along each beam and is made up for by a time-gain curve that assumes soft tissue; what the curve
over- or under-corrects is exactly what a sonographer calls posterior enhancement and shadow. Log
compression last.

Knows nothing of anatomy. Not modelled: aberration, side lobes, multiple reflections, harmonics.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from simulator.probe import BEAMS, SAMPLES, Probe, ScanGrid, scan_grid
from simulator.scene import Scene

ASSUMED_ATTENUATION = 0.5  # dB/cm/MHz that the time-gain curve makes up for
ROWS_PER_ZONE = 16  # rows that share one beam width
NOISE_DB = -46.0  # electronic noise floor relative to liver speckle at the probe


@dataclass(frozen=True)
class Machine:
    """Knobs of the scanner: overall gain (dB), dynamic range (dB), slope of the gain curve (dB over the
    depth)."""

    gain_db: float = 0.0
    dynamic_range_db: float = 60.0
    tilt_db: float = 0.0
    looks: int = 1  # independent images averaged: spatial compounding smooths speckle


def envelope(amplitude: np.ndarray, grid: ScanGrid, rng: np.random.Generator) -> np.ndarray:
    """Received envelope of scatterers with the given backscatter `amplitude` [SAMPLES, BEAMS] (linear
    units)."""
    axial, zones = _point_spread(grid.probe, grid.depth_mm)
    field = rng.standard_normal((2, SAMPLES, BEAMS), dtype=np.float32)
    field *= amplitude
    spread = axial @ field.transpose(1, 0, 2).reshape(SAMPLES, 2 * BEAMS)
    spread = spread.reshape(SAMPLES, 2, BEAMS)
    out = np.empty_like(spread)
    for first, lateral in zones:
        rows = slice(first, first + ROWS_PER_ZONE)
        out[rows] = spread[rows] @ lateral
    return np.hypot(out[:, 0], out[:, 1])


def path_loss_db(scene: Scene, most_enhancement_db: float = 9.0) -> np.ndarray:
    """Net gain (dB) at each sample after attenuation on the way there and back and the time-gain curve."""
    excess = scene.attenuation - np.float32(ASSUMED_ATTENUATION)
    per_sample = 2 * scene.grid.probe.frequency_mhz * scene.grid.sample_mm / 10
    loss = -per_sample * (np.cumsum(excess, axis=0) - excess)
    return np.minimum(loss, most_enhancement_db)


def form_image(scene: Scene, machine: Machine) -> np.ndarray:
    """Grey image float32 [SIZE, SIZE], 0 … 255, of a finished scene."""
    echo_db = scene.echo_db + path_loss_db(scene)
    amplitude = np.exp(echo_db * np.float32(np.log(10) / 20))
    received = sum(envelope(amplitude, scene.grid, scene.rng) for _ in range(machine.looks)) / machine.looks
    received += noise_floor(scene.rng)
    return display(received, scene.grid, machine)


def noise_floor(rng: np.random.Generator) -> np.ndarray:
    """The electronic noise that every image has, float32 [SAMPLES, BEAMS]."""
    level = np.float32(10 ** (NOISE_DB / 20))
    return level * noise_gain() * np.abs(rng.standard_normal((SAMPLES, BEAMS), dtype=np.float32))


def noise_gain() -> np.ndarray:
    """How much the time-gain curve lifts noise at each depth, float32 [SAMPLES, 1]."""
    return np.linspace(0.5, 2.0, SAMPLES, dtype=np.float32)[:, None]


def display(received: np.ndarray, grid: ScanGrid, machine: Machine) -> np.ndarray:
    """A received envelope after gain, log compression and scan conversion: grey float32 [SIZE, SIZE], 0 …
    255."""
    tilt = np.linspace(-0.5, 0.5, SAMPLES, dtype=np.float32)[:, None] * np.float32(machine.tilt_db)
    level = np.float32(20 / np.log(10)) * np.log(received + 1e-6) + tilt
    # Liver speckle lands a little below the middle grey of the display.
    grey = (level + np.float32(machine.gain_db + 0.55 * machine.dynamic_range_db)) / np.float32(
        machine.dynamic_range_db
    )
    return grid.to_image(np.clip(grey, 0, 1) * np.float32(255))


@lru_cache(maxsize=64)
def _point_spread(probe: Probe, depth_mm: float) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Blur matrices of unit energy: axial [SAMPLES, SAMPLES], and per depth zone a lateral one [BEAMS,
    BEAMS].

    Pulse length: two wavelengths. Beam width: f-number times wavelength at the focus, growing with the
    distance from it as a Gaussian beam does. Speed of sound 1540 m/s.
    """
    wavelength = 1.54 / probe.frequency_mhz  # mm
    grid = scan_grid(probe, depth_mm)
    axial = _blur(SAMPLES, max(0.55 * wavelength / grid.sample_mm, 1.0))
    depth = (np.arange(0, SAMPLES, ROWS_PER_ZONE) + ROWS_PER_ZONE / 2) * grid.sample_mm
    focus = probe.focus * depth_mm
    width = 0.42 * probe.f_number * wavelength * np.sqrt(1 + ((depth - focus) / (0.45 * depth_mm)) ** 2)
    beam_mm = grid.beam_mm()[
        np.minimum(np.arange(0, SAMPLES, ROWS_PER_ZONE) + ROWS_PER_ZONE // 2, SAMPLES - 1)
    ]
    # A phased array's beams crowd near the skin: no wider than a quarter of the fan there.
    sigma = np.clip(width / np.maximum(beam_mm, 1e-3), 1.15, BEAMS / 16)
    return axial, [(i * ROWS_PER_ZONE, _blur(BEAMS, s)) for i, s in enumerate(sigma)]


def _blur(n: int, sigma: float) -> np.ndarray:
    """Gaussian blur as a symmetric matrix [n, n] with unit-energy rows, so that speckle keeps its mean
    power."""
    distance = np.arange(n)[:, None] - np.arange(n)[None]
    kernel = np.exp(-0.5 * (distance / sigma) ** 2)
    kernel[np.abs(distance) > 4 * sigma + 1] = 0
    return (kernel / np.sqrt((kernel**2).sum(1, keepdims=True))).astype(np.float32)

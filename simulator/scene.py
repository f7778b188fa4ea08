"""A cross-section of the body, painted tissue over tissue onto a probe's scan grid.

Anatomy modules call `paint` back to front; image formation (`speckle.py`) reads the finished maps. Shapes
are signed distances in normalised units: negative inside, 0 on the border, about +1 one radius outside.

Knows nothing of organs: shapes and tissues in, maps out.
"""

from __future__ import annotations

import numpy as np

from simulator.probe import BEAMS, SAMPLES, ScanGrid
from simulator.tissue import Tissue


class Scene:
    """Maps on the scan grid, all float32 [SAMPLES, BEAMS]: `echo_db`, `attenuation` (dB/cm/MHz), and uint8
    `label`."""

    def __init__(self, grid: ScanGrid, rng: np.random.Generator, ground: Tissue):
        self.grid, self.rng = grid, rng
        self.x, self.z = grid.x, grid.z
        self.field = smooth_field(rng)
        self.echo_db = ground.echo_db + ground.texture * self.field
        self.attenuation = np.full(self.x.shape, ground.attenuation, np.float32)
        self.label = np.full(self.x.shape, ground.label, np.uint8)
        self.flow = np.zeros(self.x.shape, np.float32)  # signed flow towards the probe, for colour Doppler
        # Ends (x, z in mm) of the measures that the label map cannot tell; the anatomy hands them out.
        self.measured: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {}

    def paint(self, mask: np.ndarray, tissue: Tissue) -> None:
        echo = tissue.echo_db + tissue.texture * self.field[mask] if tissue.texture else tissue.echo_db
        self.echo_db[mask] = echo
        self.attenuation[mask] = tissue.attenuation
        self.label[mask] = tissue.label

    def brighten(self, mask: np.ndarray, db: float | np.ndarray) -> None:
        self.echo_db[mask] += db

    def paint_interface(self, distance: np.ndarray, low: float, high: float, tissue: Tissue) -> None:
        """Paint the shell low < distance < high as a specular interface: bright where it faces the beam.

        A smooth surface mirrors sound: up to 16 dB are lost where it runs along the beam.
        """
        shell = (distance > low) & (distance < high)
        rows, columns = np.nonzero(shell)
        if not len(rows):
            return
        r, c = np.clip(rows, 1, SAMPLES - 2), np.clip(columns, 1, BEAMS - 2)
        down = (distance[r + 1, c] - distance[r - 1, c]) / (2 * self.grid.sample_mm)
        across = (distance[r, c + 1] - distance[r, c - 1]) / (2 * np.maximum(self.grid.beam_mm()[r], 1e-2))
        facing = np.abs(down) / (np.hypot(down, across) + 1e-6)
        self.paint(shell, tissue)
        self.echo_db[shell] -= 16 * (1 - facing) ** 1.2

    def add_texture(self, mask: np.ndarray, db: float) -> None:
        """Coarse echotexture: a finer random field on top of the speckle, `db` strong."""
        self.echo_db[mask] += db * smooth_field(self.rng, 40, 20)[mask]

    def ellipse(
        self, cx: float, cz: float, rx: float, rz: float, tilt_deg: float = 0.0, wobble: float = 0.0
    ) -> np.ndarray:
        """Normalised distance to an ellipse (centre and radii in mm); `wobble` is the relative depth of its
        dents."""
        return blob(self.x, self.z, cx, cz, rx, rz, tilt_deg, dents(self.rng, wobble) if wobble else None)

    def layer(self, top: float | np.ndarray, bottom: float | np.ndarray) -> np.ndarray:
        """Mask of the slab between two depths, numbers or curves [1, BEAMS] or [SAMPLES, BEAMS]."""
        return (self.z >= top) & (self.z < bottom)

    def across(self) -> np.ndarray:
        """Millimetres across: one row where all rows are alike [1, BEAMS], else [SAMPLES, BEAMS]."""
        return self.x[:1] if self.x.strides[0] == 0 else self.x

    def wavy(self, depth: float, amplitude: float, waves: float = 1.5) -> np.ndarray:
        """A gently curved interface: its depth (mm) at every sample's x [SAMPLES, BEAMS], read-only."""
        x = self.across()
        span = max(float(np.ptp(x)), 1.0)
        phase, phase2 = self.rng.uniform(0, 2 * np.pi, 2)
        t = x / span * 2 * np.pi
        curve = depth + amplitude * (np.sin(waves * t + phase) + 0.4 * np.sin(2.3 * waves * t + phase2))
        return np.broadcast_to(curve, self.x.shape)

    def tube(self, points: list[tuple[float, float]], radius: float | list[float]) -> np.ndarray:
        """Distance to a bent tube through `points` (mm), in units of its radius: below 1 is inside."""
        radii = np.broadcast_to(np.asarray(radius, np.float32), len(points))
        best = np.full(self.x.shape, 9.0, np.float32)
        for (x0, z0), (x1, z1), r0, r1 in zip(points, points[1:], radii, radii[1:], strict=False):
            dx, dz = x1 - x0, z1 - z0
            along = np.clip(((self.x - x0) * dx + (self.z - z0) * dz) / (dx * dx + dz * dz + 1e-9), 0, 1)
            away = np.hypot(self.x - x0 - along * dx, self.z - z0 - along * dz) / (r0 + along * (r1 - r0))
            np.minimum(best, away, out=best)
        return best


def bend(points: list[tuple[float, float]], steps: int = 9) -> list[tuple[float, float]]:
    """The Bezier curve of the control points as a polyline: vessels curve, they have no corners."""
    t = np.linspace(0, 1, steps)[:, None]
    curve = np.repeat(np.asarray(points, float)[None], steps, axis=0)  # [steps, control points, 2]
    while curve.shape[1] > 1:  # de Casteljau
        curve = (1 - t[..., None]) * curve[:, :-1] + t[..., None] * curve[:, 1:]
    return [tuple(p) for p in curve[:, 0]]


def smooth_field(rng: np.random.Generator, rows: int = 9, columns: int = 6) -> np.ndarray:
    """A smooth random field, zero mean, unit strength, float32 [SAMPLES, BEAMS] (bilinear from a coarse
    lattice)."""
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    return _stretch(SAMPLES, rows) @ coarse @ _stretch(BEAMS, columns).T


_STRETCHES: dict[tuple[int, int], np.ndarray] = {}


def _stretch(fine: int, coarse: int) -> np.ndarray:
    """Linear interpolation from `coarse` to `fine` points as a matrix [fine, coarse]."""
    if (fine, coarse) not in _STRETCHES:
        at = np.linspace(0, coarse - 1, fine)
        matrix = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(coarse)[None]))
        _STRETCHES[fine, coarse] = matrix.astype(np.float32)
    return _STRETCHES[fine, coarse]


def dents(rng: np.random.Generator, depth: float, harmonics: tuple[int, ...] = (3, 4, 5, 7)) -> np.ndarray:
    """Random outline: amplitudes and phases [n, 3] (harmonic, amplitude, phase) of the radius over the
    angle."""
    amplitude = depth * rng.uniform(0.4, 1.0, len(harmonics)) / np.sqrt(len(harmonics))
    return np.stack(
        [np.array(harmonics, float), amplitude, rng.uniform(0, 2 * np.pi, len(harmonics))], axis=1
    )


def outline(angle: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Relative radius at each angle for the dents of `dents`."""
    radius = np.ones_like(angle)
    for harmonic, amplitude, phase in shape:
        radius += np.float32(amplitude) * np.cos(np.float32(harmonic) * angle + np.float32(phase))
    return radius


def blob(
    x: np.ndarray,
    z: np.ndarray,
    cx: float,
    cz: float,
    rx: float,
    rz: float,
    tilt_deg: float,
    shape: np.ndarray | None,
) -> np.ndarray:
    """Normalised distance to a (dented) ellipse: below 0 inside, 0 on its border."""
    cos, sin = np.cos(np.deg2rad(tilt_deg)), np.sin(np.deg2rad(tilt_deg))
    dx, dz = x - np.float32(cx), z - np.float32(cz)
    u, v = (
        (dx * np.float32(cos) + dz * np.float32(sin)) / np.float32(rx),
        (dz * np.float32(cos) - dx * np.float32(sin)) / np.float32(rz),
    )
    distance = np.sqrt(u * u + v * v)
    if shape is None:
        return distance - 1
    near = distance < 1.8  # the angle only matters near the border
    result = distance - 1
    result[near] = distance[near] - outline(np.arctan2(v[near], u[near]), shape)
    return result

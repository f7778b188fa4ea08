"""Where every echo comes from: scan grids of linear and sector probes, and scan conversion to a square
image.

A probe fires `BEAMS` beams and takes `SAMPLES` echoes along each; physics happens on that grid. Scan
conversion then places each sample on the screen (bilinear), as every scanner does. Geometry follows any
ultrasound physics text: a linear array's beams are parallel, a convex or phased array's fan out from a
centre of curvature.

A catheter's probe looks all the way round: a fan of 360 degrees whose first and last beam both point up.

Knows nothing of tissue or echo strength.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

BEAMS = 128
SAMPLES = 320
SIZE = 224  # pixels, both sides of the finished image
RULER = 10  # columns at the right edge that hold the depth ruler
TOP = 4  # rows above the probe face


@dataclass(frozen=True)
class Probe:
    """`width_mm` is the aperture of a linear probe; `radius_mm` and `angle_deg` describe a fan (radius ~ 0:
    phased)."""

    name: str
    frequency_mhz: float
    width_mm: float = 0.0
    radius_mm: float = 0.0
    angle_deg: float = 0.0
    focus: float = 0.5  # focal depth as a share of the image depth
    f_number: float = 2.5

    @property
    def fan(self) -> bool:
        return self.angle_deg > 0

    @property
    def round(self) -> bool:
        return self.angle_deg >= 360


LINEAR = Probe("linear", 10.0, width_mm=40.0)
WIDE_LINEAR = Probe("wide linear", 8.0, width_mm=50.0)
CONVEX = Probe("convex", 3.5, radius_mm=50.0, angle_deg=60.0, f_number=3.5)
PHASED = Probe("phased array", 2.8, radius_mm=1.0, angle_deg=84.0, f_number=4.0)
# Intravascular catheters. The origin is the catheter's axis: x and z are 0 in the middle of the image.
SOLID_STATE = Probe("solid-state catheter", 20.0, angle_deg=360.0, f_number=4.2)
ROTATIONAL = Probe("rotational catheter", 30.0, angle_deg=360.0, f_number=5.6)


@dataclass(frozen=True, eq=False)
class ScanGrid:
    """Positions of all samples, and the recipe that turns samples into pixels.

    `x`, `z` are millimetres [SAMPLES, BEAMS]: across (0 in the middle) and down (0 at the skin). `inside`
    is bool [SIZE, SIZE]; `corner` holds the flat index of the upper-left sample of every inside pixel and
    `share` the four bilinear shares [4, n]. `mm_per_pixel` is the same across and down.
    """

    probe: Probe
    depth_mm: float
    x: np.ndarray
    z: np.ndarray
    inside: np.ndarray
    corner: np.ndarray
    share: np.ndarray
    mm_per_pixel: float

    @property
    def sample_mm(self) -> float:
        return self.depth_mm / (SAMPLES - 1)

    def beam_mm(self) -> np.ndarray:
        """Distance between neighbouring beams at each depth [SAMPLES]."""
        return np.abs(np.diff(self.x[:, BEAMS // 2 : BEAMS // 2 + 2], axis=1))[:, 0]

    def to_image(self, samples: np.ndarray) -> np.ndarray:
        """Scan-convert [SAMPLES, BEAMS] to float32 [SIZE, SIZE] by bilinear interpolation; outside is 0."""
        flat = samples.reshape(-1)
        image = np.zeros(SIZE * SIZE, np.float32)
        values = flat[self.corner] * self.share[0]
        for shift, share in zip((1, BEAMS, BEAMS + 1), self.share[1:], strict=True):
            values += flat[self.corner + shift] * share
        image[self.inside.reshape(-1)] = values
        return image.reshape(SIZE, SIZE)

    def labels_to_image(self, labels: np.ndarray) -> np.ndarray:
        """Scan-convert integer labels [SAMPLES, BEAMS] to uint8 [SIZE, SIZE]: nearest sample, 0 outside."""
        image = np.zeros(SIZE * SIZE, np.uint8)
        shift = np.array((0, 1, BEAMS, BEAMS + 1))[self.share.argmax(0)]
        image[self.inside.reshape(-1)] = labels.reshape(-1)[self.corner + shift]
        return image.reshape(SIZE, SIZE)

    def to_pixel(self, x: float, z: float) -> tuple[float, float]:
        """Column and row of a point given in millimetres."""
        return (SIZE - RULER) / 2 + x / self.mm_per_pixel, TOP + (z - self._top_mm()) / self.mm_per_pixel

    def _top_mm(self) -> float:
        return float(self.z.min())


@lru_cache(maxsize=64)
def scan_grid(probe: Probe, depth_mm: float) -> ScanGrid:
    """The grid of one probe at one depth setting (scanners offer steps, so few grids serve all images)."""
    along = np.linspace(0, depth_mm, SAMPLES, dtype=np.float32)[:, None]
    if probe.fan:
        half = np.deg2rad(probe.angle_deg) / 2
        theta = np.linspace(-half, half, BEAMS, dtype=np.float32)[None]
        x = (probe.radius_mm + along) * np.sin(theta)
        z = (probe.radius_mm + along) * np.cos(theta) - probe.radius_mm
    else:
        x = np.broadcast_to(
            np.linspace(-0.5, 0.5, BEAMS, dtype=np.float32) * probe.width_mm, (SAMPLES, BEAMS)
        )
        z = np.broadcast_to(along, (SAMPLES, BEAMS))
    mm = max(2 * float(x.max()) / (SIZE - RULER - 2), float(z.max() - z.min()) / (SIZE - TOP - 4))
    columns = (np.arange(SIZE, dtype=np.float32)[None] - (SIZE - RULER) / 2) * mm
    rows = (np.arange(SIZE, dtype=np.float32)[:, None] - TOP) * mm + float(z.min())
    if probe.fan:
        reach = np.hypot(columns, rows + probe.radius_mm) - probe.radius_mm
        beam = (np.arctan2(columns, rows + probe.radius_mm) / half + 1) / 2 * (BEAMS - 1)
    else:
        reach = np.broadcast_to(rows, (SIZE, SIZE))
        beam = np.broadcast_to((columns / probe.width_mm + 0.5) * (BEAMS - 1), (SIZE, SIZE))
    if probe.round:  # straight up is the last beam's own direction: no gap between the last and the first
        beam = np.clip(beam, 0, BEAMS - 1.001)
    sample = reach / depth_mm * (SAMPLES - 1)
    inside = (beam >= 0) & (beam < BEAMS - 1) & (sample >= 0) & (sample < SAMPLES - 1)
    b, s = beam[inside], sample[inside]
    b0, s0 = b.astype(np.int64), s.astype(np.int64)
    fb, fs = (b - b0).astype(np.float32), (s - s0).astype(np.float32)
    share = np.stack([(1 - fs) * (1 - fb), (1 - fs) * fb, fs * (1 - fb), fs * fb])
    return ScanGrid(
        probe, depth_mm, np.ascontiguousarray(x), np.ascontiguousarray(z), inside, s0 * BEAMS + b0, share, mm
    )

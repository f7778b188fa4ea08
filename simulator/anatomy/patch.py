"""A piece of a fan-shaped scene: small shapes are worked out and painted only where they lie.

The same shapes as `scene.py` paints, at a fraction of its time: a scene holds dozens of vessels and follicles
that fill a hundredth of it each.

Knows nothing of organs, and of no probe but those whose beams fan out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.anatomy.axis import Point
from simulator.probe import BEAMS, SAMPLES
from simulator.scene import Scene, blob
from simulator.tissue import Tissue

EDGE_MM = 7.0  # around a shape in which its distance is worked out; also what a cine may move the scene by


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

    def paint(self, mask: np.ndarray, tissue: Tissue, flow: float = 0.0) -> None:
        scene = self.scene
        scene.echo_db[self.at][mask] = tissue.echo_db + tissue.texture * scene.field[self.at][mask]
        scene.attenuation[self.at][mask] = tissue.attenuation
        scene.label[self.at][mask] = tissue.label
        scene.flow[self.at][mask] = flow

    def paint_sheet(self, away_mm: np.ndarray, low: float, high: float, tissue: Tissue) -> None:
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

"""The abdominal wall, through which a convex probe looks: skin, fat, and a muscle between two bright sheets.

Layers and their order follow any atlas of abdominal ultrasound; their shares of the wall are chosen, not
measured. What lies deeper is the caller's, who paints the wall last.

Knows nothing of organs, ribs or the navel: it is the same all over the abdomen.
"""

from __future__ import annotations

import numpy as np

from simulator import tissue as t
from simulator.anatomy.patch import EDGE_MM
from simulator.scene import Scene, smooth_field


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

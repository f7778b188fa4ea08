"""A loop of bowel with gas in it: what lies between and behind the organs of the abdomen.

As any atlas of abdominal ultrasound shows it: a dark wall, the bright ragged front of the gas, and a dirty
shadow, not a black one (chosen by eye; not measured).

Knows nothing of peristalsis, of the layers of the wall, or of which loop it is.
"""

from __future__ import annotations

import numpy as np

from simulator import tissue as t
from simulator.anatomy.patch import spot
from simulator.scene import Scene


def gas_loop(scene: Scene, x: float, z: float, rx: float, rz: float, haze_db: float = 0.0) -> None:
    """A loop of bowel: its dark wall, gas along its front, and what gas leaves behind: a grey shadow."""
    rng = scene.rng
    patch, loop = spot(scene, x, z, rx, rz, float(rng.uniform(-20, 20)))
    patch.paint(loop < 0, t.MUSCLE)
    reach = 0.75 * rx
    steps = np.linspace(-1, 1, 7)
    tops = z - 0.55 * rz + 2 * steps**2 + rng.uniform(-1.3, 1.3, 7)
    ragged = list(zip(x + steps * reach, tops, strict=True))
    patch.paint(patch.tube(ragged, rng.uniform(0.3, 1.2, 7)) < 0, t.GAS)
    if haze_db:
        below = (np.abs(patch.x - x) < reach) & (patch.z > z - 0.4 * rz) & (patch.label == t.OTHER)
        fading = np.exp(-(patch.z[below] - z) / 12)
        scene.echo_db[patch.at][below] += np.float32(haze_db) * fading

"""A point with a direction: where something lies along and across the axis of an organ.

Knows nothing of scenes or organs: millimetres in, millimetres out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Point = tuple[float, float]  # x, z in mm


@dataclass(frozen=True)
class Axis:
    """A point (mm) and a direction: `turn_deg` is how far its right end is turned down."""

    x: float
    z: float
    turn_deg: float

    def point(self, along: float, across: float = 0.0) -> Point:
        """The point so many mm along the axis (to the right) and across it (down)."""
        turn = np.deg2rad(self.turn_deg)
        return (
            float(self.x + along * np.cos(turn) - across * np.sin(turn)),
            float(self.z + along * np.sin(turn) + across * np.cos(turn)),
        )

"""Cross-sections of the seven organs, one module an organ or region of the body.

Each of those (`registry.py` lists them) offers `VIEWS`, the probe and depth settings of every view, and
`draw(scene, examination, view)`, which paints the anatomy back to front and, where the view shows it, the
lesion. Proportions come from the examination's `measures`, so what a report states can be measured on the
image. What surrounds the organ is typical, not a patient's.

Beside them lie what several of them paint with (`patch.py`, `vessels.py`, `abdominal_wall.py`, ...), the
abdomen's standard planes (`standard_planes.py`, `planes_*.py`) and a coronary artery from within (`ivus.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from simulator.probe import Probe


@dataclass(frozen=True)
class Setting:
    """How a view is scanned: the probe, the depth steps (mm) used for it, and the tissue everything starts
    from."""

    probe: Probe
    depths_mm: tuple[float, ...]

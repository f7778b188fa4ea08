"""Which module draws which organ, and the views each organ can be scanned in (the first is the principal
one).

Knows nothing of the abdomen's standard planes and of IVUS, which are no examination's views.
"""

from __future__ import annotations

from collections.abc import Callable

from simulator import tissue as t
from simulator.anatomy import Setting, breast, heart, kidney, liver, neck, pelvis
from simulator.examination import Examination, View
from simulator.scene import Scene
from simulator.tissue import Tissue

VIEWS: dict[str, dict[str, Setting]] = {
    "thyroid": neck.THYROID_VIEWS,
    "breast": breast.VIEWS,
    "liver": liver.VIEWS,
    "kidney": kidney.VIEWS,
    "gynaecology": pelvis.VIEWS,
    "vessel": neck.VESSEL_VIEWS,
    "heart": heart.VIEWS,
}
DRAW: dict[str, Callable[[Scene, Examination, View], None]] = {
    "thyroid": neck.draw_thyroid,
    "breast": breast.draw,
    "liver": liver.draw,
    "kidney": kidney.draw,
    "gynaecology": pelvis.draw,
    "vessel": neck.draw_vessel,
    "heart": heart.draw,
}
GROUND: dict[str, Tissue] = {  # what fills the image before anything is painted
    "thyroid": t.SOFT,
    "breast": t.FAT,
    "liver": t.LIVER,
    "kidney": t.SOFT,
    "gynaecology": t.SOFT,
    "vessel": t.SOFT,
    "heart": t.SOFT,
}

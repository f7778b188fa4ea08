"""The standard planes of pancreas, spleen and kidneys, as plans, and views that are no standard plane.

Screen conventions are the usual ones: a longitudinal view has the head on the left, a transverse one the
patient's right. The anatomy follows any atlas of abdominal ultrasound: renal sinus brighter than cortex,
cortex no brighter than liver or spleen, pyramids darkest; the splenic vein runs behind the pancreas.
Proportions are typical adults' (chosen; not measured).

What a view shows of neighbouring organs is named too, as `beside`.

Knows nothing of deductions, of what a probe cuts off, or of files.
"""

from __future__ import annotations

import numpy as np

from simulator import tissue as t
from simulator.anatomy.planes_liver import branches, coarse, dome, vertebrae
from simulator.anatomy.standard_planes import (
    HILAR_FAT,
    PANCREAS,
    RENAL_CORTEX,
    RENAL_FAT,
    VISCERA,
    Ellipse,
    Part,
    Plan,
    Tube,
    behind,
    dented,
    named,
    vessel,
)
from simulator.scene import bend

Rng = np.random.Generator
LEFT_LOBE, RIGHT_LOBE = named("left_lobe_of_liver"), named("right_lobe_of_liver")
AORTA, VENA_CAVA = named("abdominal_aorta"), named("inferior_vena_cava")


def pancreas_transverse(rng: Rng) -> Plan:
    """Head, body and tail as a bright arch, the splenic vein behind it, then the mesenteric artery, vena
    cava, aorta and spine."""
    z = float(rng.uniform(58, 64))
    path = bend([(-44, z + 18), (-22, z + 8), (4, z - 12), (34, z - 2), (52, z + 10)], 9)
    girth = rng.uniform(0.92, 1.12)
    radii = tuple(float(r * girth) for r in (12.5, 14, 12, 9.5, 9, 9.2, 9.8, 10, 7.5))
    names = ((0.3, "pancreas_head"), (0.66, "pancreas_body"), (np.inf, "pancreas_tail"))
    parts = [
        *vertebrae(rng, 118, 1),
        Part(
            dented(rng, -18, 26, 78, float(rng.uniform(22, 26)), 4, 0.05),
            t.LIVER,
            LEFT_LOBE,
            edge=t.FASCIA,
            beside=True,
        ),
        *branches(rng, [(-30, 34), (2, 32)]),
        Part(Tube(tuple(path), radii), PANCREAS, names, texture_db=2.5),
        vessel(  # begins where it joins the mesenteric vein, which comes straight at the probe
            rng,
            [(-15, z + 18), (0, z + 9), (34, z + 9), (58, z + 24)],
            (6.6, 3.4),
            "splenic_vein",
            0.9,
            round_start=True,
        ),
        Part(
            Ellipse(2, z + 24, 3.4, 3.4),
            t.BLOOD,
            named("superior_mesenteric_artery"),
            wall=t.FASCIA,
            wall_mm=1.4,
            beside=True,
        ),
        Part(dented(rng, -24, z + 38, 11, 7.5, 0, 0.05), t.BLOOD, VENA_CAVA, edge=t.FASCIA, beside=True),
        Part(
            dented(rng, 6, z + 40, 8.5, 8.5, 0, 0.03), t.BLOOD, AORTA, wall=t.WALL, wall_mm=1.5, beside=True
        ),
    ]
    return Plan(tuple(parts), VISCERA, 125.0, float(rng.uniform(9, 14)), 3.0)


def spleen_longitudinal(rng: Rng) -> Plan:
    """The crescent of the spleen with bright fat and a vein at its hilum; lung above it on the left."""
    cx, cz = float(rng.uniform(-6, 6)), float(rng.uniform(52, 58))
    parts = [
        Part(dented(rng, cx + 6, cz + 66, 88, 42, 4, 0.05), VISCERA, texture_db=4.5),
        *_spleen(
            rng, cx, cz, float(rng.uniform(45, 50)), float(rng.uniform(19, 22.5)), float(rng.uniform(-4, 8))
        ),
    ]
    return Plan(tuple(parts), VISCERA, 120.0, float(rng.uniform(9, 14)), 3.0)


def spleen_and_left_kidney(rng: Rng) -> Plan:
    """Spleen in front of the left kidney, both lengthwise: two planes in one image."""
    spleen = _spleen(rng, -12.0, float(rng.uniform(44, 47)), 38.0, 17.0, float(rng.uniform(4, 9)), vein=-1)
    kidney = _kidney(rng, "left", 16.0, float(rng.uniform(92, 96)), 47.0, 20.5, float(rng.uniform(8, 14)))
    return Plan((*kidney, *spleen), VISCERA, 135.0, float(rng.uniform(9, 13)), 3.0)


def right_liver_kidney(rng: Rng) -> Plan:
    """Liver in front of the right kidney, cut beside the renal sinus: the kidney shows its two poles only."""
    return _liver_and_kidney(rng, sinus=False)


def right_liver_whole_kidney(rng: Rng) -> Plan:
    """Liver in front of the right kidney, cut through the renal sinus: two planes in one image."""
    return _liver_and_kidney(rng, sinus=True)


def right_kidney_longitudinal(rng: Rng) -> Plan:
    """The right kidney near the probe, seen from the flank: the liver's lower edge reaches in on the left."""
    cz = float(rng.uniform(62, 68))
    edge = dented(rng, -46, 26, 42, float(rng.uniform(13, 17)), 16, 0.04)
    kidney = _kidney(
        rng,
        "right",
        0.0,
        cz,
        float(rng.uniform(49, 54)),
        float(rng.uniform(23, 26)),
        float(rng.uniform(-16, -6)),
    )
    parts = [_psoas(rng, cz + 44), Part(edge, t.LIVER, RIGHT_LOBE, edge=t.FASCIA, beside=True), *kidney]
    return Plan(tuple(parts), VISCERA, 115.0, float(rng.uniform(10, 15)), 4.0)


def left_kidney_longitudinal(rng: Rng) -> Plan:
    """The left kidney near the probe, below the tip of the spleen; a loop of colon lies on the right."""
    cz = float(rng.uniform(62, 68))
    tip = dented(rng, -42, 36, 38, float(rng.uniform(15, 18)), float(rng.uniform(-32, -20)), 0.04)
    colon = dented(rng, float(rng.uniform(34, 42)), 32, 13, 9, 10, 0.06)
    kidney = _kidney(
        rng,
        "left",
        0.0,
        cz,
        float(rng.uniform(49, 54)),
        float(rng.uniform(23, 26)),
        float(rng.uniform(4, 14)),
    )
    parts = [
        _psoas(rng, cz + 44),
        Part(colon, t.MUSCLE, edge=t.FASCIA),
        Part(tip, t.SPLEEN, named("spleen"), edge=t.FASCIA, beside=True),
        *kidney,
    ]
    return Plan(tuple(parts), VISCERA, 115.0, float(rng.uniform(10, 15)), 4.0)


def liver_only(rng: Rng) -> Plan:
    """Non-standard: parenchyma of the right lobe with small vessels, off every plane."""
    places = [(float(rng.uniform(-50, 50)), float(rng.uniform(38, 90))) for _ in range(rng.integers(4, 9))]
    around = dome(rng, float(rng.uniform(-20, 20)), 60, 112, float(rng.uniform(68, 84)))
    parts = [
        behind(RIGHT_LOBE),
        *(around if rng.random() < 0.7 else []),
        *branches(rng, places, portal=bool(rng.random() < 0.5)),
    ]
    return Plan(tuple(parts), t.LIVER, 125.0, float(rng.uniform(10, 16)), coarse(rng))


def kidney_transverse(rng: Rng) -> Plan:
    """Non-standard: a kidney across, a ring with the bright sinus open to one side."""
    cx, cz, r = float(rng.uniform(-8, 8)), float(rng.uniform(58, 70)), float(rng.uniform(24, 28))
    left = rng.random() < 0.5
    neighbour, of = (t.SPLEEN, named("spleen")) if left else (t.LIVER, RIGHT_LOBE)
    sinus = named("left_renal_sinus" if left else "right_renal_sinus")
    parts = [
        _psoas(rng, cz + 40),
        Part(dented(rng, -46, 36, 58, 26, 16, 0.05), neighbour, of, edge=t.FASCIA, beside=True),
        Part(dented(rng, cx, cz, r, 0.92 * r, 0, 0.05), RENAL_CORTEX, edge=t.FASCIA),
        Part(
            dented(rng, cx + 5, cz + 2, 0.5 * r, 0.4 * r, 10, 0.12), t.SINUS, sinus, texture_db=4, beside=True
        ),
        Part(
            dented(rng, cx + 0.75 * r, cz + 4, 0.45 * r, 0.2 * r, 8, 0.1),
            t.SINUS,
            sinus,
            texture_db=4,
            beside=True,
        ),
    ]
    return Plan(tuple(parts), VISCERA, 115.0, float(rng.uniform(10, 15)), 4.0)


def gallbladder_transverse(rng: Rng) -> Plan:
    """Non-standard: the gallbladder across, a round anechoic spot below the liver."""
    cx, cz, r = float(rng.uniform(-20, 25)), float(rng.uniform(52, 66)), float(rng.uniform(11, 15))
    round_bladder = dented(rng, cx, cz, r, float(rng.uniform(0.85, 1.0)) * r, 0, 0.04)
    parts = [
        behind(RIGHT_LOBE),
        Part(dented(rng, 30, 126, 95, 48, -10, 0.06), VISCERA, edge=t.FASCIA, texture_db=4.0),
        *branches(rng, [(-46, 46), (-10, 40), (-60, 72)]),
        Part(round_bladder, t.FLUID_CLEAR, named("gallbladder_body"), wall=t.WALL, wall_mm=1.6, beside=True),
    ]
    return Plan(tuple(parts), t.LIVER, 115.0, float(rng.uniform(10, 16)), coarse(rng))


def great_vessels_transverse(rng: Rng) -> Plan:
    """Non-standard: aorta and vena cava across, before the spine, below the left lobe."""
    z = float(rng.uniform(76, 88))
    parts = [
        *vertebrae(rng, z + 20, 1),
        Part(
            dented(rng, -14, 32, 82, float(rng.uniform(26, 34)), 6, 0.05),
            t.LIVER,
            LEFT_LOBE,
            edge=t.FASCIA,
            beside=True,
        ),
        *branches(rng, [(-30, 38), (14, 40), (-8, 30)]),
        Part(dented(rng, -22, z, 12, 8, 0, 0.05), t.BLOOD, VENA_CAVA, edge=t.FASCIA, beside=True),
        Part(dented(rng, 12, z + 2, 9, 9, 0, 0.03), t.BLOOD, AORTA, wall=t.WALL, wall_mm=1.6, beside=True),
    ]
    return Plan(tuple(parts), VISCERA, 120.0, float(rng.uniform(9, 14)), 3.0)


def bowel(rng: Rng) -> Plan:
    """Non-standard: loops of bowel, no key structure."""
    parts = []
    for _ in range(rng.integers(5, 9)):
        x, z = float(rng.uniform(-50, 50)), float(rng.uniform(36, 95))
        loop = dented(
            rng, x, z, float(rng.uniform(10, 18)), float(rng.uniform(7, 11)), float(rng.uniform(-30, 30)), 0.1
        )
        inside = dented(rng, x, z, 6.0, 3.5, float(rng.uniform(-30, 30)), 0.15)
        content = (t.SEPTUM, t.FLUID_CLEAR, VISCERA)[int(rng.integers(3))]
        parts += [Part(loop, t.MUSCLE, edge=t.FASCIA), Part(inside, content, texture_db=4)]
    return Plan(tuple(parts), VISCERA, 115.0, float(rng.uniform(10, 18)), 4.5)


def _liver_and_kidney(rng: Rng, sinus: bool) -> Plan:
    lobe = dented(rng, -34, 42, 104, float(rng.uniform(50, 56)), 10, 0.03)
    kidney = _kidney(
        rng,
        "right",
        float(rng.uniform(16, 22)),
        float(rng.uniform(90, 94)),
        float(rng.uniform(46, 49)),
        float(rng.uniform(20, 22)),
        float(rng.uniform(-12, -4)),
        sinus=sinus,
    )
    parts = [
        Part(lobe, t.LIVER, named("right_lobe_of_liver"), edge=t.FASCIA, open=True),
        *branches(rng, [(-40, 44), (-12, 40), (14, 50), (-46, 66)]),
        *kidney,
    ]
    return Plan(tuple(parts), VISCERA, 135.0, float(rng.uniform(10, 15)), 4.0)


def _kidney(
    rng: Rng,
    side: str,
    cx: float,
    cz: float,
    rx: float,
    rz: float,
    tilt: float,
    sinus: bool = True,
) -> list[Part]:
    """A kidney lengthwise, upper pole on the left; the poles are what lies beyond 0.4 of its half length."""
    names = (
        (-0.4, f"{side}_kidney_upper_pole"),
        (0.4, None),
        (np.inf, f"{side}_kidney_lower_pole"),
    )
    body = dented(rng, cx, cz, rx, rz, tilt, 0.03)
    fat = Ellipse(cx, cz, 1.12 * rx, 1.24 * rz, tilt)
    parts = [
        Part(fat, RENAL_FAT, texture_db=2),
        Part(body, RENAL_CORTEX, names, edge=t.FASCIA, edge_mm=1.2),
    ]
    turn = np.deg2rad(tilt)
    across, deep = (rx - 15, rz - 13.5) if sinus else (0.6 * rx, 0.4 * rz)
    size = 1.0 if sinus else 1.3
    for angle in np.arange(0, 2 * np.pi, np.pi / 4) + 0.2:
        u, v = (across + 4.5) * np.cos(angle), (deep + 4.0) * np.sin(angle)
        x, z = cx + u * np.cos(turn) - v * np.sin(turn), cz + u * np.sin(turn) + v * np.cos(turn)
        pyramid = Ellipse(float(x), float(z), 4.6 * size, 3.6 * size, float(np.rad2deg(angle) + tilt))
        parts.append(Part(pyramid, t.PYRAMID, detail=True))
    if sinus:
        middle = dented(rng, cx, cz, rx - 16, rz - 13.5, tilt, 0.12)
        parts.append(Part(middle, t.SINUS, named(f"{side}_renal_sinus"), texture_db=4))
    return parts


def _spleen(rng: Rng, cx: float, cz: float, rx: float, rz: float, tilt: float, vein: int = 1) -> list[Part]:
    """Spleen, the fat at its hilum, and the vein leaving it to the right (`vein` 1) or the left (-1)."""
    hx, hz = cx + vein * float(rng.uniform(2, 8)), cz + 0.98 * rz
    hilum = dented(rng, hx, hz, float(rng.uniform(13, 16)), float(rng.uniform(6, 7.5)), tilt, 0.05)
    return [
        Part(Ellipse(-104, 58, 58, 84, -16), t.LUNG, edge=t.DIAPHRAGM, edge_mm=2.0),
        Part(dented(rng, cx, cz, rx, rz, tilt, 0.03), t.SPLEEN, named("spleen"), edge=t.FASCIA, edge_mm=1.4),
        Part(hilum, HILAR_FAT, named("splenic_hilum"), texture_db=2),
        vessel(
            rng,
            [(hx - vein * 6, hz - 6), (hx + vein * 4, hz + 4), (hx + vein * 26, hz + 9)],
            (2.6, 4.2),
            "splenic_vein",
            beside=True,
        ),
    ]


def _psoas(rng: Rng, z: float) -> Part:
    """The muscle behind the kidney."""
    return Part(dented(rng, 0, z + 18, 110, 24, float(rng.uniform(-6, 6)), 0.04), t.MUSCLE, edge=t.FASCIA)

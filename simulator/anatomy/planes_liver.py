"""The standard planes of the liver and the biliary tract, as plans: what lies where, in millimetres.

Screen conventions are the usual ones: a longitudinal view has the head on the left, a transverse one the
patient's right. The anatomy follows any atlas of abdominal ultrasound: portal branches have bright walls,
hepatic veins none and run into the vena cava, the bile duct lies in front of the portal vein. Proportions are
typical adults' (chosen; not measured).

Knows nothing of deductions, of what a probe cuts off, or of files.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simulator import tissue as t
from simulator.anatomy.standard_planes import VISCERA, Ellipse, Part, Plan, Tube, dented, named, vessel
from simulator.scene import bend

Rng = np.random.Generator


def left_lobe_aorta(rng: Rng) -> Plan:
    """The wedge of the left lobe with its sharp lower edge, the aorta behind it, the superior mesenteric
    artery leaving it forwards at an acute angle."""
    lobe = Tube(
        ((-95.0, 34.0), (-40.0, 38.0), (5.0, 42.0), (float(rng.uniform(38, 48)), 44.0)),
        (46.0, float(rng.uniform(30, 35)), float(rng.uniform(17, 21)), 3.0),
    )
    z = float(rng.uniform(92, 98))
    origin = float(rng.uniform(-22, -8))
    parts = [
        *vertebrae(rng, z + 22),
        Part(lobe, t.LIVER, named("left_lobe_of_liver"), edge=t.FASCIA, open=True),
        *branches(rng, [(-48, 40), (-22, 50), (-30, 30), (-8, 42)]),
        vessel(rng, [(-160, z - 3), (0, z), (160, z + 6)], (8.5, 8.0), "abdominal_aorta", 1.6, open=True),
        vessel(
            rng,
            [(origin - 17, z - 4), (origin - 14, z - 16), (origin - 6, z - 24)],
            (3.6, 2.8),
            wall_mm=1.0,
        ),
        vessel(
            rng,
            [(origin - 2, z - 4), (origin + 6, z - 25), (origin + 30, z - 24), (origin + 68, z - 15)],
            (4.8, 4.0),
            "superior_mesenteric_artery",
            1.3,
        ),
    ]
    return Plan(tuple(parts), VISCERA, 130.0, float(rng.uniform(9, 14)), 2.5)


def left_portal_branch(rng: Rng) -> Plan:
    """The left portal vein lying on its back: transverse part, then the umbilical part turning forwards to
    the bright round ligament, with the segmental branches on either side."""
    bx, bz = float(rng.uniform(-8, 0)), float(rng.uniform(68, 74))
    tip = (bx + float(rng.uniform(14, 22)), bz - float(rng.uniform(28, 34)))
    parts = [
        *vertebrae(rng, 114, 1),
        Part(
            dented(rng, 0, 46, 92, float(rng.uniform(44, 50)), 0, 0.04),
            t.LIVER,
            named("left_lobe_of_liver"),
            edge=t.FASCIA,
            open=True,
        ),
        vessel(
            rng,
            [(tip[0] - 2, tip[1] + 9), (tip[0] + 14, tip[1] + 6), (tip[0] + 36, tip[1] + 12)],
            (3.4, 1.8),
            wall_mm=1.0,
        ),
        vessel(rng, [(bx + 4, bz - 2), (bx + 20, bz + 4), (bx + 44, bz - 4)], (3.4, 1.8), wall_mm=1.0),
        vessel(
            rng,
            [(tip[0] - 4, tip[1] + 10), (tip[0] - 18, tip[1] + 10), (tip[0] - 34, tip[1] - 2)],
            (3.4, 1.8),
            wall_mm=1.0,
        ),
        vessel(
            rng,
            [(bx, bz), (bx - 16, bz + 7), (bx - 34, bz + 4), (bx - 54, bz + 18)],
            (6.2, 7.4),
            "left_portal_vein_transverse_part",
            2.0,
        ),
        vessel(
            rng,
            [(bx, bz), (bx + 12, bz - 6), tip],
            (6.4, 5.6),
            "left_portal_vein_umbilical_part",
            2.0,
        ),
        Part(Ellipse(tip[0] + 2, tip[1] - 10, 4.5, 3.6, 20), t.SEPTUM, edge=t.FASCIA),
        Part(Tube(((bx + 6, bz + 6), (bx + 24, bz + 18)), (0.9, 0.9)), t.FASCIA, detail=True),
    ]
    return Plan(tuple(parts), VISCERA, 120.0, float(rng.uniform(9, 14)), 2.0)


def hepatic_veins(rng: Rng) -> Plan:
    """Three hepatic veins without bright walls running together into the inferior vena cava before the
    diaphragm."""
    cx, cz = float(rng.uniform(-6, 8)), float(rng.uniform(92, 98))
    parts = [
        *dome(rng, cx, 40, 112, float(rng.uniform(70, 76))),
        *branches(rng, [(-34, 50), (22, 44), (10, 66), (-52, 92), (52, 88)], portal=True),
        *tributaries(rng, [((cx - 34, cz - 12), (-44, -34)), ((cx - 9, cz - 30), (10, -26))]),
        vessel(
            rng,
            [(cx - 6, cz), (cx - 26, cz - 2), (cx - 44, cz - 14), (cx - 66, cz - 34)],
            (7.2, 2.6),
            "right_hepatic_vein",
        ),
        vessel(
            rng,
            [(cx - 1, cz - 3), (cx - 2, cz - 24), (cx - 14, cz - 36), (cx - 22, cz - 66)],
            (6.4, 2.4),
            "middle_hepatic_vein",
        ),
        vessel(
            rng,
            [(cx + 3, cz - 3), (cx + 10, cz - 26), (cx + 30, cz - 34), (cx + 44, cz - 56)],
            (6.4, 2.4),
            "left_hepatic_vein",
        ),
        Part(
            dented(rng, cx, cz, float(rng.uniform(13, 15.5)), float(rng.uniform(8.5, 10.5)), 0, 0.04),
            t.BLOOD,
            named("inferior_vena_cava"),
            edge=t.FASCIA,
        ),
    ]
    return Plan(tuple(parts), t.LIVER, 130.0, float(rng.uniform(10, 16)), coarse(rng))


def right_portal_branch(rng: Rng) -> Plan:
    """The right branch of the portal vein between the ribs, and the fork into its anterior and posterior
    branches."""
    fx, fz = float(rng.uniform(-6, 6)), float(rng.uniform(70, 78))
    fork = (fx, fz)
    parts = [
        *dome(rng, -6, 58, 112, float(rng.uniform(72, 80))),
        *branches(rng, [(-4, 40), (30, 46), (-56, 78)]),
        vessel(
            rng,
            [fork, (fx - 14, fz - 6), (fx - 22, fz - 20), (fx - 24, fz - 44)],
            (5.6, 3.0),
            "right_anterior_portal_branch",
            1.8,
        ),
        vessel(
            rng,
            [fork, (fx - 14, fz + 8), (fx - 32, fz + 18), (fx - 56, fz + 14)],
            (5.6, 3.0),
            "right_posterior_portal_branch",
            1.8,
        ),
        vessel(
            rng,
            [fork, (fx + 16, fz - 2), (fx + 34, fz + 6), (fx + 60, fz + 24)],
            (7.0, 7.8),
            "right_portal_vein",
            2.2,
        ),
    ]
    return Plan(tuple(parts), t.LIVER, 130.0, float(rng.uniform(11, 17)), coarse(rng))


def right_portal_branch_with_gallbladder(rng: Rng) -> Plan:
    """The intercostal view, tilted so that the gallbladder lies in it lengthwise: two planes in one image."""
    plan = right_portal_branch(rng).moved(-12, 15)
    neck = (float(rng.uniform(0, 4)), float(rng.uniform(61, 65)))
    bladder = _bladder(rng, neck, (neck[0] + 16, 51), (neck[0] + 36, 45), 0.78)
    return replace(plan, parts=(*plan.parts, *bladder))


def gallbladder_longitudinal(rng: Rng) -> Plan:
    """The pear of the gallbladder below the liver, neck deep on the left, fundus at the liver's edge;
    the bright line of the main fissure leads from the neck to the right portal vein, seen across."""
    neck = (float(rng.uniform(-40, -32)), float(rng.uniform(74, 80)))
    fundus = (float(rng.uniform(26, 34)), float(rng.uniform(50, 56)))
    middle = ((neck[0] + fundus[0]) / 2 - 2, (neck[1] + fundus[1]) / 2 + float(rng.uniform(-2, 6)))
    portal = (neck[0] - float(rng.uniform(10, 16)), neck[1] + float(rng.uniform(9, 13)))
    bowel = dented(rng, 40, 122, 92, float(rng.uniform(44, 50)), -14, 0.06)
    parts = [
        Part(bowel, VISCERA, edge=t.FASCIA, texture_db=4.0),
        *branches(rng, [(-46, 46), (-8, 42), (-60, 70)]),
        Part(Tube((neck, portal), (0.8, 0.8)), t.FASCIA, detail=True),
        Part(
            dented(rng, *portal, float(rng.uniform(6.5, 8)), float(rng.uniform(5, 6)), -25, 0.04),
            t.BLOOD,
            named("right_portal_vein"),
            wall=t.WALL,
            wall_mm=1.6,
            beside=True,
        ),
        *_bladder(rng, neck, middle, fundus, 1.0),
    ]
    return Plan(tuple(parts), t.LIVER, 115.0, float(rng.uniform(10, 16)), coarse(rng))


def bile_duct_longitudinal(rng: Rng) -> Plan:
    """Three tubes over one another: the bile duct in front, the portal vein with its bright wall, the vena
    cava behind. Towards the pancreas the vein bends out of the plane and the duct runs on backwards; in the
    liver both become thinner and bend forwards."""
    z = float(rng.uniform(70, 76))
    duct = float(rng.uniform(3.2, 4.4))
    lift = 7 + duct + float(rng.uniform(2.5, 4.0))
    parts = [
        Part(dented(rng, 62, 88, 50, 34, 30, 0.08), VISCERA, edge=t.FASCIA, texture_db=4.5),
        *branches(rng, [(-30, 38), (6, 42), (-58, 58)]),
        vessel(
            rng,
            [(-160, z + 27), (0, z + 34), (160, z + 27)],
            (8.5, 8.0),
            "inferior_vena_cava",
            edge=t.FASCIA,
            open=True,
        ),
        vessel(
            rng,
            [(-62, z - 28), (-34, z - 2), (8, z - 6), (32, z + 4), (50, z + 16)],
            (4.6, 7.8),
            "main_portal_vein",
            2.2,
        ),
        vessel(
            rng,
            [
                (-56, z - 24 - lift),
                (-32, z - 5 - lift),
                (8, z - 7 - lift),
                (34, z + 2 - lift),
                (62, z + 26 - lift),
            ],
            (duct * 0.7, duct * 1.05),
            "common_bile_duct",
            1.3,
        ),
        Part(
            Ellipse(-6, z - 10.5, 2.4, 2.0), t.BLOOD, wall=t.WALL, wall_mm=0.9
        ),  # the hepatic artery, across
    ]
    return Plan(tuple(parts), t.LIVER, 120.0, float(rng.uniform(10, 16)), coarse(rng))


def _bladder(
    rng: Rng,
    neck: tuple[float, float],
    middle: tuple[float, float],
    fundus: tuple[float, float],
    scale: float,
) -> list[Part]:
    """Gallbladder from neck to fundus: a fifth of the length is neck, the last third fundus."""
    way = np.subtract(middle, neck) / np.hypot(*np.subtract(middle, neck))
    sag = (neck[0] + 14 * scale * way[0], neck[1] + 14 * scale * way[1] + 5 * scale)  # the infundibulum
    path = bend([neck, sag, middle, fundus], 9)
    size = scale * rng.uniform(0.9, 1.12)
    radii = tuple(float(r * size) for r in (3.4, 4.8, 7.0, 9.0, 10.6, 11.6, 12.2, 12.2, 10.6))
    parts = ((0.24, "gallbladder_neck"), (0.68, "gallbladder_body"), (np.inf, "gallbladder_fundus"))
    return [Part(Tube(tuple(path), radii), t.FLUID_CLEAR, parts, wall=t.WALL, wall_mm=1.5 * scale + 0.3)]


def branches(rng: Rng, places: list[tuple[float, float]], portal: bool = False) -> list[Part]:
    """Small vessels of the liver at about these places: the texture that every liver has."""
    parts = []
    for x, z in places:
        x, z = x + rng.uniform(-6, 6), z + rng.uniform(-5, 5)
        way, length = rng.uniform(0, np.pi), rng.uniform(12, 22)
        end = (x + length * np.cos(way), z + 0.6 * length * np.sin(way))
        bow = (x + 0.5 * length * np.cos(way) + rng.uniform(-3, 3), z + 0.3 * length + rng.uniform(-3, 3))
        bright = portal or rng.random() < 0.5
        parts.append(vessel(rng, [(x, z), bow, end], (1.9, 1.2), wall_mm=0.8 if bright else 0.0))
    return parts


def tributaries(rng: Rng, courses: list[tuple[tuple[float, float], tuple[float, float]]]) -> list[Part]:
    """Small hepatic veins: where each opens into its stem, and the way (mm) from there to its thin end."""
    parts = []
    for (x, z), (dx, dz) in courses:
        dx, dz = dx + rng.uniform(-6, 6), dz + rng.uniform(-6, 6)
        bow = (x + 0.5 * dx + rng.uniform(-4, 4), z + 0.35 * dz)
        parts.append(vessel(rng, [(x, z), bow, (x + dx, z + dz)], (3.0, 1.4)))
    return parts


def dome(rng: Rng, cx: float, cz: float, rx: float, rz: float) -> list[Part]:
    """Diaphragm and lung around the liver's dome."""
    liver = Ellipse(cx + rng.uniform(-6, 6), cz, rx, rz, rng.uniform(-6, 6), outside=True)
    return [Part(liver, t.LUNG, edge=t.DIAPHRAGM, edge_mm=2.2)]


def vertebrae(rng: Rng, z: float, count: int = 4) -> list[Part]:
    """Front edges of vertebral bodies: bright arcs."""
    start = rng.uniform(-8, 8) - 13.0 * (count - 1)
    arcs = []
    for k in range(count):
        arc = bend([(start + 26 * k - 10, z + 4), (start + 26 * k, z - 4), (start + 26 * k + 10, z + 4)], 5)
        arcs.append(Part(Tube(tuple(arc), (1.5,) * 5), t.DIAPHRAGM))
    return arcs


def coarse(rng: Rng) -> float:
    return float(rng.choice((0.0, 0.0, 1.5, 3.0)))

"""What the body is made of, as far as an echo can tell.

`echo_db` is the mean backscatter relative to liver parenchyma, `attenuation` is dB/cm/MHz one way,
`texture` the strength (dB) of slow brightness variation inside the tissue, `label` its class in the label
map. Attenuation of soft tissue about 0.5, muscle 0.6-1, blood 0.2, water 0 dB/cm/MHz (standard physics
tables); echo levels: chosen so that the order of greys is the one sonographers teach (renal sinus >
pancreas > liver = spleen > renal cortex > pyramid > bile, blood); not measured.
"""

from __future__ import annotations

from dataclasses import dataclass

# Classes of the label map; 0 is outside the scan.
OTHER, PARENCHYMA, FLUID, INTERFACE, LESION = 1, 2, 3, 4, 5
LABELS = {
    "outside": 0,
    "other": OTHER,
    "parenchyma": PARENCHYMA,
    "fluid": FLUID,
    "interface": INTERFACE,
    "lesion": LESION,
}


@dataclass(frozen=True)
class Tissue:
    echo_db: float
    attenuation: float = 0.5
    texture: float = 1.0
    label: int = OTHER


SKIN = Tissue(9, 0.6)
FAT = Tissue(-8, 0.5, 2.0)
SEPTUM = Tissue(4, 0.5, 2.0)
MUSCLE = Tissue(-9, 0.6, 1.5)
FASCIA = Tissue(10, 0.6)
SOFT = Tissue(-3, 0.5, 2.5)
BONE = Tissue(22, 12.0, 1.0, INTERFACE)
CARTILAGE = Tissue(-12, 0.9)
GAS = Tissue(20, 6.0, 1.0, INTERFACE)
BEHIND_GAS = Tissue(-14, 0.9, 3.0)
DIAPHRAGM = Tissue(17, 0.6, 1.0, INTERFACE)
LUNG = Tissue(-4, 0.8, 3.0)
WALL = Tissue(10, 0.5, 1.0)
BLOOD = Tissue(-34, 0.15, 0.0, FLUID)
FLUID_CLEAR = Tissue(-46, 0.0, 0.0, FLUID)

THYROID = Tissue(2, 0.5, 1.0, PARENCHYMA)
GLAND = Tissue(3, 0.55, 2.0, PARENCHYMA)
LIVER = Tissue(0, 0.5, 1.0, PARENCHYMA)
SPLEEN = Tissue(1, 0.5, 0.8, PARENCHYMA)
CORTEX = Tissue(-4, 0.5, 1.0, PARENCHYMA)
PYRAMID = Tissue(-12, 0.45, 1.0, PARENCHYMA)
SINUS = Tissue(9, 0.55, 2.5)
MYOMETRIUM = Tissue(-3, 0.55, 1.5, PARENCHYMA)
ENDOMETRIUM = Tissue(7, 0.5, 1.0)
OVARY = Tissue(-5, 0.5, 1.5, PARENCHYMA)
MYOCARDIUM = Tissue(-4, 0.5, 1.5, PARENCHYMA)
VALVE = Tissue(9, 0.5, 1.0)
INTIMA = Tissue(11, 0.5, 0.5)
MEDIA = Tissue(-14, 0.5, 0.5)
ADVENTITIA = Tissue(13, 0.55, 0.5)

# The heart and what lies around it; VALVE_ALONG is a leaflet that runs along the beam. Chordae are threads in
# blood, thinner than the label map can show.
LUNG_HAZE = Tissue(-20, 0.5, 2.5)
EPICARDIAL_FAT = Tissue(-12, 0.5, 2.0)
PERICARDIUM = Tissue(8, 0.5, 4.0)
WALL_OF_ATRIUM = Tissue(-8, 0.5, 2.0)
PAPILLARY = Tissue(-5, 0.5, 2.0)
MODERATOR = Tissue(1, 0.5, 1.5)
ANNULUS = Tissue(-1, 0.5, 2.0)
VALVE_ALONG = Tissue(4, 0.5, 1.0)
CHORDA = Tissue(-20, 0.2, 1.0, FLUID)

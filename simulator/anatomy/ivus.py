"""Coronary artery from within: the circular cross-section of an intravascular catheter (IVUS).

Layers as Ultrasound-QBench (section II.B) and the consensus document on IVUS (Mintz et al., J Am Coll
Cardiol 2001, 37:1478) name them, from inside out: catheter, blood, intima (thin, bright), plaque between
intima and media, media (dark: muscle hardly reflects), adventitia (bright: collagen). Soft plaque is darker
than the adventitia, fibrous plaque as bright, calcified plaque brighter with a shadow. A guide wire beside
the catheter gives a bright spot and a narrow shadow. Diameters are those of coronary arteries, rounded; echo
levels are chosen so that the order of greys is the one that is taught; neither is fitted to images.

In the label map the lumen is fluid, the wall parenchyma or lesion, and the adventitia's innermost ring an
interface: the one layer that runs all round the artery, so that it can be counted what a picture cuts off.

Knows nothing of image formation, artefacts or wording. Not drawn: side branches, dissection, thrombus,
stents.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np

from simulator import tissue as t
from simulator.probe import ROTATIONAL, SOLID_STATE, Probe
from simulator.scene import Scene, smooth_field
from simulator.tissue import Tissue

PLAQUES = ("none", "soft", "fibrous", "calcified")
DEPTHS_MM = (4.0, 4.5, 5.0)  # radius of the field of view
AROUND_MM = 2.1  # what it shows beyond the radius of the vessel: catheter off centre, adventitia
CATHETER_MM = 0.5  # radius: a catheter of 3 French
THINNEST_WALL = 0.3  # mm, media and intima
OUTER_WALL = 0.3  # mm of adventitia around the media that are the wall's outer layer in the label map
PLAQUE_MM = 0.5  # a wall that is thicker counts as plaque (consensus document, section on measurements)

GROUND = Tissue(-17, 0.55, 2.5)  # loose tissue around the artery
BLOOD = Tissue(-25, 0.3, 1.0, t.FLUID)  # at 20-40 MHz red cells scatter enough to be seen
INTIMA = Tissue(3, 0.5, 1.0)
MEDIA = Tissue(-23, 0.5, 0.5)
ADVENTITIA = Tissue(7, 0.5, 1.5)
WALL = {
    "none": Tissue(-3, 0.5, 1.0, t.PARENCHYMA),
    "soft": Tissue(-11, 0.5, 2.0, t.LESION),
    "fibrous": Tissue(2, 0.5, 2.0, t.LESION),
    "calcified": Tissue(-4, 0.5, 2.0, t.LESION),
}
CALCIUM = Tissue(18, 0.5, 0.5, t.LESION)
CATHETER = Tissue(-60, 0.5, 0.0)
SHEATH = Tissue(12, 0.5, 0.0)
CALCIUM_LOSS_DB, WIRE_LOSS_DB = 34.0, 20.0  # what the shadow takes away


@dataclass(frozen=True)
class Artery:
    """One cross-section; diameters in mm, directions in degrees (0 is down, 90 the right of the screen)."""

    probe: Probe
    lumen_mm: float
    vessel_mm: float  # to the outer edge of the media (external elastic membrane)
    plaque: str  # PLAQUES
    plaque_at_deg: float  # where the plaque is thickest
    calcium_deg: float  # width of the calcified arc, 0 without
    guide_wire_deg: float | None  # where the wire lies, None without

    @property
    def depth_mm(self) -> float:
        """The right depth: the smallest step that shows the whole wall all round."""
        return next(
            depth for depth in DEPTHS_MM if depth >= min(self.vessel_mm / 2 + AROUND_MM, DEPTHS_MM[-1])
        )

    def truth(self) -> dict:
        """The artery as plain JSON, shaped like an examination's truth."""
        values = asdict(self) | {"probe": self.probe.name}
        lesion = None if self.plaque == "none" else {"kind": self.plaque}
        return {"organ": "vessel", "view": "ivus", "lesion": lesion, **values}


def sample_artery(rng: np.random.Generator) -> Artery:
    """A random coronary artery; kinds of plaque are drawn evenly."""
    plaque = str(rng.choice(PLAQUES))
    vessel = float(rng.uniform(3.4, 5.2))
    share = rng.uniform(0.86, 0.92) if plaque == "none" else rng.uniform(0.58, 0.82)
    return Artery(
        probe=(SOLID_STATE, ROTATIONAL)[int(rng.integers(2))],
        lumen_mm=round(max(vessel * float(share), 2.0), 2),
        vessel_mm=round(vessel, 2),
        plaque=plaque,
        plaque_at_deg=round(float(rng.uniform(-180, 180)), 1),
        calcium_deg=round(float(rng.uniform(30, 110)), 1) if plaque == "calcified" else 0.0,
        guide_wire_deg=round(float(rng.uniform(-180, 180)), 1) if rng.random() < 0.4 else None,
    )


def draw(scene: Scene, artery: Artery) -> None:
    """Paint the cross-section, outside in; `scene` has the artery's round probe and `GROUND`."""
    rng = scene.rng
    scene.field = seamless(scene.field)
    scene.paint(np.ones(scene.x.shape, bool), GROUND)
    scene.echo_db += 4 * seamless(smooth_field(rng, 60, 24))
    lumen, vessel = _outlines(scene, artery)
    thick = rng.uniform(0.35, 0.7)
    outside = scene.echo_db.copy()
    scene.paint(vessel < 3 * thick, ADVENTITIA)
    scene.echo_db -= 6 * np.clip(vessel / thick, 0, 9)  # the adventitia has no outer border
    np.maximum(scene.echo_db, outside, out=scene.echo_db)
    scene.label[vessel < OUTER_WALL] = t.INTERFACE
    scene.paint(vessel < 0, MEDIA)
    scene.paint(vessel < -rng.uniform(0.17, 0.26), WALL[artery.plaque])
    thickness = ((vessel < 0) & (lumen > 0)).sum(axis=0) * scene.grid.sample_mm
    scene.label[(scene.label == t.LESION) & (thickness < PLAQUE_MM)] = t.PARENCHYMA
    scene.paint(lumen < rng.uniform(0.09, 0.14), INTIMA)
    scene.paint(lumen < 0, BLOOD)
    if artery.calcium_deg:
        _calcium(scene, artery, lumen, vessel)
    if artery.guide_wire_deg is not None:
        _guide_wire(scene, artery.guide_wire_deg, lumen)
    _catheter(scene)


def seamless(field: np.ndarray, beams: int = 24) -> np.ndarray:
    """A field [SAMPLES, BEAMS] whose last beam equals its first: both look straight up."""
    weight = np.zeros(field.shape[1], np.float32)
    weight[-beams:] = np.linspace(0, 1, beams)
    return field * (1 - weight) + field[:, :1] * weight


def _outlines(scene: Scene, artery: Artery) -> tuple[np.ndarray, np.ndarray]:
    """Distance (mm) to the lumen's and to the vessel's border at every sample, negative inside."""
    rng, lumen, vessel = scene.rng, artery.lumen_mm / 2, artery.vessel_mm / 2
    away = rng.uniform(0, 0.75 * (lumen - CATHETER_MM)), rng.uniform(0, 2 * np.pi)
    cx, cz = away[0] * np.sin(away[1]), away[0] * np.cos(away[1])
    spare = vessel - lumen - THINNEST_WALL
    shift = max(spare, 0.0) * (0.9 if artery.plaque != "none" else 0.3)
    at = np.deg2rad(artery.plaque_at_deg)
    ratio = rng.uniform(0.93, 1.0)
    tilt = rng.uniform(0, 180)
    wide, narrow = ratio**-0.5, ratio**0.5  # an ellipse of the same area
    middle = cx + shift * np.sin(at), cz + shift * np.cos(at)
    outer = scene.ellipse(*middle, vessel * wide, vessel * narrow, tilt, wobble=0.015)
    inner = scene.ellipse(cx, cz, lumen * wide, lumen * narrow, tilt, wobble=0.03)
    return np.maximum(inner * lumen, outer * vessel + THINNEST_WALL), outer * vessel


def _turned(scene: Scene, towards_deg: float) -> np.ndarray:
    """Angle (degrees, -180 to 180) between every beam and a direction [1, BEAMS]."""
    beams = np.rad2deg(np.arctan2(scene.x[-1:], scene.z[-1:]))
    return (beams - towards_deg + 180) % 360 - 180


def _calcium(scene: Scene, artery: Artery, lumen: np.ndarray, vessel: np.ndarray) -> None:
    """A bright arc within the plaque where the plaque is thickest, and the loss that makes its shadow."""
    depth = scene.rng.uniform(0.12, 0.25)
    turned = np.abs(_turned(scene, artery.plaque_at_deg))
    ragged = artery.calcium_deg / 2 * (1 + 0.12 * scene.field)
    arc = (turned < ragged) & (lumen > depth) & (lumen < depth + 0.18) & (vessel < -0.1)
    scene.paint(arc, CALCIUM)
    _stop(scene, arc, CALCIUM_LOSS_DB)


def _guide_wire(scene: Scene, at_deg: float, lumen: np.ndarray) -> None:
    """A bright spot close to the catheter, its repeats behind it, and a narrow shadow.

    The wire lies in the blood: where the wall is close to the catheter, against the wall.
    """
    turned = np.abs(_turned(scene, at_deg))
    reach = np.hypot(scene.x, scene.z)
    beam = int(turned.argmin())
    free = reach[:, beam][lumen[:, beam] < -0.1]
    at = min(
        CATHETER_MM + scene.rng.uniform(0.2, 0.45), float(free.max()) if len(free) else CATHETER_MM + 0.2
    )
    for repeat in range(3):
        spot = np.hypot((reach - at - 0.22 * repeat) / 0.06, turned / (9 - 2 * repeat)) < 1
        scene.paint(spot, replace(SHEATH, echo_db=22 - 9 * repeat))
        if repeat == 0:
            _stop(scene, spot, WIRE_LOSS_DB)


def _stop(scene: Scene, mask: np.ndarray, loss_db: float) -> None:
    """Attenuate at the far side of the mask: it stays bright, and behind it each beam has lost `loss_db`."""
    ends = mask & ~np.roll(mask, -1, axis=0)
    per_sample = 2 * scene.grid.probe.frequency_mhz * scene.grid.sample_mm / 10
    excess = loss_db / (per_sample * np.maximum(ends.sum(axis=0), 1))
    scene.attenuation += np.where(ends, excess, 0).astype(np.float32)


def _catheter(scene: Scene) -> None:
    """The catheter itself is black; its sheath is a bright ring with a short ring-down into the blood."""
    reach = np.hypot(scene.x, scene.z)
    scene.brighten((reach > CATHETER_MM) & (reach < CATHETER_MM + 0.12), 6)
    scene.paint(reach < CATHETER_MM, SHEATH)
    scene.paint(reach < CATHETER_MM - 0.09, CATHETER)

"""What one simulated examination is: organ, measurements, lesion, views. The single truth from which both
the images and the texts are made, so that a report can never disagree with its image.

Terms follow clinical reporting (ACR BI-RADS and TI-RADS lexica for breast and thyroid; the case studies in
the EchoVLM paper's appendix). Sizes are millimetres in the imaging plane.

Knows nothing of pixels, wording or files.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

ORGANS = ("thyroid", "breast", "liver", "kidney", "gynaecology", "vessel", "heart")

# What each organ's `measures` holds, in millimetres; every one is drawn to scale in at least one view.
MEASURES = {
    "thyroid": ("lobe_width", "lobe_depth", "isthmus"),
    "breast": ("gland_thickness",),
    "liver": ("portal_vein",),
    "kidney": ("length", "width", "parenchyma"),
    "gynaecology": ("uterus_length", "uterus_depth", "endometrium"),
    "vessel": ("lumen", "intima_media"),
    "heart": ("left_ventricle", "left_atrium", "septum"),
}

KINDS = ("anechoic", "hypoechoic", "isoechoic", "hyperechoic", "mixed", "calcified")
# anechoic: cyst · calcified: echogenic focus (or nodule with coarse calcification) casting a shadow
SHAPES = ("oval", "round", "irregular", "taller_than_wide")
MARGINS = ("circumscribed", "indistinct", "spiculated")
POSTERIORS = ("none", "enhancement", "shadow")
VASCULARITIES = ("none", "sparse", "rich")
BACKGROUNDS = (
    "homogeneous",
    "coarse",
)  # echotexture of the organ's parenchyma (of the vessel wall, the myocardium)
PLACES = {
    "thyroid": ("upper", "middle", "lower"),  # third of the lobe
    "breast": tuple(f"{hour}_oclock" for hour in range(1, 13)),
    "liver": ("left_lobe", "right_lobe"),
    "kidney": ("upper_pole", "middle", "lower_pole"),
    "gynaecology": ("anterior_wall", "posterior_wall", "fundus", "left_ovary", "right_ovary"),
    "vessel": ("near_wall", "far_wall"),  # of the common carotid artery
    "heart": ("left_ventricle", "left_atrium", "right_atrium"),  # the chamber that holds the mass
}
SIDED = ("thyroid", "breast", "kidney", "vessel")  # organs whose examination names a side


@dataclass(frozen=True)
class Lesion:
    kind: str  # KINDS
    shape: str  # SHAPES
    margin: str  # MARGINS
    long_mm: float  # long axis, as a caliper would measure it in the view that shows it best
    short_mm: float  # perpendicular to it
    place: str  # PLACES[organ]
    posterior: str = "none"  # POSTERIORS
    microcalcification: bool = False  # punctate echogenic foci without shadow
    vascularity: str | None = None  # VASCULARITIES, or None when no Doppler view was taken


@dataclass(frozen=True)
class View:
    name: str  # the organ's view: "transverse", "longitudinal", "apical_four_chamber" …
    depth_mm: float
    shows_lesion: bool  # False in a redundant frame: the probe has moved past the lesion
    doppler: bool = False
    seed: int = 0  # everything random in this view's pixels


@dataclass(frozen=True)
class Examination:
    organ: str  # ORGANS
    side: str | None  # "left" | "right" for the organs in SIDED, else None
    background: str  # BACKGROUNDS
    measures: dict[str, float]  # MEASURES[organ] → mm
    lesion: Lesion | None
    views: tuple[View, ...] = field(default=())

    def truth(self) -> dict:
        """The examination as plain JSON, written beside each case so that a test can check a text against
        it."""
        return asdict(self)

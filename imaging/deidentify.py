"""Pixels of an examination without the patient: no header, nothing burned in outside the scan.

Two steps, each chosen and not from a standard. A picture is cut to the 2-D regions that its DICOM names
(PS3.3 C.8.5.5), or else to the sector that imaging.sector finds. Then everything outside the convex hull of
the tissue is painted black, for a name often stands in the corner beside a fan. What is written is a PNG
made of the pixels alone, so that no header element, no EXIF and no file name can come along: of the
"cleaning" options of PS3.15 Annex E the pixel half, and instead of the attribute half no attributes.

What else stands beside the tissue goes, too: body marks, rulers, the letter of the side.

Cannot find: text over the tissue itself, or so near that it touches it; text in a picture of which no sector
was found (`Cleaned.how` is "whole": let nobody see it who may not see the original); a face, a name that is
written by hand, a bar code inside the tissue. A person must look at a sample before anything is shared.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from pydicom import Dataset, dcmread
from pydicom.multival import MultiValue
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from imaging import dicom
from imaging.files import HEAD, load_frames
from imaging.frame import Frame
from imaging.regions import scan_regions
from imaging.sector import SCREEN, Box, crop, find_sector

# Elements that name a person or an examination, read only to be looked for in texts: those of PS3.15
# Table E.1-1 that hold what a report could repeat.
IDENTITIES = (
    *("PatientName", "PatientID", "OtherPatientNames", "OtherPatientIDs", "PatientBirthName"),
    *("PatientMotherBirthName", "PatientBirthDate", "PatientAddress", "PatientTelephoneNumbers"),
    *("AccessionNumber", "StudyID", "StudyDate", "IssuerOfPatientID", "AdmissionID"),
    *("ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "RequestingPhysician"),
    *("NameOfPhysiciansReadingStudy", "PhysiciansOfRecord", "ConsultingPhysicianName"),
    *("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName"),
)
SHAPE = ("Rows", "Columns", "SequenceOfUltrasoundRegions")

LIT = 5  # grey levels above black that count as lit: dim tissue is kept
BLOCKS = 256  # the longer side is looked at as about this many blocks, as in imaging.sector
THICK = 0.035  # of the longer side: tissue is thicker, text is thinner
SMALL = 0.1  # of the largest area: a smaller one is no second scan
TOO_LITTLE = 0.15  # hulls below this share of the picture are more likely a mistake, and nothing is painted


@dataclass(frozen=True)
class Cleaned:
    """One frame without the patient. `how` is "regions" (cut to the DICOM's), "sector" (cut to what was
    found), "small" (no screen: somebody has cut it before) or "whole" (a screen of which no sector was
    found: it may show anything). `frame.source` is empty, for a file's name can be a patient's."""

    frame: Frame
    how: str


def cleaned_frames(path: str | Path, *, max_frames: int = 16) -> list[Cleaned]:
    """The frames of one file, cut to the scan and black outside it. Raises UnreadableFile, whose `code` (not
    its text, which holds the file's name) may be shown to anybody."""
    frames = load_frames(path, max_frames=max_frames, cut_to_sector=False)
    box, how = _scan_box(Path(path), frames)
    cut = [crop(frame, box) for frame in frames]
    keep = scan_mask(np.maximum.reduce([frame.pixels for frame in cut])) if _one_size(cut) else None
    return [
        Cleaned(replace(frame, pixels=_blackened(frame.pixels, keep), source=""), how)
        for frame in cut
        if frame.pixels.size
    ]


def scan_mask(pixels: np.ndarray) -> np.ndarray | None:
    """What is inside the convex hull of a scan: a mask [H, W] of `pixels` (uint8 [H, W, 3]), or None where
    no tissue stands out from a dark ground.

    Tissue is what is lit and thick; of several areas each at least a tenth as large as the largest has its
    hull (a dual image, a spectrum below the scan).
    """
    height, width = pixels.shape[:2]
    step = -(-max(height, width) // BLOCKS)
    grey = pixels.max(axis=2)[: height // step * step, : width // step * step]
    black = int(np.percentile(grey, 2))
    lit = (grey > black + LIT).reshape(height // step, step, width // step, step).mean(axis=(1, 3))
    tissue = _thick(lit > 0.3)
    mask = Image.new("1", (width, height))
    pen = ImageDraw.Draw(mask)
    for area in _large_areas(tissue):
        corners = _hull(area)
        if corners is not None:
            pen.polygon([(float(x) * step, float(y) * step) for x, y in corners], fill=1, outline=1)
    inside = np.array(mask)
    return inside if inside.mean() >= TOO_LITTLE else None


def write_png(frame: Frame, path: Path) -> None:
    """The pixels as a PNG and nothing else; grey where all channels agree. `path` is complete or absent."""
    grey = (frame.pixels == frame.pixels[..., :1]).all()
    picture = Image.fromarray(frame.pixels[..., 0] if grey else frame.pixels)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        picture.save(unfinished, format="PNG", compress_level=6)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def identities(path: str | Path) -> frozenset[str]:
    """What a DICOM's header calls the patient, the staff and the place: to be taken out of texts, never to be
    shown or kept. Empty for other files and for headers that cannot be read."""
    header = _header(Path(path), IDENTITIES)
    values = [header.get(keyword) for keyword in IDENTITIES] if header is not None else []
    flat = [one for value in values for one in (value if isinstance(value, MultiValue) else [value])]
    return frozenset(text for value in flat if value is not None and (text := str(value).strip()))


def _scan_box(path: Path, frames: list[Frame]) -> tuple[Box | None, str]:
    header = _header(path, SHAPE)
    box = scan_regions(header)[0] if header is not None else None
    if box is not None:
        return box, "regions"
    if max(frames[0].pixels.shape[:2]) < SCREEN:
        return None, "small"
    box = find_sector(np.maximum.reduce([frame.pixels for frame in frames])) if _one_size(frames) else None
    return (box, "sector") if box is not None else (None, "whole")


def _header(path: Path, keywords: tuple[str, ...]) -> Dataset | None:
    """The named elements of a DICOM's header, all values read; None for anything else."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not (dicom.has_preamble(head) or dicom.may_lack_preamble(head)):
        return None
    try:
        header = dcmread(path, force=True, stop_before_pixels=True, specific_tags=list(keywords))
        list(header.iterall())
    except dicom.PYDICOM_ERRORS:
        return None
    return header


def _one_size(frames: list[Frame]) -> bool:
    return len({frame.pixels.shape for frame in frames}) == 1


def _blackened(pixels: np.ndarray, keep: np.ndarray | None) -> np.ndarray:
    return pixels if keep is None else np.where(keep[..., None], pixels, np.uint8(0))


def _thick(lit: np.ndarray) -> np.ndarray:
    """`lit` blocks [h, w] without what is thinner than tissue, the tissue's own thin tips kept."""
    size = max(3, round(THICK * max(lit.shape)))
    closed = ndimage.binary_closing(np.pad(lit, size), iterations=2)[size:-size, size:-size] | lit
    core = ndimage.binary_opening(np.pad(closed, size, mode="edge"), np.ones((size, size), bool))
    core = core[size:-size, size:-size]
    return ndimage.binary_propagation(core, mask=closed & ndimage.binary_dilation(core, iterations=size // 2))


def _large_areas(tissue: np.ndarray) -> list[np.ndarray]:
    labels, count = ndimage.label(tissue, np.ones((3, 3), bool))
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return [labels == 1 + i for i in range(count) if areas[i] >= SMALL * areas.max()]


def _hull(area: np.ndarray) -> np.ndarray | None:
    """The corners of the convex hull around the blocks of `area`, in blocks: [n, 2] of x, y."""
    rows, columns = np.nonzero(area)
    corners = np.concatenate(
        [np.stack([columns + across, rows + down], axis=1) for across in (0, 1) for down in (0, 1)]
    )
    try:
        return corners[ConvexHull(corners).vertices]
    except QhullError:
        return None

"""Pixels of an examination without the patient: no header, nothing burned in outside the scan.

Two steps, each chosen and not from a standard. A picture is cut to the 2-D regions that its DICOM names
(PS3.3 C.8.5.5), or else to the sector that imaging.sector finds. Then everything outside the convex hull of
the tissue is painted black, for a name often stands in the corner beside a fan; and along the hull's edge
and above the uppermost tissue all that is no tissue, for a hollow of the edge holds names, too. What is
written is a PNG made of the pixels alone, so that no header element, no EXIF and no file name can come along:
of the "cleaning" options of PS3.15 Annex E the pixel half, and instead of the attribute half no attributes.

What else stands beside the tissue goes, too: body marks, rulers, the letter of the side, a few rows of the
tissue's own edge where they are dim, and tips of it that are narrower than 2 % of the picture's longer side.

Cannot find: text over the tissue itself, or nearer to it than 1/256 of the picture's longer side (4 pixels of
1024); a name in strokes as dim as faint tissue, or as thick as 2 % of that side; text in a picture that is
not `Cleaned.checked`: a screen of which no sector was found, a small picture that may have been cut through a
name, one too dark for tissue to be told (let nobody see those who may not see the original); a face, a name
that is written by hand, a bar code inside the tissue. A person must look at a sample before anything is
shared.
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
PANEL, EVEN, FLAT = 64, 2, 5  # no brighter and no less even over so many pixels: a panel, not tissue
CELLS = 512  # the longer side is looked at as at most this many cells
DENSE = 0.6  # of a cell and its neighbours: text has gaps between its strokes
FAINT, SPARSE = 64, 0.25  # where nothing is brighter, there is no text, and so much of the cells is enough
NEAR = 2  # cells around the tissue that stay: its outermost speckle
THICK = 0.035  # of the longer side: tissue is thicker, text is thinner
SMALL = 0.1  # of the largest area: a smaller one is no second scan
TOO_LITTLE = 0.15  # hulls below this share of the picture are more likely a mistake, and nothing is painted


@dataclass(frozen=True)
class Cleaned:
    """One frame without the patient. `how` is "regions" (cut to the DICOM's), "sector" (cut to what was
    found), "small" (no screen: somebody has cut it before) or "whole" (a screen of which no sector was
    found: it may show anything). `painted` is False where no tissue was told from the ground, so that nothing
    was painted black. `frame.source` is empty, for a file's name can be a patient's."""

    frame: Frame
    how: str
    painted: bool

    @property
    def checked(self) -> bool:
        """False where a person must look: what stands beside the scan cannot have been found."""
        return self.painted and self.how in ("regions", "sector")


def cleaned_frames(path: str | Path, *, max_frames: int = 16) -> list[Cleaned]:
    """The frames of one file, cut to the scan and black outside it. Raises UnreadableFile, whose `code` (not
    its text, which holds the file's name) may be shown to anybody."""
    frames = load_frames(path, max_frames=max_frames, cut_to_sector=False)
    box, how = _scan_box(Path(path), frames)
    cut = [crop(frame, box) for frame in frames]
    keep = scan_mask(np.maximum.reduce([frame.pixels for frame in cut])) if _one_size(cut) else None
    return [
        Cleaned(replace(frame, pixels=_blackened(frame.pixels, keep), source=""), how, keep is not None)
        for frame in cut
        if frame.pixels.size
    ]


def scan_mask(pixels: np.ndarray) -> np.ndarray | None:
    """What is inside a scan: a mask [H, W] of `pixels` (uint8 [H, W, 3]), or None where no tissue stands out
    from a dark ground.

    Tissue is what is lit and thick; of several areas each at least a tenth as large as the largest has its
    convex hull (a dual image, a spectrum below the scan), so that what is dark inside stays. Along the hull's
    edge and above the first tissue of each column only tissue stays: a name may stand in the hollow of a
    curved array.
    """
    height, width = pixels.shape[:2]
    step = -(-max(height, width) // CELLS)
    tissue = _thick(_solid(pixels.max(axis=2), step))
    size = tissue.shape[1] * step, tissue.shape[0] * step
    hulls, rims = Image.new("1", size), Image.new("1", size)
    for area in _large_areas(tissue):
        corners = _hull(area)
        if corners is not None:
            outline = [(float(x) * step, float(y) * step) for x, y in corners]
            ImageDraw.Draw(hulls).polygon(outline, fill=1, outline=1)
            ImageDraw.Draw(rims).line([*outline, *outline[:2]], fill=1, width=2 * round(THICK * max(size)))
    near = ndimage.binary_dilation(tissue, np.ones((3, 3), bool), iterations=NEAR)
    near = near.repeat(step, axis=0).repeat(step, axis=1)
    inside = np.array(hulls) & np.logical_or.accumulate(near, axis=0) & (near | ~np.array(rims))
    inside = inside[:height, :width]
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


def _solid(grey: np.ndarray, step: int) -> np.ndarray:
    """Cells [h, w] of `step` x `step` pixels of `grey` [H, W] that lie among lit ones. A cell at the right or
    lower edge may hold fewer pixels: the last ones are repeated."""
    black = int(np.percentile(grey, 2))
    even = ndimage.maximum_filter(grey, FLAT) - ndimage.minimum_filter(grey, FLAT) <= EVEN
    lit = (grey > black + LIT) & ~(even & (grey <= PANEL))
    lit = np.pad(lit, [(0, -side % step) for side in lit.shape], mode="edge")
    rows, columns = lit.shape[0] // step, lit.shape[1] // step
    share = lit.reshape(rows, step, columns, step).mean(axis=(1, 3), dtype=np.float32)
    faint = ndimage.maximum_filter(grey, 9 * step)[step // 2 :: step, step // 2 :: step] <= black + FAINT
    faint = np.pad(faint, [(0, n - m) for n, m in zip(share.shape, faint.shape, strict=True)], mode="edge")
    sparse = faint & (ndimage.uniform_filter(share, 5, mode="nearest") > SPARSE)
    return sparse | (ndimage.uniform_filter(share, 3, mode="nearest") > DENSE)


def _thick(solid: np.ndarray) -> np.ndarray:
    """`solid` cells [h, w] without what is thinner than tissue, and with the tissue's own thinner tips as far
    as they are thicker than a letter's strokes."""
    size = round(THICK * max(solid.shape)) | 1
    core = _opened(solid, max(3, size))
    tips = _opened(solid, max(3, size // 2 | 1)) & ndimage.maximum_filter(core, 2 * size + 1)
    return ndimage.binary_propagation(core, np.ones((3, 3), bool), mask=core | tips)


def _opened(mask: np.ndarray, size: int) -> np.ndarray:
    """`mask` without what is thinner than `size`, which is odd; it goes on beyond the picture's edge."""
    padded = np.pad(mask, size, mode="edge")
    opened = ndimage.maximum_filter(ndimage.minimum_filter(padded, size), size)
    return opened[size:-size, size:-size]


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

"""Where the scan is on a DICOM's picture, and how many millimetres a pixel is.

From the Sequence of Ultrasound Regions (0018,6011), PS3.3 C.8.5.5. Only regions whose spatial format is 2D
count; the strips of M-mode, spectra and ECG have a time axis. Millimetres are given only where both axes are
in centimetres.

Does not know: whether the scanner was calibrated well, and the scale outside the regions.
"""

from __future__ import annotations

from math import isfinite

from pydicom import Dataset

from imaging.sector import Box

TWO_D = 1  # Region Spatial Format (0018,6012)
CENTIMETRES = 3  # Physical Units X/Y Direction (0018,6024), (0018,6026)
SMALLEST = 8  # pixels a side; a smaller region is a mistake

Scale = tuple[float, float]  # millimetres per pixel across, down


def scan_regions(header: Dataset) -> tuple[Box | None, Scale | None]:
    """The box around the picture's 2-D regions, and the scale in it. `header` needs (0028,0010), (0028,0011)
    too.

    Dual images are kept together, since both halves belong to the examination: where their scales differ by
    more than 1 % there is no one scale, and it is None. Box and scale are both None where there are no 2-D
    regions or where the regions do not describe this picture (see `_describes`).
    """
    boxes, scales = [], []
    for region in header.get("SequenceOfUltrasoundRegions") or []:
        box = _box(region)
        if region.get("RegionSpatialFormat") == TWO_D and box is not None:
            if not _describes(box, header.Columns, header.Rows):
                return None, None
            boxes.append(box)
            scales.append(_scale(region))
    if not boxes:
        return None, None
    x1, y1 = min(box[0] for box in boxes), min(box[1] for box in boxes)
    x2, y2 = max(box[2] for box in boxes), max(box[3] for box in boxes)
    whole = (max(0, x1), max(0, y1), min(header.Columns, x2), min(header.Rows, y2))
    return whole, scales[0] if _alike(scales) else None


def _box(region: Dataset) -> Box | None:
    corners = [region.get(f"RegionLocation{corner}") for corner in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
    if None in corners:
        return None
    x1, y1, x2, y2 = (int(value) for value in corners)
    if x2 - x1 < SMALLEST or y2 - y1 < SMALLEST:
        return None
    return x1, y1, x2 + 1, y2 + 1  # (0018,601C) and (0018,601E) name the last column and row inside


def _describes(box: Box, width: int, height: int) -> bool:
    """False where the region sticks out of the picture: it was rescaled after the scanner wrote the region,
    and both place and scale are wrong. A picture that was only cut keeps its scale, which shows where the
    region sticks out on one axis and ends at the picture's edge on the other. One pixel is forgiven: some
    scanners count from 1.
    """
    over_x, over_y = box[2] - width, box[3] - height
    if over_x <= 1 and over_y <= 1:
        return box[0] >= 0 and box[1] >= 0
    return min(abs(over_x), abs(over_y)) <= 1 and box[0] < width and box[1] < height


def _scale(region: Dataset) -> Scale | None:
    units = (region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection"))
    deltas = (region.get("PhysicalDeltaX"), region.get("PhysicalDeltaY"))
    if units != (CENTIMETRES, CENTIMETRES) or None in deltas:
        return None
    across, down = (abs(float(delta)) * 10 for delta in deltas)  # negative where an axis runs up or left
    return (across, down) if across and down and isfinite(across) and isfinite(down) else None


def _alike(scales: list[Scale | None]) -> bool:
    first = scales[0]
    return first is not None and all(
        scale is not None and all(abs(a - b) <= 0.01 * b for a, b in zip(scale, first, strict=True))
        for scale in scales
    )

"""Simulated pictures as DICOM files, and an invented patient on request.

Written are the Ultrasound Image and Ultrasound Multi-frame Image IODs (PS3.3 A.6, A.7) with the modules that
they call mandatory: Patient (C.7.1.1), General Study (C.7.2.1), General Series (C.7.3.1), General Equipment
(C.7.5.1), General Image (C.7.6.1), Image Pixel (C.7.6.3), Cine and Multi-frame (C.7.6.5, C.7.6.6), US Image
(C.8.5.6), US Region Calibration (C.8.5.5) and SOP Common (C.12.1). Uncompressed, explicit VR little endian.
UIDs follow from what the file is and holds: the same order gives the same bytes.

Where there is a colour box, it is a second region, whose data type is colour flow; it lies on the region of
the whole picture, tissue, which then has the lower priority (C.8.5.5.1.3).

The invented patient is test material for de-identification: a name that says it is simulated, in the header
and burned into a banner above the picture. The calibrated region is the picture below the banner, as it is on
a scanner's screen, so a reader that keeps to the region never sees the name.

Does not know: presentation states, structured reports, compression, what a real vendor's private tags hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

from simulator.draw import BOX_INK, Picture

BANNER = 28  # rows of pixels above a picture that hold the burned-in name
INK = 220
FRAME_MS = 50.0  # time between two frames of a cine (chosen: 20 frames a second)
DOPPLER_PIXELS = 200  # coloured pixels of a frame; a body mark's hand and calipers have fewer, a box has more
TWO_D, CENTIMETRES = 1, 3  # (0018,6012), (0018,6024): C.8.5.5.1
TISSUE, COLOUR_FLOW = 1, 2  # (0018,6014)
HIGH_PRIORITY, LOW_PRIORITY = 0, 1  # (0018,6016), bit 0: of pixels where two regions overlap
PHYSICIANS, HOSPITALS = 40, 12  # how many are invented


@dataclass(frozen=True)
class Patient:
    """Nobody: every value is computed from the seed and the number of an examination."""

    name: str
    id: str
    birth: str  # DA: YYYYMMDD
    sex: str
    examined: str  # DA, the study date
    accession: str
    physician: str
    hospital: str


def invented_patient(seed: int, number: int) -> Patient:
    birth = date(1930, 1, 1) + timedelta(days=(7919 * number + seed) % 29_000)
    examined = date(2010, 1, 1) + timedelta(days=(104_729 * number + seed) % 5_000)
    return Patient(
        name=f"Simulated^Patient {number:06d}",
        id=f"SIM-{seed}-{number:06d}",
        birth=birth.strftime("%Y%m%d"),
        sex="FM"[number % 2],
        examined=examined.strftime("%Y%m%d"),
        accession=f"A{number:06d}",
        physician=f"Simulated^Physician {1 + (31 * number + seed) % PHYSICIANS:02d}",
        hospital=f"Simulated Hospital {1 + (17 * number + seed) % HOSPITALS:02d}",
    )


def burned_in(pixels: np.ndarray, patient: Patient) -> np.ndarray:
    """`pixels` uint8 [H, W, 3] under a banner with name, id, date of birth and date: [H + BANNER, W, 3]."""
    height, width = pixels.shape[:2]
    screen = Image.new("RGB", (width, height + BANNER))
    pen = ImageDraw.Draw(screen)
    font = ImageFont.load_default_imagefont()
    day = f"{patient.examined[:4]}-{patient.examined[4:6]}-{patient.examined[6:]}"
    pen.text((3, 2), f"{patient.name}  {patient.sex}", fill=(INK,) * 3, font=font)
    pen.text((3, 14), f"{patient.id} *{patient.birth} {day}", fill=(INK,) * 3, font=font)
    screen = np.array(screen)
    screen[BANNER:] = pixels
    return screen


def write_dicom(
    path: Path, pictures: Sequence[Picture], *, study: str, number: int, patient: Patient | None = None
) -> None:
    """Write one picture, or the frames of a cine, as one file.

    `study` names the examination; files of one name share a study and a series, in which this is instance
    `number`. With a `patient` every frame gets the banner, and the header the name.
    """
    frames = np.stack([picture.pixels for picture in pictures])  # [frames, H, W, 3]
    if patient is not None:
        frames = np.stack([burned_in(pixels, patient) for pixels in frames])
    coloured = (frames != frames[..., :1]).any(axis=-1).sum(axis=(1, 2)).max()
    colour = bool(coloured)
    stored = frames if colour else frames[..., 0]
    ds = _examination(study, patient)
    ds.InstanceNumber = number
    _image(ds, stored, colour, doppler=coloured > DOPPLER_PIXELS, burned=patient is not None)
    ds.SequenceOfUltrasoundRegions = _regions(pictures[0], BANNER if patient is not None else 0)
    many = len(pictures) > 1
    if many:
        _cine(ds, len(pictures))
    kind = UltrasoundMultiFrameImageStorage if many else UltrasoundImageStorage
    ds.SOPClassUID = kind
    ds.SOPInstanceUID = generate_uid(entropy_srcs=[study, str(number), sha256(ds.PixelData).hexdigest()])
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = kind
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)


def _examination(study: str, patient: Patient | None) -> Dataset:
    """Patient, study, series and equipment; what is not known is present and empty (type 2)."""
    ds = Dataset()
    ds.PatientName = patient.name if patient else ""
    ds.PatientID = patient.id if patient else study.split()[0]
    ds.PatientBirthDate = patient.birth if patient else ""
    ds.PatientSex = patient.sex if patient else ""
    ds.StudyInstanceUID = generate_uid(entropy_srcs=[study, "study"])
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=[study, "series"])
    ds.StudyDate = ds.ContentDate = patient.examined if patient else ""
    ds.StudyTime = ds.ContentTime = "120000" if patient else ""
    ds.ReferringPhysicianName = patient.physician if patient else ""
    ds.AccessionNumber = patient.accession if patient else ""
    ds.StudyID, ds.SeriesNumber, ds.Modality = "1", 1, "US"
    ds.Manufacturer, ds.ManufacturerModelName = "Ultrasound assistant suite", "simulator"
    if patient:
        ds.InstitutionName = patient.hospital
    return ds


def _image(ds: Dataset, stored: np.ndarray, colour: bool, *, doppler: bool, burned: bool) -> None:
    """Image Pixel and US Image: `stored` is uint8 [frames, H, W] or, in colour, [frames, H, W, 3]."""
    # C.8.5.6.1.1: value 3 the kind of examination, here not said; value 4 a sum of 0001 (2-D) and 0010
    # (colour Doppler).
    ds.ImageType = ["DERIVED", "PRIMARY", "", "0011" if doppler else "0001"]
    ds.PatientOrientation = ""
    ds.BurnedInAnnotation = "YES" if burned else "NO"
    ds.LossyImageCompression = "00"
    ds.UltrasoundColorDataPresent = int(doppler)
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = stored.shape[1:3]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    data = np.ascontiguousarray(stored).tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB"


def _regions(picture: Picture, top: int) -> list[Dataset]:
    """The picture below `top` rows of banner and, where it has one, its colour box: calibrated regions."""
    height, width = picture.pixels.shape[:2]
    rows, columns = np.nonzero((picture.pixels == BOX_INK).all(axis=-1))
    whole = _region(picture, (0, top, width - 1, top + height - 1))
    if not len(rows):
        return [whole]
    whole.RegionFlags = LOW_PRIORITY
    box = _region(picture, (columns.min(), top + rows.min(), columns.max(), top + rows.max()))
    box.RegionDataType = COLOUR_FLOW
    return [whole, box]


def _region(picture: Picture, corners: Sequence[int]) -> Dataset:
    """A region of tissue between the first and the last column and row of `corners` (x0, y0, x1, y1)."""
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType = TWO_D, TISSUE
    region.RegionFlags = HIGH_PRIORITY
    region.RegionLocationMinX0, region.RegionLocationMinY0 = (int(corner) for corner in corners[:2])
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = (int(corner) for corner in corners[2:])
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = CENTIMETRES
    region.PhysicalDeltaX = region.PhysicalDeltaY = picture.mm_per_pixel / 10
    return region


def _cine(ds: Dataset, frames: int) -> None:
    ds.NumberOfFrames = frames
    ds.FrameTime = FRAME_MS
    ds.FrameIncrementPointer = 0x00181063  # Frame Time
    ds.CineRate = round(1000 / FRAME_MS)

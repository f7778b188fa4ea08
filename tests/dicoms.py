"""DICOM files made up by the tests. No patient: the name is TEST^PATIENT."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid


def region(x1, y1, x2, y2, *, cm=0.01, units=3, spatial=1, **changes) -> Dataset:
    """One item of the Sequence of Ultrasound Regions; corners are the first and the last pixel inside."""
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = spatial, 1, 2
    item.RegionLocationMinX0, item.RegionLocationMinY0 = x1, y1
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = x2, y2
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = units
    item.PhysicalDeltaX = item.PhysicalDeltaY = cm
    for keyword, value in changes.items():
        setattr(item, keyword, value)
    return item


def dataset(pixels: np.ndarray, photometric: str = "MONOCHROME2", regions=(), **changes) -> Dataset:
    """An ultrasound image from [frames,] H, W [, 3] pixels of 8 or 16 bits. `changes` set or, with None,
    delete."""
    colour = photometric in ("RGB", "YBR_FULL", "YBR_FULL_422")
    frames = pixels if pixels.ndim == 3 + colour else pixels[None]
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = UltrasoundMultiFrameImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.PatientName, ds.PatientID, ds.Modality = "TEST^PATIENT", "T-1", "US"
    ds.Rows, ds.Columns = frames.shape[1:3]
    ds.NumberOfFrames = len(frames)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = (3 if colour else 1), photometric
    if colour:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.dtype.itemsize
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(pixels.dtype.kind == "i")
    data = np.ascontiguousarray(frames).tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OW"
    if regions:
        ds.SequenceOfUltrasoundRegions = Sequence(regions)
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def encoded(ds: Dataset, frames: list[bytes], syntax: str) -> Dataset:
    """`ds` with its pixels replaced by ready-made code streams."""
    ds.PixelData = encapsulate([frame + b"\0" * (len(frame) % 2) for frame in frames])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    return ds


def save(ds: Dataset, path: Path) -> Path:
    ds.save_as(path, enforce_file_format=True)
    return path

"""DICOM files of the simulator: they come back pixel by pixel, are complete, and hide nobody."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from pydicom import config, dcmread
from pydicom.uid import UID, UltrasoundImageStorage, UltrasoundMultiFrameImageStorage

from imaging.case import read_cases
from imaging.files import load_frames
from simulator.__main__ import main
from simulator.dicom import BANNER, burned_in, invented_patient, write_dicom
from simulator.draw import BOX_INK, Picture

# What PS3.3 requires of a US image: type 1 has a value, type 2 may be empty but is there.
TYPE_1 = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "ImageType"),
    *("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored"),
    *("HighBit", "PixelRepresentation", "PixelData", "SequenceOfUltrasoundRegions"),
)
TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("ReferringPhysicianName", "AccessionNumber", "SeriesNumber", "Manufacturer", "InstanceNumber"),
    *("PatientOrientation",),
)
REGION_TYPE_1 = (
    *("RegionSpatialFormat", "RegionDataType", "RegionFlags", "PhysicalUnitsXDirection", "PhysicalDeltaX"),
    *("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1"),
    *("PhysicalUnitsYDirection", "PhysicalDeltaY"),
)


def picture(*, colour: bool = False, seed: int = 0, mm: float = 0.4271, odd: bool = False) -> Picture:
    rng = np.random.default_rng(seed)
    height, width = (75, 85) if odd else (80, 90)
    grey = rng.integers(0, 256, (height, width, 1), np.uint8)
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8) if colour else np.repeat(grey, 3, axis=2)
    return Picture(pixels, np.zeros((height, width), np.uint8), mm)


@pytest.fixture(autouse=True)
def _pydicom_is_strict(monkeypatch):
    monkeypatch.setattr(config.settings, "_writing_validation_mode", config.RAISE)
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.RAISE)


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_pixels_and_scale_come_back(tmp_path, count, colour, named, odd):
    pictures = [picture(colour=colour, seed=i, odd=odd) for i in range(count)]
    path = tmp_path / "file"
    patient = invented_patient(0, 3) if named else None
    write_dicom(path, pictures, study="s0-000003 report", number=1, patient=patient)
    frames = load_frames([path])
    assert len(frames) == count
    for frame, drawn in zip(frames, pictures, strict=True):
        assert (frame.pixels == drawn.pixels).all()  # the banner lies outside the calibrated region
        assert frame.mm_per_pixel == pytest.approx((0.4271, 0.4271))


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("colour", [False, True])
def test_the_header_is_complete_and_consistent(tmp_path, count, colour):
    pictures = [picture(colour=colour, seed=i) for i in range(count)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_dicom(tmp_path / "a.dcm", pictures, study="s0-000000 report", number=2)
        ds = dcmread(tmp_path / "a.dcm")
        assert [element.value for element in ds.iterall()]  # every value is parsed and validated
    assert not [name for name in TYPE_1 if name not in ds or ds[name].is_empty]
    assert not [name for name in TYPE_2 if name not in ds]
    assert not [name for name in REGION_TYPE_1 if name not in ds.SequenceOfUltrasoundRegions[0]]
    kind = UltrasoundMultiFrameImageStorage if count > 1 else UltrasoundImageStorage
    assert ds.SOPClassUID == ds.file_meta.MediaStorageSOPClassUID == kind
    assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID and UID(ds.SOPInstanceUID).is_valid
    assert ds.PhotometricInterpretation == ("RGB" if colour else "MONOCHROME2")
    assert ("PlanarConfiguration" in ds) == colour and ds.get("PlanarConfiguration", 0) == 0
    assert ds.UltrasoundColorDataPresent == int(colour) and ds.BurnedInAnnotation == "NO"
    assert ds.get("NumberOfFrames", 1) == count
    assert ("FrameTime" in ds) == ("FrameIncrementPointer" in ds) == (count > 1)
    assert str(ds.PatientName) == ""


def test_uids_are_deterministic_and_tell_studies_and_images_apart(tmp_path):
    def uids(study, number, seed):
        write_dicom(tmp_path / "a", [picture(seed=seed)], study=study, number=number)
        ds = dcmread(tmp_path / "a")
        return ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID

    first = uids("a", 1, 0)
    assert first == uids("a", 1, 0)
    assert first[:2] == uids("a", 2, 1)[:2] and first[2] != uids("a", 2, 1)[2]
    assert first[2] != uids("a", 1, 5)[2]  # other pixels are another image
    assert not set(first) & set(uids("b", 1, 0))


def test_the_patient_is_invented_plainly_and_burned_in():
    one, other = invented_patient(7, 123), invented_patient(7, 124)
    assert one.name == "Simulated^Patient 000123" and one.id == "SIM-7-000123" and one != other
    pixels = picture().pixels
    screen = burned_in(np.pad(pixels, ((0, 0), (0, 134), (0, 0))), one)
    assert (screen[BANNER:, :90] == pixels).all() and (screen[:BANNER] > 100).sum() > 300
    assert (screen != burned_in(np.pad(pixels, ((0, 0), (0, 134), (0, 0))), other)).any()


def test_a_colour_box_is_a_region_of_colour_flow_on_the_tissue(tmp_path):
    """PS3.3 C.8.5.5.1: data type 1 tissue, 2 colour flow; where regions overlap, flag 0 has the priority."""
    drawn = picture(mm=0.5)
    drawn.pixels[20:61, [30, 70]] = drawn.pixels[[20, 60], 30:71] = BOX_INK
    for patient, top in ((None, 0), (invented_patient(0, 1), BANNER)):
        write_dicom(tmp_path / "a", [drawn], study="s", number=1, patient=patient)
        tissue, flow = dcmread(tmp_path / "a").SequenceOfUltrasoundRegions
        assert (tissue.RegionDataType, flow.RegionDataType) == (1, 2)
        assert (tissue.RegionFlags, flow.RegionFlags) == (1, 0)
        assert (flow.RegionLocationMinX0, flow.RegionLocationMinY0) == (30, 20 + top)
        assert (flow.RegionLocationMaxX1, flow.RegionLocationMaxY1) == (70, 60 + top)
        assert all(
            region.PhysicalDeltaX == 0.05 and region.RegionSpatialFormat == 1 for region in (tissue, flow)
        )
        assert not [name for name in REGION_TYPE_1 if name not in flow]
        assert (load_frames([tmp_path / "a"])[0].pixels == drawn.pixels).all()
    write_dicom(tmp_path / "b", [picture()], study="s", number=1)
    (alone,) = dcmread(tmp_path / "b").SequenceOfUltrasoundRegions
    assert (alone.RegionDataType, alone.RegionFlags) == (1, 0)


def test_a_doppler_examination_names_its_colour_box(tmp_path):
    flags = ["--cases", "10", "--seed", "3", "--format", "dicom", "--organ", "vessel", "--quiet"]
    assert main([*flags, str(tmp_path)]) == 0
    cases = list(read_cases(tmp_path / "cases.jsonl"))
    doppler = [view["doppler"] for case in cases for view in case.extra["examination"]["views"]]
    files = [dcmread(image) for case in cases for image in case.images]
    types = [[region.RegionDataType for region in ds.SequenceOfUltrasoundRegions] for ds in files]
    assert types == [[1, 2] if colour else [1] for colour in doppler] and any(doppler)


def test_physicians_and_hospitals_differ_and_are_invented_plainly(tmp_path):
    people = [invented_patient(3, number) for number in range(30)]
    assert len({one.physician for one in people}) > 20 and len({one.hospital for one in people}) > 5
    for one in people:
        assert one.physician.startswith("Simulated^") and one.hospital.startswith("Simulated ")
    write_dicom(tmp_path / "a", [picture()], study="s", number=1, patient=people[4])
    ds = dcmread(tmp_path / "a")
    assert ds.ReferringPhysicianName == people[4].physician and ds.InstitutionName == people[4].hospital


def test_the_help_says_that_names_are_burned_into_every_image(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "the name burned into a banner above every image, PNG too, and in the DICOM header" in said


def _order(out: Path, *more: str) -> list:
    assert main(["--cases", "4", "--seed", "2", "--quiet", *more, str(out)]) == 0
    return list(read_cases(out / "cases.jsonl"))


def test_the_command_writes_the_same_images_in_both_formats(tmp_path):
    png, dicom = _order(tmp_path / "p"), _order(tmp_path / "d", "--format", "dicom")
    named = _order(tmp_path / "n", "--format", "dicom", "--patient-names", "--labels")
    for still, file, with_name in zip(png, dicom, named, strict=True):
        assert still.answer == file.answer and still.extra["mm_per_pixel"] == file.extra["mm_per_pixel"]
        for a, b, c in zip(
            *(load_frames(case.images, max_frames=1) for case in (still, file, with_name)), strict=True
        ):
            assert (a.pixels == b.pixels).all() and (a.pixels == c.pixels).all()
        assert b.mm_per_pixel[0] == pytest.approx(file.extra["mm_per_pixel"][-1], abs=1e-4)
        names = [str(dcmread(image).PatientName) for image in with_name.images]
        assert set(names) == {f"Simulated^Patient {int(still.id.split('-')[1]):06d}"}
        assert {str(dcmread(image).PatientName) for image in file.images} == {""}
    whole = load_frames(named[0].images[:1], cut_to_sector=False)[0].pixels
    assert whole.shape[0] == 224 + BANNER


def test_a_banner_moves_boxes_and_label_maps_down(tmp_path):
    from PIL import Image

    from simulator.cases import Examined, Order, _cases

    made = Examined(
        "s0-000000",
        (picture(),),
        ({"task": "plane", "boxes": [{"label": "liver", "box": [3, 4, 10, 12]}]},),
    )
    case = next(_cases(made, ["images/a.png"], [], BANNER))
    assert case.boxes[0]["box"] == [3, 4 + BANNER, 10, 12 + BANNER]
    assert Order(0, patient_names=True).patient_names
    cases = _order(tmp_path, "--patient-names", "--labels")
    for image, labels in zip(cases[0].images, cases[0].extra["labels"], strict=True):
        assert Image.open(image).size == Image.open(tmp_path / labels).size == (224, 224 + BANNER)
        assert not np.array(Image.open(tmp_path / labels))[:BANNER].any()

import io
import struct

import numpy as np
import pytest
from dicoms import dataset, encoded, region, save
from PIL import Image
from pydicom import Dataset, dcmread, examples
from pydicom.pixels import pixel_array
from pydicom.pixels.decoders import base
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
)

from imaging import UnreadableFile, load_frames
from imaging.dicom import TAGS

GREY = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
CINE = np.random.default_rng(2).integers(0, 256, (5, 40, 60), dtype=np.uint8)


def read(path, **options):
    return load_frames([path], cut_to_sector=False, **options)


def three(grey):
    return np.repeat(grey[..., None], 3, axis=-1)


def jpeg2000(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG2000", irreversible=False, no_jp2=True, mct=0)
    return buffer.getvalue()


# --- what is stored comes back pixel-equal ----------------------------------------------------------------


@pytest.mark.parametrize(
    "pixels, photometric, expected",
    [
        (GREY, "MONOCHROME2", three(GREY)[None]),
        (GREY, "MONOCHROME1", three(255 - GREY)[None]),
        (COLOUR, "RGB", COLOUR[None]),
        (CINE, "MONOCHROME2", three(CINE)),
        (np.stack([COLOUR, COLOUR[::-1]]), "RGB", np.stack([COLOUR, COLOUR[::-1]])),
    ],
)
@pytest.mark.parametrize("coding", ["explicit", "implicit", "big endian", "rle", "jpeg 2000"])
def test_lossless_codings_come_back_pixel_equal(tmp_path, pixels, photometric, expected, coding):
    ds = dataset(pixels, photometric)
    if coding == "rle":
        ds.compress(RLELossless, generate_instance_uid=False)
    elif coding == "jpeg 2000":
        frames = pixels if len(expected) > 1 else [pixels]
        encoded(ds, [jpeg2000(frame) for frame in frames], JPEG2000Lossless)
    elif coding == "implicit":
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    elif coding == "big endian":
        ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        ds["PixelData"].VR = "OB"
    frames = read(save(ds, tmp_path / "x"))
    assert [frame.index for frame in frames] == list(range(len(expected)))
    assert np.array_equal(np.stack([frame.pixels for frame in frames]), expected)


@pytest.mark.filterwarnings("ignore:The decoded RLE segment")
def test_an_rle_segment_that_is_too_long_stops_nothing(tmp_path):
    segment = bytes([157, 7, 157, 7])  # 200 times a 7, where 100 are due; pylibjpeg-rle panics here
    frame = struct.pack("<16L", 2, 64, 68, *[0] * 13) + segment * 2
    ds = encoded(dataset(np.zeros((10, 10), dtype=np.uint16)), [frame], RLELossless)
    (frame,) = read(save(ds, tmp_path / "x"))
    assert (frame.pixels == (7 * 256 + 7) >> 4).all()


def test_planar_configuration_1_is_the_same_picture(tmp_path):
    ds = dataset(COLOUR, "RGB", PlanarConfiguration=1)
    ds.PixelData = COLOUR.transpose(2, 0, 1).tobytes()
    (frame,) = read(save(ds, tmp_path / "x"))
    assert np.array_equal(frame.pixels, COLOUR)


def test_a_palette_gives_its_colours(tmp_path):
    ds = dataset(GREY, "PALETTE COLOR")
    for shift, colour in enumerate(("Red", "Green", "Blue")):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        table = np.roll(np.arange(256, dtype=np.uint16), shift) << 8
        setattr(ds, f"{colour}PaletteColorLookupTableData", table.tobytes())
    (frame,) = read(save(ds, tmp_path / "x"))
    assert np.array_equal(frame.pixels, np.stack([GREY, GREY - 1, GREY - 2], axis=-1))


def test_a_palette_of_8_bits_in_16_bit_words_is_not_black(tmp_path):
    ds = dataset(GREY, "PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(ds, f"{colour}PaletteColorLookupTableData", np.arange(256, dtype=np.uint16).tobytes())
    (frame,) = read(save(ds, tmp_path / "x"))
    assert np.array_equal(frame.pixels, three(GREY))


BLUE_OVER_RED = np.array([[[0, 0, 255]] * 32] * 16 + [[[255, 0, 0]] * 32] * 16, dtype=np.uint8)
ADOBE_YCBCR = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01"


def jpeg(marker):
    buffer = io.BytesIO()
    Image.fromarray(BLUE_OVER_RED).save(buffer, "JPEG", quality=95)
    stream = buffer.getvalue()
    if marker == "JFIF":
        return stream
    after_jfif = 4 + int.from_bytes(stream[4:6], "big")
    return stream[:2] + (ADOBE_YCBCR if marker == "Adobe" else b"") + stream[after_jfif:]


@pytest.mark.parametrize("photometric", ["YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("marker", ["JFIF", "none", "Adobe"])
def test_jpeg_colours_do_not_turn_green_and_purple(tmp_path, photometric, marker):
    ds = encoded(dataset(BLUE_OVER_RED, photometric), [jpeg(marker)], JPEGBaseline8Bit)
    (frame,) = read(save(ds, tmp_path / "x"))
    assert np.abs(frame.pixels[4:12] - np.array([0.0, 0, 255])).max() < 12
    assert np.abs(frame.pixels[20:28] - np.array([255.0, 0, 0])).max() < 12


def test_uncompressed_ybr_full_becomes_rgb(tmp_path):
    ybr = np.array(
        [[[29, 255, 107]] * 8] * 4 + [[[76, 85, 255]] * 8] * 4, dtype=np.uint8
    )  # blue, red: C.7.6.3.1.2
    (frame,) = read(save(dataset(ybr, "YBR_FULL"), tmp_path / "x"))
    assert np.abs(frame.pixels[0, 0] - np.array([0.0, 0, 255])).max() < 4
    assert np.abs(frame.pixels[7, 0] - np.array([255.0, 0, 0])).max() < 4


def test_every_frame_of_a_subsampled_uncompressed_cine_is_right(tmp_path):
    greys = np.array([10, 90, 200], dtype=np.uint8)
    ds = dataset(np.zeros((3, 4, 8, 3), dtype=np.uint8), "YBR_FULL_422")
    ds.PixelData = b"".join(bytes([grey, grey, 128, 128]) * 16 for grey in greys)  # Y1 Y2 Cb Cr
    frames = read(save(ds, tmp_path / "x"))
    assert [int(frame.pixels.min()) for frame in frames] == [10, 90, 200]
    assert [int(frame.pixels.max()) for frame in frames] == [10, 90, 200]


# --- grey levels ------------------------------------------------------------------------------------------


RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"BitsStored": 12, "HighBit": 11}, RAMP >> 4),
        ({"WindowCenter": 2048, "WindowWidth": 4096}, np.rint(RAMP / 4095 * 255)),
        ({"WindowCenter": [2048, 1], "WindowWidth": [4096, 1]}, np.rint(RAMP / 4095 * 255)),
        ({"WindowCenter": 1000.5, "WindowWidth": 1}, (RAMP > 1000) * 255),
        ({"WindowCenter": 0, "WindowWidth": 0}, RAMP >> 4),
        ({"RescaleSlope": 2, "RescaleIntercept": -100}, RAMP >> 4),
        (
            {"RescaleSlope": 2, "RescaleIntercept": -100, "WindowCenter": 1901, "WindowWidth": 1},
            (2 * RAMP.astype(int) - 100 > 1900.5) * 255,
        ),
        ({"WindowCenter": 2048, "WindowWidth": 1024, "VOILUTFunction": "SIGMOID"}, None),
    ],
)
def test_windows_and_rescaling(tmp_path, changes, expected):
    (frame,) = read(save(dataset(RAMP, **changes), tmp_path / "x"))
    if expected is None:  # C.11.2.1.3.1
        expected = 255 / (1 + np.exp(-4 * (RAMP.astype(float) - 2048) / 1024))
    assert np.abs(frame.pixels[..., 0] - np.asarray(expected, dtype=float)).max() <= 1


def lut(values, bits, first=0):
    item = Dataset()
    item.LUTDescriptor = [len(values), first, bits]
    item.LUTData = np.asarray(values, dtype=np.uint16).tobytes()
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "OW"
    return item


def test_look_up_tables_are_applied_in_the_standards_order(tmp_path):
    ds = dataset(GREY)
    ds.ModalityLUTSequence = Sequence([lut(np.arange(256)[::-1], 8)])  # inverts
    ds.ModalityLUTSequence[0].ModalityLUTType = "US"
    (frame,) = read(save(ds, tmp_path / "x"))
    assert np.array_equal(frame.pixels, three(255 - GREY))
    ds.VOILUTSequence = Sequence([lut(np.where(np.arange(256) < 100, 0, 1023), 10)])  # a threshold
    (frame,) = read(save(ds, tmp_path / "y"))
    assert np.array_equal(frame.pixels[..., 0], np.where(255 - GREY.astype(int) < 100, 0, 255))


def test_frames_of_a_deep_cine_share_one_scale(tmp_path):
    cine = np.stack([np.full((8, 8), 40), np.full((8, 8), 4000)]).astype(np.uint16)
    frames = read(save(dataset(cine), tmp_path / "x"))
    assert [int(frame.pixels[0, 0, 0]) for frame in frames] == [40 >> 4, 4000 >> 4]


def test_signed_pixels_keep_their_order(tmp_path):
    ramp = np.arange(-128, 128, dtype=np.int16).reshape(16, 16)
    (frame,) = read(save(dataset(ramp), tmp_path / "x"))
    assert np.array_equal(frame.pixels[..., 0].ravel(), np.arange(256))


# --- cine -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted, expected", [(1, [150]), (2, [0, 299]), (4, [0, 100, 199, 299]), (16, None)])
def test_of_a_long_cine_only_the_wanted_frames_are_decoded(tmp_path, monkeypatch, wanted, expected):
    cine = np.zeros((300, 8, 8), dtype=np.uint8)
    cine += np.arange(300, dtype=np.uint16)[:, None, None].astype(np.uint8)
    ds = dataset(cine)
    ds.compress(RLELossless, generate_instance_uid=False)
    path = save(ds, tmp_path / "x")
    decoded = []
    decode = base.DecodeRunner.decode
    monkeypatch.setattr(
        base.DecodeRunner, "decode", lambda self, index: decoded.append(index) or decode(self, index)
    )
    frames = read(path, max_frames=wanted)
    assert len(frames) == wanted
    assert decoded == [frame.index for frame in frames]
    assert expected is None or decoded == expected
    assert all((frame.pixels == frame.index % 256).all() for frame in frames)


def test_the_pixels_of_a_long_uncompressed_cine_are_not_read_whole(tmp_path, monkeypatch):
    path = save(dataset(np.zeros((300, 64, 64), dtype=np.uint8)), tmp_path / "x")
    lengths = []
    get_data = base.DecodeRunner.get_data
    monkeypatch.setattr(
        base.DecodeRunner,
        "get_data",
        lambda self, src, offset, length: lengths.append(length) or get_data(self, src, offset, length),
    )
    assert len(read(path, max_frames=3)) == 3
    assert lengths == [64 * 64] * 3


# --- regions ----------------------------------------------------------------------------------------------


BIG = np.random.default_rng(3).integers(0, 256, (120, 160), dtype=np.uint8)
LEFT, RIGHT = region(10, 20, 69, 99), region(80, 20, 149, 99)


@pytest.mark.parametrize(
    "regions, box, scale",
    [
        ([LEFT], (10, 20, 70, 100), (0.1, 0.1)),
        ([region(10, 20, 69, 99, PhysicalDeltaX=-0.02)], (10, 20, 70, 100), (0.2, 0.1)),
        ([region(10, 20, 69, 99, units=4)], (10, 20, 70, 100), None),  # seconds
        ([region(10, 20, 69, 99, PhysicalUnitsYDirection=0)], (10, 20, 70, 100), None),
        ([region(10, 20, 69, 99, cm=0.0)], (10, 20, 70, 100), None),
        ([LEFT, RIGHT], (10, 20, 150, 100), (0.1, 0.1)),  # a dual image
        ([LEFT, region(80, 20, 149, 99, cm=0.02)], (10, 20, 150, 100), None),  # with two scales
        ([LEFT, region(80, 20, 149, 99, units=0)], (10, 20, 150, 100), None),
        ([LEFT, region(10, 100, 149, 119, spatial=3, units=4)], (10, 20, 70, 100), (0.1, 0.1)),  # a spectrum
        ([region(0, 0, 159, 119, spatial=0), LEFT], (10, 20, 70, 100), (0.1, 0.1)),
        ([region(2, 2, 157, 117)], (2, 2, 158, 118), (0.1, 0.1)),  # what DICOM says is cut exactly
        ([region(10, 20, 319, 239)], (0, 0, 160, 120), None),  # the picture was rescaled later
        ([region(10, 20, 160, 199)], (10, 20, 160, 120), (0.1, 0.1)),  # the picture was cut at the bottom
        ([region(70, 20, 10, 99)], (0, 0, 160, 120), None),
        ([], (0, 0, 160, 120), None),
    ],
)
def test_regions_say_where_the_scan_is_and_how_large_a_pixel_is(tmp_path, regions, box, scale):
    (frame,) = load_frames([save(dataset(BIG, regions=regions), tmp_path / "x")])
    x1, y1, x2, y2 = box
    assert np.array_equal(frame.pixels, three(BIG)[y1:y2, x1:x2])
    assert frame.mm_per_pixel == (scale if scale is None else pytest.approx(scale))


# --- real files -------------------------------------------------------------------------------------------


def test_the_palette_example_of_pydicom():
    (frame,) = load_frames([examples.get_path("palette_color")])
    assert frame.pixels.shape == (290, 680, 3)  # the region, as far as the picture, which was cut, shows it
    assert frame.mm_per_pixel == pytest.approx((0.26229, 0.26229), abs=1e-5)
    assert 0 < frame.pixels.mean() < 128


def test_the_rgb_example_of_pydicom():
    path = examples.get_path("rgb_color")
    (frame,) = read(path)
    assert np.array_equal(frame.pixels, pixel_array(path))
    assert frame.mm_per_pixel is None


def test_the_cine_example_of_pydicom():
    path = examples.get_path("ybr_color")
    frames = load_frames([path])
    assert [frame.index for frame in frames] == [0, 2, 4, 6, 8, 10, 12, 14, 15, 17, 19, 21, 23, 25, 27, 29]
    assert len({frame.pixels.shape for frame in frames}) == 1
    assert frames[0].mm_per_pixel is None  # this picture was rescaled, and its region tells the old size
    assert np.array_equal(read(path)[-1].pixels, pixel_array(path, index=29))
    grey = frames[0].pixels.astype(int)
    assert np.abs(grey[..., 0] - grey[..., 2]).mean() < 4  # an echocardiogram is grey, not green


def test_the_jpeg_2000_and_rgb_examples_show_the_same_picture():
    (j2k,), (rgb,) = read(examples.get_path("jpeg2k")), read(examples.get_path("rgb_color"))
    halved = j2k.pixels.reshape(240, 2, 320, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved - rgb.pixels).mean() < 3


@pytest.mark.parametrize(
    "name, frames",
    [
        ("cornerstonejs_IM00001.fragmented_no_bot_jpeg_baseline.50.dcm", 8),
        ("dcm4che_US-PAL-8-10x-echo.dcm", 10),
        ("dcm4che_YBR_FULL-RLE.dcm", 1),
        ("pydicom_GREYSCALE_IMAGE.dcm", 1),
        ("pydicom_gdcm-US-ALOKA-16.dcm", 1),
        ("dcm4che_jpeg-ls-Palette.dcm", "dicom_syntax"),
        ("fo-dicom_GH364.dcm", "dicom_syntax"),
        ("pydicom_JPGLosslessP14SV1_1s_1f_8b.dcm", "dicom_syntax"),
    ],
)
@pytest.mark.filterwarnings("ignore:Incorrect value for Specific Character Set")
def test_real_ultrasound_dicoms(shared, name, frames):
    path = shared / "realdata/dicom" / name
    if isinstance(frames, int):
        assert len(load_frames([path])) == frames
    else:
        with pytest.raises(UnreadableFile) as caught:
            load_frames([path])
        assert caught.value.code == frames


# --- the patient ------------------------------------------------------------------------------------------


def test_nothing_about_the_patient_is_read_or_logged(tmp_path, caplog, recwarn, capfd):
    ds = dataset(GREY)
    path = save(ds, tmp_path / "x")
    assert dcmread(path).PatientName == "TEST^PATIENT"
    header = dcmread(path, stop_before_pixels=True, specific_tags=TAGS)
    assert all(element.tag.group in (0x0008, 0x0018, 0x0028) for element in header)
    assert "PatientName" not in header and "PatientID" not in header
    with caplog.at_level(0):
        (frame,) = read(path)
        with pytest.raises(UnreadableFile) as caught:
            read(save(dataset(GREY, NumberOfFrames=2), tmp_path / "y"))
        swallowed = save(dataset(GREY), tmp_path / "z").read_bytes()  # one element's text in another's place
        uid = UltrasoundMultiFrameImageStorage.encode()
        (tmp_path / "z").write_bytes(swallowed.replace(uid, b"TEST^PATIENT".ljust(len(uid))))
        read(tmp_path / "z")
    out, err = capfd.readouterr()
    said = (
        caplog.text + out + err + repr(frame) + str(caught.value) + "".join(str(w.message) for w in recwarn)
    )
    assert "TEST" not in said and "T-1" not in said

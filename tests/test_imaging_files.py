import io
import os
import re
import string
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from dicoms import dataset, encoded, save
from PIL import Image, ImageFile
from pydicom import examples
from pydicom.data import get_testdata_file
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from imaging import Frame, UnreadableFile, dicom, files, limits, load_frames, pictures, read_examination

# Pillow and pydicom also warn of what is then refused.
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "RuntimeWarning")]

COLOUR = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
GREY = COLOUR[..., 0]
MESSAGES = yaml.safe_load((Path(files.__file__).parent / "messages.yaml").read_text(encoding="utf-8"))


def coded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels_of(path):
    (frame,) = load_frames([path])
    return frame.pixels


def three(grey):
    return np.repeat(np.asarray(grey)[..., None], 3, axis=-1)


# --- pictures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "JPEG", "GIF"])
@pytest.mark.parametrize("name", ["noending", "wrong.dcm", "wrong.txt", "名字 with spaces.PNG"])
def test_formats_are_told_apart_by_content(tmp_path, kind, name):
    path = tmp_path / name
    path.write_bytes(coded(Image.fromarray(COLOUR), kind, **({"lossless": True} if kind == "WEBP" else {})))
    (frame,) = load_frames([path])
    assert (frame.source, frame.index, frame.mm_per_pixel) == (name, 0, None)
    if kind in ("JPEG", "GIF"):
        assert np.array_equal(frame.pixels, np.asarray(Image.open(path).convert("RGB")))
    else:
        assert np.array_equal(frame.pixels, COLOUR)


DEEP = (GREY.astype(np.uint16) << 8) | 0x55
ALPHA = np.random.default_rng(1).integers(0, 256, (40, 60), dtype=np.uint8)
ON_BLACK = np.rint(COLOUR * (ALPHA[..., None] / 255.0))


@pytest.mark.parametrize(
    "picture, kind, expected",
    [
        (Image.fromarray(GREY), "PNG", three(GREY)),
        (Image.fromarray(GREY > 99), "PNG", three(np.where(GREY > 99, 255, 0))),
        (Image.fromarray(DEEP), "PNG", three(GREY)),
        (Image.fromarray(DEEP), "TIFF", three(GREY)),
        (Image.fromarray(DEEP >> 4), "PNG", three(GREY)),  # 12 bits in a 16-bit word
        (Image.fromarray(DEEP >> 8), "PNG", three(GREY)),  # 8 bits in a 16-bit word
        (Image.fromarray(GREY.astype(np.float32) / 255), "TIFF", three(GREY)),
        (Image.fromarray(GREY.astype(np.float32)), "TIFF", three(GREY)),
        (Image.fromarray(np.dstack([COLOUR, ALPHA])), "PNG", ON_BLACK),
        (Image.fromarray(np.dstack([GREY, ALPHA])), "PNG", three(np.rint(GREY * (ALPHA / 255.0)))),
        (Image.fromarray(GREY).convert("P"), "PNG", three(GREY)),
        (Image.fromarray(COLOUR).convert("CMYK"), "TIFF", COLOUR),
    ],
)
def test_modes_become_rgb(tmp_path, picture, kind, expected):
    (tmp_path / "x").write_bytes(coded(picture, kind))
    assert np.abs(pixels_of(tmp_path / "x") - np.asarray(expected, dtype=float)).max() <= 1


def test_a_transparent_palette_colour_becomes_black(tmp_path):
    picture = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    picture.putpalette([200, 100, 50, 10, 20, 30])
    (tmp_path / "x").write_bytes(coded(picture, "PNG", transparency=0))
    assert pixels_of(tmp_path / "x").tolist() == [[[0, 0, 0], [10, 20, 30]]]


@pytest.mark.parametrize(
    "orientation, turn",
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_a_phones_pictures_stand_upright(tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "x").write_bytes(coded(Image.fromarray(COLOUR), "PNG", exif=exif))
    assert np.array_equal(pixels_of(tmp_path / "x"), turn(COLOUR))


def pages(count):
    return [Image.fromarray(np.full((8, 8, 3), 10 * n, dtype=np.uint8)) for n in range(count)]


@pytest.mark.parametrize(
    "kind, options", [("TIFF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("GIF", {})]
)
def test_pages_and_animations_are_read_evenly_spaced(tmp_path, kind, options):
    first, *rest = pages(10)
    (tmp_path / "x").write_bytes(coded(first, kind, save_all=True, append_images=rest, **options))
    frames = load_frames(tmp_path / "x", max_frames=4)
    assert [frame.index for frame in frames] == [0, 3, 6, 9]
    assert [int(frame.pixels[0, 0, 0]) for frame in frames] == [0, 30, 60, 90]
    assert len(load_frames(tmp_path / "x")) == 10


def test_pages_may_differ_in_size(tmp_path):
    small, large = Image.new("RGB", (8, 8)), Image.new("RGB", (30, 20))
    (tmp_path / "x").write_bytes(coded(small, "TIFF", save_all=True, append_images=[large]))
    assert [frame.pixels.shape for frame in load_frames(tmp_path / "x")] == [(8, 8, 3), (20, 30, 3)]


def test_a_phones_preview_is_not_a_second_view(tmp_path):
    first, second = pages(2)
    (tmp_path / "x").write_bytes(coded(first, "MPO", save_all=True, append_images=[second]))
    assert len(load_frames(tmp_path / "x")) == 1


@pytest.mark.parametrize(
    "count, wanted, expected",
    [
        (1, 1, [0]),
        (3, 16, [0, 1, 2]),
        (5, 2, [0, 4]),
        (5, 3, [0, 2, 4]),
        (9, 1, [4]),
        (30, 4, [0, 10, 19, 29]),
    ],
)
def test_evenly_spaced(count, wanted, expected):
    assert limits.evenly_spaced(count, wanted) == expected


# --- DICOM beside pictures ---------------------------------------------------------------------------------


def test_a_dicom_needs_neither_ending_nor_preamble(tmp_path):
    whole = save(dataset(GREY), tmp_path / "IM_0001").read_bytes()
    assert np.array_equal(pixels_of(tmp_path / "IM_0001"), three(GREY))
    (tmp_path / "meta first").write_bytes(whole[132:])
    assert np.array_equal(pixels_of(tmp_path / "meta first"), three(GREY))
    meta = 132 + 12 + int.from_bytes(whole[140:144], "little")  # (0002,0000) tells the length of group 2
    (tmp_path / "bare").write_bytes(whole[meta:])
    assert np.array_equal(pixels_of(tmp_path / "bare"), three(GREY))


def test_a_tiff_header_in_the_preamble_does_not_hide_a_dicom(tmp_path):
    whole = save(dataset(GREY), tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(b"II*\x00\x08\x00\x00\x00" + whole[8:])
    assert np.array_equal(pixels_of(tmp_path / "x"), three(GREY))


# --- bad files ---------------------------------------------------------------------------------------------


def png_header(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


def bmp_header(width, height):
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def gif_header(width, height):
    plain = coded(Image.new("L", (8, 8)), "GIF")
    return plain[:6] + struct.pack("<HH", width, height) + plain[10:]


def jpeg_header(width, height):
    plain = coded(Image.new("L", (8, 8)), "JPEG")
    at = plain.index(b"\xff\xc0") + 5
    return plain[:at] + struct.pack(">HH", height, width) + plain[at + 4 :]


def tiff_headers(*sizes):
    """A TIFF whose pages claim these sizes; all show the same 64 bytes."""
    data = b"II*\x00" + struct.pack("<I", 8 + 64) + bytes(64)
    for page, (width, height) in enumerate(sizes):
        tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (278, height), (279, 64)]
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        after = len(data) + 2 + len(entries) + 4
        data += struct.pack("<H", len(tags)) + entries
        data += struct.pack("<I", after if page + 1 < len(sizes) else 0)
    return data


def half(data):
    return data[: len(data) // 2]


def dicom_bytes(ds):
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def foreign(syntax):
    return encoded(dataset(GREY), [b"\xff\xd8\xff\xd9"], syntax)


def without_pixels():
    ds = dataset(GREY)
    del ds.PixelData
    return ds


def rle(pixels):
    ds = dataset(pixels)
    ds.compress(RLELossless, generate_instance_uid=False)
    return ds


PICTURE = Image.fromarray(COLOUR)
BAD = {
    "empty": (b"", "empty"),
    "text": (b"No image here, only words.\n" * 40, "not_an_image"),
    "text that starts like a BMP": (b"BMI 22.5, no complaints", "not_an_image"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", "not_an_image"),
    "ZIP": (b"PK\x03\x04" + bytes(200), "not_an_image"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not_an_image"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "not_an_image"),
    "zeros": (bytes(5000), "not_an_image"),
    "noise": (np.random.default_rng(5).bytes(5000), "not_an_image"),
    "starts like a bare DICOM": (
        b"\x08\x00" + np.random.default_rng(6).bytes(3000),
        ("not_an_image", "damaged"),
    ),
    "MP4": (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(99), "video"),
    "MOV": (b"\0\0\0\x14ftypqt  \0\0\0\0qt  " + bytes(99), "video"),
    "old MOV": (b"\0\0\x01\x00moov" + bytes(99), "video"),
    "AVI": (b"RIFF\0\0\1\0AVI LIST" + bytes(99), "video"),
    "WebM": (b"\x1a\x45\xdf\xa3\x01" + bytes(99), "video"),
    "MPEG": (b"\0\0\x01\xba\x44" + bytes(99), "video"),
    **{
        f"half a {kind}": (half(coded(PICTURE, kind)), "damaged")
        for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
    },
    **{
        f"20 bytes of a {kind}": (coded(PICTURE, kind)[:20], "damaged")
        for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
    },
    "PNG with a spoilt chunk": (coded(PICTURE, "PNG").replace(b"IDAT", b"IDAX"), "damaged"),
    "half a compressed TIFF": (half(coded(PICTURE, "TIFF", compression="tiff_lzw")), "damaged"),
    "PNG bomb": (png_header(30000, 30000), "too_large"),
    "PNG over the limit": (png_header(8000, 6000), "too_large"),
    "PNG where Pillow only warns": (png_header(10000, 10000), "too_large"),
    "BMP bomb": (bmp_header(30000, 30000), "too_large"),
    "GIF bomb": (gif_header(30000, 30000), "too_large"),
    "JPEG bomb": (jpeg_header(30000, 30000), "too_large"),
    "TIFF bomb": (tiff_headers((30000, 30000)), "too_large"),
    "TIFF with a bomb on page 2": (tiff_headers((8, 8), (30000, 30000)), "too_large"),
    "half a DICOM": (half(dicom_bytes(dataset(GREY))), "damaged"),
    "half a compressed DICOM": (half(dicom_bytes(rle(GREY))), "damaged"),
    "DICOM cut in its header": (dicom_bytes(dataset(GREY))[:500], "dicom_no_pixels"),
    "DICOM cut in its meta": (dicom_bytes(dataset(GREY))[:150], ("damaged", "dicom_no_pixels")),
    "DICM alone": (bytes(128) + b"DICM", "dicom_no_pixels"),
    "DICOM without pixels": (dicom_bytes(without_pixels()), "dicom_no_pixels"),
    "DICOM with empty pixels": (dicom_bytes(dataset(GREY, PixelData=b"")), "damaged"),
    "DICOM with too few frames": (dicom_bytes(dataset(GREY, NumberOfFrames=3)), "damaged"),
    "DICOM in JPEG-LS": (dicom_bytes(foreign(JPEGLSLossless)), "dicom_syntax"),
    "DICOM in MPEG-4": (dicom_bytes(foreign(MPEG4HP41)), "dicom_syntax"),
    "DICOM in an unknown syntax": (dicom_bytes(foreign("1.2.3.4.5")), "dicom_syntax"),
    "DICOM in broken JPEG": (dicom_bytes(foreign(JPEGBaseline8Bit)), "damaged"),
    "DICOM bomb": (dicom_bytes(dataset(GREY, Rows=30000, Columns=30000)), "too_large"),
    "DICOM with two thousand million frames": (
        dicom_bytes(dataset(GREY, NumberOfFrames=2**31 - 1)),
        "too_long",
    ),
    "DICOM without rows": (dicom_bytes(dataset(GREY, Rows=None)), "dicom_field"),
    "DICOM with no rows": (dicom_bytes(dataset(GREY, Rows=0)), "dicom_field"),
    "DICOM without bits": (dicom_bytes(dataset(GREY, BitsAllocated=None)), "dicom_field"),
    "DICOM in unknown colours": (dicom_bytes(dataset(GREY, PhotometricInterpretation="HSV")), "dicom_field"),
    "DICOM with an impossible VR": (
        dicom_bytes(dataset(GREY)).replace(b"\x28\x00\x08\x00IS", b"\x28\x00\x08\x00I\xb1"),
        "damaged",
    ),
    "DICOM with words for numbers": (
        dicom_bytes(dataset(GREY)).replace(b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x10\x00LO\x02\x00"),
        "dicom_field",
    ),
    "DICOM in two colours": (
        dicom_bytes(dataset(GREY)).replace(b"MONOCHROME2 ", b"MONO\\CHROME2"),
        "dicom_field",
    ),
    "DICOM with odd bits": (dicom_bytes(dataset(GREY, BitsStored=13)), "damaged"),
    "DICOM that lacks its palette": (dicom_bytes(dataset(GREY, "PALETTE COLOR")), "damaged"),
    "palette of 32 bits": (
        dicom_bytes(dataset(GREY.astype(np.uint32), "PALETTE COLOR")),
        "dicom_field",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_gets_one_clear_sentence(tmp_path, name):
    data, codes = BAD[name]
    path = tmp_path / "a file.png"
    path.write_bytes(data)
    frames, (problem,) = read_examination([path])
    assert frames == [] and problem.source == "a file.png"
    assert problem.error.code in codes if isinstance(codes, tuple) else problem.error.code == codes
    assert str(problem.error) == problem.message("en")
    assert re.search("[\u4e00-\u9fff]", problem.message("zh")) and "a file.png" in problem.message("zh")
    assert "a file.png" in problem.message("en") and str(tmp_path) not in problem.message("en")
    with pytest.raises(UnreadableFile) as caught:
        load_frames([path])
    assert caught.value.code == problem.error.code


def test_a_deflated_dicom_is_refused_before_it_is_inflated(tmp_path, monkeypatch):
    ds = dataset(GREY)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = save(ds, tmp_path / "x")
    monkeypatch.setattr(zlib, "decompress", None)
    for start, code in ((0, "dicom_syntax"), (132, "not_an_image")):
        path.write_bytes(path.read_bytes()[start:])
        _, (problem,) = read_examination([path])
        assert problem.error.code == code


def test_the_discs_index_is_not_an_image(tmp_path):
    _, (problem,) = read_examination([get_testdata_file("DICOMDIR")])
    assert problem.error.code == "dicom_index"


@pytest.mark.parametrize(
    "name", [name for name, (_, codes) in BAD.items() if codes in ("too_large", "too_long")]
)
def test_bombs_are_refused_before_anything_is_decoded(tmp_path, monkeypatch, name):
    (tmp_path / "x").write_bytes(BAD[name][0])
    decoded = []
    if "page 2" not in name:
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: decoded.append(self.size))
    monkeypatch.setattr(dicom, "pixel_array", lambda *args, **options: decoded.append(args))
    frames, (problem,) = read_examination([tmp_path / "x"])
    assert frames == [] and decoded == [] and problem.error.code in ("too_large", "too_long")


def test_damaged_bytes_never_raise_anything_else(tmp_path):
    """Every kind of file with bytes changed at random: frames or UnreadableFile, nothing third."""
    rng = np.random.default_rng(7)
    kinds = [coded(PICTURE, kind) for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")]
    kinds += [
        coded(pages(3)[0], kind, save_all=True, append_images=pages(3)[1:])
        for kind in ("TIFF", "WEBP", "PNG")
    ]
    kinds += [dicom_bytes(ds) for ds in (dataset(GREY), dataset(COLOUR, "RGB"), rle(GREY))]
    kinds += [Path(examples.get_path(name)).read_bytes() for name in ("palette_color",)]
    path = tmp_path / "x"
    for _ in range(400):
        data = bytearray(kinds[rng.integers(len(kinds))])
        reach = len(data) if rng.random() < 0.5 else min(len(data), 600)
        for _ in range(rng.integers(1, 6)):
            data[rng.integers(reach)] = rng.integers(256)
        path.write_bytes(data[: rng.integers(1, len(data))] if rng.random() < 0.2 else data)
        frames, problems = read_examination([path])
        assert bool(frames) != bool(problems)


def test_a_programming_error_is_not_taken_for_a_bad_file(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(coded(PICTURE, "PNG"))

    def broken(*args):
        raise ValueError("a mistake in the code")

    for module, function in ((pictures, "_rgb"), (files, "find_sector"), (files, "crop")):
        with monkeypatch.context() as patch:
            patch.setattr(module, function, broken)
            with pytest.raises(ValueError, match="a mistake in the code"):
                read_examination([tmp_path / "x"])


# --- paths -------------------------------------------------------------------------------------------------


def test_paths_that_are_not_files(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    table = {
        tmp_path: "folder",
        tmp_path / "absent.png": "missing",
        tmp_path / "gone": "missing",
        tmp_path / "pipe": "unreadable",
        loop: "unreadable",
        tmp_path / "a\0b": "unreadable",
        tmp_path / ("n" * 300): "unreadable",
    }
    frames, problems = read_examination(list(table))
    assert frames == []
    assert [problem.error.code for problem in problems] == list(table.values())


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(coded(PICTURE, "PNG"))

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    _, (problem,) = read_examination([tmp_path / "x"])
    assert problem.error.code == "unreadable"


def test_only_files_of_the_given_folders_are_opened(tmp_path):
    mine, other, similar = tmp_path / "mine", tmp_path / "other", tmp_path / "mine too"
    for folder in (mine, other, similar):
        folder.mkdir()
        (folder / "x.png").write_bytes(coded(PICTURE, "PNG"))
    (mine / "link.png").symlink_to(other / "x.png")
    (tmp_path / "door").symlink_to(mine)
    asked = {
        mine / "x.png": None,
        tmp_path / "door" / "x.png": None,
        mine / "link.png": "outside",
        mine / ".." / "other" / "x.png": "outside",
        similar / "x.png": "outside",
        other / "absent.png": "outside",  # does not tell whether the file exists
        Path("/etc/passwd"): "outside",
        mine / "absent.png": "missing",
    }
    for path, code in asked.items():
        frames, problems = read_examination([path], within=mine)
        assert [problem.error.code for problem in problems] == ([code] if code else [])
        assert len(frames) == (code is None)
    assert read_examination([other / "x.png"], within=[mine, other])[1] == []


# --- whole examinations ------------------------------------------------------------------------------------


def test_good_files_survive_bad_ones(tmp_path):
    names = []
    for number in range(6):
        name = f"{number}.png"
        (tmp_path / name).write_bytes(b"broken" if number % 2 else coded(PICTURE, "PNG"))
        names.append(name)
    frames, problems = read_examination([tmp_path / name for name in names])
    assert [frame.source for frame in frames] == ["0.png", "2.png", "4.png"]
    assert [problem.source for problem in problems] == ["1.png", "3.png", "5.png"]
    assert all(isinstance(frame, Frame) and not frame.pixels.flags.writeable for frame in frames)
    with pytest.raises(UnreadableFile, match="1.png"):
        load_frames([tmp_path / name for name in names])


def test_two_hundred_files_are_one_problem(tmp_path):
    (tmp_path / "x.png").write_bytes(coded(PICTURE, "PNG"))
    frames, (problem,) = read_examination([tmp_path / "x.png"] * 200)
    assert frames == [] and problem.error.code == "too_many_files"
    assert "200" in problem.message("en") and str(limits.MAX_FILES) in problem.message("zh")
    with pytest.raises(UnreadableFile):
        load_frames([tmp_path / "x.png"] * 200)
    assert len(load_frames([tmp_path / "x.png"] * 200, max_files=200)) == 200
    assert read_examination([tmp_path / "x.png"] * 3, max_files=2)[1][0].error.code == "too_many_files"


def test_all_files_together_have_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_EXAMINATION_PIXELS", 2 * GREY.size)
    (tmp_path / "x.png").write_bytes(coded(PICTURE, "PNG"))
    frames, (problem,) = read_examination([tmp_path / "x.png"] * 3)
    assert len(frames) == 2 and problem.error.code == "too_much"
    cine = save(dataset(np.stack([GREY] * 9)), tmp_path / "cine")
    assert len(read_examination([cine], max_frames=2)[0]) == 2
    assert read_examination([cine], max_frames=3)[1][0].error.code == "too_much"


def test_one_path_may_stand_alone_and_none_is_no_problem(tmp_path):
    (tmp_path / "x.png").write_bytes(coded(PICTURE, "PNG"))
    assert len(load_frames(tmp_path / "x.png")) == len(load_frames(str(tmp_path / "x.png"))) == 1
    assert load_frames([]) == [] and read_examination([]) == ([], [])


@pytest.mark.parametrize("options", [{"max_frames": 0}, {"max_files": 0}])
def test_nonsense_limits_are_the_callers_mistake(tmp_path, options):
    with pytest.raises(ValueError, match="at least 1"):
        read_examination([tmp_path], **options)


def test_one_box_holds_every_frame_of_a_loop(tmp_path):
    rng = np.random.default_rng(0)
    cine = np.zeros((3, 480, 640), dtype=np.uint8)
    for index, left in enumerate((150, 200, 250)):  # the tissue moves
        cine[index, 100:400, left : left + 250] = rng.integers(20, 200, (300, 250))
    frames = load_frames(save(dataset(cine), tmp_path / "x"))
    assert len({frame.pixels.shape for frame in frames}) == 1
    assert all(
        (frame.pixels[..., 0] > 0).sum() == (whole > 0).sum()
        for frame, whole in zip(frames, cine, strict=True)
    )
    assert frames[0].pixels.shape[1] < 450


# --- messages ----------------------------------------------------------------------------------------------


def facts(sentence):
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name}


@pytest.mark.parametrize("code", MESSAGES)
def test_every_message_says_the_same_in_both_languages(code):
    assert set(MESSAGES[code]) == {"en", "zh"}
    assert facts(MESSAGES[code]["en"]) == facts(MESSAGES[code]["zh"])
    assert re.search("[\u4e00-\u9fff]", MESSAGES[code]["zh"]) and MESSAGES[code]["en"].isascii()


def test_every_code_has_a_message_and_every_message_a_use():
    source = "".join(path.read_text(encoding="utf-8") for path in Path(files.__file__).parent.glob("*.py"))
    assert set(re.findall(r'UnreadableFile\(\s*"(\w+)"', source)) == set(MESSAGES)


def test_an_unknown_language_is_the_callers_mistake():
    with pytest.raises(ValueError, match="'fr' is not one of zh, en"):
        UnreadableFile("empty", "x").message("fr")

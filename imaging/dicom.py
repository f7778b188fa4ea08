"""DICOM files become frames, through pydicom.

Read are the Image Pixel module (PS3.3 C.7.6.3), the Modality and VOI LUT modules (C.11.1, C.11.2), and the
regions of imaging/regions.py. A cine is decoded frame by frame, only the frames that are wanted.

Nothing about the patient is read: pydicom is given the list of tags, and none of them names anybody. Text
that is burned into the pixels is not looked for. Overlays, ICC profiles and presentation states are not
applied.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from pydicom import Dataset, config, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.encaps import get_frame
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.multival import MultiValue
from pydicom.pixels import (
    apply_color_lut,
    apply_modality_lut,
    apply_voi,
    apply_windowing,
    get_decoder,
    pixel_array,
)
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    MediaStorageDirectoryStorage,
    RLELossless,
)

from imaging.depth import eight_bits
from imaging.errors import UnreadableFile
from imaging.frame import Frame
from imaging.limits import Choose
from imaging.regions import scan_regions
from imaging.sector import Box

NUMBERS = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation")
TAGS = [
    *NUMBERS,
    "PhotometricInterpretation",
    "SOPClassUID",
    "NumberOfFrames",
    "PlanarConfiguration",
    "SequenceOfUltrasoundRegions",
    *("ModalityLUTSequence", "RescaleIntercept", "RescaleSlope"),
    *("VOILUTSequence", "VOILUTFunction", "WindowCenter", "WindowWidth"),
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
    *(f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
]
# Photometric Interpretation (0028,0004) → Samples per Pixel (0028,0002). pydicom turns the YBR ones into RGB.
SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3}
SAMPLES |= {"YBR_FULL": 3, "YBR_FULL_422": 3, "YBR_ICT": 3, "YBR_RCT": 3}
# pydicom warns of odd values by quoting them; in a damaged file that could be the patient's name.
config.settings.reading_validation_mode = config.IGNORE

PIXEL_DATA = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")  # (7FE0,0010), little and big endian
FAR = 1e9  # outside every window

# Seen when files are damaged at random. AttributeError is pydicom's word for a missing element, RuntimeError
# for "no decoder managed it" (and RecursionError for sequences nested without end), MemoryError follows from
# a false length.
PYDICOM_ERRORS = (
    InvalidDicomError,
    BytesLengthException,
    OSError,
    EOFError,
    struct.error,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
)


def has_preamble(head: bytes) -> bool:
    """True for a file in the DICOM File Format (PS3.10 7.1): "DICM" after 128 bytes of anything."""
    return head[128:132] == b"DICM"


def may_lack_preamble(head: bytes) -> bool:
    """True where a file could be a data set without preamble, as old archives wrote it: its first tag is in
    group 0002 or 0008. A guess; `read` makes sure.
    """
    group = head[:2]
    deflated = DeflatedExplicitVRLittleEndian.encode() in head  # would be inflated before its size is known
    return group in (b"\x02\x00", b"\x08\x00", b"\x00\x08") and not deflated


def read(path: Path, name: str, choose: Choose) -> tuple[list[Frame], Box | None]:
    """The frames that `choose` picks, uncut, and the box of the scan where the file says so.

    Raises UnreadableFile.
    """
    with path.open("rb") as file:
        image = _open(file, name)
        header = image.header
        chosen = choose(header.Columns, header.Rows, image.count)
        stored = [image.stored(index) for index in chosen]
    with _pydicom_errors(name):
        box, scale = scan_regions(header)
        shown = _shown(stored, header)
    frames = [Frame(pixels, scale, name, index) for pixels, index in zip(shown, chosen, strict=True)]
    return frames, box


@dataclass(frozen=True)
class _Image:
    """An open DICOM whose header has been checked and whose pixels have not been touched."""

    file: BinaryIO
    name: str
    header: Dataset
    syntax: UID
    count: int
    already_rgb: bool

    def stored(self, index: int) -> np.ndarray:
        """Frame `index` as stored: [H, W] before any look-up table, or [H, W, 3] in RGB."""
        # pylibjpeg's RLE decoder, which pydicom would take, ends in a Rust panic on damaged data; pydicom's
        # own is as fast and raises.
        plugin = "pydicom" if self.syntax == RLELossless else ""
        with _pydicom_errors(self.name):
            return pixel_array(
                self.file,
                index=index,
                raw=self.already_rgb,
                decoding_plugin=plugin,
                transfer_syntax_uid=self.syntax,
            )


def _open(file: BinaryIO, name: str) -> _Image:
    bare = not has_preamble(file.read(132))
    if not bare:
        with _pydicom_errors(name):
            kind, syntax = _kind_and_syntax(read_file_meta_info(file.name))
        # Before the data set is parsed, which a strange encoding would make impossible.
        _check_syntax(kind, syntax, name)
    file.seek(0)
    with _pydicom_errors(name):
        header = dcmread(file, force=True, stop_before_pixels=True, specific_tags=TAGS)
        start = file.tell()
        has_pixels = file.read(4) in PIXEL_DATA
        list(header.iterall())  # pydicom converts values when they are first asked for: ask here
        kind, syntax = _kind_and_syntax(header.file_meta)
    if bare and "Rows" not in header and "SOPClassUID" not in header:
        raise UnreadableFile("not_an_image", name)
    _check_syntax(kind, syntax, name)
    if not has_pixels:
        raise UnreadableFile("dicom_no_pixels", name)
    _check_fields(header, name)
    syntax = syntax or _guessed_syntax(header)
    if syntax == JPEGExtended12Bit and header.BitsStored != 8:  # Pillow decodes only its 8-bit form
        raise UnreadableFile("dicom_syntax", name, syntax=syntax.name)
    count = max(1, _number(header, "NumberOfFrames", name, default=1))
    already_rgb = False
    if syntax == JPEGBaseline8Bit and header.PhotometricInterpretation.startswith("YBR"):
        with _pydicom_errors(name):
            already_rgb = _pillow_returns_rgb(file, start, count)
    return _Image(file, name, header, syntax, count, already_rgb)


def _kind_and_syntax(meta: Dataset) -> tuple[UID, UID]:
    """Media Storage SOP Class UID (0002,0002) and Transfer Syntax UID (0002,0010); empty where absent."""
    return UID(meta.get("MediaStorageSOPClassUID") or ""), UID(meta.get("TransferSyntaxUID") or "")


def _check_syntax(kind: UID, syntax: UID, name: str) -> None:
    if kind == MediaStorageDirectoryStorage:
        raise UnreadableFile("dicom_index", name)
    if syntax and not _readable(syntax):
        raise UnreadableFile("dicom_syntax", name, syntax=syntax.name)


def _readable(syntax: UID) -> bool:
    if syntax == DeflatedExplicitVRLittleEndian:  # would be inflated before its size is known
        return False
    try:
        return get_decoder(syntax).is_available
    except NotImplementedError:
        return False


def _guessed_syntax(header: Dataset) -> UID:
    """What a bare data set is written in: the encoding that pydicom found to fit."""
    implicit, little = header.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _pillow_returns_rgb(file: BinaryIO, start: int, count: int) -> bool:
    """True where a JPEG says by an Adobe marker that it is YCbCr: Pillow then converts it, and pydicom 3.0,
    which goes by the Photometric Interpretation, would convert it a second time (to green and purple).
    """
    file.seek(start + 12)  # the element's tag, VR and length; encapsulated data are always explicit VR
    with Image.open(BytesIO(get_frame(file, 0, number_of_frames=count)), formats=["JPEG"]) as jpeg:
        return jpeg.info.get("adobe_transform") == 1


def _check_fields(header: Dataset, name: str) -> None:
    for keyword in NUMBERS:
        _number(header, keyword, name)
    photometric = header.get("PhotometricInterpretation")
    if not isinstance(photometric, str) or SAMPLES.get(photometric) != header.SamplesPerPixel:
        raise UnreadableFile("dicom_field", name, field=_label("PhotometricInterpretation"))
    for keyword in ("Rows", "Columns", "BitsStored"):
        if header[keyword].value < 1:
            raise UnreadableFile("dicom_field", name, field=_label(keyword))
    if header.BitsStored > (16 if photometric == "PALETTE COLOR" else 32):
        raise UnreadableFile("dicom_field", name, field=_label("BitsStored"))


def _number(header: Dataset, keyword: str, name: str, default: int | None = None) -> int:
    """The whole number of `keyword`; `default`, if there is one, where the element is absent, empty or 0."""
    value = header.get(keyword)
    if not value and default is not None:
        return default
    if not isinstance(value, int):
        raise UnreadableFile("dicom_field", name, field=_label(keyword))
    return int(value)


def _label(keyword: str) -> str:
    tag = tag_for_keyword(keyword)
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X}) {keyword}"


def _shown(stored: list[np.ndarray], header: Dataset) -> list[np.ndarray]:
    """Stored frames as a viewer shows them: uint8 [H, W, 3] each."""
    if header.PhotometricInterpretation == "PALETTE COLOR":
        table, first = _palette(header)
        return [table[frame.astype(np.int64) - first] for frame in stored]
    if header.SamplesPerPixel == 3:
        return list(eight_bits(np.stack(stored)))
    greys = _greys(stored, header)
    if header.PhotometricInterpretation == "MONOCHROME1":  # the lowest value is white
        greys = [255 - grey for grey in greys]
    return [np.repeat(grey[..., None], 3, axis=2) for grey in greys]


def _palette(header: Dataset) -> tuple[np.ndarray, int]:
    """RGB for every value a pixel can have, uint8 [values, 3], and the lowest of them (C.7.6.3.1.5)."""
    first = -(2 ** (header.BitsStored - 1)) if header.PixelRepresentation else 0
    table = apply_color_lut(np.arange(first, first + 2**header.BitsStored), header)[:, :3]
    if table.max() > 255:  # the standard's 16-bit entries; some writers keep 8 bits in 16-bit words
        table = table >> 8
    return table.astype(np.uint8), first


def _greys(stored: list[np.ndarray], header: Dataset) -> list[np.ndarray]:
    """Modality LUT, then VOI LUT or window, then eight bits (PS3.4 N.2): uint8 [H, W] each.

    Without a window a rescale changes nothing but the unit, and is left out.
    """
    if header.get("VOILUTSequence"):
        depth = header.VOILUTSequence[0].LUTDescriptor[2]
        values = (np.rint(apply_modality_lut(frame, header)).astype(np.int32) for frame in stored)
        return [_scaled(apply_voi(frame, header), 0, 2**depth - 1) for frame in values]
    if _has_window(header):
        with np.errstate(over="ignore"):
            black, white = apply_windowing(np.array([-FAR, FAR]), header)
        values = (apply_modality_lut(frame, header) for frame in stored)
        return [_scaled(apply_windowing(frame, header), black, white) for frame in values]
    if header.get("ModalityLUTSequence"):
        stored = [apply_modality_lut(frame, header) for frame in stored]
    elif header.BitsStored < 8:
        return [_scaled(frame, 0, 2**header.BitsStored - 1) for frame in stored]
    return list(eight_bits(np.stack(stored)))


def _has_window(header: Dataset) -> bool:
    """True where (0028,1050) and (0028,1051) can be used; a width below 1 is as good as none."""
    widths, centers = header.get("WindowWidth"), header.get("WindowCenter")
    width = widths[0] if isinstance(widths, MultiValue) else widths
    return width is not None and centers is not None and width >= 1 and header.get("RescaleSlope", 1) != 0


def _scaled(values: np.ndarray, black: float, white: float) -> np.ndarray:
    return np.rint((values - black) * (255 / (white - black))).clip(0, 255).astype(np.uint8)


@contextmanager
def _pydicom_errors(name: str) -> Iterator[None]:
    """What pydicom raises on bad files, as UnreadableFile. Only work on the file's values belongs inside."""
    try:
        yield
    except PYDICOM_ERRORS as error:
        raise UnreadableFile("damaged", name) from error

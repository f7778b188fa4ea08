"""imaging.deidentify: what is burned in beside the scan goes, the scan stays, and no header comes along."""

import numpy as np
import pytest
from dicoms import dataset, region, save
from PIL import Image, ImageDraw, ImageFont

from imaging.deidentify import cleaned_frames, identities, scan_mask, write_png
from imaging.errors import UnreadableFile
from imaging.frame import Frame

NAME = "DOE^JANE 1970-01-01"


def fan(height, width, seed=0):
    """Speckle in a curved array's sector, black outside: pixels [H, W] and the sector's mask."""
    y, x = np.mgrid[:height, :width]
    radius, angle = np.hypot(x - width / 2, y + height / 8), np.abs(np.arctan2(x - width / 2, y + height / 8))
    mask = (radius > height * 0.2) & (radius < height * 1.1) & (angle < 0.6)
    echo = np.random.default_rng(seed).integers(30, 200, (height, width))
    return np.where(mask, echo, 0).astype(np.uint8), mask


def burned(pixels, text, at, size=20):
    """`pixels` with white text over them, and where the text is."""
    ink = Image.new("L", pixels.shape[1::-1])
    ImageDraw.Draw(ink).text(at, text, fill=255, font=ImageFont.load_default(size))
    lit = np.array(ink) > 40
    return np.where(lit if pixels.ndim == 2 else lit[..., None], np.uint8(255), pixels), lit


def screen(seed=0):
    """A scanner's screen: the sector at (200, 100), a name above it and one in the corner beside the fan."""
    picture = np.zeros((720, 1000), np.uint8)
    scan, mask = fan(560, 640, seed)
    picture[100:660, 200:840] = scan
    whole = np.zeros(picture.shape, bool)
    whole[100:660, 200:840] = mask
    picture, above = burned(picture, NAME, (20, 20))
    picture, beside = burned(picture, NAME, (210, 112))
    return picture, whole, above | beside


def test_a_dicom_is_cut_to_its_region_and_black_beside_the_fan(tmp_path):
    picture, tissue, ink = screen()
    assert (ink & ~tissue)[100:660, 200:840].any()
    path = save(dataset(picture, regions=[region(200, 100, 839, 659)]), tmp_path / "a.dcm")
    (cleaned,) = cleaned_frames(path)
    assert cleaned.how == "regions" and cleaned.frame.source == ""
    assert cleaned.frame.mm_per_pixel == (0.1, 0.1)
    pixels, inside = cleaned.frame.pixels, tissue[100:660, 200:840]
    assert pixels.shape == (560, 640, 3)
    assert not pixels[(ink & ~tissue)[100:660, 200:840]].any()
    same = pixels[..., 0] == picture[100:660, 200:840]
    assert same[inside].mean() > 0.995  # the hull's corners are blocks


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_screen_shot_is_cut_to_the_sector_that_is_found(tmp_path, ending):
    picture, tissue, ink = screen()
    Image.fromarray(picture).save(tmp_path / f"a.{ending}", quality=95)
    (cleaned,) = cleaned_frames(tmp_path / f"a.{ending}")
    assert cleaned.how == "sector"
    assert cleaned.frame.pixels.shape[1] < 1000
    bright = cleaned.frame.pixels.max(axis=2) > 100  # JPEG's ringing is darker
    assert abs(int(bright.sum()) - int((picture[tissue] > 100).sum())) < 0.1 * (ink & ~tissue).sum()


def test_every_frame_of_a_cine_is_cleaned_alike(tmp_path):
    frames = np.stack([screen(seed)[0] for seed in range(3)])
    path = save(dataset(frames, regions=[region(200, 100, 839, 659)]), tmp_path / "cine.dcm")
    cleaned = cleaned_frames(path, max_frames=2)
    assert [one.frame.index for one in cleaned] == [0, 2]
    ink = screen()[2][100:660, 200:840] & ~screen()[1][100:660, 200:840]
    assert all(not one.frame.pixels[ink].any() for one in cleaned)


def test_a_screen_without_a_sector_says_so(tmp_path):
    Image.fromarray(np.full((600, 800), 90, np.uint8)).save(tmp_path / "grey.png")
    assert [one.how for one in cleaned_frames(tmp_path / "grey.png")] == ["whole"]


def test_a_small_picture_was_cut_before(tmp_path):
    scan, mask = fan(224, 224)
    Image.fromarray(scan).save(tmp_path / "small.png")
    (cleaned,) = cleaned_frames(tmp_path / "small.png")
    assert cleaned.how == "small"
    assert (cleaned.frame.pixels[..., 0] == scan)[mask].mean() > 0.98


def linear(height, width, seed=0):
    """Speckle of about three pixels all over: [height, width]."""
    echo = np.random.default_rng(seed).integers(20, 200, (height // 3, width // 3)).astype(np.uint8)
    return np.array(Image.fromarray(echo).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("size", [18, 24, 48, 64])
@pytest.mark.parametrize("gap", [4, 8, 12])
def test_a_name_close_above_the_scan_goes(tmp_path, size, gap):
    picture = np.zeros((768, 1024), np.uint8)
    picture[150:700, 180:810] = linear(550, 630)
    bottom = ImageFont.load_default(size).getbbox(NAME)[3]
    picture, ink = burned(picture, NAME, (220, 150 - gap - bottom), size)
    Image.fromarray(picture).save(tmp_path / "a.png")
    (cleaned,) = cleaned_frames(tmp_path / "a.png")
    assert cleaned.how == "sector" and cleaned.checked
    x, y = cleaned.frame.offset
    pixels = cleaned.frame.pixels[..., 0]
    assert not pixels[ink[y : y + pixels.shape[0], x : x + pixels.shape[1]]].any()
    scan = slice(150 - y, 700 - y), slice(180 - x, 810 - x)
    assert (pixels[scan] == picture[150:700, 180:810]).mean() > 0.99


def test_a_grey_panel_is_no_tissue(tmp_path):
    picture, tissue, _ = screen()
    panel = np.full(picture.shape, 30, np.uint8)
    panel[100:660, 200:840] = picture[100:660, 200:840]
    panel, ink = burned(panel, "MRN 555", (205, 105))
    Image.fromarray(panel).save(tmp_path / "a.png")
    (cleaned,) = cleaned_frames(tmp_path / "a.png")
    x, y = cleaned.frame.offset
    height, width = cleaned.frame.pixels.shape[:2]
    there = (slice(y, y + height), slice(x, x + width))
    assert cleaned.how == "sector" and (ink & ~tissue)[there].any()
    assert not cleaned.frame.pixels[(ink & ~tissue)[there]].any()
    assert (cleaned.frame.pixels[..., 0] == panel[there])[tissue[there]].mean() > 0.99


def test_a_name_in_the_hollow_of_a_curved_array_goes():
    y, x = np.mgrid[:700, :900]
    radius, angle = np.hypot(x - 450, y + 250), np.abs(np.arctan2(x - 450, y + 250))
    mask = (radius > 400) & (radius < 850) & (angle < 0.6)
    picture = np.where(mask, linear(702, 900)[:700], 0).astype(np.uint8)
    picture, ink = burned(picture, "ROE", (425, 110), 24)
    kept = scan_mask(np.repeat(picture[..., None], 3, axis=2))
    assert not (ink & mask).any() and not kept[ink].any()
    assert kept[mask].mean() > 0.99


def test_faint_tissue_at_the_edge_stays():
    echo = linear(600, 600)
    echo[200:300] = np.random.default_rng(1).choice([0, 12, 20], (100, 600), p=[0.5, 0.3, 0.2])  # a lumen
    picture = np.zeros((768, 1024), np.uint8)
    picture[80:680, 200:800] = echo
    kept = scan_mask(np.repeat(picture[..., None], 3, axis=2))
    assert kept[80:680, 200:800].mean() > 0.98


def test_what_cannot_be_checked_says_so(tmp_path):
    Image.fromarray(np.zeros((400, 500), np.uint8)).save(tmp_path / "black.png")
    Image.fromarray(fan(224, 224)[0]).save(tmp_path / "small.png")
    Image.fromarray(screen()[0]).save(tmp_path / "screen.png")
    checked = [cleaned_frames(tmp_path / f"{name}.png")[0].checked for name in ("black", "small", "screen")]
    assert checked == [False, False, True]
    dark = save(
        dataset(np.zeros((720, 1000), np.uint8), regions=[region(200, 100, 839, 659)]), tmp_path / "a.dcm"
    )
    (cleaned,) = cleaned_frames(dark)
    assert cleaned.how == "regions" and not cleaned.painted and not cleaned.checked


def test_both_halves_of_a_dual_image_stay():
    scan, mask = fan(300, 300)
    pixels = np.repeat(
        np.concatenate([scan, np.zeros((300, 60), np.uint8), scan], axis=1)[..., None], 3, axis=2
    )
    kept = scan_mask(pixels)
    assert kept[:, :300][mask].mean() > 0.99 and kept[:, 360:][mask].mean() > 0.99
    assert not kept[:60, 310:350].any()


@pytest.mark.parametrize("pixels", [np.zeros((100, 120, 3), np.uint8), np.full((100, 120, 3), 9, np.uint8)])
def test_where_nothing_stands_out_nothing_is_painted(pixels):
    assert scan_mask(pixels) is None


def test_what_is_written_is_pixels_alone(tmp_path):
    grey = np.repeat(np.arange(64, dtype=np.uint8).reshape(8, 8, 1), 3, axis=2)
    colour = grey.copy()
    colour[0, 0] = 9, 8, 7
    for pixels, mode in ((grey, "L"), (colour, "RGB")):
        write_png(Frame(pixels, None, "secret name"), tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as image:
            assert image.mode == mode and not image.info
            assert (np.array(image.convert("RGB")) == pixels).all()
    assert b"secret" not in (tmp_path / "a.png").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_the_exif_of_a_jpeg_is_left_behind(tmp_path):
    exif = Image.Exif()
    exif[0x013B] = NAME  # Artist
    Image.fromarray(fan(224, 224)[0]).save(tmp_path / "a.jpg", exif=exif)
    assert NAME.encode() in (tmp_path / "a.jpg").read_bytes()
    write_png(cleaned_frames(tmp_path / "a.jpg")[0].frame, tmp_path / "b.png")
    assert b"DOE" not in (tmp_path / "b.png").read_bytes()


def test_identities_are_what_the_header_says(tmp_path):
    tags = dict(
        PatientBirthDate="19700101", OperatorsName="ROE^RICHARD\\POE^P", InstitutionName="TEST HOSPITAL"
    )
    path = save(dataset(fan(64, 64)[0], **tags), tmp_path / "a.dcm")
    assert identities(path) == {
        *("TEST^PATIENT", "T-1", "19700101", "ROE^RICHARD", "POE^P", "TEST HOSPITAL"),
    }
    Image.fromarray(fan(64, 64)[0]).save(tmp_path / "a.png")
    assert identities(tmp_path / "a.png") == frozenset()


def test_a_bad_file_says_what_is_wrong_by_its_code(tmp_path):
    (tmp_path / "DOE JANE.png").write_text("no picture")
    with pytest.raises(UnreadableFile) as caught:
        cleaned_frames(tmp_path / "DOE JANE.png")
    assert caught.value.code == "not_an_image"

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from imaging import Frame, load_frames
from imaging.sector import crop, find_sector

WIDTH, HEIGHT = 1024, 768


def speckle(rng, mask, blur=0.8):
    """Log-compressed speckle with structure inside `mask`, darker with depth; black outside. uint8 [H, W]."""
    rows, columns = mask.shape
    echo = 45 + 20 * np.log10(rng.rayleigh(1.0, mask.shape) + 1e-3)
    for size, strength in ((6, 0.25), (20, 0.3), (80, 0.3)):
        coarse = rng.normal(0, strength, (rows // size + 2, columns // size + 2))
        echo *= np.exp(ndimage.zoom(coarse, size, order=1)[:rows, :columns])
    echo = ndimage.gaussian_filter(echo, blur) * np.linspace(1, rng.uniform(0.4, 1), rows)[:, None]
    return np.where(mask, echo.clip(0, 255), 0).astype(np.uint8)


def fan(rng):
    """A curved array: mask [H, W] of an annular sector that lies well inside the screen."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    apex, tip = rng.uniform(380, 640), rng.uniform(-60, 60)
    radius, angle = np.hypot(x - apex, y - tip), np.abs(np.arctan2(x - apex, y - tip))
    return (
        (radius > rng.uniform(110, 160)) & (radius < rng.uniform(480, 620)) & (angle < rng.uniform(0.4, 0.55))
    )


def strip(rng):
    """A linear array: a rectangle."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    left, top = rng.integers(180, 320), rng.integers(60, 120)
    mask[top : top + rng.integers(450, 600), left : left + rng.integers(350, 500)] = True
    return mask


def screen(rng, mask, blur=0.8):
    """A scanner's screen around the tissue: (pixels, mask of what is text, bars and rulers)."""
    pixels = np.repeat(speckle(rng, mask, blur)[..., None], 3, axis=2)
    picture = Image.new("RGB", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(picture)
    small, large = ImageFont.load_default(15), ImageFont.load_default(28)
    draw.text((12, 6), "TEST HOSPITAL", fill="white", font=large)
    draw.text((700, 8), "04/08/2024  10:22:31", fill="white", font=small)
    for row in range(12):
        draw.text(
            (12, 90 + 24 * row), f"Gn {rng.integers(99)}  DR {rng.integers(99)}", fill="lightgray", font=small
        )
        draw.text((930, 90 + 22 * row), f"F H{row}.{rng.integers(9)}", fill="cyan", font=small)
    for row in range(128):
        draw.line((900, 400 + row, 916, 400 + row), fill=(255 - 2 * row,) * 3)  # the grey bar
    for tick in range(0, 700, 40):
        draw.line((1012, 40 + tick, 1023, 40 + tick), fill="white")
    draw.rectangle((860, 720, 1000, 760), fill=(40, 70, 130))  # a button
    draw.text((870, 728), "Freeze", fill="white", font=small)
    outside = np.asarray(picture).any(axis=2) & ~mask
    return np.where(outside[..., None], np.asarray(picture), pixels), outside


def jpeg(pixels, quality):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("quality", [None, 90, 60])
@pytest.mark.parametrize("shape", [fan, strip])
def test_the_crop_holds_all_tissue_and_leaves_most_of_the_rest(shape, quality, seed):
    rng = np.random.default_rng(seed)
    mask = shape(rng)
    pixels, outside = screen(rng, mask, blur=rng.uniform(0, 3))
    x1, y1, x2, y2 = find_sector(jpeg(pixels, quality) if quality else pixels)
    kept = np.zeros_like(mask)
    kept[y1:y2, x1:x2] = True
    assert kept[mask & (pixels.max(axis=2) > 5)].all()
    assert kept[outside].mean() < 0.6  # half of it is in one column, which a wide sector may touch


def test_what_lies_around_the_sector_mostly_goes():
    shares = []
    for seed in range(6):
        rng = np.random.default_rng(100 + seed)
        pixels, outside = screen(rng, (fan, strip)[seed % 2](rng))
        x1, y1, x2, y2 = find_sector(pixels)
        shares.append(outside[y1:y2, x1:x2].sum() / outside.sum())
    assert np.mean(shares) < 0.1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("part", ["all", "upper", "left"])
def test_tissue_that_looks_like_a_panel_is_not_lost(part, seed):
    rng = np.random.default_rng(seed)
    mask = fan(rng)
    pixels, _ = screen(rng, mask)
    y, x = np.indices(mask.shape)
    flat = {"all": mask, "upper": y < y[mask].mean(), "left": x < x[mask].mean()}[part] & mask
    pixels[flat] = rng.integers(30, 90)  # without any texture nothing tells it from a grey panel
    box = find_sector(jpeg(pixels, 75))
    if part == "all":
        assert box is None  # all of the picture is kept
    else:
        kept = np.zeros_like(mask)
        kept[box[1] : box[3], box[0] : box[2]] = True
        assert kept[mask].all()


def test_a_flat_part_of_the_tissue_is_not_lost():
    mask = strip(np.random.default_rng(0))
    pixels, _ = screen(np.random.default_rng(1), mask)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    pixels[rows[-1] - 150 : rows[-1] + 1, columns[0] : columns[-1] + 1] = 255  # saturated: no speckle is left
    assert find_sector(pixels)[3] > rows[-1]


def test_the_detached_tip_and_the_second_half_are_not_lost():
    rng = np.random.default_rng(4)
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[300:600, 150:500] = mask[300:600, 560:850] = True
    mask[40:100, 300:360] = True  # the near field, above an anechoic gap
    pixels, _ = screen(rng, mask)
    x1, y1, x2, y2 = find_sector(pixels)
    assert x1 <= 150 and x2 >= 850 and y1 <= 40 and y2 >= 600


def photograph(rng):
    ramp = np.linspace(60, 250, WIDTH)[None, :, None] + rng.normal(0, 6, (HEIGHT, WIDTH, 3))
    return ramp.clip(0, 255).astype(np.uint8)


def cut_already(rng):
    """A dark crop from a linear array whose tissue runs out of the picture, as in the carotid data sets."""
    pixels = np.zeros((700, 700, 3), dtype=np.uint8)
    pixels[:400, :520] = speckle(rng, np.ones((400, 520), dtype=bool))[..., None]
    return pixels


def on_white(rng):
    pixels, _ = screen(rng, fan(rng))
    return np.where(pixels == 0, 255, pixels)


def on_grey(rng):
    """An even bright ground with something brighter on it: not a scanner's screen."""
    pixels = speckle(rng, fan(rng))[..., None].repeat(3, axis=2)
    return np.where(pixels == 0, 90, pixels // 2 + 110).astype(np.uint8)


def tiny_sector(rng):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[300:440, 400:600] = True
    return speckle(rng, mask)[..., None].repeat(3, axis=2)


def text_only(rng):
    return screen(rng, np.zeros((HEIGHT, WIDTH), dtype=bool))[0]


def small_fan(rng):
    """What the simulator draws: 224 pixels with black around the sector."""
    pixels, _ = screen(rng, fan(rng))
    return np.ascontiguousarray(pixels[::3, ::4][:224, :224])


@pytest.mark.parametrize(
    "picture",
    [photograph, cut_already, on_white, on_grey, tiny_sector, text_only, small_fan],
    ids=lambda f: f.__name__,
)
def test_when_unsure_the_whole_picture_is_kept(picture):
    assert find_sector(picture(np.random.default_rng(3))) is None


@pytest.mark.parametrize("shape", [(1, 1), (1, 1000), (1000, 1), (300, 300), (2, 5000), (301, 76)])
@pytest.mark.parametrize("value", [0, 30, 255])
def test_flat_and_odd_pictures_are_kept(shape, value):
    assert find_sector(np.full((*shape, 3), value, dtype=np.uint8)) is None


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_crop_is_a_slice(data):
    height, width = data.draw(st.integers(2, 40)), data.draw(st.integers(2, 40))
    x1, x2 = sorted(data.draw(st.lists(st.integers(0, width), min_size=2, max_size=2, unique=True)))
    y1, y2 = sorted(data.draw(st.lists(st.integers(0, height), min_size=2, max_size=2, unique=True)))
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    frame = Frame(pixels, (0.1, 0.2), "x", 3, (5, 7))
    cut = crop(frame, (x1, y1, x2, y2))
    assert cut.offset == (5 + x1, 7 + y1)
    if cut.pixels.shape == frame.pixels.shape:
        assert cut is frame
    else:
        assert np.array_equal(cut.pixels, pixels[y1:y2, x1:x2])
        assert cut.pixels.base is None  # the large picture is not kept alive
    assert (cut.mm_per_pixel, cut.source, cut.index) == (frame.mm_per_pixel, "x", 3)


# Boxes read off the pictures by eye: all tissue lies inside, and the crop should keep at most this share.
CUT = {
    "carotid_ctu/201501061011050145VAS.png": ((185, 135, 825, 700), 0.5),
    "carotid_ctu/201501061011390150VAS.png": ((185, 135, 825, 680), 0.5),
    "carotid_ctu/201501061013070161VAS.png": ((300, 95, 955, 780), 0.55),
    "carotid_ctu/201711081140010077VAS.png": ((185, 135, 825, 700), 0.5),
    "fetal_head_hc18/731_3HC.png": ((42, 30, 742, 512), 0.85),
    "pocus_kitware/clarius_axial-lateral-resolution-2020.png": ((345, 158, 935, 800), 0.4),
    "pocus_kitware/interson-image-annotation.jpg": ((385, 60, 905, 860), 0.45),
    "pocus_kitware/sonosite-anon-eye1.jpg": ((385, 42, 725, 638), 0.4),
    "dicom/dcm4che_US-PAL-8-10x-echo.dcm": ((118, 8, 462, 350), 0.6),
}


@pytest.mark.parametrize("name", CUT)
def test_real_screens_are_cut_to_their_tissue(shared, name):
    inner, share = CUT[name]
    path = shared / "realdata" / name
    whole, cut = load_frames([path], cut_to_sector=False)[0].pixels, load_frames([path])[0].pixels
    x1, y1, x2, y2 = find_sector(
        np.maximum.reduce([f.pixels for f in load_frames([path], cut_to_sector=False)])
    )
    assert np.array_equal(cut, whole[y1:y2, x1:x2])
    assert x1 <= inner[0] and y1 <= inner[1] and x2 >= inner[2] and y2 >= inner[3]
    assert cut.size <= share * whole.size


def test_real_pictures_that_were_cut_already_come_through_unchanged(shared):
    folders = ("carotid_cca", "gallbladder_ba", "hip_spj", "lung_pocus", "muscle_timtrack", "sonovlm_demo")
    paths = [
        p
        for folder in folders
        for p in (shared / "realdata" / folder).iterdir()
        if p.suffix in (".png", ".jpg")
    ]
    assert len(paths) == 49
    for path in paths:
        whole, cut = load_frames([path], cut_to_sector=False)[0], load_frames([path])[0]
        assert np.array_equal(cut.pixels, whole.pixels), path.name

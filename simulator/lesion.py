"""Paint one lesion into a scene, exactly as large, as bright and as shaped as the examination says.

The vocabulary is the reports': kind (echogenicity), shape, margin, posterior feature, microcalcification,
vascularity. The outline is scaled so that its long and short axes are the stated millimetres, dents and
spicules included; the halo of an isoechoic nodule is part of it, as when it is measured. What a lesion does
to its neighbourhood (a rim, spicules, tissue pushed aside) changes echoes and never the label map. Contrasts
are relative to the tissue around it: chosen so that each kind can be told apart by eye; not measured.

Knows nothing of organs: which echo level lies around, and what limits the lesion, comes from the caller.
"""

from __future__ import annotations

import numpy as np

from simulator.examination import Lesion
from simulator.scene import Scene, blob, dents, outline, smooth_field
from simulator.tissue import LESION

CONTRAST_DB = {"hypoechoic": -14.0, "isoechoic": 0.5, "hyperechoic": 12.0, "mixed": -14.0, "calcified": -12.0}
CYST_DB = -44.0
SHADOW_DB, ENHANCEMENT_DB = -16.0, 7.0  # what the lesion adds behind itself
CALCIFIED_SHADOW_DB = 26.0
HALO_DB = -22.0  # of an isoechoic nodule
FLUID_FROM = 0.16  # a mixed lesion is solid from its outline to here: normalised distance
RIM_DB = {"isoechoic": 6.0, "mixed": 4.0, "calcified": 4.0}  # a thin capsule around what is not uniform
PUSH = 0.22  # how far an isoechoic nodule pushes its neighbourhood aside, relative to its radius


def paint_lesion(
    scene: Scene,
    lesion: Lesion,
    cx: float,
    cz: float,
    around_db: float,
    clip: np.ndarray | None = None,
    *,
    sag: np.ndarray | float = 0.0,
    tilt_deg: float | None = None,
    halo: bool = True,
) -> None:
    """Paint at (cx, cz) mm. `around_db` is the echo level of the organ; `clip` [SAMPLES, BEAMS] limits the
    lesion.

    `sag` (mm) is how much deeper than at `cx` the layers run that the lesion lies along; `tilt_deg` its lean
    (None: any, up to 12 degrees); without `halo` an isoechoic lesion is told by its outline alone, as one in
    a dark cavity is.
    """
    place = _Place(scene, lesion, cx, cz, sag, tilt_deg)
    distance = place.distance
    surround, mixed = lesion.kind == "isoechoic" and halo, lesion.kind == "mixed"
    # A halo, and the wall around the fluid of a mixed lesion, have to be left.
    soft = 0.04 if lesion.margin != "indistinct" else 0.1 if surround else 0.15 if mixed else 0.3
    inside = distance < 0
    blend = np.clip(0.5 - distance / soft, 0, 1)
    if clip is not None:
        inside, blend = inside & clip, blend * clip
    if surround:
        _push_aside(scene, place, clip)
    target = _echo(scene, lesion, place, around_db, surround)
    scene.echo_db += blend * (target - scene.echo_db)
    scene.label[inside] = LESION
    scene.flow[inside] = 0  # what flows in it, `paint_flow` says
    _border(scene, lesion, place, surround, clip)
    _posterior(scene, lesion, inside, place.half_height)
    if lesion.kind == "calcified":
        _coarse_calcification(scene, lesion, place, inside, around_db)
    if lesion.microcalcification:
        solid = inside & (distance < -0.25) & (scene.echo_db > around_db + CYST_DB / 2)
        _points(scene, solid, around_db + 20)


def paint_flow(scene: Scene, lesion: Lesion, cx: float, cz: float) -> None:
    """Vessels inside the lesion for a Doppler view: none, 2 short ones (sparse), or many (rich)."""
    count = {"none": 0, None: 0, "sparse": 2, "rich": 9}[lesion.vascularity]
    reach = 0.38 * lesion.short_mm
    for _ in range(count):
        angle, way = scene.rng.uniform(0, 2 * np.pi, 2)
        at = scene.rng.uniform(0.2, 1.0) * reach
        x0, z0 = cx + at * np.cos(angle), cz + at * np.sin(angle)
        length = 0.28 * lesion.short_mm
        line = scene.tube(
            [(x0, z0), (x0 + length * np.cos(way), z0 + length * np.sin(way))],
            max(0.055 * lesion.short_mm, 0.7),
        )
        scene.flow[line < 1] = scene.rng.choice((-1, 1)) * scene.rng.uniform(0.4, 1.0)


class _Place:
    """Where the lesion lies. All [SAMPLES, BEAMS]: `distance`, normalised, 0 on the outline; `dx` and `dz`,
    mm from its centre. `radii` are its half axes across and down the image, `half_height` half of what it
    measures down the image (mm)."""

    def __init__(
        self,
        scene: Scene,
        lesion: Lesion,
        cx: float,
        cz: float,
        sag: np.ndarray | float,
        tilt_deg: float | None,
    ):
        rng = scene.rng
        self.upright = lesion.shape == "taller_than_wide"
        lean = rng.uniform(-12, 12)
        tilt = (lean if tilt_deg is None else tilt_deg) + (90 if self.upright else 0)
        depth = {"irregular": 0.24, "oval": 0.03, "round": 0.03, "taller_than_wide": 0.10}[lesion.shape]
        shape = dents(rng, depth, (2, 3, 5, 8) if lesion.shape == "irregular" else (3, 4, 5, 7))
        if lesion.margin == "spiculated":
            shape = np.concatenate([shape, dents(rng, 0.22, (9, 11, 13, 16))])
        angle = np.linspace(0, 2 * np.pi, 180)
        radius = outline(angle, shape)
        along, across = radius * np.cos(angle), radius * np.sin(angle)
        rx = lesion.long_mm / float(np.ptp(along))
        rz = lesion.short_mm / float(np.ptp(across))
        self.half_height = (lesion.long_mm if self.upright else lesion.short_mm) / 2
        self.radii = (rz, rx) if self.upright else (rx, rz)  # across and down the image
        z = scene.z - sag
        self.dx, self.dz = scene.x - np.float32(cx), z - np.float32(cz)
        self.distance = blob(scene.x, z, cx, cz, rx, rz, tilt, shape)

    def part(self, u: float, v: float, size: float) -> np.ndarray:
        """Normalised distance to an ellipse inside the lesion: its place and size relative to the radii."""
        rx, rz = (np.float32(r) for r in self.radii)
        return np.hypot(self.dx / rx - np.float32(u), self.dz / rz - np.float32(v)) / np.float32(size) - 1


def _echo(scene: Scene, lesion: Lesion, place: _Place, around_db: float, surround: bool) -> np.ndarray:
    """The lesion's own echo level at every sample."""
    distance = place.distance
    if lesion.kind == "anechoic":
        return np.full(distance.shape, around_db + CYST_DB, np.float32)
    echo = around_db + CONTRAST_DB[lesion.kind] + 1.2 * smooth_field(scene.rng, 14, 9)
    if surround:  # seen by its halo, as isoechoic thyroid nodules are; at least 3.5 pixels wide
        width = max(0.22, 3.5 * scene.grid.mm_per_pixel / (lesion.short_mm / 2))
        width *= 1.4 if lesion.shape == "irregular" else 1.0  # measured along the radius: thinner on a slope
        ring = (distance > -width) & (distance < 0.02)
        echo[ring] += HALO_DB + 2.5 * scene.field[ring]
    elif lesion.kind == "mixed":
        fluid = _fluid_parts(scene, place, small=lesion.short_mm < 34 * scene.grid.mm_per_pixel)
        echo[fluid & (distance < -FLUID_FROM)] = around_db + CYST_DB
    return echo


def _fluid_parts(scene: Scene, place: _Place, small: bool) -> np.ndarray:
    """What of a mixed lesion is fluid, about a third to a half: one eccentric pool, a pool around a solid
    nodule on its wall, or several pockets (where it is not too small for them to be seen)."""
    rng = scene.rng
    style, turn = rng.integers(2 if small else 3), rng.uniform(0, 2 * np.pi)
    if style == 0:
        return place.part(0.26 * np.cos(turn), 0.26 * np.sin(turn), rng.uniform(0.60, 0.70)) < 0
    if style == 1:
        solid = place.part(0.55 * np.cos(turn), 0.55 * np.sin(turn), rng.uniform(0.48, 0.58)) < 0
        return (place.distance < -0.14) & ~solid
    pockets = int(rng.integers(2, 4))
    fluid = np.zeros(place.distance.shape, bool)
    for angle in turn + np.arange(pockets) * 2 * np.pi / pockets:
        size = rng.uniform(0.30, 0.40) if pockets == 2 else rng.uniform(0.27, 0.35)
        fluid |= place.part(0.48 * np.cos(angle), 0.48 * np.sin(angle), size) < 0
    return fluid


def _border(scene: Scene, lesion: Lesion, place: _Place, surround: bool, clip: np.ndarray | None) -> None:
    """What the outline looks like from outside: a thin rim, or spicules in an echogenic surrounding."""
    distance = place.distance
    near = (distance > 0) & (distance < 0.7)
    if clip is not None:
        near &= clip
    out = distance[near]
    if lesion.margin == "spiculated":
        angle = np.arctan2(place.dz[near], place.dx[near])
        phases = scene.rng.uniform(0, 2 * np.pi, 3)
        rays = sum(np.cos(n * angle + p) for n, p in zip((9, 13, 17), phases, strict=True))
        fade = np.clip(1 - out / 0.65, 0, 1)
        scene.echo_db[near] += fade * np.where(rays > 0.9, -9, 5)
    elif lesion.kind in RIM_DB and (surround or lesion.kind != "isoechoic"):
        thick = max(0.1, 1.6 * scene.grid.mm_per_pixel / (lesion.short_mm / 2))
        scene.echo_db[near] += RIM_DB[lesion.kind] * (out < thick)
    elif lesion.kind == "anechoic":  # a cyst's wall mirrors the sound where it faces the beam
        facing = np.abs(place.dz[near]) / (np.hypot(place.dx[near], place.dz[near]) + 1e-3)
        scene.echo_db[near] += 7 * (out < 0.09) * facing**2


def _push_aside(scene: Scene, place: _Place, clip: np.ndarray | None) -> None:
    """Tissue beside a nodule gives way to it: echoes near the outline come from nearer to the centre."""
    near = (place.distance > 0) & (place.distance < 0.6)
    if clip is not None:
        near &= clip
    rows, columns = np.nonzero(near)
    pull = PUSH * (1 - place.distance[near] / 0.6) / (1 + place.distance[near])
    down = pull * place.dz[near] / scene.grid.sample_mm
    across = pull * place.dx[near] / np.maximum(scene.grid.beam_mm()[rows], 1e-2)
    source = (
        np.clip(rows - np.round(down).astype(int), 0, near.shape[0] - 1),
        np.clip(columns - np.round(across).astype(int), 0, near.shape[1] - 1),
    )
    scene.echo_db[near] = scene.echo_db[source]


def _posterior(scene: Scene, lesion: Lesion, inside: np.ndarray, half_height: float) -> None:
    """Set the attenuation inside so that the path through the middle loses or gains what the report says."""
    wanted = {"none": 0.0, "shadow": SHADOW_DB, "enhancement": ENHANCEMENT_DB}[lesion.posterior]
    if lesion.kind == "calcified":
        wanted = 0.0  # its shadow comes from the calcification itself
    elif lesion.kind == "hyperechoic" and lesion.posterior == "none":
        wanted = 1.5  # a haemangioma lets through a little more; too little to be called enhancement
    path = 2 * scene.grid.probe.frequency_mhz * 2 * half_height / 10
    scene.attenuation[inside] = 0.5 - wanted / path


def _coarse_calcification(
    scene: Scene, lesion: Lesion, place: _Place, inside: np.ndarray, around_db: float
) -> None:
    """Calcium that stops the sound: along the upper border of the lesion (eggshell), or one or two lumps."""
    rng, pixel = scene.rng, scene.grid.mm_per_pixel
    rx, rz = place.radii
    if rng.random() < 0.4:
        thick = max(0.14, 2.2 * pixel / min(rx, rz))
        calcium = (place.distance > -thick) & inside & (place.dz < -0.25 * rz)
        if not calcium.any():  # only the lower half can be seen, as of a plaque on the near wall
            calcium = (place.distance > -thick) & inside
    else:
        calcium = np.zeros(inside.shape, bool)
        count = rng.integers(1, 3)
        for k in range(count):
            u = (k - (count - 1) / 2) * 0.8 + rng.uniform(-0.1, 0.1)
            half_x = max(0.5 * rx / count, 2.4 * pixel)
            half_z = max(rng.uniform(0.14, 0.2) * rz, 1.4 * pixel)
            lump = np.hypot(
                (place.dx - np.float32(u * rx)) / np.float32(half_x),
                (np.abs(place.dz) - np.float32(rng.uniform(0.05, 0.3) * rz)) / np.float32(half_z),
            )
            upper = place.dz < 0
            if not (inside & upper).any():
                upper = ~upper
            calcium |= (lump < 1) & inside & upper
    scene.echo_db[calcium] = around_db + 22 + 3 * scene.field[calcium]
    _stop_sound(scene, calcium)


def _stop_sound(scene: Scene, calcium: np.ndarray) -> None:
    """Attenuation of calcium so that each beam behind it loses CALCIFIED_SHADOW_DB, less at its edges."""
    beside = np.zeros_like(calcium)  # a beam is wider than its line: it is stopped in part next to calcium
    for shift in (-2, -1, 1, 2):
        moved = np.roll(calcium, shift, axis=1)
        moved[:, : max(shift, 0)] = False
        moved[:, calcium.shape[1] + min(shift, 0) :] = False
        beside |= moved
    hit = calcium.any(axis=0).astype(np.float32)
    soft = np.convolve(hit, (0.12, 0.2, 0.36, 0.2, 0.12), mode="same")
    stops = calcium | (beside & (hit[None] == 0))
    per_sample = 2 * scene.grid.probe.frequency_mhz * scene.grid.sample_mm / 10
    loss = CALCIFIED_SHADOW_DB * soft / (per_sample * np.maximum(stops.sum(axis=0), 1))
    scene.attenuation += stops * loss[None].astype(np.float32)


def _points(scene: Scene, inside: np.ndarray, echo_db: float) -> None:
    """Punctate echogenic foci: single bright samples without shadow."""
    rows, columns = np.nonzero(inside)
    if not len(rows):
        return
    for pick in scene.rng.integers(0, len(rows), scene.rng.integers(6, 12)):
        r, c = rows[pick], columns[pick]
        scene.echo_db[r : r + 2, c] = echo_db

"""Paint one lesion into a scene, exactly as large, as bright and as shaped as the examination says.

The vocabulary is the reports': kind (echogenicity), shape, margin, posterior feature, microcalcification,
vascularity. The outline is scaled so that its long and short axes are the stated millimetres, dents and
spicules included. Contrasts are relative to the tissue around it: chosen so that each kind can be told
apart by eye; not measured.
"""

from __future__ import annotations

import numpy as np

from simulator.examination import Lesion
from simulator.scene import Scene, blob, dents, outline, smooth_field
from simulator.tissue import LESION

CONTRAST_DB = {"hypoechoic": -12.0, "isoechoic": 0.0, "hyperechoic": 12.0, "mixed": -5.0, "calcified": -8.0}
CYST_DB = -44.0
SHADOW_DB, ENHANCEMENT_DB = -16.0, 7.0  # what the lesion adds behind itself


def paint_lesion(
    scene: Scene, lesion: Lesion, cx: float, cz: float, around_db: float, clip: np.ndarray | None = None
) -> None:
    """Paint at (cx, cz) mm. `around_db` is the echo level of the organ; `clip` [SAMPLES, BEAMS] limits the
    lesion."""
    distance, half_height = _distance(scene, lesion, cx, cz)
    soft = 0.24 if lesion.margin == "indistinct" else 0.04
    inside = distance < 0
    blend = np.clip(0.5 - distance / soft, 0, 1)
    if clip is not None:
        inside, blend = inside & clip, blend * clip
    target = _echo(scene, lesion, distance, cx, cz, around_db)
    scene.echo_db += blend * (target - scene.echo_db)
    scene.label[inside] = LESION
    _posterior(scene, lesion, inside, half_height)
    if lesion.kind == "calcified":
        _coarse_calcification(scene, lesion, inside, cx, cz, around_db)
    if lesion.microcalcification:
        _points(scene, inside, around_db + 17)


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


def _distance(scene: Scene, lesion: Lesion, cx: float, cz: float) -> tuple[np.ndarray, float]:
    """Normalised distance to the outline, and half the lesion's height (mm)."""
    rng = scene.rng
    vertical = lesion.shape == "taller_than_wide"
    tilt = rng.uniform(-12, 12) + (90 if vertical else 0)
    depth = {"irregular": 0.24, "oval": 0.03, "round": 0.03, "taller_than_wide": 0.10}[lesion.shape]
    shape = dents(rng, depth)
    if lesion.margin == "spiculated":
        shape = np.concatenate([shape, dents(rng, 0.22, (9, 11, 13, 16))])
    angle = np.linspace(0, 2 * np.pi, 180)
    radius = outline(angle, shape)
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    rx = lesion.long_mm / float(np.ptp(along))
    rz = lesion.short_mm / float(np.ptp(across))
    height = lesion.long_mm if vertical else lesion.short_mm
    return blob(scene.x, scene.z, cx, cz, rx, rz, tilt, shape), height / 2


def _echo(
    scene: Scene, lesion: Lesion, distance: np.ndarray, cx: float, cz: float, around_db: float
) -> np.ndarray:
    """The lesion's own echo level at every sample."""
    if lesion.kind == "anechoic":
        return np.full(distance.shape, around_db + CYST_DB, np.float32)
    echo = around_db + CONTRAST_DB[lesion.kind] + 1.2 * smooth_field(scene.rng, 14, 9)
    if lesion.kind == "isoechoic":  # seen by its halo, as isoechoic thyroid nodules are
        halo = max(0.24, 2.6 * scene.grid.mm_per_pixel / (lesion.short_mm / 2))
        echo[(distance > -halo) & (distance < 0.02)] -= 14
    elif lesion.kind == "mixed":
        pockets = scene.rng.integers(2, 5)
        for angle in scene.rng.uniform(0, 2 * np.pi) + np.arange(pockets) * 2 * np.pi / pockets:
            at = 0.27 * np.array((np.cos(angle) * lesion.long_mm, np.sin(angle) * lesion.short_mm))
            if lesion.shape == "taller_than_wide":
                at = at[::-1]
            size = scene.rng.uniform(0.15, 0.24) * lesion.short_mm
            echo[scene.ellipse(cx + at[0], cz + at[1], size * 1.2, size, wobble=0.1) < 0] = (
                around_db + CYST_DB
            )
    return echo


def _posterior(scene: Scene, lesion: Lesion, inside: np.ndarray, half_height: float) -> None:
    """Set the attenuation inside so that the path through the middle loses or gains what the report says."""
    wanted = {"none": 0.0, "shadow": SHADOW_DB, "enhancement": ENHANCEMENT_DB}[lesion.posterior]
    if lesion.kind == "calcified":
        wanted = 0.0  # its shadow comes from the calcification itself
    path = 2 * scene.grid.probe.frequency_mhz * 2 * half_height / 10
    scene.attenuation[inside] = 0.5 - wanted / path


def _coarse_calcification(
    scene: Scene, lesion: Lesion, inside: np.ndarray, cx: float, cz: float, around_db: float
) -> None:
    """One or two bright arcs in the upper half of the lesion that stop the sound."""
    count = scene.rng.integers(1, 3)
    width = lesion.long_mm if lesion.shape != "taller_than_wide" else lesion.short_mm
    arc_mm = max(0.24 * width / count, 2.2 * scene.grid.mm_per_pixel)
    thick = max(0.07 * lesion.short_mm, 1.1 * scene.grid.mm_per_pixel)
    for k in range(count):
        x0 = cx + (k - (count - 1) / 2) * 0.42 * width + scene.rng.uniform(-0.05, 0.05) * width
        z0 = cz - scene.rng.uniform(0.0, 0.18) * lesion.short_mm
        arc = (scene.ellipse(x0, z0, arc_mm, thick) < 0) & inside
        scene.echo_db[arc] = around_db + 23
        path = 2 * scene.grid.probe.frequency_mhz * 2 * thick / 10
        scene.attenuation[arc] = 0.5 + 22 / path


def _points(scene: Scene, inside: np.ndarray, echo_db: float) -> None:
    """Punctate echogenic foci: single bright samples without shadow."""
    rows, columns = np.nonzero(inside)
    if not len(rows):
        return
    for pick in scene.rng.integers(0, len(rows), scene.rng.integers(5, 11)):
        r, c = rows[pick], columns[pick]
        scene.echo_db[max(r - 1, 0) : r + 2, c] = echo_db

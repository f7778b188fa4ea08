"""A cine loop: frames along a sweep of the probe, in which the lesion comes and goes. The maker of `cine`.

LLaVA-Ultra (2024), section 3.3: one examination often holds many near-identical frames of which few show the
finding. Here the probe moves across one view in even steps. At distance d from the lesion's middle the frame
cuts an ellipsoid: its outline is sqrt(1 - (d / r)²) of the largest one, r half its extent along the sweep.
`valid_images` are the frames whose cross-section is at least VALID_SHARE of the largest one's area, counted
on the label maps: a row carries the limit, `valid_share`, and beside it each frame's share, `cross_section`
under `sweep`. At the middle the frame is a still image of the examination: all that is stated is true
there. Away from it the organ's section shrinks and drifts a little, as a sweep that is not perpendicular
sees it, and the image sways by a degree or two, as a hand does. A vessel that lies along the image is a tube:
the probe moves across it, so that the lumen is the chord of a round cross-section, narrower away from the
middle, and the walls are cut at a slant. A vessel that is cut across stays as wide as it is.

Speckle: scatterers lie in thin slices across the sweep and the beam averages those under its elevational
profile (a Gaussian), so that two frames share speckle by the overlap of their profiles and nothing is left
in common beyond a few beam widths.

Does not know: the heart beat, breathing, the colour Doppler, a probe that is turned about its own axis.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import map_coordinates

from simulator import language
from simulator.anatomy.registry import DRAW, GROUND, VIEWS
from simulator.calipers import ordered_calipers
from simulator.cases import Examined, Order, examination_name, languages
from simulator.draw import Picture, random_machine, to_picture
from simulator.examination import Examination, View
from simulator.population import LESION_LONG, sample_examination, views_of_lesion
from simulator.probe import BEAMS, SAMPLES, ScanGrid, scan_grid
from simulator.scene import Scene, smooth_field
from simulator.tissue import LESION

VALID_SHARE = 0.25  # of the largest cross-section's area; chosen
# Views along a vessel → its measure, and how narrow it gets at least (of the measure): the carotid artery
# ends at its wall, where a portal vein ends its branches come in. The second is chosen.
TUBES = {("vessel", "longitudinal"): ("lumen", 0.0), ("liver", "right_intercostal"): ("portal_vein", 0.35)}
ALONG = (("vessel", "transverse"),)  # views across a vessel: the sweep follows it
WITHIN = (("vessel", "longitudinal"),)  # views whose sweep is kept to the width of the vessel
BEYOND_THE_WALL = 1.15  # how far a sweep across a vessel goes at most, in radii of the lumen; chosen
LONG_WAY = 0.6  # how far an organ reaches along the sweep, of the image's depth; chosen
FINDING = (  # the questions about the finding, of those in the wording
    *("lesion", "normal", "kind", "kind_check", "size", "place", "shape", "margin_check", "posterior"),
    *("microcalcification", "composition", "cystic_check", "reading", "choose_kind"),
)


@dataclass(frozen=True)
class Sweep:
    """`positions_mm` of the frames along the sweep, 0 where the lesion is largest; `radius_mm` is half the
    lesion's extent along it. `drift` is how far the section moves across and down for each mm. `sway` is how
    the probe rocks in the image's plane: by how much at most (degrees), over how many mm to and fro."""

    positions_mm: tuple[float, ...]
    radius_mm: float
    drift: tuple[float, float]
    sway: tuple[float, float] = (0.0, 1.0)

    def share(self, position_mm: float) -> float:
        """Size of the lesion's outline at a position, relative to the largest; 0 beyond its end."""
        return chord(position_mm, self.radius_mm)

    def lean(self, position_mm: float) -> float:
        """The probe's angle (radians) at a position; 0 at the middle."""
        most, period = self.sway
        return float(np.deg2rad(most) * np.sin(2 * np.pi * position_mm / period))


def chord(position_mm: float, radius_mm: float) -> float:
    """Length of a circle's chord at a distance from its centre, relative to the diameter; 0 outside."""
    return float(np.sqrt(max(0.0, 1 - (position_mm / radius_mm) ** 2)))


def make(order: Order, number: int) -> Examined:
    """Loop `number` of the order: `order.frames` pictures, `order.rows` questions about the finding."""
    rng = np.random.default_rng([order.seed, number])
    examination = one_view(sample_examination(rng, order.organ), rng)
    sweep = sample_sweep(rng, examination, order.frames)
    pictures = draw_sweep(examination, sweep)
    areas = np.array([(picture.labels == LESION).sum() for picture in pictures])
    valid = [i for i, area in enumerate(areas) if area and area >= VALID_SHARE * areas.max()]
    widest = int(np.argmin(np.abs(sweep.positions_mm)))
    pictures, extra = ordered_calipers(order, number, examination, pictures, only=widest)
    truth = {
        "valid_images": valid,
        "valid_share": VALID_SHARE,
        "examination": examination.truth(),
        "sweep": {
            "positions_mm": [round(position, 2) for position in sweep.positions_mm],
            "cross_section": [round(float(area / max(areas.max(), 1)), 3) for area in areas],
        },
    }
    rows = tuple(row | truth | extra for row in _rows(order, examination, number))
    return Examined(examination_name(order, number), tuple(pictures), rows, loop=True)


def sample_sweep(rng: np.random.Generator, examination: Examination, frames: int) -> Sweep:
    """A sweep in which a quarter to a half of the frames show the lesion; a normal one moves as far."""
    lesion = examination.lesion
    long_mm = lesion.long_mm if lesion else float(rng.uniform(*LESION_LONG[examination.organ]))
    radius = 0.4 * long_mm  # an ellipsoid a little shorter along the sweep than in the image
    # The cross-section falls to VALID_SHARE where the outline is its root; that far on both sides is valid.
    reach = 2 * radius * np.sqrt(1 - VALID_SHARE)
    step = reach / (rng.uniform(0.25, 0.5) * frames)
    middle = int(rng.integers(round(0.1 * frames), frames - round(0.1 * frames)))
    positions = tuple(float(step * (i - middle)) for i in range(frames))
    drift = (float(rng.uniform(-0.12, 0.12)), float(rng.uniform(-0.08, 0.08)))
    sway = (float(rng.uniform(0.5, 2.0)), 4 * frames * step / float(rng.uniform(2, 5)))
    if (examination.organ, examination.views[0].name) in WITHIN:  # the lesion is as much smaller
        most = BEYOND_THE_WALL * examination.measures["lumen"] / 2
        shrink = min(1.0, most / max(np.abs(positions)))
        positions = tuple(shrink * position for position in positions)
        radius, sway = shrink * radius, (sway[0], shrink * sway[1])
    return Sweep(positions, radius, drift, sway)


def draw_sweep(examination: Examination, sweep: Sweep) -> list[Picture]:
    """The frames of an examination's first view along the sweep; deterministic by the view's seed."""
    view = examination.views[0]
    grid = scan_grid(VIEWS[examination.organ][view.name].probe, view.depth_mm)
    whole = _scene(examination, view, grid, 0.0, sweep)
    lesion = _Overlay(examination, whole, _scene(examination, _passed(view), grid, 0.0, sweep))
    machine = random_machine(np.random.default_rng([view.seed, 1]))
    speckle = _Speckle(view.seed, _slice_mm(grid))
    pictures = []
    for position in sweep.positions_mm:
        scene = _scene(examination, _passed(view), grid, position, sweep)
        lesion.paint(scene, sweep.share(position), _lift(examination, view, position))
        scene.rng = speckle.at(position)
        pictures.append(to_picture(scene, machine, examination, view))
    return pictures


def one_view(examination: Examination, rng: np.random.Generator) -> Examination:
    """The same body, seen in one view without Doppler: one that shows the lesion where there is one."""
    lesion = examination.lesion
    names = views_of_lesion(examination.organ, lesion) if lesion else list(VIEWS[examination.organ])
    name = str(rng.choice(names))
    depth = float(rng.choice(VIEWS[examination.organ][name].depths_mm))
    view = View(name, depth, shows_lesion=lesion is not None, seed=int(rng.integers(2**31)))
    return replace(examination, lesion=lesion and replace(lesion, vascularity=None), views=(view,))


def _passed(view: View) -> View:
    return replace(view, shows_lesion=False)


def _scene(examination: Examination, view: View, grid: ScanGrid, position: float, sweep: Sweep) -> Scene:
    """The anatomy at one position: smaller and moved away from the middle, the same at every call."""
    scene = Scene(grid, np.random.default_rng(view.seed), GROUND[examination.organ])
    measures = _measures(examination, view, position)
    # Nothing moves at the skin, and all of it below a third of the depth.
    deep = np.clip(3 * grid.z / view.depth_mm, 0, 1)
    lean = np.float32(sweep.lean(position))
    scene.x = grid.x + (np.float32(sweep.drift[0] * position) + lean * grid.z) * deep
    scene.z = grid.z + (np.float32(sweep.drift[1] * position) - lean * grid.x) * deep
    other = smooth_field(np.random.default_rng([view.seed, 2]))
    turn = np.float32(0.5 * np.pi * np.tanh(position / (LONG_WAY * view.depth_mm)))
    scene.field = np.cos(turn) * scene.field + np.sin(turn) * other
    DRAW[examination.organ](scene, replace(examination, measures=measures), view)
    return scene


def _lift(examination: Examination, view: View, position: float) -> float:
    """How far the wall that a plaque sits on comes up (mm) where the chord of the vessel is shorter."""
    if examination.organ != "vessel" or examination.lesion is None:
        return 0.0
    lumen, narrower = examination.measures["lumen"], _measures(examination, view, position)["lumen"]
    return (1 if examination.lesion.place == "far_wall" else -1) * (lumen - narrower) / 2


def _measures(examination: Examination, view: View, position: float) -> dict[str, float]:
    """What the section at a position measures (mm): of an organ an ellipsoid's, of a vessel a tube's."""
    stated = examination.measures
    if (examination.organ, view.name) in ALONG:
        return dict(stated)
    size = max(0.8, chord(position, LONG_WAY * view.depth_mm))
    measures = {name: size * value for name, value in stated.items()}
    name, least = TUBES.get((examination.organ, view.name), ("", 0.0))
    if name:
        measures[name] = stated[name] * max(least, chord(position, stated[name] / 2))
    if name == "lumen":
        wall = stated["lumen"] / 2 + stated["intima_media"]
        measures["intima_media"] = wall * chord(position, wall) - measures["lumen"] / 2  # cut at a slant
    return measures


class _Overlay:
    """The lesion as it differs from the anatomy at the middle of the sweep, to be laid over any frame."""

    def __init__(self, examination: Examination, whole: Scene, without: Scene):
        self.grid = whole.grid
        changed = (whole.echo_db != without.echo_db) | (whole.label == LESION)
        self.rim = changed.astype(np.float32)
        self.inside = (whole.label == LESION).astype(np.float32)
        self.echo_db, self.attenuation = whole.echo_db, whole.attenuation
        self.there = bool(self.inside.any())
        if self.there:
            self.middle = self._middle(examination, whole)

    def _middle(self, examination: Examination, whole: Scene) -> tuple[float, float]:
        """What the outline shrinks towards: the centre, or the foot of a plaque on its wall."""
        inside = whole.label == LESION
        x, z = self.grid.x[inside], self.grid.z[inside]
        if examination.organ == "vessel":
            return float(x.mean()), float(z.max() if examination.lesion.place == "far_wall" else z.min())
        return float(x.mean()), float(z.mean())

    def paint(self, scene: Scene, share: float, lift_mm: float = 0.0) -> None:
        """Paint the cross-section whose outline is `share` of the largest, `lift_mm` higher than there."""
        if not self.there or share < 0.05:  # smaller than a resolution cell
            return
        x = self.middle[0] + (scene.x - np.float32(self.middle[0])) / share
        z = self.middle[1] + (scene.z + np.float32(lift_mm - self.middle[1])) / share
        at = _samples(self.grid, x, z)
        rim, inside, echo, attenuation = (
            map_coordinates(values, at, order=1, mode="nearest")
            for values in (self.rim, self.inside, self.echo_db, self.attenuation)
        )
        scene.echo_db += rim * (echo - scene.echo_db)
        scene.attenuation += inside * (attenuation - scene.attenuation)
        scene.label[inside > 0.5] = LESION


def _samples(grid: ScanGrid, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Fractional sample and beam [2, ...] of points in millimetres."""
    probe = grid.probe
    if probe.fan:
        along = np.hypot(x, z + probe.radius_mm) - probe.radius_mm
        across = np.arctan2(x, z + probe.radius_mm) / np.deg2rad(probe.angle_deg) + 0.5
    else:
        along, across = z, x / probe.width_mm + 0.5
    return np.stack([along / grid.sample_mm, across * (BEAMS - 1)])


def _slice_mm(grid: ScanGrid) -> float:
    """Elevational beam width (sigma). One-dimensional arrays are focused by a fixed lens: a few millimetres
    thick, thicker for abdominal probes; typical values of textbooks, not of a product."""
    return 0.8 if grid.probe.frequency_mhz > 6 else 1.8


class _Speckle:
    """Random numbers of the scatterers under the beam, alike for near positions of the sweep.

    `at(position)` is what `Scene.rng` is asked for: standard normal numbers. Scatterers come from the slices
    around the position; anything else that is asked for, as electronic noise, is fresh in each frame.
    """

    def __init__(self, seed: int, sigma_mm: float):
        self.seed, self.sigma = seed, sigma_mm
        self._slices: dict[tuple[int, int], np.ndarray] = {}

    def at(self, position_mm: float) -> _SpeckleAt:
        return _SpeckleAt(self, position_mm)

    def slice(self, index: int, look: int) -> np.ndarray:
        if (index, look) not in self._slices:
            rng = np.random.default_rng([self.seed, 3, look, index + 1_000_000])
            self._slices[index, look] = rng.standard_normal((2, SAMPLES, BEAMS), dtype=np.float32)
        return self._slices[index, look]


class _SpeckleAt:
    """The part of numpy's Generator that `speckle.form_image` uses, at one position of the sweep."""

    def __init__(self, speckle: _Speckle, position_mm: float):
        self.speckle, self.place = speckle, position_mm / speckle.sigma
        self.look = 0
        self.noise = np.random.default_rng([speckle.seed, 4, round(1e6 * (position_mm + 1e4))])

    def standard_normal(self, shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
        if shape != (2, SAMPLES, BEAMS):
            return self.noise.standard_normal(shape, dtype=dtype)
        indices = np.arange(int(np.floor(self.place)) - 2, int(np.floor(self.place)) + 4)
        weights = np.exp(-0.5 * (indices - self.place) ** 2)
        weights /= np.sqrt((weights**2).sum())  # unit power, as one slice has
        total = np.zeros(shape, np.float32)
        for index, weight in zip(indices, weights, strict=True):
            total += np.float32(weight) * self.speckle.slice(int(index), self.look)
        self.look += 1
        return total


def _rows(order: Order, examination: Examination, number: int) -> Iterator[dict]:
    rng = np.random.default_rng([order.seed, number, 1])
    for _ in range(order.rows):
        tongue = languages(order, rng)
        asked = [q for q in language.questions(examination, tongue, rng) if q.about in FINDING]
        drawn = asked[int(rng.integers(len(asked)))]
        yield {
            "question": drawn.question,
            "answer": drawn.answer,
            "organ": examination.organ,
            "language": tongue,
            "task": "cine",
            "answer_type": drawn.answer_type,
        }

"""The chambers of a heart: where they lie and how large they are, before anything is painted.

Everything is laid out along the long axis of the left ventricle: `v` mm from its endocardial apex towards the
base, `u` mm across, positive towards the lateral (anterior) wall. The axis itself is shifted, turned and
foreshortened anew in every view. Chambers are signed distances in mm, so that a wall is as thick as stated:
the widest section of the left ventricle is `left_ventricle`, of the left atrium `left_atrium`, and the two
ventricles lie `septum` apart. Proportions that are not stated follow echocardiography texts (tricuspid
annulus 3-8 mm nearer to the apex, right ventricle ending short of it); chosen, not fitted to patients.

Knows nothing of tissues, echoes and lesions, nor of the beat itself: a heart is one moment.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.scene import Scene, smooth_field

FREE_WALL, ATRIAL_WALL = 4.0, 2.2  # mm

Point = tuple[float, float]  # u, v in mm
Mouth = tuple[list[Point], list[float]]  # a blind tube: its line and its radii in mm


@dataclass(frozen=True)
class Egg:
    """Two half-ellipses, joined where they are widest: `half` mm wide to each side of `u`, reaching `up` mm
    towards the apex of the heart and `down` mm towards its base from `v`.

    `square` above 0 fills the corners (a flat roof), below 0 empties them (a wedge); `lean` moves the middle
    across by that much for each mm towards the apex.
    """

    u: float
    v: float
    half: float
    up: float
    down: float
    square: float = 0.0
    lean: float = 0.0

    def distance(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Signed distance in mm to the border, of first order: exact across the widest section."""
        across, along = u - np.float32(self.u), v - np.float32(self.v)
        if self.lean:
            across = across + np.float32(self.lean) * along
        reach = np.where(along < 0, np.float32(1 / self.up), np.float32(1 / self.down))
        a, b = across * np.float32(1 / self.half), along * reach
        a2, b2 = a * a, b * b
        slope_a, slope_b = a * np.float32(1 / self.half), b * reach
        square = a2 + b2
        if self.square:
            corner_a, corner_b = (np.minimum(each, 1) * np.float32(self.square) for each in (a2, b2))
            square -= corner_a * np.minimum(b2, 1)
            slope_a *= 1 - corner_b
            slope_b *= 1 - corner_a
        radius = np.sqrt(square)
        steep = np.sqrt(slope_a * slope_a + slope_b * slope_b) + np.float32(1e-6)
        return (radius - 1) * radius / steep

    def half_at(self, v: float) -> float:
        """Half its width at `v`, 0 beyond its ends."""
        along = (v - self.v) / (self.up if v < self.v else self.down)
        return self.half * float(np.sqrt(max(0.0, 1 - along**2)))


@dataclass(frozen=True)
class Heart:
    """One heart at one moment: where its axis lies on the screen (`apex` x and z in mm, `turn` radians) and
    its chambers. `opening` is 0 for closed valves and up to 1 for open ones; `two` is the two-chamber view,
    which has no right heart."""

    apex: Point
    turn: float
    base: float  # v of the mitral annulus
    offset: float  # mm from the tricuspid to the mitral annulus, along v
    wall: float
    annulus: float  # half the mitral opening
    opening: float
    chambers: dict[str, Egg]
    two: bool

    def local(self, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """u and v of points on the screen."""
        cos, sin = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
        dx, dz = x - np.float32(self.apex[0]), z - np.float32(self.apex[1])
        return dx * cos - dz * sin, dx * sin + dz * cos

    def screen(self, u: float, v: float) -> Point:
        """x and z of a point of the heart."""
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return self.apex[0] + u * cos + v * sin, self.apex[1] - u * sin + v * cos


@dataclass(frozen=True, eq=False)
class Maps:
    """Float32 [SAMPLES, BEAMS]: `u`, `v`, and the distance to each chamber, negative in its blood (what cuts
    a chamber short included)."""

    u: np.ndarray
    v: np.ndarray
    blood: dict[str, np.ndarray]
    outer: np.ndarray  # distance to the outside of the heart


def sample_heart(rng: np.random.Generator, measures: dict[str, float], two: bool) -> Heart:
    """A heart of the stated measures in a random position and moment. The same draws whatever the measures
    are."""
    half, wall = measures["left_ventricle"] / 2, measures["septum"]
    systole = rng.random() < 0.4
    base = rng.uniform(64, 72) if systole else rng.uniform(68, 76)
    widest = base * rng.uniform(0.58, 0.7)
    taper = rng.uniform(0.64, 0.76)  # the annulus as a share of the widest section
    down = (base - widest) / np.sqrt(1 - taper**2)
    annulus = min(taper * half, 0.82 * measures["left_atrium"] / 2)
    offset = rng.uniform(3, 8)
    chambers = {"left_ventricle": Egg(0.0, widest, half, widest, down, rng.uniform(0.0, 0.22))}
    chambers["left_atrium"] = _left_atrium(rng, measures["left_atrium"], base)
    right = _right_heart(rng, half, wall, base, offset, chambers["left_atrium"])
    opening = rng.uniform(0.45, 1.0)
    turn = rng.uniform(-9, 7) if two else rng.uniform(-2, 10)
    apex = (rng.uniform(-4, 4) + (0 if two else 6), rng.uniform(20, 26))
    if not two:
        chambers |= right
    opening = 0.0 if systole else opening
    return Heart(apex, np.deg2rad(turn), base, offset, wall, annulus, opening, chambers, two)


def _left_atrium(rng: np.random.Generator, width: float, base: float) -> Egg:
    length = min(width * rng.uniform(1.0, 1.28), 45.0)
    middle = base + length * rng.uniform(0.48, 0.58)
    up = (middle - base) / np.sqrt(1 - 0.8**2)  # at the annulus it is 0.8 of its widest section
    return Egg(rng.uniform(-2, 3), middle, width / 2, up, base + length - middle, rng.uniform(0.15, 0.6))


def _right_heart(
    rng: np.random.Generator, half: float, wall: float, base: float, offset: float, left: Egg
) -> dict[str, Egg]:
    """Right ventricle and atrium: both reach under the septum, which then cuts them off."""
    width, top = rng.uniform(24, 31), base - offset
    widest = base * rng.uniform(0.66, 0.76)
    ventricle = Egg(
        -(half + wall) - 0.42 * width,
        widest,
        0.58 * width,
        widest - rng.uniform(10, 20),
        (top - widest) / np.sqrt(1 - rng.uniform(0.75, 0.9) ** 2),
        rng.uniform(-0.5, 0.0),
        rng.uniform(0.08, 0.2),
    )
    length, across = rng.uniform(38, 45), rng.uniform(18, 21)
    middle = top + length * rng.uniform(0.45, 0.55)
    atrium = Egg(
        left.u - left.half - 0.9 * across,
        middle,
        across,
        (middle - top) / 0.55,
        top + length - middle,
        rng.uniform(0.1, 0.6),
    )
    return {"right_ventricle": ventricle, "right_atrium": atrium}


def sample_mouths(rng: np.random.Generator, heart: Heart) -> list[Mouth]:
    """What opens into the left atrium: a pulmonary vein at its roof or, in the two-chamber view, the
    appendage below the anterior wall; often neither is met."""
    left = heart.chambers["left_atrium"]
    there, way, wide, far = rng.random(), rng.choice((-0.6, 0.7)), rng.uniform(2.0, 4.0), rng.uniform(10, 17)
    if heart.two and there < 0.5:
        inner, outer = (left.u + 0.7 * left.half, heart.base + 11), (left.u + left.half + far, heart.base + 5)
        return [([inner, outer], [5.5, 3.2])]
    if there < 0.5:
        roof = left.v + left.down
        inner, outer = (left.u + way * left.half, roof - 7), (left.u + 1.8 * way * left.half, roof + far)
        return [([inner, outer], [wide, wide])]
    return []


def chamber_maps(scene: Scene, heart: Heart) -> Maps:
    """Distances to the chambers; the fine irregularity of the endocardium is part of them."""
    u, v = heart.local(scene.x, scene.z)
    raw = {name: egg.distance(u, v) for name, egg in heart.chambers.items()}
    trabeculae = np.clip(smooth_field(scene.rng, 64, 34), -2, 2)
    outer = np.minimum(
        np.maximum(raw["left_ventricle"] - np.float32(heart.wall), v - np.float32(heart.base + 4)),
        raw["left_atrium"] - np.float32(ATRIAL_WALL),
    )
    if not heart.two:
        ventricle = np.maximum(raw["right_ventricle"], v - np.float32(heart.base))
        atrium = np.maximum(raw["right_atrium"], np.float32(heart.base - heart.offset) - v)
        outer = np.minimum(outer, ventricle - np.float32(FREE_WALL))
        outer = np.minimum(outer, atrium - np.float32(ATRIAL_WALL))
    return Maps(u, v, cavities(heart, raw, u, v, trabeculae), outer)


def cavities(
    heart: Heart,
    raw: dict[str, np.ndarray],
    u: np.ndarray,
    v: np.ndarray,
    trabeculae: np.ndarray | float = 0.0,
) -> dict[str, np.ndarray]:
    """Distance in mm to each chamber's blood at points u, v, from the distances to its whole egg: what valve
    planes and septa leave of it. `trabeculae` (unit strength) roughen the ventricles, the apex most."""
    base, wall = np.float32(heart.base), np.float32(heart.wall)
    rough = np.clip(1.1 - v / base, 0.1, 1) * np.float32(0.55) * trabeculae
    septum = np.maximum(raw["left_ventricle"], v - base)
    blood = {
        "left_ventricle": np.maximum(raw["left_ventricle"] + rough, v - base),
        "left_atrium": np.maximum(raw["left_atrium"], base - v),
    }
    if not heart.two:
        tricuspid = base - np.float32(heart.offset)
        right = np.maximum(raw["right_ventricle"] + np.float32(0.6) * trabeculae, v - tricuspid)
        blood["right_ventricle"] = np.maximum(right, wall - septum)
        thin = np.float32(ATRIAL_WALL)
        between = thin + (wall - thin) * np.clip((base + 8 - v) / 10, 0, 1)  # thick where valves insert
        right = np.maximum(raw["right_atrium"], tricuspid - v)
        blood["right_atrium"] = np.maximum(right, np.maximum(between - raw["left_atrium"], wall - septum))
    return blood

"""Teach a SAM image encoder from scratch: at every place of the picture, which tissue lies there.

LLaVA-Ultra (2024), section 3.2, starts from SAM's published encoder, which learned from a billion masks; this
stands in for it, on the simulator's label maps. The neck's cells are pooled to CLIP's, as Eq. 2 reads them; a
single convolution reads FINER x FINER classes from each, and is thrown away afterwards, so that what lies
where must already be in what the language model gets. A lesion's places say its kind as well, as the cells of
`training.vision` do: what a language model is to tell must be seen here first. A lesion is a small part of a
picture and counts LESION_WEIGHT times, one of a few pixels more often: all its places together count
LESION_SHARE of the picture at least. Without that a lesion of ten pixels would be less than a hundredth of
its picture's loss.

No picture is shown twice alike (`vary`). Shown five times as they are, they taught a tower to find the small
lesions of its own pictures (96 % of the frames) better than those of others (80 %).

Knows nothing of prompts, points or texts: of SAM only the encoder goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import SamVisionModel

from assistants.llava_ultra.encoding import Encoder
from assistants.llava_ultra.fusion import AveragePooling
from assistants.llava_ultra.images import encode_frames
from imaging.case import Case, CaseError
from imaging.files import load_frames
from training.simulated import read_labels
from training.vision import LESION

FINER = 4  # classes are read at 4 x 4 places in each of the pooled cells; chosen
LESION_WEIGHT = 5.0  # chosen
LESION_SHARE = 0.04  # chosen
COVERED = 0.25  # a place belongs to the lesion that covers so much of it; chosen
CROPPED = 0.5  # of the pictures; chosen
SMALLEST_CROP = 0.7  # of each side; chosen
GAMMA = 0.3  # largest change of the logarithm of gamma; chosen


class Masks:
    """A `training.loop.Stage`. One sample is one image with its label map."""

    name = "masks"
    lengths = None  # all images have the same size

    def __init__(self, sam: SamVisionModel, encoder: Encoder, cases: Sequence[Case]):
        """CaseError for a case without label maps."""
        unique = {case.images: case for case in cases}.values()  # one examination has many rows
        for case in unique:
            if "labels" not in case.extra:
                raise CaseError(
                    f"case {case.id} has no label maps (key labels): order the cases from the simulator with "
                    "--labels"
                )
        self.images = [(case, i) for case in unique for i in range(len(case.images))]
        self.kinds = sorted({_kind(case) for case in unique})
        self.classes = LESION + len(self.kinds)  # a lesion of the i-th kind is class LESION + i
        self.encoder = encoder
        config = sam.config
        self.side = FINER * encoder.config.image_grid
        self.pooled = AveragePooling(config.output_channels, encoder.config.image_grid)
        torch.manual_seed(0)
        head = nn.Sequential(
            nn.Conv2d(config.output_channels, self.classes * FINER**2, 1), nn.PixelShuffle(FINER)
        )
        self.module = nn.ModuleDict({"sam": sam, "head": head})

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Sequence[int], rng: np.random.Generator) -> dict[str, Tensor]:
        picked = [self.images[i] for i in indices]
        paths = [case.images[i] for case, i in picked]
        # A label map lies over the whole picture.
        frames = load_frames(paths, max_files=len(paths), cut_to_sector=False)
        maps = [read_labels(case, i) for case, i in picked]
        varied = [vary(frame.pixels, labels, rng) for frame, labels in zip(frames, maps, strict=True)]
        frames = [replace(frame, pixels=own) for frame, (own, _) in zip(frames, varied, strict=True)]
        tissue = [self._classes(case, labels) for (case, _), (_, labels) in zip(picked, varied, strict=True)]
        return {
            "pixels": encode_frames(frames, self.encoder.config)["sam_pixel_values"],
            "tissue": torch.from_numpy(np.stack(tissue)),
        }

    def _classes(self, case: Case, labels: np.ndarray) -> np.ndarray:
        """The class of every place: labels [H, W] -> int64 [side, side]."""
        tissue = label_map(labels, self.side)
        return tissue + (tissue == LESION) * self.kinds.index(_kind(case))

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Weighted cross entropy over all places; the figure is the share of the lesions that is found."""
        device = next(self.module.parameters()).device
        wanted = batch["tissue"].to(device)  # [n, side, side]
        cells = self.module["sam"](batch["pixels"].to(device)).last_hidden_state  # [n, C, g, g]
        guess = self.module["head"](self.pooled(cells)).float()  # [n, classes, side, side]
        lesion = wanted >= LESION
        found = ((guess.argmax(1) >= LESION) & lesion).sum() / lesion.sum().clamp(min=1)
        weights = place_weights(lesion)
        losses = F.cross_entropy(guess, wanted, reduction="none")
        return (weights * losses).sum() / weights.sum(), {"lesion_found": float(found)}


def place_weights(lesion: Tensor) -> Tensor:
    """How often each place counts: lesion, bool [n, side, side] -> float [n, side, side]."""
    places = lesion.sum((1, 2), keepdim=True).clamp(min=1)
    share = LESION_SHARE * lesion[0].numel() / places
    return torch.where(lesion, share.clamp(min=LESION_WEIGHT), 1.0)


def vary(pixels: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture, uint8 [H, W, 3], and its label map [H, W] as they might have been: mirrored, nearer (half of
    them), brighter or darker. Both change alike, but for the brightness."""
    if rng.random() < CROPPED:
        share = rng.uniform(SMALLEST_CROP, 1)
        height, width = (round(share * edge) for edge in labels.shape)
        top, left = (int(rng.integers(free + 1)) for free in np.subtract(labels.shape, (height, width)))
        part = np.s_[top : top + height, left : left + width]
        pixels, labels = pixels[part], labels[part]
    if rng.random() < 0.5:
        pixels, labels = pixels[:, ::-1], labels[:, ::-1]
    gamma = np.exp(rng.uniform(-GAMMA, GAMMA))
    table = (255 * (np.arange(256) / 255) ** gamma).round().astype(np.uint8)
    return table[pixels], np.ascontiguousarray(labels)


def label_map(labels: np.ndarray, side: int) -> np.ndarray:
    """A label map, uint8 [H, W], in the middle of a square, as `assistants.llava_ultra.images.square` puts
    its picture, at side x side places: int64, 0 around it. A place is what its middle is, or the lesion that
    covers COVERED of it: between the middles there is room for one of a few pixels."""
    drawn = Image.fromarray(labels)
    edge = max(drawn.size)
    whole = Image.new("L", (edge, edge), 0)
    whole.paste(drawn, ((edge - drawn.width) // 2, (edge - drawn.height) // 2))
    tissue = np.array(whole.resize((side, side), Image.Resampling.NEAREST), dtype=np.int64)
    lesion = whole.point(lambda label: 255 * (label == LESION))
    tissue[np.asarray(lesion.resize((side, side), Image.Resampling.BOX)) >= 255 * COVERED] = LESION
    return tissue


def _kind(case: Case) -> str:
    """The kind of the case's lesion; empty where it has none."""
    lesion = case.extra.get("examination", {}).get("lesion")
    return lesion["kind"] if lesion else ""

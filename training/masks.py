"""Teach a SAM image encoder from scratch: at every place of the picture, which tissue lies there.

LLaVA-Ultra (2024), section 3.2, starts from SAM's published encoder, which learned from a billion masks; this
stands in for it, on the simulator's label maps. The neck's cells are pooled to CLIP's, as Eq. 2 reads them; a
single convolution reads FINER x FINER classes from each, and is thrown away afterwards, so that what lies
where must already be in what the language model gets. A lesion's places say its kind as well, as the cells of
`training.vision` do: what a language model is to tell must be seen here first. A lesion is a small part of a
picture and counts LESION_WEIGHT times, one of a few pixels more often: all its places together count
LESION_SHARE of the picture at least. Without that a lesion of ten pixels would be less than a hundredth of
its picture's loss.

Knows nothing of prompts, points or texts: of SAM only the encoder goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
from training.vision import LESION

FINER = 4  # classes are read at 4 x 4 places in each of the pooled cells; chosen
LESION_WEIGHT = 5.0  # chosen
LESION_SHARE = 0.04  # chosen
COVERED = 0.25  # a place belongs to the lesion that covers so much of it; chosen


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
        maps = [self._classes_at(case, i) for case, i in picked]
        return {
            "pixels": encode_frames(frames, self.encoder.config)["sam_pixel_values"],
            "tissue": torch.from_numpy(np.stack(maps)),
        }

    def _classes_at(self, case: Case, image: int) -> np.ndarray:
        """The class of every place: int64 [side, side]."""
        tissue = label_map(Path(case.images[image]).parents[1] / case.extra["labels"][image], self.side)
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


def label_map(path: Path, side: int) -> np.ndarray:
    """The label map in the middle of a square, as `assistants.llava_ultra.images.square` puts its picture, at
    side x side places: int64, 0 around it. A place is what its middle is, or the lesion that covers COVERED
    of it: between the middles there is room for one of a few pixels."""
    labels = Image.open(path)
    edge = max(labels.size)
    whole = Image.new("L", (edge, edge), 0)
    whole.paste(labels, ((edge - labels.width) // 2, (edge - labels.height) // 2))
    tissue = np.array(whole.resize((side, side), Image.Resampling.NEAREST), dtype=np.int64)
    lesion = whole.point(lambda label: 255 * (label == LESION))
    tissue[np.asarray(lesion.resize((side, side), Image.Resampling.BOX)) >= 255 * COVERED] = LESION
    return tissue


def _kind(case: Case) -> str:
    """The kind of the case's lesion; empty where it has none."""
    lesion = case.extra.get("examination", {}).get("lesion")
    return lesion["kind"] if lesion else ""

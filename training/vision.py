"""Dense warm-up of the vision tower on the simulator's ground truth.

A language model's loss alone teaches a tower from scratch the organ but hardly the lesion: one word among a
hundred depends on a few pixels. So the tower first learns, at every merged token (28 x 28 pixels), what
tissue lies there and of which kind a lesion is, on the whole and in each of its 4 x 4 cells; from the tokens'
mean, organ, side, view and measurements; from the lesion's tokens, its attributes and size. The heads are
thrown away afterwards: only the tower and its merger go on, so that what they say is linearly readable at the
input of the language model. (Without the cells, 22,000 images taught "there is a lesion" to an AUC of 0.73 on
1,045 held-out images; with them, to 0.86. One run each.)

Not in the EchoVLM paper, which starts from Qwen2-VL's pre-trained tower; this stands in for that
pre-training. Knows nothing of texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from imaging.case import Case, CaseError
from training.even_tower import tower_tokens
from training.simulated import read_labels

TISSUES = 6  # classes of the label map, 0 outside the scan … 5 lesion
LESION = 5
TOKEN = 28  # pixels a merged token covers, each way
CELLS = 4  # cells of a token, each way
IMPORTANCE = 3.0  # of the lesion among the tissues; chosen


class Vocabulary:
    """The words of every attribute found in the cases' truth, in a fixed order; -1 stands for unknown."""

    LESION_WORDS = ("kind", "shape", "margin", "posterior", "microcalcification", "vascularity", "place")

    def __init__(self, cases: Sequence[Case]):
        truths = [case.extra["examination"] for case in cases]
        self.words = {
            "organ": sorted({t["organ"] for t in truths}),
            "side": sorted({str(t["side"]) for t in truths}),
            "background": sorted({t["background"] for t in truths}),
            "view": sorted({f"{t['organ']}/{v['name']}" for t in truths for v in t["views"]}),
        }
        for word in self.LESION_WORDS:
            self.words[word] = sorted({str(t["lesion"][word]) for t in truths if t["lesion"]})
        names = sorted({f"{t['organ']}/{name}" for t in truths for name in t["measures"]})
        values = {
            n: [t["measures"][n.split("/")[1]] for t in truths if t["organ"] == n.split("/")[0]]
            for n in names
        }
        self.measures = {n: (float(np.mean(v)), float(np.std(v)) + 1e-6) for n, v in values.items()}

    def index(self, attribute: str, word: object) -> int:
        return self.words[attribute].index(str(word))


class DenseHeads(nn.Module):
    """Linear read-outs of the tower's merged tokens; `size` is the log of long and short axis in mm."""

    def __init__(self, width: int, vocabulary: Vocabulary):
        super().__init__()
        self.tissue = nn.Linear(width, TISSUES)
        kinds = len(vocabulary.words["kind"])
        self.kind = nn.Linear(width, kinds)
        self.cells = nn.Linear(width, CELLS**2 * (LESION + kinds))  # a lesion's cells say its kind
        self.present = nn.Linear(width, 1)
        self.whole = nn.ModuleDict(
            {
                name: nn.Linear(width, len(vocabulary.words[name]))
                for name in ("organ", "side", "background", "view")
            }
        )
        self.measures = nn.Linear(width, len(vocabulary.measures))
        self.lesion = nn.ModuleDict(
            {n: nn.Linear(width, len(vocabulary.words[n])) for n in vocabulary.LESION_WORDS if n != "kind"}
        )
        self.size = nn.Linear(width, 2)


class VisionWarmup:
    """A `training.loop.Stage`. One sample is one image; `tower` is a Qwen2-VL vision tower with merger."""

    name = "vision warm-up"
    lengths = None  # all images have the same size

    def __init__(self, tower: nn.Module, encoder, cases: Sequence[Case]):
        """`encoder` is a `models.encoding.Encoder`; only its image processor is used. CaseError for a case
        that did not come from the simulator."""
        unique = {case.images: case for case in cases}.values()  # one examination has many rows
        for case in unique:
            if not {"examination", "labels"} <= set(case.extra):
                raise CaseError(
                    f"case {case.id} has no truth to warm up on (keys examination, labels): order the cases "
                    "from the simulator with --labels"
                )
        self.images = [(case, i) for case in unique for i in range(len(case.images))]
        self.vocabulary = Vocabulary(list(unique))
        self.processor = encoder.image_processor
        self.tower = tower
        self.heads = DenseHeads(tower.config.hidden_size, self.vocabulary)
        self.module = nn.ModuleDict({"tower": tower, "heads": self.heads})

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Sequence[int], rng: np.random.Generator) -> dict[str, Tensor]:
        picked = [self.images[i] for i in indices]
        pictures = [jitter(Image.open(case.images[i]).convert("RGB"), rng) for case, i in picked]
        tensors = dict(self.processor(pictures, return_tensors="pt"))
        truth = [self._truth(case, i) for case, i in picked]
        return tensors | {name: torch.from_numpy(np.stack([t[name] for t in truth])) for name in truth[0]}

    def _truth(self, case: Case, i: int) -> dict[str, np.ndarray]:
        exam = case.extra["examination"]
        view, lesion, v = exam["views"][i], exam["lesion"], self.vocabulary
        shown = lesion if view["shows_lesion"] else None
        labels = read_labels(case, i)
        out = {
            "tissue": shares(labels),
            "cells": shares(labels, CELLS),
            "present": np.float32(shown is not None),
            "organ": v.index("organ", exam["organ"]),
            "side": v.index("side", exam["side"]),
            "background": v.index("background", exam["background"]),
            "view": v.index("view", f"{exam['organ']}/{view['name']}"),
            "size": np.log([shown["long_mm"], shown["short_mm"]]).astype(np.float32)
            if shown
            else np.zeros(2, np.float32),
        }
        for word in v.LESION_WORDS:
            out[word] = v.index(word, shown[word]) if shown else -1
        if not view["doppler"]:
            out["vascularity"] = -1  # cannot be seen without colour
        measures = np.full(len(v.measures), np.nan, np.float32)
        if i == 0:  # the principal view carries the measurements
            for k, (name, (mean, spread)) in enumerate(v.measures.items()):
                organ, measure = name.split("/")
                if organ == exam["organ"]:
                    measures[k] = (exam["measures"][measure] - mean) / spread
        return {name: np.asarray(value) for name, value in (out | {"measures": measures}).items()}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        device = next(self.tower.parameters()).device
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        tokens = tower_tokens(self.tower, batch["pixel_values"], batch["image_grid_thw"]).float()  # [B, T, D]
        losses = (
            self._token_losses(tokens, batch)
            | self._image_losses(tokens, batch)
            | self._lesion_losses(tokens, batch)
        )
        weights = {
            "tissue": 1.0,
            "cells": 4.0,
            "present": 1.0,
            "kind": 1.0,
            "organ": 0.5,
            "side": 0.5,
            "size": 1.0,
            "measures": 0.3,
        }
        total = sum(weights.get(name, 0.25) * value for name, value in losses.items())
        figures = {
            name: float(losses[name].detach())
            for name in ("tissue", "cells", "present", "kind", "organ", "side", "size")
        }
        return total, figures

    def _token_losses(self, tokens: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Share of every tissue under each token and under each of its cells (soft cross entropies), and the
        lesion's kind."""
        wanted = batch["tissue"]  # [B, T, C]
        mostly = wanted[..., LESION] > 0.3
        kind = batch["kind"][:, None].expand(mostly.shape)
        losses = {
            "tissue": _soft_cross_entropy(self.heads.tissue(tokens), wanted),
            "cells": _soft_cross_entropy(
                self.heads.cells(tokens).unflatten(-1, (CELLS**2, -1)), self._by_kind(batch)
            ),
            "kind": tokens.sum() * 0,
        }
        if mostly.any():
            losses["kind"] = F.cross_entropy(self.heads.kind(tokens[mostly]), kind[mostly])
        return losses

    def _by_kind(self, batch: dict[str, Tensor]) -> Tensor:
        """The shares under the cells with the lesion under its kind: [B, T, cells, LESION + kinds]."""
        kinds = len(self.vocabulary.words["kind"])
        is_kind = F.one_hot(batch["kind"].clamp(min=0), kinds)[
            :, None, None
        ]  # without a lesion, its share is 0
        cells = batch["cells"]
        return torch.cat([cells[..., :LESION], cells[..., LESION:] * is_kind], dim=-1)

    def _image_losses(self, tokens: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        present = torch.logsumexp(self.heads.present(tokens)[..., 0], dim=1) - np.log(tokens.shape[1])
        losses = {"present": F.binary_cross_entropy_with_logits(present, batch["present"])}
        mean = tokens.mean(1)
        for name, head in self.heads.whole.items():
            losses[name] = F.cross_entropy(head(mean), batch[name])
        wanted = batch["measures"]
        known = ~wanted.isnan()
        losses["measures"] = (
            F.smooth_l1_loss(self.heads.measures(mean)[known], wanted[known])
            if known.any()
            else mean.sum() * 0
        )
        return losses

    def _lesion_losses(self, tokens: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Attributes from the mean over the lesion's tokens, weighted by how much of each it covers."""
        cover = batch["tissue"][..., LESION]
        shown = cover.sum(1) > 0
        if not shown.any():
            return {"size": tokens.sum() * 0}
        mean = (tokens * cover[..., None]).sum(1)[shown] / cover.sum(1)[shown][:, None]
        losses = {"size": F.smooth_l1_loss(self.heads.size(mean), batch["size"][shown], beta=0.2)}
        for name, head in self.heads.lesion.items():
            wanted = batch[name][shown]
            if (wanted >= 0).any():
                losses[name] = F.cross_entropy(head(mean), wanted, ignore_index=-1)
        return losses


def _soft_cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """Mean cross entropy with shares; what comes from LESION on counts by IMPORTANCE."""
    importance = torch.ones(logits.shape[-1], device=logits.device)
    importance[LESION:] = IMPORTANCE
    return -(wanted * importance * F.log_softmax(logits, dim=-1)).sum(-1).mean()


def shares(labels: np.ndarray, parts: int = 1) -> np.ndarray:
    """Share of each class of a label map [H, W] under every merged token, tokens row by row: float32
    [T, TISSUES], or under each of its `parts` x `parts` cells, row by row: [T, parts², TISSUES]."""
    rows, columns, side = labels.shape[0] // TOKEN, labels.shape[1] // TOKEN, TOKEN // parts
    cells = labels[: rows * TOKEN, : columns * TOKEN].reshape(rows, parts, side, columns, parts, side)
    cells = cells.transpose(0, 3, 1, 4, 2, 5).reshape(rows * columns, parts**2, side**2)
    out = np.stack([(cells == c).mean(-1) for c in range(TISSUES)], axis=-1).astype(np.float32)
    return out[:, 0] if parts == 1 else out


def jitter(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Another setting of the monitor: brightness and contrast of an RGB picture within what scanners' knobs
    do."""
    gain, offset = rng.uniform(0.85, 1.15), rng.uniform(-10, 10)
    table = np.clip((np.arange(256) - 40) * gain + 40 + offset, 0, 255).astype(np.uint8)
    table[0] = 0  # the black around the scan stays black
    return picture.point(table.tolist() * 3)

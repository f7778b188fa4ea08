"""Warm-up of the vision tower on standard planes: at every token which structures lie under it, and where.

AbVLM-Q (2025) starts from Qwen2-VL, whose tower has learned to ground words in pictures. A demo's tower has
not, and a text loss alone hardly teaches it where a structure ends: a few digits among hundreds of tokens
depend on a few pixels. So the tower first learns what an answer will need from it, at its merged tokens: the
share of every structure; from a structure's tokens its box and whether it is cut short; from each of them
alone, without any network between, the digits in which the box will be written: a digit is a sawtooth of a
place, which a small language model learns slowly and then only has to copy. From the mean over the image come
the planes and the share in shadow. The heads are thrown away. The tower learns in full, or through
a LoRA that goes on with the answers (`training.plane_answers`): then the adapter holds all that was learned.
There its questions may be asked on, beside the answers: what the tower has learned would drift away.

Not in the paper. Needs label maps, which the simulator draws with --labels. Knows nothing of texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from assistants.abvlm_q.encoding import cut_image
from imaging.case import Case, CaseError
from imaging.frame import Frame
from imaging.planes import NON_STANDARD, Planes
from models.boxes import PER_MILLE, Canvas
from models.encoding import Encoder
from training.even_tower import see
from training.folded_lora import folded
from training.simulated import read_labels
from training.vision import jitter

TRUTH = ("labels", "structures", "beside", "attenuation_share")
BINS = 50  # of an edge's place across the picture, 20 of Qwen2-VL's thousandths each; chosen
DIGITS = 2  # of an edge that are read, hundreds and tens; the last one lies below what an image shows
OF_STRUCTURES = 3.0  # weight of a structure's share; that of the rest, most of a picture, has 1; chosen
STATES = ("displayed", "incomplete")  # of a structure that can be seen


class PlaneHeads(nn.Module):
    """Read-outs of merged tokens of `width`. A box is read from the mean over its structure's tokens by one
    small network for all structures, as a language model reads a place once it knows the name."""

    def __init__(self, width: int, classes: int, planes: int):
        super().__init__()
        self.shares = nn.Linear(width, classes)
        self.look = nn.Linear(width, width)
        self.names = nn.Embedding(classes, width)
        self.edges = nn.Linear(width, 4 * BINS)
        self.digits = nn.Linear(width, 4 * DIGITS * 10)
        self.state = nn.Linear(width, len(STATES))
        self.planes = nn.Linear(width, planes)
        self.attenuation = nn.Linear(width, 1)

    def structures(self, means: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Edges [P, 4, BINS] and states [P, 2], both logits, from means [P, D] of structures [P]."""
        read = F.gelu(self.look(means) + self.names(classes))
        return self.edges(read).unflatten(1, (4, BINS)), self.state(read)


class PlaneWarmup:
    """A `training.loop.Stage`: one sample is one image, cut to its sector as in use."""

    name = "plane warm-up"
    lengths = None

    def __init__(
        self,
        tower: nn.Module,
        encoder: Encoder,
        cases: Sequence[Case],
        protocol: Planes,
        step: int = 1,
    ):
        """`tower` maps patches to merged tokens; boxes are taught in multiples of `step` units, as in the
        answers. CaseError for a case that did not come from the simulator with label maps."""
        unique = {case.images: case for case in cases}.values()  # an image has rows in several wordings
        for case in unique:
            if missing := [key for key in TRUTH if key not in case.extra]:
                raise CaseError(
                    f"case {case.id} has no truth to warm up on (keys {', '.join(missing)}): order the cases "
                    "from the simulator with --task plane --labels"
                )
        self.cases = list(unique)
        self.encoder, self.tower, self.step = encoder, tower, step
        self.planes = (*protocol.planes, NON_STANDARD)
        classes = 1 + max((number for case in self.cases for number in _classes(case).values()), default=2)
        self.heads = PlaneHeads(tower.config.hidden_size, classes, len(self.planes))
        self.module = nn.ModuleDict({"tower": tower, "heads": self.heads})

    def __len__(self) -> int:
        return len(self.cases)

    def batch(self, indices: Sequence[int], rng: np.random.Generator) -> dict[str, Tensor]:
        """Pixels and truth of B images with N tokens and P boxes altogether.

        `shares` [N, classes]; `image` [N], of a token; `place` [P, 2], image and class of a box; `edges`
        [P, 4], x1, y1, x2, y2 from 0 to 1; `state` [P], -1 where a structure lies beside what is judged;
        `planes` [B, planes]; `attenuation` [B].
        """
        picked = [self.cases[i] for i in indices]
        cuts = [cut_image(case) for case in picked]
        tensors = self.encoder.encode_images([jittered(frame, rng) for frame, _ in cuts])
        return tensors | self.truth(picked, cuts, tensors["image_grid_thw"])

    def truth(
        self, picked: Sequence[Case], cuts: Sequence[tuple[Frame, tuple[int, int]]], grids: Tensor
    ) -> dict[str, Tensor]:
        """What is there to be seen in `cuts`, the cases' images cut to their sectors, in patches `grids`
        [B, 3]: see `batch`."""
        merge = self.encoder.image_processor.merge_size
        shares, images, boxes = [], [], []
        for number, (case, (frame, origin)) in enumerate(zip(picked, cuts, strict=True)):
            _, rows, columns = grids[number].tolist()
            labels = _cut_map(case, frame, origin)
            shares.append(shares_under(labels, rows // merge, columns // merge, len(self.heads.shares.bias)))
            images += [number] * len(shares[-1])
            boxes += [(number, *box) for box in _boxes(case, frame, origin, self.step)]
        numbers = np.array([box[:2] for box in boxes], np.int64).reshape(-1, 2)
        truth = {
            "shares": np.concatenate(shares),
            "image": np.array(images),
            "place": numbers,
            "edges": np.array([box[2] for box in boxes], np.float32).reshape(-1, 4),
            "state": np.array([box[3] for box in boxes], np.int64),
            "planes": np.array([[p in case.plane for p in self.planes] for case in picked], np.float32),
            "attenuation": np.array([case.extra["attenuation_share"] for case in picked], np.float32),
        }
        return {name: torch.from_numpy(values) for name, values in truth.items()}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        device = next(self.tower.parameters()).device
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        with folded(self.tower):
            tokens = torch.cat(see(self.tower, batch["pixel_values"], batch["image_grid_thw"]))
        return self.loss_of(tokens, batch)

    def loss_of(self, tokens: Tensor, truth: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The loss and its parts from merged tokens [N, D] of images with that truth."""
        tokens = tokens.float()
        losses = self._token_losses(tokens, truth) | self._image_losses(tokens, truth)
        total = torch.stack(list(losses.values())).sum()
        return total, {name: float(value.detach()) for name, value in losses.items()}

    def _token_losses(self, tokens: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Shares under each token (soft cross entropy); box and state from each structure's tokens."""
        shares = batch["shares"]  # [N, C]
        importance = torch.ones(shares.shape[1], device=tokens.device)
        importance[3:] = OF_STRUCTURES  # after outside, other and attenuated
        spread = -(shares * importance * F.log_softmax(self.heads.shares(tokens), -1)).sum(-1).mean()
        place = batch["place"]
        cover = shares.T[place[:, 1]] * (batch["image"] == place[:, :1])  # [P, N]
        seen = cover.sum(1) > 0
        if not seen.any():
            return {"shares": spread} | dict.fromkeys(("edges", "digits", "state"), tokens.sum() * 0)
        cover, state = cover[seen], batch["state"][seen]
        cover = cover / cover.sum(1, keepdim=True)
        means = cover @ tokens  # [P, D]
        edges, states = self.heads.structures(means, place[seen, 1])
        wanted = between_bins(batch["edges"][seen])  # [P, 4, BINS]
        judged = (state >= 0).any()
        return {
            "shares": spread,
            "edges": -(wanted * F.log_softmax(edges, -1)).sum(-1).mean(),
            "digits": self._digit_loss(tokens, cover, batch["edges"][seen]),
            "state": F.cross_entropy(states, state, ignore_index=-1) if judged else tokens.sum() * 0,
        }

    def _digit_loss(self, tokens: Tensor, cover: Tensor, edges: Tensor) -> Tensor:
        """Cross entropy of each digit of `edges` [P, 4] at every token, by its part in the structure, `cover`
        [P, N]."""
        said = F.log_softmax(self.heads.digits(tokens).unflatten(1, (4, DIGITS, 10)), -1)
        of_structures = (cover @ said.flatten(1)).unflatten(1, said.shape[1:])  # [P, 4, DIGITS, 10]
        return -of_structures.gather(-1, digits_of(edges)[..., None]).mean()

    def _image_losses(self, tokens: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Planes and the share in shadow from the mean over an image's tokens."""
        count = len(batch["planes"])
        sums = tokens.new_zeros(count, tokens.shape[1]).index_add(0, batch["image"], tokens)
        mean = sums / torch.bincount(batch["image"], minlength=count)[:, None]
        dark = self.heads.attenuation(mean)[:, 0]
        return {
            "planes": F.binary_cross_entropy_with_logits(self.heads.planes(mean), batch["planes"]),
            "attenuation": F.smooth_l1_loss(dark, batch["attenuation"], beta=0.05),
        }


def shares_under(labels: np.ndarray, rows: int, columns: int, classes: int) -> np.ndarray:
    """Share of each class of a label map [H, W] under a grid of tokens: float32 [rows * columns, classes].

    A pixel belongs to the token under its centre; every token must be a pixel wide at least.
    """
    height, width = labels.shape
    row = (np.arange(height) + 0.5) * rows // height
    column = (np.arange(width) + 0.5) * columns // width
    token = (row[:, None] * columns + column).astype(np.int64)
    counts = np.bincount((token * classes + labels).ravel(), minlength=rows * columns * classes)
    counts = counts.reshape(rows * columns, classes)
    return (counts / counts.sum(1, keepdims=True)).astype(np.float32)


def between_bins(places: Tensor) -> Tensor:
    """Places (0 to 1) as shares of the two bins whose centres they lie between: [..., BINS]."""
    at = (places * BINS - 0.5).clamp(0, BINS - 1)[..., None]
    centres = torch.arange(BINS, device=places.device)
    return (1 - (at - centres).abs()).clamp_min(0)


def digits_of(places: Tensor) -> Tensor:
    """The first DIGITS of the three of places (0 to 1) in whole thousandths: [...] -> int64 [..., DIGITS].
    The far edge, which has a fourth digit, counts as the last place before it."""
    thousandths = (places * PER_MILLE).round().long().clamp(0, PER_MILLE - 1)
    return torch.stack([thousandths // 10 ** (2 - i) % 10 for i in range(DIGITS)], -1)


def jittered(frame: Frame, rng: np.random.Generator) -> Frame:
    """The frame with another setting of the monitor (`training.vision.jitter`)."""
    pixels = np.asarray(jitter(Image.fromarray(frame.pixels), rng))
    return Frame(pixels, frame.mm_per_pixel, frame.source, frame.index, frame.offset)


def _classes(case: Case) -> Mapping[str, int]:
    """The label map's classes of the structures that a case knows of."""
    judged = {name: entry["label"] for name, entry in case.extra["structures"].items()}
    return judged | case.extra["beside"]


def _cut_map(case: Case, frame: Frame, origin: tuple[int, int]) -> np.ndarray:
    """The label map of a case's first image, cut like the image."""
    labels = read_labels(case, 0)
    (x, y), (height, width) = origin, frame.pixels.shape[:2]
    return labels[y : y + height, x : x + width]


def _boxes(
    case: Case, frame: Frame, origin: tuple[int, int], step: int
) -> list[tuple[int, tuple[float, float, float, float], int]]:
    """Class, edges (0 to 1 across and down the frame) and state of every box."""
    height, width = frame.pixels.shape[:2]
    canvas, classes = Canvas((width, height), origin=origin, step=step), _classes(case)
    found = []
    for entry in case.boxes:
        state = case.extra["structures"].get(entry["label"], {}).get("state")
        edges = tuple(edge / PER_MILLE for edge in canvas.written(entry["box"]))
        found.append((classes[entry["label"]], edges, STATES.index(state) if state in STATES else -1))
    return found

"""Teach LLaVA-Ultra to answer about a case of many frames, and to choose the frame it reads.

LLaVA-Ultra (2024), sections 3.1-3.3. A sample is a short conversation about one examination (one to
`MOST_TURNS` of its questions), and only the answers are learned (Eq. 1). Where nothing is chosen, one frame
is shown, one that shows the finding where that is known. Where the choice is learned, all frames pass the
fusion (Eq. 2), the attention between each frame and the findings says which one the language model reads
(Eq. 4), and the feature score of the frames (Eq. 3) learns to say the same without findings (Eq. 5, times the
recipe's `distillation`). Without findings in the case the report of its examination stands in for them, and
without a report its answer.

`distillation` 0 is the paper's first strategy, the feature score alone. What it learns from, the paper leaves
open ("indirectly"); here the frame is drawn by the score, and the gradient goes as if the language model had
read all frames, weighted by their scores (a straight-through estimate). Eq. 5 gives gradients to w alone, as
the paper says, and not to the projectors.

Frames that differ in a few tokens get nearly equal shares of the attention, and a score that is to be nearly
equal learns little: `sharpness` takes the shares to a power before they are the target. The paper's Norm is
open to it; 1 is the plain softmax.

The towers are frozen in all these stages: `SeenFrames` keeps what they see of every image, computed once.

Knows nothing of recipes or of how a model is made; the prompt is the assistant's own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from assistants.base import Reply, Turn
from assistants.llava_ultra.encoding import Encoder
from assistants.llava_ultra.images import encode_frames
from assistants.llava_ultra.model import LlavaUltraModel
from assistants.llava_ultra.sampling import distillation_loss
from imaging.case import Case, CaseError
from imaging.files import load_frames
from models.encoding import IGNORED
from models.errors import ContextOverflow
from training.conversation import as_turn, mark, without_copies
from training.loop import processes
from training.stages import askable

MOST_TURNS = 3  # of a conversation
MOST_FRAMES = 8  # of a case in one step; more are drawn from by chance
LOOK = 32  # images the towers see at once

Tensors = dict[str, Tensor]


class Examinations:
    """A `training.loop.Stage` over a LLaVA-Ultra, or one with LoRA. One sample is one examination."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        encoder: Encoder,
        cases: Sequence[Case],
        *,
        distillation: float | None = None,
        sharpness: float = 1.0,
        score_rate: float = 1.0,
        seen: SeenFrames | None = None,
        max_length: int | None = None,
    ):
        """`distillation` is the weight of Eq. 5; None shows one frame and chooses nothing. `sharpness` is the
        power of the teacher's shares in it; the frame score learns `score_rate` times faster than the rest.
        `max_length` is the longest conversation in tokens; longer ones lose turns. CaseError for a case
        without question or answer."""
        groups: dict[tuple, list[Case]] = {}
        for case in map(askable, cases):
            groups.setdefault(tuple(case.images), []).append(case)
        self.examinations = list(groups.values())
        self.lengths = None if distillation is None else [len(rows[0].images) for rows in self.examinations]
        self.name, self.module, self.encoder = name, model, encoder
        self.distillation, self.sharpness = distillation, sharpness
        self.rates = {"frame_score": score_rate}
        self.seen, self.max_length = seen, max_length
        known = any(case.valid_images for case in cases)
        self._last = {"chosen_valid": 0.0, "score_valid": 0.0} if known else {}

    def __len__(self) -> int:
        return len(self.examinations)

    def weight(self, batch: Tensors) -> float:
        """Words that are learned: the loss is a mean over them (the first token is never predicted)."""
        return float((batch["labels"][:, 1:] != IGNORED).sum())

    def batch(self, indices: Sequence[int], rng: np.random.Generator) -> Tensors:
        """The padded conversations; of all cases the frames in one row, `counts` [B] of each, and, where the
        choice is learned, `findings` [B, L] (padded with IGNORED) and `valid` [frames], 1 or 0."""
        rows = [self.examinations[i] for i in indices]
        shown = [self._shown(own[0], rng) for own in rows]
        said = [self._conversation(own, rng) for own in rows]
        batch = self.encoder.pad([encoded for encoded, _ in said], side="right")
        paths = [own[0].images[k] for own, frames in zip(rows, shown, strict=True) for k in frames]
        batch |= self._images(paths) | {"counts": torch.tensor([len(frames) for frames in shown])}
        if self.distillation is not None:
            texts = [self._findings(own, case) for own, (_, case) in zip(rows, said, strict=True)]
            batch["findings"] = nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=IGNORED)
            valid = [k in own[0].valid_images for own, some in zip(rows, shown, strict=True) for k in some]
            batch["valid"] = torch.tensor(valid).long()
        return batch

    def loss(self, batch: Tensors) -> tuple[Tensor, dict[str, float]]:
        """Eq. 1 plus `distillation` times Eq. 5 (mean over the cases of several frames). Figures: both, and,
        where validity is known, the share of cases whose frame is valid, as it was read (`chosen_valid`) and
        as the feature score alone says (`score_valid`)."""
        device = next(self.module.parameters()).device
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        features = self.module.image_features(batch["pixel_values"], batch.get("sam_pixel_values"))
        cases = features.split(batch["counts"].tolist())  # [k, T, D] each
        figures: dict[str, float] = {}
        distilled = features.new_zeros(())
        if self.distillation is not None:
            kept, distilled, figures = self._choose(cases, batch)
        else:
            kept = torch.cat(cases)
        out = self.module(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=batch["labels"],
            image_features=kept,
            use_cache=False,
        )
        loss = out.loss + (self.distillation or 0.0) * distilled
        return loss, {"words": float(out.loss.detach())} | figures

    def _shown(self, case: Case, rng: np.random.Generator) -> list[int]:
        """Which frames of a case take part in this step."""
        every = range(len(case.images))
        if self.distillation is not None:
            return sorted(int(i) for i in rng.permutation(len(every))[:MOST_FRAMES])
        return [int(rng.choice(case.valid_images or every))]

    def _conversation(self, rows: list[Case], rng: np.random.Generator) -> tuple[Tensors, Case]:
        """Turns of one examination in random order, with its one frame, and the row that comes first."""
        order = [rows[i] for i in without_copies(rows, rng.permutation(len(rows)))]
        order = order[: int(rng.integers(1, MOST_TURNS + 1))]
        while True:
            turns: list[Turn | Reply] = []
            for k, case in enumerate(order):
                turns += [as_turn(case, 0 if k else 1, rng), Reply(case.answer)]
            encoded = self.encoder.encode(turns, learn=True)
            length = encoded["input_ids"].shape[1]
            if self.max_length is None or length <= self.max_length:
                return encoded, order[0]
            if len(order) == 1:
                raise CaseError(
                    f"case {order[0].id} has {length} tokens, more than max_length {self.max_length}: leave "
                    "it out"
                )
            order = order[:-1]

    def _findings(self, rows: list[Case], case: Case) -> Tensor:
        """Ids [L] of what the frames are compared with when `case`, one of its `rows`, is asked."""
        report = next((row.answer for row in rows if row.task == "report"), None)
        try:
            return self.encoder.words(case.extra.get("findings") or report or case.answer)
        except ContextOverflow as error:
            raise CaseError(f"case {case.id}: its findings: {error}") from error

    def _images(self, paths: Sequence[Path]) -> Tensors:
        if self.seen:
            return self.seen.tensors(paths)
        return encode_frames(load_frames(paths, max_files=len(paths)), self.encoder.config)

    def _choose(self, cases: Sequence[Tensor], batch: Tensors) -> tuple[Tensor, Tensor, dict[str, float]]:
        """The tokens [B, T, D] of every case's frame, the loss of Eq. 5, and the figures."""
        kept, losses, hits = [], [], []
        valid = batch["valid"].split(batch["counts"].tolist())
        teachers = self._teachers(cases, batch["findings"]) if self.distillation else [None] * len(cases)
        for features, teacher, shows in zip(cases, teachers, valid, strict=True):
            scores = self.module.feature_scores(features.detach())  # [k], Eq. 3
            if teacher is not None:
                chosen = int(teacher.argmax())
                kept.append(features[chosen])
                losses += [distillation_loss(scores, self.sharpness * teacher)] if len(features) > 1 else []
            else:
                chosen = int(torch.multinomial(scores.detach().softmax(0), 1))
                kept.append(features[chosen] + _as_if_all(features, scores))
            if 0 < int(shows.sum()) < len(shows):
                hits.append((float(shows[chosen]), float(shows[int(scores.argmax())])))
        if hits:  # a batch that has none repeats the figures of the one before
            self._last = dict(zip(self._last, np.mean(hits, axis=0).tolist(), strict=True))
        distilled = torch.stack(losses).mean() if losses else scores.sum() * 0
        return torch.stack(kept), distilled, {"distillation": float(distilled.detach()), **self._last}

    @torch.no_grad()
    def _teachers(self, cases: Sequence[Tensor], findings: Tensor) -> list[Tensor]:
        """Eq. 4: the attention scores [k] of every case. Without dropout, which would differ from frame to
        frame and make a difference between near-identical ones."""
        learning = self.module.training
        self.module.eval()
        scores = [
            self.module.attention_scores(features, text[text != IGNORED])
            for features, text in zip(cases, findings, strict=True)
        ]
        self.module.train(learning)
        return scores


def _as_if_all(features: Tensor, scores: Tensor) -> Tensor:
    """Zeros [T, D] whose gradient is that of the frames' mean, weighted by their scores."""
    mixture = torch.einsum("k,ktd->td", scores.softmax(0).to(features.dtype), features.detach())
    return mixture - mixture.detach()


class SeenFrames:
    """What the frozen towers see of every image, computed once: float16 files beside an index in memory.

    Of CLIP all tokens of the layer that is projected; of SAM the grid as the fusion pools it, where that
    pooling has nothing to learn. `standing_in` lets a model take them for pixels.
    """

    def __init__(self, folder: Path, model: LlavaUltraModel, encoder: Encoder, cases: Sequence[Case]):
        """Compute what is missing under `folder`, with a progress bar; the towers must not change
        afterwards."""
        self.paths = sorted({path for case in cases for path in case.images})
        self.index = {path: i for i, path in enumerate(self.paths)}
        folder.mkdir(parents=True, exist_ok=True)
        towers = mark(nn.ModuleList(filter(None, (model.vision_tower, model.sam_tower))))
        files = {name: folder / f"{name}-{towers}.npy" for name in _look(model, encoder, self.paths[:1])}
        if not all(file.exists() for file in files.values()):
            self._write(files, model, encoder)
        self.features = {name: np.load(file, mmap_mode="r") for name, file in files.items()}
        for name, stored in self.features.items():
            if len(stored) != len(self.paths):
                raise ValueError(
                    f"{files[name]} holds {len(stored)} images, the cases have {len(self.paths)}; delete it "
                    "and start again"
                )

    def _write(self, files: dict[str, Path], model: LlavaUltraModel, encoder: Encoder) -> None:
        writing = {}
        with _threads_of_all():
            for i in tqdm(range(0, len(self.paths), LOOK), desc="tower features", mininterval=10):
                for name, rows in _look(model, encoder, self.paths[i : i + LOOK]).items():
                    if name not in writing:
                        unfinished = files[name].with_suffix(".writing")
                        shape = len(self.paths), *rows.shape[1:]
                        writing[name] = np.lib.format.open_memmap(unfinished, "w+", np.float16, shape)
                    writing[name][i : i + LOOK] = rows
        for name, file in files.items():
            writing[name].flush()
            file.with_suffix(".writing").rename(file)

    def tensors(self, paths: Sequence[Path]) -> Tensors:
        """Stand-ins for `encode_frames`: what the towers make of the images, float32."""
        rows = [self.index[path] for path in paths]
        return {name: torch.from_numpy(kept[rows].astype(np.float32)) for name, kept in self.features.items()}


@contextmanager
def _threads_of_all() -> Iterator[None]:
    """The threads of all processes for this one, while the others wait for it."""
    own = torch.get_num_threads()
    torch.set_num_threads(min(os.cpu_count() or own, own * processes().num_processes))
    try:
        yield
    finally:
        torch.set_num_threads(own)


@torch.no_grad()
def _look(model: LlavaUltraModel, encoder: Encoder, paths: Sequence[Path]) -> dict[str, np.ndarray]:
    """pixel_values: CLIP's tokens [n, 1 + T, C1]; with SAM sam_pixel_values: its grid [n, C2, g, g]."""
    device = next(model.parameters()).device
    images = encode_frames(load_frames(paths, max_files=len(paths)), encoder.config)
    images = {name: tensor.to(device) for name, tensor in images.items()}
    with torch.autocast(device.type, torch.bfloat16):
        clip = model.vision_tower.tokens(images["pixel_values"], model.config.vision_feature_layer)
        seen = {"pixel_values": clip}
        if model.sam_tower is not None:
            pixels = images["sam_pixel_values"].to(model.sam_tower.dtype)
            grid, pooling = model.sam_tower(pixels).last_hidden_state, model.fusion.sam_grid
            learns = any(True for _ in pooling.parameters())
            seen["sam_pixel_values"] = grid if learns else pooling(grid)
    return {name: tensor.to(torch.float16).cpu().numpy() for name, tensor in seen.items()}


@contextmanager
def standing_in(model: LlavaUltraModel, seen: SeenFrames | None) -> Iterator[None]:
    """While this lasts the towers hand on what `seen` has stored; without it they work themselves."""
    towers = model.vision_tower, model.sam_tower
    if seen:
        model.vision_tower = _SeenClip()
        model.sam_tower = model.sam_tower and _SeenSam()
    try:
        yield
    finally:
        model.vision_tower, model.sam_tower = towers


class _SeenClip(nn.Module):
    def tokens(self, pixel_values: Tensor, layer: int) -> Tensor:
        return pixel_values


class _SeenSam(nn.Module):
    dtype = torch.float32

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=pixel_values)

"""Teach a vision-language model to answer: cases become conversations, and only the answers are learned.

All rows of one examination share its images, so a sample is a short conversation about one examination: one
or several of its report, diagnosis and questions in random order, as a clinician would ask them one after
another; a second report or diagnosis would only be copied from the first. Half of the requests are put in
the assistant's standard wording (what the page sends when nothing is typed), half in the case's own. The
prompt is built by the assistant itself: what is trained is what the clinician's question becomes.

While the vision tower is frozen, its output for every image is computed once and kept (`SeenImages`).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers.modeling_outputs import BaseModelOutputWithPooling

from assistants.base import Reply, Turn
from assistants.echovlm.prompts import build_messages
from imaging.case import Case
from imaging.files import load_frames
from models.encoding import IGNORED, Encoder, Tensors
from training.even_tower import tower_tokens

STANDARD_WORDING = 0.5
OPTION = re.compile(r"^([A-Z])\. (.+)$", re.MULTILINE)
LETTERED_WEIGHT = 3.0  # to find the letter of what it names takes a small model far more examples; chosen


class Conversations:
    """A `training.loop.Stage` over any Qwen2-VL-like model. One sample is one examination."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        encoder: Encoder,
        cases: Sequence[Case],
        seen: SeenImages | None,
        *,
        most_turns: int = 3,
        turn_weight: float = 1.0,
        option_orders: int = 1,
    ):
        """`turn_weight`: see `turn_weights`. With more than one of `option_orders` a question with lettered
        options is put so often, its options in another order each time (`reordered`)."""
        groups: dict[tuple, list[Case]] = {}
        for case in cases:
            groups.setdefault(tuple(case.images), []).append(case)
        self.examinations = list(groups.values())
        self.lengths = [len(rows[0].images) for rows in self.examinations]
        self.name, self.module, self.encoder, self.seen = name, model, encoder, seen
        self.most_turns, self.turn_weight = most_turns, turn_weight
        self.option_orders = option_orders

    def __len__(self) -> int:
        return len(self.examinations)

    def batch(self, indices: Sequence[int], rng: np.random.Generator) -> Tensors:
        return self.encoder.pad([self._sample(self.examinations[i], rng) for i in indices], side="right")

    def weight(self, batch: Tensors) -> float:
        """What the words that are learned count together: the loss is a mean over them (the first token of a
        row is never predicted)."""
        return float(turn_weights(batch["labels"], self.turn_weight)[:, 1:].sum())

    def _sample(self, rows: list[Case], rng: np.random.Generator) -> Tensors:
        picked = [rows[i] for i in pick_rows(rows, int(rng.integers(1, self.most_turns + 1)), rng)]
        if self.option_orders > 1:
            picked = [turn for case in picked for turn in self._in_many_orders(case, rng)]
        images = self._images(picked[0].images)
        history: list[Turn | Reply] = []
        for k, case in enumerate(picked):
            count = len(images["image_grid_thw"]) if k == 0 else 0
            history += [as_turn(case, count, rng), Reply(case.answer)]
        messages = build_messages(history[:-2], history[-2])
        answer = {"role": "assistant", "content": [{"type": "text", "text": picked[-1].answer}]}
        return self.encoder.encode_text([*messages, answer], images, learn=True)

    def _in_many_orders(self, case: Case, rng: np.random.Generator) -> list[Case]:
        """The case itself, or as many turns of it as there are to be orders of its options."""
        return [reordered(case, rng) for _ in range(self.option_orders)] if _is_lettered(case) else [case]

    def _images(self, paths: Sequence[Path]) -> Tensors:
        return self.seen.tensors(paths) if self.seen else self.encoder.encode_images(load_frames(paths))

    def loss(self, batch: Tensors) -> tuple[Tensor, dict[str, float]]:
        device = next(self.module.parameters()).device
        there = {name: tensor.to(device) for name, tensor in batch.items()}
        if self.turn_weight == 1:
            out = self.module(**there, use_cache=False)
            loss = out.loss
        else:
            labels = there.pop("labels")
            out = self.module(**there, use_cache=False)
            loss = _weighted(out.logits, labels, turn_weights(labels, self.turn_weight))
        aux = getattr(out, "aux_loss", None)
        if aux is None:
            return loss, {}
        if self.turn_weight != 1:  # the model adds it to its own loss only
            loss = loss + self.module.config.text_config.router_aux_loss_coef * aux
        return loss, {"balance": float(aux.detach())}


def turn_weights(labels: Tensor, power: float) -> Tensor:
    """What each word counts in the loss: labels [B, T] -> [B, T], nought where nothing is learned.

    A turn is an unbroken run of n learned words; together they count n ** power, as much as every other word
    with 1, as every other turn with 0.
    """
    learned = labels != IGNORED
    begins = learned & ~F.pad(learned, (1, 0))[:, :-1]
    turn = begins.flatten().cumsum(0).view_as(labels)  # from 1, over all rows
    words = torch.bincount(turn[learned], minlength=1).clamp(min=1)
    return torch.where(learned, words[turn.clamp(max=len(words) - 1)].float() ** (power - 1), 0.0)


def _weighted(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the cross entropy of the words that are learned."""
    learned = labels[:, 1:] != IGNORED
    loss = F.cross_entropy(logits[:, :-1][learned].float(), labels[:, 1:][learned], reduction="none")
    counts = weights[:, 1:][learned]
    return (loss * counts).sum() / counts.sum()


def pick_rows(rows: Sequence[Case], count: int, rng: np.random.Generator) -> list[int]:
    """Indices of up to `count` rows: every task as often as another, however many rows it has, and questions
    with lettered options more often than others of their task; one report and one diagnosis at most."""
    of_task = Counter(case.task for case in rows)
    weights = np.array(
        [(LETTERED_WEIGHT if _is_lettered(case) else 1.0) / of_task[case.task] for case in rows]
    )
    drawn = rng.choice(len(rows), len(rows), replace=False, p=weights / weights.sum())
    return list(islice(without_copies(rows, drawn), count))


def without_copies(rows: Sequence[Case], order: Iterable[int]) -> Iterator[int]:
    """The indices of `order` but those of a second report or diagnosis: it would only be copied from the
    first."""
    had: set[str] = set()
    for i in order:
        task = rows[i].task
        if task == "vqa" or task not in had:
            had.add(task)
            yield int(i)


def _is_lettered(case: Case) -> bool:
    return case.answer_type == "closed" and "\nB." in (case.question or "")


def reordered(case: Case, rng: np.random.Generator) -> Case:
    """A lettered question with its options in another order; the answer keeps its words and takes the letter
    that stands before them now. One whose answer does not begin with a letter of its options stays as it is.
    """
    options = dict(OPTION.findall(case.question or ""))
    if len(options) < 2 or (case.answer or "")[:1] not in options:
        return case
    letters = list(options)
    moved = dict(zip(letters, rng.permutation(letters), strict=True))  # what stands there now stood at …
    question = OPTION.sub(lambda line: f"{line[1]}. {options[moved[line[1]]]}", case.question)
    letter = next(now for now, before in moved.items() if before == case.answer[0])
    return replace(case, question=question, answer=letter + case.answer[1:])


def as_turn(case: Case, images: int, rng: np.random.Generator) -> Turn:
    """The case's request, or the assistant's standard wording; of the frames only the number matters here."""
    standard = case.task in ("report", "diagnosis") and rng.random() < STANDARD_WORDING
    return Turn(
        text="" if standard else case.question,
        frames=(None,) * images,
        task=case.task,
        organ=case.organ if standard and rng.random() < 0.5 else None,
        language=case.language,
    )


class SeenImages:
    """What a frozen vision tower says about every image, computed once: a float16 file beside an index in
    memory."""

    def __init__(self, folder: Path, tower: nn.Module, encoder: Encoder, cases: Sequence[Case]):
        """Compute what is missing under `folder`, with a progress bar; `tower` must not change afterwards."""
        self.paths = sorted({path for case in cases for path in case.images})
        self.index = {path: i for i, path in enumerate(self.paths)}
        folder.mkdir(parents=True, exist_ok=True)
        first = self._look(tower, encoder, self.paths[:1])
        shape = (len(self.paths), *first[0].shape)
        self.grid = encoder.encode_images(load_frames(self.paths[:1]))["image_grid_thw"][0]
        done = folder / f"seen-{mark(tower)}.npy"  # another tower sees something else
        if not done.exists():
            writing = np.lib.format.open_memmap(folder / "seen.writing.npy", "w+", np.float16, shape)
            with _all_cores():
                for i in tqdm(range(0, len(self.paths), 32), desc="vision features", mininterval=10):
                    writing[i : i + 32] = self._look(tower, encoder, self.paths[i : i + 32])
            writing.flush()
            (folder / "seen.writing.npy").rename(done)
        self.features = np.load(done, mmap_mode="r")  # [images, tokens, width]
        if self.features.shape != shape:
            raise ValueError(
                f"{done} holds {self.features.shape}, the cases need {shape}; delete it and start again"
            )

    @staticmethod
    @torch.no_grad()
    def _look(tower: nn.Module, encoder: Encoder, paths: Sequence[Path]) -> np.ndarray:
        device = next(tower.parameters()).device
        images = {k: v.to(device) for k, v in encoder.encode_images(load_frames(paths)).items()}
        with torch.autocast(device.type, torch.bfloat16):
            out = tower_tokens(tower, images["pixel_values"], images["image_grid_thw"])
        return out.to(torch.float16).cpu().numpy()

    def tensors(self, paths: Sequence[Path]) -> Tensors:
        """Stand-ins for `Encoder.encode_images`: `pixel_values` already hold what the tower would make of
        them."""
        rows = np.concatenate([self.features[self.index[path]] for path in paths]).astype(np.float32)
        return {"pixel_values": torch.from_numpy(rows), "image_grid_thw": self.grid.repeat(len(paths), 1)}


@contextmanager
def _all_cores() -> Iterator[None]:
    """Every core for the one process that looks, while others of the same run wait for it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(threads, os.cpu_count() or 1))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def mark(tower: nn.Module) -> str:
    """Twelve letters that change when any of the tower's parameters does."""
    sums = torch.stack([p.detach().double().abs().sum().cpu() for p in tower.parameters()])
    return hashlib.sha256(sums.numpy().tobytes()).hexdigest()[:12]


class SeenTower(nn.Module):
    """Stands in for a vision tower whose output is known: hands on what `SeenImages` stored."""

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.spatial_merge_size = tower.spatial_merge_size
        self.dtype = torch.float32

    def forward(self, hidden_states: Tensor, grid_thw: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=hidden_states)

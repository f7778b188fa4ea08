"""Teach a Qwen2-VL to answer as AbVLM-Q does: structures with boxes, planes, deductions, score.

AbVLM-Q (2025), "Task-Specific Fine-Tuning". A sample is one image; its prompt and its answer are those of the
assistant (`assistants.abvlm_q.encoding.learn`), written from what the case knows: boxes, planes, deductions,
score. The case's own answer text is not read. Half of the requests come without a person's words, as the page
asks them.

Knows nothing of LoRA or of stages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from assistants.abvlm_q.answers import answer_of
from assistants.abvlm_q.encoding import Marks, cut_image, learn
from assistants.abvlm_q.scoring import assess
from imaging.case import Case, CaseError
from imaging.frame import Frame
from imaging.planes import Planes
from models.boxes import RELATIVE, convention_of
from models.encoding import IGNORED, Encoder, Tensors
from training.conversation import STANDARD_WORDING, Conversations, SeenTower
from training.even_tower import see
from training.folded_lora import folded
from training.plane_warmup import PlaneWarmup, jittered
from training.text_attention import batched_products

ROWS_READ = 2000  # for the words that are taught; the rarest name stands in one row of a hundred


def taught_words(encoder: Encoder, cases: Sequence[Case], protocol: Planes, form: str) -> list[int]:
    """Ids of the tokens that requests and answers are made of, in order: from ROWS_READ of the cases at most,
    evenly picked. The placeholder of an image is none."""
    marks, blank = Marks(encoder), Frame(np.zeros((56, 56, 3), np.uint8), None, "blank")
    found: set[int] = set()
    for case in cases[:: -(-len(cases) // ROWS_READ)]:
        tensors = learn(marks, case, protocol, RELATIVE, form=form, cut=(blank, (0, 0)))
        found.update(tensors["input_ids"][0].tolist())
    return sorted(found - {encoder.image_token_id})


class PlaneAnswers(Conversations):
    """A `training.loop.Stage` over a Qwen2-VL-like model. One sample is one image in one of its rows."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        encoder: Encoder,
        cases: Sequence[Case],
        protocol: Planes,
        form: str,
        max_length: int | None = None,
        step: int = 1,
        warmup: PlaneWarmup | None = None,
        grounding: float = 0.0,
    ):
        """`form` is the prompt's, "full" or "short"; `max_length` is in tokens, `step` in units of the boxes.
        `grounding` is the weight of what `warmup`, on the model's tower and these cases, asks beside.

        CaseError for a case without planes, or whose boxes, deductions and score are not the protocol's.
        """
        for case in cases:
            _check(case, protocol)
        super().__init__(name, model, encoder, cases, None)
        self.protocol, self.form, self.max_length, self.step = protocol, form, max_length, step
        self.model, self.warmup, self.grounding = model, warmup, grounding
        if warmup:
            self.module = nn.ModuleDict({"model": model, "heads": warmup.heads})
        self.convention = convention_of(model.config.model_type)
        self.marks = Marks(encoder)

    def batch(self, indices: Sequence[int], rng: np.random.Generator) -> Tensors:
        picked = [self._pick(self.examinations[i], rng) for i in indices]
        cuts = [cut_image(case) for case in picked]
        samples = [
            self._learned(case, (jittered(frame, rng), origin))
            for case, (frame, origin) in zip(picked, cuts, strict=True)
        ]
        batch = self.encoder.pad(samples, side="right")
        if self.warmup:
            batch["truth"] = self.warmup.truth(picked, cuts, batch["image_grid_thw"])
        return batch

    def loss(self, batch: Tensors) -> tuple[Tensor, dict[str, float]]:
        """Of the answers' words, and with `grounding` of the warm-up's questions, the same tokens read.

        On a CPU all images pass the tower at once (`training.even_tower`), LoRA is folded into its layers and
        attention is in plain products: twice as fast. A GPU's memory would be short for it, and there the
        library is fast.
        """
        device = next(self.model.parameters()).device
        inputs = {name: batch[name].to(device) for name in batch if name != "truth"}
        if device.type != "cpu" and not self.warmup:
            return self._loss_of_words(inputs), {}
        base = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        tower = base.model.visual
        with self._faster(base):
            tokens = torch.cat(see(tower, inputs["pixel_values"], inputs["image_grid_thw"]))
            base.model.visual = SeenTower(tower)
            try:
                loss = self._loss_of_words(inputs | {"pixel_values": tokens})
            finally:
                base.model.visual = tower
        if not self.warmup:
            return loss, {}
        truth = {name: tensor.to(device) for name, tensor in batch["truth"].items()}
        grounding, figures = self.warmup.loss_of(tokens, truth)
        return loss + self.grounding * grounding, {"words": float(loss.detach())} | figures

    @contextmanager
    def _faster(self, base: PreTrainedModel) -> Iterator[None]:
        """A CPU's faster ways, unless the backward pass will run layers again, the usual way then."""
        if base.is_activation_checkpointing:
            yield
            return
        with folded(self.model), batched_products(base.model.language_model):
            yield

    def _loss_of_words(self, inputs: Tensors) -> Tensor:
        """Mean over the words that are learned; what stands before the first of them needs no scores."""
        labels = inputs.pop("labels")
        first = int((labels != IGNORED).any(0).nonzero()[0])
        kept = labels.shape[1] - first + 1  # the word before it says it
        scores = self.model(**inputs, use_cache=False, logits_to_keep=kept).logits[:, :-1]
        wanted = labels[:, first:]
        learned = wanted != IGNORED
        return F.cross_entropy(scores[learned].float(), wanted[learned])

    def _pick(self, rows: list[Case], rng: np.random.Generator) -> Case:
        """One of an image's requests, every second one as the page puts it."""
        case = rows[int(rng.integers(len(rows)))]
        asked_by_page = rng.random() < STANDARD_WORDING and case.language
        return replace(case, question=None) if asked_by_page else case

    def _learned(self, case: Case, cut: tuple[Frame, tuple[int, int]]) -> Tensors:
        tensors = learn(
            self.marks, case, self.protocol, self.convention, form=self.form, step=self.step, cut=cut
        )
        length = tensors["input_ids"].shape[1]
        if self.max_length is not None and length > self.max_length:
            raise CaseError(
                f"case {case.id} has {length} tokens, more than max_length {self.max_length}: leave it out, "
                "or lower max_pixels"
            )
        return tensors


def _check(case: Case, protocol: Planes) -> None:
    try:
        answer = answer_of(case, protocol, case.language or "zh")
    except ValueError as error:
        raise CaseError(str(error)) from error
    judged = assess(answer, {}, protocol)
    if wrong := judged.refused | judged.corrected:
        raise CaseError(
            f"case {case.id}: planes {', '.join(case.plane)} with these deductions are not the protocol's: "
            f"{', '.join(wrong)}"
        )
    if len(case.images) != 1:
        raise CaseError(f"case {case.id} has {len(case.images)} images; a plane is judged from one")
    if unknown := {entry["label"] for entry in case.boxes} - set(protocol.structures):
        raise CaseError(f"case {case.id}: {min(unknown)!r} is not one of the protocol's structures")

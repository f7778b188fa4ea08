"""Teach a Qwen2-VL to answer as AbVLM-Q does: structures with boxes, planes, deductions, score.

AbVLM-Q (2025), "Task-Specific Fine-Tuning". A sample is one image; its prompt and its answer are those of the
assistant (`assistants.abvlm_q.encoding.learn`), written from what the case knows: boxes, planes, deductions,
score. The case's own answer text is not read. Half of the requests come without a person's words, as the page
asks them.

Knows nothing of LoRA or of stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn

from assistants.abvlm_q.answers import answer_of
from assistants.abvlm_q.encoding import Marks, learn
from assistants.abvlm_q.scoring import assess
from imaging.case import Case, CaseError
from imaging.files import load_frames
from imaging.frame import Frame
from imaging.planes import Planes
from models.boxes import RELATIVE, convention_of
from models.encoding import Encoder, Tensors
from training.conversation import STANDARD_WORDING, Conversations, SeenTower
from training.even_tower import see
from training.plane_warmup import jittered

ROWS_READ = 2000  # for the words that are taught; the rarest name stands in one row of a hundred


def taught_words(encoder: Encoder, cases: Sequence[Case], protocol: Planes, form: str) -> list[int]:
    """Ids of the tokens that requests and answers are made of, in order: from ROWS_READ of the cases at most,
    evenly picked. The placeholder of an image is none."""
    marks, blank = Marks(encoder), Frame(np.zeros((56, 56, 3), np.uint8), None, "blank")
    found: set[int] = set()
    for case in cases[:: -(-len(cases) // ROWS_READ)]:
        tensors = learn(marks, case, protocol, RELATIVE, form=form, frame=blank)
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
    ):
        """`form` is the prompt's, "full" or "short"; `max_length` is in tokens, `step` in units of the boxes.

        CaseError for a case without planes, or whose boxes, deductions and score are not the protocol's.
        """
        for case in cases:
            _check(case, protocol)
        super().__init__(name, model, encoder, cases, None)
        self.protocol, self.form, self.max_length, self.step = protocol, form, max_length, step
        self.convention = convention_of(model.config.model_type)
        self.marks = Marks(encoder)

    def loss(self, batch: Tensors) -> tuple[Tensor, dict[str, float]]:
        """As for any conversation; on a CPU with one pass of the tower for all images, which is twice as fast
        (`training.even_tower`). A GPU's memory would be short for it."""
        if next(self.module.parameters()).device.type != "cpu":
            return super().loss(batch)
        model = self.module.get_base_model() if isinstance(self.module, PeftModel) else self.module
        tower = model.model.visual
        tokens = see(tower, batch["pixel_values"], batch["image_grid_thw"])
        model.model.visual = SeenTower(tower)
        try:
            return super().loss(batch | {"pixel_values": torch.cat(tokens)})
        finally:
            model.model.visual = tower

    def _sample(self, rows: list[Case], rng: np.random.Generator) -> Tensors:
        case = rows[int(rng.integers(len(rows)))]
        if rng.random() < STANDARD_WORDING and case.language:
            case = replace(case, question=None)
        (frame,) = load_frames(case.images, cut_to_sector=False)
        tensors = learn(
            self.marks,
            case,
            self.protocol,
            self.convention,
            form=self.form,
            step=self.step,
            frame=jittered(frame, rng),
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

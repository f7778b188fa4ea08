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
from torch import nn

from assistants.abvlm_q.answers import answer_of
from assistants.abvlm_q.encoding import Marks, learn
from imaging.case import Case, CaseError
from imaging.files import load_frames
from imaging.planes import Planes
from models.boxes import convention_of
from models.encoding import Encoder, Tensors
from training.conversation import STANDARD_WORDING, Conversations
from training.plane_warmup import jittered


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
    ):
        """`form` is the prompt's, "full" or "short"; `max_length` is in tokens.

        CaseError for a case without planes, or whose boxes, deductions and score are not the protocol's.
        """
        for case in cases:
            _check(case, protocol)
        super().__init__(name, model, encoder, cases, None)
        self.protocol, self.form, self.max_length = protocol, form, max_length
        self.convention = convention_of(model.config.model_type)
        self.marks = Marks(encoder)

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
        answer_of(case, protocol, case.language or "zh")
    except ValueError as error:
        raise CaseError(str(error)) from error
    if len(case.images) != 1:
        raise CaseError(f"case {case.id} has {len(case.images)} images; a plane is judged from one")
    if unknown := {entry["label"] for entry in case.boxes} - set(protocol.structures):
        raise CaseError(f"case {case.id}: {min(unknown)!r} is not one of the protocol's structures")

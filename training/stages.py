"""What each stage teaches and what it leaves alone.

| kind | learns | source |
|---|---|---|
| vision_warmup | vision tower and merger, or LoRA in them, on the label maps | ours, for Qwen2-VL's own |
| captions | the dense language model; the tower is frozen | ours; likewise |
| moe | router, experts and mixing only; every Qwen2-VL parameter is frozen | EchoVLM, stage I |
| instruct | LoRA on vision, projector and attention; the mixture in full | EchoVLM, stage II and Table 8 |
| lora_language | the language model's part of a LoRA; the tower stays as warmed up | ours, before lora |
| lora | LoRA alone, wherever the recipe puts it; nothing else | AbVLM-Q, fine-tuning |
| contrast | a CLIP tower, on images and captions | ours, for CLIP's weights |
| masks | a SAM encoder, on the label maps | ours, for SAM's weights |
| llava_language | language model, projectors, fusion weight; one frame a case | ours, for LLaVA-Med's |
| llava_align | projectors and fusion weight; one frame a case | LLaVA-Ultra, 3.1, first stage |
| llava_instruct | the same, LoRA, and the score that chooses among frames | LLaVA-Ultra, 3.1, second stage |

In alignment the paper freezes the language model, which knows medicine from LLaVA-Med. A demo has no such
weights to start from, and a frozen language model of random numbers can teach the projectors nothing:
`llava_language` comes first, with the paper's two stages after it.

For the published sizes stage I learns 28 layers x 121,135,618 = 3,391,797,304 numbers (the paper's 3.39 B):
per layer four experts of 1408 (60,555,264), the shared expert of 5632 (60,555,264), the router (14,336), the
shared expert's gate (3,584) and the two-way mixing with its bias (7,170).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from assistants.language import language_of
from assistants.wording import TASKS
from imaging.case import Case, CaseError
from models.encoding import Encoder, Tensors
from training.conversation import Conversations, SeenImages
from training.recipe import Lora

# All of a DualPathMoE but its static expert. The vision tower has modules called mlp, too.
MIXTURE = re.compile(r"language_model\.layers\.\d+\.mlp\.(?!ffn\.)")

FUSION = re.compile(r"\.fusion\.")  # P1, P2 and alpha of LLaVA-Ultra's Eq. 2
LANGUAGE = re.compile(r"\.fusion\.|\.language_model\.|lm_head\.")
LORA = re.compile(r"\.lora_|\.trainable_tokens_")  # all that an adapter holds
LORA_OF_VISION = re.compile(r"visual\..*\.lora_")
LORA_OF_LANGUAGE = re.compile(r"^(?!.*visual\.).*(\.lora_|\.trainable_tokens_)")
CHOICE = re.compile(r"\.fusion\.|\.frame_score\.")  # with w of Eq. 3

# What the printed counts call the parameters; the first pattern that is found in the name decides.
_PARTS = (
    ("LoRA on the vision tower", r"(visual|^tower)\.blocks.*\.lora_"),
    ("LoRA on the projector", r"(visual|^tower)\.merger.*\.lora_"),
    ("LoRA on the language model", r"\.lora_"),
    ("embeddings of the words that are taught", r"\.trainable_tokens_"),
    ("routed experts", r"language_model.*\.mlp\.experts\."),
    ("shared experts", r"language_model.*\.mlp\.shared_expert\."),
    ("routers and mixing", r"language_model.*\.mlp\.(gate|shared_expert_gate|coefficient)\."),
    ("projectors and fusion weight", FUSION.pattern),
    ("frame score", r"\.frame_score\."),
    ("CLIP's tower", r"^clip\."),
    ("SAM's encoder", r"^sam\."),
    ("vision tower and projector", r"visual\.|^tower\."),
    ("language model", r"language_model\.|lm_head"),
    ("read-outs beside the model", r"^(heads?|words|from_image|from_words)\.|^sharpness$"),
)


def freeze(model: nn.Module, learns: re.Pattern | None) -> int:
    """Let only the parameters learn whose name matches; returns how many numbers learn."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(bool(learns and learns.search(name)))
    return learning(model)


def learning(model: nn.Module) -> int:
    """How many numbers learn."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def describe(model: nn.Module, aside: Iterable[nn.Module] = ()) -> str:
    """What learns, counted: "3,391,797,304 of 11,683,… parameters learn: routed experts …, …".

    `aside` are frozen parts that something else stands in for; they count among all parameters.
    """
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = next((title for title, pattern in _PARTS if re.search(pattern, name)), "other")
            counts[part] = counts.get(part, 0) + parameter.numel()
    parts = ", ".join(f"{part} {count:,}" for part, count in counts.items())
    whole = sum(p.numel() for part in (model, *aside) for p in part.parameters())
    return f"{learning(model):,} of {whole:,} parameters learn: {parts or 'none'}"


def with_lora(
    model: nn.Module,
    lora: Lora,
    seed: int,
    also: re.Pattern | None = MIXTURE,
    words: Sequence[int] = (),
) -> PeftModel:
    """LoRA on the linear layers whose full name matches `lora.targets`; what matches `also` and the
    embeddings of `words`, token ids, learn in full.

    Raises ValueError when no layer matches.
    """
    torch.manual_seed(seed)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        bias="none",
        trainable_token_indices=list(words) or None,
    )
    wrapped = get_peft_model(model, config)
    for name, parameter in wrapped.named_parameters():
        if also and also.search(name) and "lora_" not in name:
            parameter.requires_grad_(True)
    return wrapped


def learn_in_float32(model: nn.Module) -> None:
    """Give what learns full precision: small updates are lost in bfloat16. What is frozen stays as it is."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def changed_by(model: nn.Module, *, merged: bool = True) -> set[str]:
    """Names of the state's tensors that learning changes, once LoRA is merged, or with LoRA as it is."""
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    if not merged:
        return names
    beside = re.compile(r"\.(lora_[AB]\.\w+\.weight|token_adapter\.trainable_tokens_delta\.\w+)$")
    return {beside.sub(".weight", name.removeprefix("base_model.model.")) for name in names}


class Instructions(Conversations):
    """`Conversations` that keep to the longest length the model was made for."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        encoder: Encoder,
        cases: Sequence[Case],
        seen: SeenImages | None = None,
        max_length: int | None = None,
        **turns: float,
    ):
        """`turns`: what `Conversations` takes of them.

        CaseError for a case without question or answer, naming it.
        """
        super().__init__(name, model, encoder, [askable(case) for case in cases], seen, **turns)
        self.max_length = max_length

    def _sample(self, rows: list[Case], rng: np.random.Generator) -> Tensors:
        """One turn or several; fewer when they would be longer than `max_length`."""
        tensors = super()._sample(rows, rng)
        for _ in range(self.most_turns):
            if self.max_length is None or tensors["input_ids"].shape[1] <= self.max_length:
                return tensors
            rows = [rows[rng.integers(len(rows))]]
            tensors = super()._sample(rows, rng)
        raise CaseError(
            f"case {rows[0].id} has {tensors['input_ids'].shape[1]} tokens, more than max_length "
            f"{self.max_length}: leave it out, or lower max_pixels"
        )


def askable(case: Case) -> Case:
    """A case with all that a turn needs. Tasks that EchoVLM has no standard wording for are questions."""
    task = case.task if case.task in TASKS else "vqa"
    question = case.question or ""
    if not case.answer:
        raise CaseError(f"case {case.id} has no answer: there is nothing to learn from it")
    if task == "vqa" and not question:
        raise CaseError(f"case {case.id} has no question, and its task {case.task!r} no standard one")
    language = case.language or language_of(question) or language_of(case.answer) or "en"
    return replace(case, task=task, question=question, language=language)

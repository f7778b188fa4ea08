"""EchoVLM answers: a turn with its frames goes in, a growing report, diagnosis or answer comes out.

EchoVLM (2025): Qwen2-VL with a dual-path mixture of experts. Greedy decoding and 392 x 392 pixels per
image are the paper's (Implementation Details, Table 8) and stand in `assistants.base.Settings`.

The whole story of one answer is `EchoVLMAssistant.stream`; `answer` is the same story for several turns at
once. All images in view are read, as in the paper, unless the settings or a person say otherwise: then
LLaVA-Ultra's choice of frames stands in front, by attention, which needs no training.

Knows nothing of pages, files or test sets.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from assistants.base import DEMO_MARK, Reply, Settings, Turn, require_demo_weights
from assistants.conversation import frames_in_view, last_of, showing_only
from assistants.echovlm import prompts
from assistants.selection import SelectionReply, as_data, check
from imaging.frame import Frame
from models.backbone import Backbone, number_format
from models.encoding import Tensors
from models.errors import ContextOverflow, OutOfMemory
from models.familiarity import Familiarity
from models.feature_cache import FeatureCache
from models.frame_choice import Selection, attention_scores, choose, overrule
from models.registry import title_of
from models.streaming import Writer, is_out_of_memory, room_for_answer

_ROOM_TO_ANSWER = (
    128  # tokens a prompt must leave free; the shortest reports of the paper's appendix need as much
)
_SCORED_AT_ONCE = 4  # frames whose features are made between two signs of life; chosen
_ATTENTION_LAYERS = 2  # N of LLaVA-Ultra's Eq. 4; its paper gives no number


@dataclass(frozen=True)
class _Asked:
    """One turn as the model reads it: a batch of one, the tokens it may write, and what was chosen before.

    `kept` are the images that are read, as indices into all in view; `selection` is None where that is all
    of them.
    """

    inputs: Tensors
    budget: int
    kept: tuple[int, ...]
    selection: dict[str, Any] | None

    def reply(self, **fields) -> Reply:
        prompt_tokens = self.inputs["input_ids"].shape[1]
        if self.selection is None:
            return Reply(prompt_tokens=prompt_tokens, **fields)
        return SelectionReply(prompt_tokens=prompt_tokens, selection=self.selection, **fields)


class EchoVLMAssistant:
    """The `Assistant` of the EchoVLM paper. `familiarity` knows what the demo weights were trained on."""

    name = "echovlm"
    settings = Settings()

    def __init__(
        self,
        backbone: Backbone,
        title: str,
        *,
        demo: bool,
        familiarity: Familiarity | None = None,
        quantize: str | None = None,
    ):
        self.backbone = backbone
        self.title = title
        self.demo = demo
        self.device = str(backbone.model.device)
        self.dtype = number_format(backbone.model, quantize)
        self.folders = (backbone.folder,)
        self._familiarity = familiarity
        self._writer = Writer(backbone.model, backbone.encoder.decode)
        self._seen = FeatureCache()

    @classmethod
    def open(
        cls,
        weights: str | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        quantize: str | None = None,
    ) -> EchoVLMAssistant:
        """Open the demo weights (None), a folder or a Hugging Face id; raises what `Backbone.open` does."""
        path = str(weights or require_demo_weights(cls.name))
        backbone = Backbone.open(path, device=device, dtype=dtype, quantize=quantize)
        demo = (backbone.folder / DEMO_MARK).is_file()
        title = title_of("EchoVLM", path, demo=demo, quantize=quantize)
        familiarity = Familiarity.load(backbone.folder)
        return cls(backbone, title, demo=demo, familiarity=familiarity, quantize=quantize)

    def request(self, turn: Turn) -> str:
        """The words the model will read for `turn`, standard wording included: what a page should show."""
        return prompts.request(turn)

    def stream(
        self, turn: Turn, history: Sequence[Turn | Reply] = (), settings: Settings | None = None
    ) -> Iterator[Reply]:
        """Answer `turn`, with the images of `history` still in view.

        Raises ContextOverflow, OutOfMemory, UnusableImage or UnusableChoice, each with a text for the person
        who asked. An empty Reply comes after every few frames that are compared and about four times a second
        while the model is busy, so that a reader can leave.
        """
        settings = settings or self.settings
        started = time.monotonic()
        out_of_memory = None
        try:
            asked = yield from self._prepare(history, turn, settings)
            unfamiliar = _of_all(self._unfamiliar(asked.inputs), asked.kept)
            text, first_token = "", None
            for piece in self._writer.stream(
                asked.inputs,
                max_new_tokens=asked.budget,
                temperature=settings.temperature,
                seed=settings.seed,
            ):
                if piece.new_tokens and first_token is None:
                    first_token = time.monotonic() - started
                text += piece.text
                yield asked.reply(
                    text=text,
                    finished=piece.stopped_by is not None,
                    stopped_by=piece.stopped_by,
                    unfamiliar=unfamiliar,
                    new_tokens=piece.new_tokens,
                    seconds_to_first_token=first_token,
                )
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            out_of_memory = self._out_of_memory(len(frames_in_view(history, turn)))
        if out_of_memory:  # raised out here, where the failed pass and its tensors are already forgotten
            raise out_of_memory

    def answer(self, turns: Sequence[Turn], settings: Settings | None = None) -> list[Reply]:
        """The last reply to each turn, all written at once: greedy, in one batch padded on the left.

        Raises what `stream` raises, for all turns when one is to blame. Sampled answers are written one
        after another, because a seed belongs to one text.
        """
        settings = settings or self.settings
        if settings.temperature > 0:
            return [list(self.stream(turn, (), settings))[-1] for turn in turns]
        pieces = None
        try:
            prepared = [last_of(self._prepare((), turn, settings)) for turn in turns]
            batch = self.backbone.encoder.pad([asked.inputs for asked in prepared])
            unfamiliar = self._unfamiliar(batch)
            pieces = self._writer.write(batch, [asked.budget for asked in prepared])
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        if pieces is None:  # raised out here for the reason that `stream` has
            raise self._out_of_memory(sum(len(turn.frames) for turn in turns))
        ours = _of_each(unfamiliar, [len(asked.kept) for asked in prepared])
        return [
            asked.reply(
                text=piece.text,
                finished=True,
                stopped_by=piece.stopped_by,
                unfamiliar=_of_all(strange, asked.kept),
                new_tokens=piece.new_tokens,
            )
            for piece, strange, asked in zip(pieces, ours, prepared, strict=True)
        ]

    def _prepare(
        self, history: Sequence[Turn | Reply], turn: Turn, settings: Settings
    ) -> Generator[Reply, None, _Asked]:
        """What the model reads, once it is settled which of the images in view."""
        frames = frames_in_view(history, turn)
        selection = yield from self._select(frames, turn, settings)
        kept = tuple(range(len(frames))) if selection is None else selection.kept
        history, turn = showing_only(history, turn, kept)
        shown = [frames[index] for index in kept]
        inputs = self.backbone.encode(prompts.build_messages(history, turn), shown, settings.max_pixels)
        budget = self._budget(inputs["input_ids"].shape[1], len(shown), settings.max_new_tokens)
        return _Asked(inputs, budget, kept, None if selection is None else as_data(selection, frames))

    def _select(
        self, frames: Sequence[Frame], turn: Turn, settings: Settings
    ) -> Generator[Reply, None, Selection | None]:
        """The images that the question's words attend to most, or a person's choice; None for all of them."""
        wanted = settings.keep or len(frames)
        if not turn.chosen and len(frames) <= wanted:
            return None
        check(frames, turn.chosen)
        features = yield from self._look(frames, settings.max_pixels)
        selection = choose(self._scores(features, turn), wanted, "attention")
        return overrule(selection, turn.chosen) if turn.chosen else selection

    def _look(self, frames: Sequence[Frame], max_pixels: int | None) -> Generator[Reply, None, list[Tensor]]:
        """The image tokens of every frame, on the CPU; frames seen before are not encoded again."""
        features: list[Tensor] = []
        for start in range(0, len(frames), _SCORED_AT_ONCE):
            some = frames[start : start + _SCORED_AT_ONCE]
            features += self._seen.look(some, lambda new: self._features(new, max_pixels), max_pixels)
            yield Reply("")
        return features

    @torch.no_grad()
    def _scores(self, features: Sequence[Tensor], turn: Turn) -> Tensor:
        """How much the question's words attend to each frame, on the CPU (Eq. 4 of LLaVA-Ultra)."""
        model = self.backbone.model
        words = self.backbone.encoder.words(self.request(turn)).to(model.device)
        text = model.get_input_embeddings()(words)
        features = [each.to(model.device) for each in features]
        return attention_scores(features, text, model.model.language_model, _ATTENTION_LAYERS).cpu()

    @torch.no_grad()
    def _features(self, frames: Sequence[Frame], max_pixels: int | None) -> Sequence[Tensor]:
        """The image tokens [T, D] of each frame, one pass of the vision tower for all."""
        encoder, tower = self.backbone.encoder, self.backbone.model.model.visual
        images = encoder.encode_images(frames, max_pixels)
        grid = images["image_grid_thw"].to(self.backbone.model.device)
        pixels = images["pixel_values"].to(self.backbone.model.device, tower.dtype)
        tokens = tower(pixels, grid_thw=grid).pooler_output
        return tokens.split((grid.prod(dim=1) // tower.spatial_merge_size**2).tolist())

    def _budget(self, prompt_tokens: int, images: int, wanted: int) -> int:
        """How many tokens the answer may have; ContextOverflow when a useful one no longer fits."""
        limit = self.backbone.context_length
        budget = room_for_answer(prompt_tokens, wanted, limit=limit, least=_ROOM_TO_ANSWER)
        if budget is None:
            raise ContextOverflow(
                f"The conversation and its {images} images come to {prompt_tokens} tokens; this model reads "
                f"at most {limit}, answer included. Start a new conversation or ask with fewer images.",
                f"当前对话及其 {images} 张图像共 {prompt_tokens} 个 token，"
                f"该模型最多处理 {limit} 个（含回答）。请新建对话，或减少图像数量后重试。",
            )
        return budget

    def _unfamiliar(self, inputs: Tensors) -> tuple[int, ...]:
        """Which images are unlike all the demo weights were trained on; none for published weights."""
        if self._familiarity is None or "pixel_values" not in inputs:
            return ()
        verdicts = self._familiarity.unfamiliar(
            self.backbone.model, inputs["pixel_values"], inputs["image_grid_thw"]
        )
        return tuple(index for index, strange in enumerate(verdicts) if strange)

    def _out_of_memory(self, images: int) -> OutOfMemory:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return OutOfMemory(
            f"{self.device} ran out of memory with {images} images in view. Ask again with fewer images or a "
            "shorter conversation; whoever runs the server can start it with --quantize 4bit.",
            f"{self.device} 内存不足（当前共 {images} 张图像）。请减少图像数量或新建对话后重试；"
            "服务器管理员也可以用 --quantize 4bit 启动。",
        )


def _of_all(indices: Sequence[int], kept: Sequence[int]) -> tuple[int, ...]:
    """Indices into the images that are read as indices into all in view."""
    return tuple(kept[index] for index in indices)


def _of_each(indices: Sequence[int], counts: Sequence[int]) -> list[tuple[int, ...]]:
    """Indices into all images of a batch as indices into each turn's own; `counts` images a turn."""
    ends = list(accumulate(counts))
    return [
        tuple(i - end + count for i in indices if end - count <= i < end)
        for end, count in zip(ends, counts, strict=True)
    ]

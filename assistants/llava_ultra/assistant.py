"""LLaVA-Ultra answers: a question about a case goes in, the frame that shows it is found, the answer comes.

LLaVA-Ultra (2024), section 3.3 and Fig. 2. All frames in view pass the encoders, in batches; each gets a
score; the best `keep` go to the language model, once. Without images a question is answered as text.

The whole story of one answer is `LlavaUltraAssistant.stream`; `answer` is the same story for several turns
at once. Knows nothing of pages, files or test sets.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from assistants.base import DEMO_MARK, Reply, Settings, Turn, require_demo_weights
from assistants.conversation import alternating, frames_in_view, last_of, showing_only
from assistants.llava_ultra import prompts
from assistants.llava_ultra.encoding import Encoder
from assistants.llava_ultra.images import encode_frames
from assistants.llava_ultra.model import LlavaUltraForConditionalGeneration
from assistants.llava_ultra.published import open_published
from assistants.selection import SelectionReply, as_data, check
from imaging.frame import Frame
from models.backbone import choose_device, choose_dtype, number_format
from models.checkpoint import CheckpointError
from models.encoding import Tensors
from models.errors import ContextOverflow, DeviceUnavailable, OutOfMemory
from models.familiarity import Familiarity, pooled
from models.feature_cache import FeatureCache
from models.frame_choice import Selection, choose, overrule
from models.registry import title_of
from models.streaming import Piece, Writer, is_out_of_memory, room_for_answer

ENCODED_AT_ONCE = 8  # frames; SAM's global attention holds 4096 x 4096 numbers a head and frame
_ROOM_TO_ANSWER = 128  # tokens a prompt must leave free; chosen, as EchoVLM's
_SCORE = "model.frame_score."  # the one part that an opened LLaVA-Med may lack: attention then chooses


@dataclass(frozen=True)
class _Asked:
    """One turn as the model reads it: a batch of one, the tokens it may write, and the choice before it."""

    inputs: Tensors
    budget: int
    images: int
    selection: dict[str, Any] | None
    unfamiliar: tuple[int, ...]


class LlavaUltraAssistant:
    """The `Assistant` of the LLaVA-Ultra paper. `familiarity` knows what the demo weights were trained on."""

    name = "llava_ultra"
    settings = Settings()

    def __init__(
        self,
        model: LlavaUltraForConditionalGeneration,
        encoder: Encoder,
        folders: tuple[Path, ...],
        title: str,
        *,
        demo: bool,
        familiarity: Familiarity | None = None,
    ):
        self.model = model
        self.encoder = encoder
        self.title = title
        self.demo = demo
        self.device = str(model.device)
        self.dtype = number_format(model)
        self.folders = folders
        self._familiarity = familiarity
        self._writer = Writer(model, encoder.decode)
        self._seen = FeatureCache()

    @classmethod
    def open(
        cls,
        weights: str | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        quantize: str | None = None,
    ) -> LlavaUltraAssistant:
        """Open the demo weights (None), a folder or a Hugging Face id in one of `published`'s layouts, or a
        local folder with a LoRA adapter on one.

        A LLaVA-Med without SAM may be opened as it is: its frames are then chosen by attention. Raises
        CheckpointError for weights that lack anything else, or demo weights that are not there;
        DeviceUnavailable for quantised weights, which are not offered here.
        """
        if quantize is not None:
            raise DeviceUnavailable(
                "LLaVA-Ultra is not offered in 8 or 4 bits. Use --quantize none.",
                "LLaVA-Ultra 暂不支持 8 位或 4 位量化。请使用 --quantize none。",
            )
        path = str(weights or require_demo_weights(cls.name))
        place = choose_device(device)
        opened = open_published(path, fresh=True, dtype=choose_dtype(dtype, place), device=place)
        untrained = [name for name in opened.fresh if not name.startswith(_SCORE)]
        if untrained:
            listing = "".join(f"\n{name}" for name in untrained)
            raise CheckpointError(
                f"{path} cannot answer; these parts are missing and would be untrained:{listing}",
                f"{path} 不能用于回答：缺少以下部分（未经训练）：{listing}",
            )
        own = opened.folders[0]
        demo = (own / DEMO_MARK).is_file()
        title = title_of("LLaVA-Ultra", path, demo=demo)
        encoder = Encoder.open(opened.folders[-1], opened.model.config)
        familiarity = Familiarity.load(own)
        return cls(opened.model, encoder, opened.folders, title, demo=demo, familiarity=familiarity)

    def request(self, turn: Turn) -> str:
        """The words the model will read for `turn`, standard wording included: what a page should show."""
        return prompts.request(turn)

    def stream(
        self, turn: Turn, history: Sequence[Turn | Reply] = (), settings: Settings | None = None
    ) -> Iterator[SelectionReply]:
        """Answer `turn` from the frames that are kept of all in view.

        Raises ContextOverflow, OutOfMemory, UnusableImage or UnusableChoice, each with a text for the person
        who asked. An empty Reply comes after every batch of frames and about four times a second while the
        model is busy, so that a reader can leave.
        """
        settings = settings or self.settings
        started = time.monotonic()
        out_of_memory = None
        try:
            asked = yield from self._prepare(history, turn, settings)
            yield _reply(Piece("", 0), "", asked)  # the choice is known before the first word
            first_token = None
            for piece, text in self._written(asked, settings):
                if piece.new_tokens and first_token is None:
                    first_token = time.monotonic() - started
                yield _reply(piece, text, asked, seconds_to_first_token=first_token)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            out_of_memory = self._out_of_memory(len(frames_in_view(history, turn)))
        if out_of_memory:  # raised out here, where the failed pass and its tensors are already forgotten
            raise out_of_memory

    def answer(self, turns: Sequence[Turn], settings: Settings | None = None) -> list[SelectionReply]:
        """The last reply to each turn, all written at once: greedy, in one batch padded on the left.

        Raises what `stream` raises, for all turns when one is to blame. Sampled answers are written one after
        another, because a seed belongs to one text.
        """
        settings = settings or self.settings
        if settings.temperature > 0:
            return [list(self.stream(turn, (), settings))[-1] for turn in turns]
        asked = pieces = None
        try:
            asked = [last_of(self._prepare((), turn, settings)) for turn in turns]
            pieces = self._writer.write(self._batch(asked), [each.budget for each in asked])
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        if pieces is None:  # raised out here for the reason that `stream` has
            raise self._out_of_memory(sum(len(turn.frames) for turn in turns))
        return [self._finished(piece, each) for piece, each in zip(pieces, asked, strict=True)]

    # --- before the first word ------------------------------------------------------------------------------

    def _prepare(
        self, history: Sequence[Turn | Reply], turn: Turn, settings: Settings
    ) -> Generator[SelectionReply, None, _Asked]:
        """Look at all frames in view, choose, and write the prompt for those that are kept."""
        frames = frames_in_view(history, turn)
        check(frames, turn.chosen)
        features = yield from self._look(frames)
        selection = self._select(features, turn, settings) if frames else None
        kept = selection.kept if selection else ()
        conversation = alternating(*showing_only(history, turn, kept))
        inputs = self.encoder.encode(conversation)
        if kept:
            inputs["image_features"] = torch.stack([features[frame] for frame in kept])
        inputs = {name: tensor.to(self.model.device) for name, tensor in inputs.items()}
        return _Asked(
            inputs,
            self._budget(inputs["input_ids"].shape[1], len(kept), settings.max_new_tokens),
            len(kept),
            as_data(selection, frames) if selection else None,
            self._unfamiliar(features),
        )

    def _look(self, frames: Sequence[Frame]) -> Generator[SelectionReply, None, list[Tensor]]:
        """The image tokens [T, D] of every frame, on the CPU; frames seen before are not encoded again."""
        features = []
        for start in range(0, len(frames), ENCODED_AT_ONCE):
            features += self._seen.look(frames[start : start + ENCODED_AT_ONCE], self._encode)
            yield SelectionReply("")
        return features

    def appearance(self, frames: Sequence[Frame]) -> Tensor:
        """What `Familiarity` compares frames by: float32 [k, 2 D] of their image tokens."""
        return pooled(torch.stack(list(self._encode(frames))))

    @torch.no_grad()
    def _encode(self, frames: Sequence[Frame]) -> Tensor:
        pixels = encode_frames(frames, self.model.config)
        return self.model.image_features(
            **{name: tensor.to(self.model.device, self.model.dtype) for name, tensor in pixels.items()}
        )

    @torch.no_grad()
    def _select(self, features: Sequence[Tensor], turn: Turn, settings: Settings) -> Selection:
        """The frames with the best scores (Eq. 3), or those that a person chose.

        A score that was never trained is zero for every frame and cannot choose; the attention between
        question and frames (Eq. 4) does it then.
        """
        seen = torch.stack(list(features)).to(self.model.device)
        if self.model.model.frame_score.channel_weight.any():
            scores, how = self.model.feature_scores(seen), "feature"
        else:
            question = self.encoder.words(self.request(turn)).to(self.model.device)
            scores, how = self.model.attention_scores(seen, question), "attention"
        selection = choose(scores.cpu(), settings.keep or self.model.config.keep, how)
        return overrule(selection, turn.chosen) if turn.chosen else selection

    def _budget(self, prompt_tokens: int, images: int, wanted: int) -> int:
        """How many tokens the answer may have; ContextOverflow when a useful one no longer fits."""
        limit = self.model.config.text_config.max_position_embeddings
        budget = room_for_answer(prompt_tokens, wanted, limit=limit, least=_ROOM_TO_ANSWER)
        if budget is None:
            raise ContextOverflow(
                f"The conversation with its images to read ({images}) comes to {prompt_tokens} tokens; this "
                f"model reads at most {limit}, answer included. Shorten the text, let the best frame be "
                "chosen instead of using all, or start a new conversation.",
                f"当前对话及其中要读取的图像（{images} 帧）共 {prompt_tokens} 个 token，"
                f"该模型最多处理 {limit} 个（含回答）。请缩短文本、改为由模型挑选一帧，或新建对话。",
            )
        return budget

    def _unfamiliar(self, features: Sequence[Tensor]) -> tuple[int, ...]:
        """Which of the frames in view are unlike all the demo weights were trained on: read or not, they
        were compared."""
        if self._familiarity is None or not features:
            return ()
        far = self._familiarity.far(pooled(torch.stack(list(features))))
        return tuple(frame for frame, strange in enumerate(far) if strange)

    # --- the words ------------------------------------------------------------------------------------------

    def _written(self, asked: _Asked, settings: Settings) -> Iterator[tuple[Piece, str]]:
        """Each piece with the whole text so far, to the template's stop where it has one."""
        written = ""
        pieces = self._writer.stream(
            asked.inputs,
            max_new_tokens=asked.budget,
            temperature=settings.temperature,
            seed=settings.seed,
        )
        try:
            for piece in pieces:
                written += piece.text
                text, ended = _until(written, self.encoder.stop, final=piece.stopped_by is not None)
                if ended:
                    yield Piece(piece.text, piece.new_tokens, "end"), text
                    return
                yield piece, text
        finally:
            pieces.close()

    def _batch(self, asked: Sequence[_Asked]) -> Tensors:
        batch = self.encoder.pad([each.inputs for each in asked])
        features = [each.inputs["image_features"] for each in asked if each.images]
        return {**batch, "image_features": torch.cat(features)} if features else batch

    def _finished(self, piece: Piece, asked: _Asked) -> SelectionReply:
        text, ended = _until(piece.text, self.encoder.stop, final=True)
        stopped_by = "end" if ended else piece.stopped_by
        return _reply(Piece(piece.text, piece.new_tokens, stopped_by), text, asked)

    def _out_of_memory(self, images: int) -> OutOfMemory:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return OutOfMemory(
            f"{self.device} ran out of memory with {images} images in view. Ask again with fewer images or a "
            "shorter conversation.",
            f"{self.device} 内存不足（当前共 {images} 张图像）。请减少图像数量或新建对话后重试。",
        )


def _reply(
    piece: Piece, text: str, asked: _Asked, seconds_to_first_token: float | None = None
) -> SelectionReply:
    return SelectionReply(
        text=text,
        finished=piece.stopped_by is not None,
        stopped_by=piece.stopped_by,
        unfamiliar=asked.unfamiliar,
        prompt_tokens=asked.inputs["input_ids"].shape[1],
        new_tokens=piece.new_tokens,
        seconds_to_first_token=seconds_to_first_token,
        selection=asked.selection,
    )


def _until(text: str, stop: str | None, *, final: bool) -> tuple[str, bool]:
    """The text before `stop`, and whether it came; until `final`, what may become a stop is held back."""
    if stop is None:
        return text, False
    before, found, _ = text.partition(stop)
    if found:
        return before.rstrip(), True
    if not final:
        held = next((size for size in range(len(stop) - 1, 0, -1) if text.endswith(stop[:size])), 0)
        text = text[: len(text) - held]
    return text, False

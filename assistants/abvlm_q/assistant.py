"""AbVLM-Q answers: an abdominal image goes in; boxes, planes, deductions and a score come out.

AbVLM-Q (2025), Methods: a Qwen2-VL with a hierarchical prompt answers in three steps, in order. The whole
story of one answer is `AbVLMQAssistant.stream`: cut to the scan sector, ask (`prompts`, `encoding`), read
while the model writes (`answers`), judge by the protocol (`scoring`). Every image is judged by itself: what
was said before is not read.

Knows nothing of pages, files or test sets.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from assistants.abvlm_q import prompts
from assistants.abvlm_q.answers import AnswerReader, Names
from assistants.abvlm_q.encoding import Marks, canvas_of, cut_to_sector
from assistants.abvlm_q.scoring import Assessment, Judged, Structure, assess
from assistants.base import DEMO_MARK, Reply, Settings, Turn, require_demo_weights
from imaging.frame import Frame
from imaging.planes import Planes, load_planes
from models.adapter import open_backbone
from models.backbone import Backbone, number_format
from models.boxes import Canvas, convention_of
from models.encoding import Tensors
from models.errors import ContextOverflow, ModelError, OutOfMemory, UnusableImage
from models.familiarity import Familiarity
from models.registry import title_of
from models.streaming import Piece, Writer, is_out_of_memory, room_for_answer

_SMALLEST = 28  # pixels, one token across
_ROOM_TO_ANSWER = 256  # tokens a prompt must leave free: three structures and as many deductions


@dataclass(frozen=True)
class PlaneReply(Reply):
    """A reply with what was found; `text` is the model's own, with the marks of its boxes (`boxes.readable`).

    Boxes are in pixels of the frame that was given. `score` and `grade` are computed from `deductions`;
    `stated_score` is the model's own sum. For the rest see `scoring.Assessment`. `flags` come with the last
    reply.
    """

    boxes: tuple[Structure, ...] = ()
    plane: tuple[str, ...] = ()
    deductions: tuple[Judged, ...] = ()
    score: float | None = None
    grade: str | None = None
    stated_score: float | None = None
    refused: Mapping[str, int] = field(default_factory=dict)
    corrected: Mapping[str, int] = field(default_factory=dict)
    flags: tuple[str, ...] = ()

    @property
    def assessment(self) -> Assessment:
        """What a clinician may change, see `scoring.revise`."""
        return Assessment(
            structures=self.boxes,
            planes=self.plane,
            deductions=self.deductions,
            score=self.score,
            grade=self.grade,
            stated_score=self.stated_score,
            refused=self.refused,
            corrected=self.corrected,
            flags=self.flags,
        )


@dataclass(frozen=True)
class _Asked:
    """One image as the model reads it: a batch of one, what its coordinates mean, tokens it may write."""

    inputs: Tensors
    canvas: Canvas
    budget: int


class AbVLMQAssistant:
    """The `Assistant` of the AbVLM-Q paper, under one protocol."""

    name = "abvlm_q"
    settings = Settings(max_new_tokens=1024, max_pixels=None)  # the paper does not resize images

    def __init__(
        self,
        backbone: Backbone,
        title: str,
        *,
        demo: bool,
        planes: Planes | None = None,
        form: str = "full",
        folders: tuple[Path, ...] = (),
        familiarity: Familiarity | None = None,
        quantize: str | None = None,
    ):
        self.backbone = backbone
        self.title = title
        self.demo = demo
        self.planes = planes or load_planes()
        self.device = str(backbone.model.device)
        self.dtype = number_format(backbone.model, quantize)
        self.folders = folders or (backbone.folder,)
        self._form = form
        self._familiarity = familiarity
        self._names = Names(self.planes)
        self._convention = convention_of(backbone.model.config.model_type)
        self._marks = Marks(backbone.encoder)
        self._writer = Writer(backbone.model, self._marks.decode)

    @classmethod
    def open(
        cls,
        weights: str | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        quantize: str | None = None,
        planes: str | Path | None = None,
        merge: bool = True,
    ) -> AbVLMQAssistant:
        """Open the demo weights (None), whole weights or an adapter on its base (`models.adapter`).

        `planes` is the file of a hospital's own protocol. Raises CheckpointError where there are no demo
        weights, PlanesError or OSError for a protocol that cannot be used, and what `open_backbone` raises.
        """
        protocol = load_planes(planes)
        path = str(weights or require_demo_weights(cls.name))
        backbone, folders = open_backbone(path, device=device, dtype=dtype, quantize=quantize, merge=merge)
        own = folders[0]
        demo = (own / DEMO_MARK).is_file()
        return cls(
            backbone,
            title_of("AbVLM-Q", path, demo=demo, quantize=quantize),
            demo=demo,
            planes=protocol,
            form=prompts.form_of(own),
            folders=folders,
            familiarity=Familiarity.load(own),
            quantize=quantize,
        )

    def request(self, turn: Turn) -> str:
        """The words the model will read for `turn`, all three layers included: what a page should show."""
        return prompts.request(turn, self.planes, self._form)

    def stream(
        self, turn: Turn, history: Sequence[Turn | Reply] = (), settings: Settings | None = None
    ) -> Iterator[PlaneReply]:
        """Assess the image of `turn`, or the last one of `history` where it brings none.

        A box is there as soon as its last mark is written, the rest at the end of its line.
        Raises ModelError for any other number of images than one, ContextOverflow, OutOfMemory or
        UnusableImage, each with a text for the person who asked, and ValueError for a task not "plane".
        """
        settings = settings or self.settings
        started = time.monotonic()
        asked = self._prepare(_with_image(turn, history), settings)
        reader = AnswerReader(self._names, asked.canvas)
        out_of_memory = None
        try:
            unfamiliar = self._unfamiliar(asked.inputs)
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
                reply = self._reply(reader, piece, asked)
                yield replace(reply, text=text, unfamiliar=unfamiliar[0], seconds_to_first_token=first_token)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            out_of_memory = self._out_of_memory(1)
        if out_of_memory:  # raised out here, where the failed pass and its tensors are already forgotten
            raise out_of_memory

    def answer(self, turns: Sequence[Turn], settings: Settings | None = None) -> list[PlaneReply]:
        """The last reply to each turn, all written at once: greedy, in one batch padded on the left.

        Raises what `stream` raises, for all turns when one is to blame. Sampled answers are written one
        after another, because a seed belongs to one text.
        """
        settings = settings or self.settings
        if settings.temperature > 0:
            return [list(self.stream(turn, (), settings))[-1] for turn in turns]
        asked = [self._prepare(_with_image(turn, ()), settings) for turn in turns]
        batch = self.backbone.encoder.pad([each.inputs for each in asked])
        pieces = None
        try:
            unfamiliar = self._unfamiliar(batch)
            pieces = self._writer.write(batch, [each.budget for each in asked])
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        if pieces is None:  # raised out here for the reason that `stream` has
            raise self._out_of_memory(len(turns))
        return [
            replace(
                self._reply(AnswerReader(self._names, each.canvas), piece, each),
                text=piece.text,
                unfamiliar=strange,
            )
            for piece, each, strange in zip(pieces, asked, unfamiliar, strict=True)
        ]

    def _prepare(self, turn: Turn, settings: Settings) -> _Asked:
        frame, origin = cut_to_sector(turn.frames[0])
        _require_size(frame)
        encoder = self.backbone.encoder
        images = encoder.encode_images([frame], settings.max_pixels)
        canvas = canvas_of(self._convention, frame, origin, encoder, images)
        messages = prompts.build_messages(turn, self.planes, self._form)
        own = prompts.own_marks(turn, self.planes, self._form)
        inputs = self._marks.restore(encoder.encode_text(messages, images), first=own)
        budget = self._budget(inputs["input_ids"].shape[1], settings.max_new_tokens)
        on_device = {name: tensor.to(self.backbone.model.device) for name, tensor in inputs.items()}
        return _Asked(on_device, canvas, budget)

    def _reply(self, reader: AnswerReader, piece: Piece, asked: _Asked) -> PlaneReply:
        """What is known after `piece`; doubts are named when nothing more can come."""
        reader.feed(piece.text)
        finished = piece.stopped_by is not None
        if finished:
            reader.close(cut=piece.stopped_by == "length")
        found = assess(reader.answer, reader.counts, self.planes)
        return PlaneReply(
            text="",
            finished=finished,
            stopped_by=piece.stopped_by,
            prompt_tokens=asked.inputs["input_ids"].shape[1],
            new_tokens=piece.new_tokens,
            boxes=found.structures,
            plane=found.planes,
            deductions=found.deductions,
            score=found.score,
            grade=found.grade,
            stated_score=found.stated_score,
            refused=found.refused,
            corrected=found.corrected,
            flags=found.flags if finished else (),
        )

    def _budget(self, prompt_tokens: int, wanted: int) -> int:
        """How many tokens the answer may have; ContextOverflow when a useful one no longer fits."""
        limit = self.backbone.context_length
        budget = room_for_answer(prompt_tokens, wanted, limit=limit, least=_ROOM_TO_ANSWER)
        if budget is None:
            raise ContextOverflow(
                f"The image and its request come to {prompt_tokens} tokens; this model reads at most "
                f"{limit}, answer included. Send the image smaller, or lower max_pixels.",
                f"图像与提问共 {prompt_tokens} 个 token，该模型最多处理 {limit} 个（含回答）。"
                "请缩小图像，或降低 max_pixels 后重试。",
            )
        return budget

    def _unfamiliar(self, inputs: Tensors) -> list[tuple[int, ...]]:
        """For each image of a batch (0,) where it is unlike all that the demo weights were trained on."""
        if self._familiarity is None:
            return [()] * len(inputs["image_grid_thw"])
        verdicts = self._familiarity.unfamiliar(
            self.backbone.model, inputs["pixel_values"], inputs["image_grid_thw"]
        )
        return [(0,) if strange else () for strange in verdicts]

    def _out_of_memory(self, images: int) -> OutOfMemory:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return OutOfMemory(
            f"{self.device} ran out of memory with {images} images at once. Ask with fewer or smaller "
            "images; whoever runs the server can start it with --quantize 4bit.",
            f"{self.device} 内存不足（同时处理 {images} 张图像）。请减少或缩小图像后重试；"
            "服务器管理员也可以用 --quantize 4bit 启动。",
        )


def _require_size(frame: Frame) -> None:
    """UnusableImage for less than one token of a Qwen2-VL: nothing has a place in it."""
    height, width = frame.pixels.shape[:2]
    if min(height, width) < _SMALLEST:
        raise UnusableImage(
            f"{frame.source}: {width} x {height} pixels are too few to assess. Upload the image itself.",
            f"{frame.source}：图像仅 {width} × {height} 像素，过小而无法评价。请上传原图。",
        )


def _with_image(turn: Turn, history: Sequence[Turn | Reply]) -> Turn:
    """The turn with the one image that it is about."""
    frames: tuple[Frame, ...] = turn.frames
    if not frames:
        earlier = [entry.frames for entry in history if isinstance(entry, Turn) and entry.frames]
        frames = earlier[-1][-1:] if earlier else ()
    if len(frames) != 1:
        raise ModelError(
            f"AbVLM-Q assesses one image at a time, and {len(frames)} came along. Send one image.",
            f"AbVLM-Q 每次评价一幅图像，当前收到 {len(frames)} 幅。请只发送一幅图像。",
        )
    return replace(turn, frames=frames)

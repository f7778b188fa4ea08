"""How likely a model finds each of several continuations of a prompt, many prompts at once.

The prompts about one image share everything before their words part, so that part is read once: one vision
pass an image, one prefill of the longest common beginning, and its keys and values repeated for the ends of
all prompts. Positions are worked out for whole prompts first and then cut (Qwen2-VL's M-RoPE, arXiv
2409.12191, section 2.1, among them), so that an end read after a cache stands where it stands in the whole.

Whether a model allows this is not looked up by name but tried: its first prompts are read both ways, and
unless both agree it reads every prompt whole from then on; `Likelihood.sharing` says which, and why.

Knows nothing of levels, languages or questions: messages and token ids in, log-probabilities out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from imaging.frame import Frame
from models.encoding import Message, Tensors
from models.errors import ContextOverflow, ModelError
from models.streaming import is_out_of_memory

Candidate = tuple[int, ...]  # token ids that may follow a prompt
LogProbabilities = tuple[float, ...]  # of a candidate's tokens, each given all before it

ROWS = 16  # images, and prompt ends, in one pass: the paper's batch (section III.B b)
# How far the log-probabilities of one token may lie apart, read both ways (chosen): rounding alone leaves
# 1e-5 in float32; half precision has three digits, and a shorter row adds up in another order.
_AGREEMENT = {torch.float32: 1e-3, torch.float64: 1e-6}
_AGREEMENT_HALF = 0.25


class PromptEncoder(Protocol):
    """What turns a prompt into tensors: `models.any_model` has one for each kind of weights folder."""

    image_token_id: int
    pad_token_id: int

    def tokens(
        self, messages: Sequence[Message], frames: Sequence[Frame], images: Sequence[Tensors]
    ) -> dict[str, list[int]]:
        """`input_ids` and whatever else the model wants of every token, all of one length. `images` are
        the frames as `image` gives them. Where the last message is the assistant's, the tokens end with
        its last word; else where the answer begins."""
        ...

    def image(self, frame: Frame, max_pixels: int | None) -> Tensors:
        """One image as the model's vision tower reads it; several are concatenated along dimension 0."""
        ...

    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass(frozen=True)
class Ask:
    """A prompt and what may follow it. `messages` end with the assistant's words so far; `frames` are the
    images of all messages in order."""

    messages: tuple[Message, ...]
    frames: tuple[Frame, ...]
    candidates: tuple[Candidate, ...]


@dataclass
class Look:
    """A frame as the vision tower reads it (`tensors`) and, once it was read, what came out: the image's
    tokens (`features` [T, D]) and, of a Qwen2-VL, its patches before they were merged (`states` [P, C])."""

    tensors: Tensors
    features: Tensor | None = None
    states: Tensor | None = None


Looks = dict[int, Look]  # by the id of a frame; whoever keeps them keeps the frames, and one budget of pixels


@dataclass(frozen=True)
class _Row:
    """One ask with one beginning of its candidates behind it (all but their last token)."""

    ask: int
    tokens: dict[str, list[int]]
    positions: Tensor  # [P, T]: P is 3 with M-RoPE, else 1
    images: tuple[int, ...]  # indices of distinct frames, in order
    places: tuple[int, ...]  # of every token: its id, or of an image's token -1 - index of the frame
    stem: Candidate

    @property
    def length(self) -> int:
        return len(self.places)

    @property
    def asked(self) -> int:
        """Tokens of the prompt alone."""
        return self.length - len(self.stem)


@dataclass(frozen=True)
class _Branch:
    """Rows that are the same up to `end`, of which `start` tokens are read already, in row `parent` of a
    cache."""

    rows: tuple[_Row, ...]
    start: int
    parent: int

    @property
    def ends(self) -> bool:
        """Whether one row is left, which is read to its last token."""
        return len(self.rows) == 1

    @cached_property
    def end(self) -> int:
        return self.rows[0].length if self.ends else _common(self.rows)

    def forks(self, parent: int) -> list[_Branch]:
        """What grows from the end: rows whose prompt ends here go on alone, others by their next token."""
        if self.ends:
            return []
        groups: dict[tuple, list[_Row]] = {}
        for number, row in enumerate(self.rows):
            is_last = row.asked - 1 == self.end
            groups.setdefault((number,) if is_last else (None, row.places[self.end]), []).append(row)
        return [_Branch(tuple(group), self.end, parent) for group in groups.values()]


class Likelihood:
    """One model and its encoder. Holds no conversation; several threads may ask at once.

    `sharing` is True or False once it is known whether common beginnings can be read once; `why` then says
    how that was found.
    """

    def __init__(self, model: nn.Module, encoder: PromptEncoder):
        self.model, self.encoder = model, encoder
        self.sharing: bool | None = None
        self.why = "not tried yet"
        inner = getattr(model, "model", model)
        self._rope_index = getattr(inner, "get_rope_index", None)
        self._takes_features = "mm_encoder_outputs" in inspect.signature(inner.forward).parameters
        self._short_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    @torch.inference_mode()
    def of(
        self,
        asks: Sequence[Ask],
        *,
        share: bool | None = None,
        rows: int = ROWS,
        max_pixels: int | None = None,
        looks: Looks | None = None,
    ) -> list[list[LogProbabilities]]:
        """Natural logarithms, from a float32 softmax over the whole vocabulary, for each ask's candidates.

        `rows` beginnings, and then `rows` ends, go through the model at a time. `share` False reads every
        prompt whole; True insists on sharing; None shares where the model is found to allow it. What was made
        of the frames is taken from `looks` and added to it, so that a later call need not look again.
        """
        looks = {} if looks is None else looks
        if share is None:
            share = self.sharing if self.sharing is not None else self._try_out(asks[:4], max_pixels, looks)
        pictures, prepared = self._prepare(asks, max_pixels, looks, features=share)
        found: list[list[LogProbabilities | None]] = [[None] * len(ask.candidates) for ask in asks]
        read = self._read_shared if share else self._read_whole
        for row, logits in read(prepared, pictures, rows):
            _fill_in(found[row.ask], asks[row.ask].candidates, row.stem, logits)
        return found

    def inputs(self, asks: Sequence[Ask], max_pixels: int | None = None) -> Tensors:
        """What `generate` reads to go on writing behind each prompt: a batch padded on the left."""
        pictures, rows = self._prepare(asks, max_pixels, {}, features=False)
        shown = [pictures[image] for row in rows for image in row.images]
        batch = self._batch([(row, 0, row.asked) for row in rows])
        batch.pop("position_ids")  # `generate` works them out for prompt and answer
        return batch | (_joined(shown) if shown else {})

    @torch.inference_mode()
    def look(self, frames: Sequence[Frame], max_pixels: int | None, looks: Looks) -> list[Look]:
        """What the vision tower makes of each frame; `ROWS` frames a pass, none that `looks` has already."""
        self._encode(frames, max_pixels, looks)
        found = [looks[id(frame)] for frame in frames]
        new = list({id(look): look for look in found if look.features is None}.values())
        for start in range(0, len(new), ROWS):
            self._see(new[start : start + ROWS])
        return found

    def _try_out(self, asks: Sequence[Ask], max_pixels: int | None, looks: Looks) -> bool:
        """Read a few prompts both ways and remember whether they agree."""
        self.sharing, self.why = self._verdict(asks, max_pixels, looks)
        return self.sharing

    def _verdict(self, asks: Sequence[Ask], max_pixels: int | None, looks: Looks) -> tuple[bool, str]:
        if not self._takes_features:
            return False, f"{type(self.model).__name__} takes no images that are encoded already"
        whole = self.of(asks, share=False, max_pixels=max_pixels)
        try:
            shared = self.of(asks, share=True, max_pixels=max_pixels, looks=looks)
        except (AttributeError, TypeError, ValueError, IndexError, RuntimeError) as error:
            if isinstance(error, ModelError) or is_out_of_memory(error):
                raise
            sentence = " ".join(str(error).split())[:200]
            return False, f"{type(self.model).__name__} cannot share a beginning: {sentence}"
        worst = max(
            abs(torch.tensor(one) - torch.tensor(other)).max().item()
            for ones, others in zip(whole, shared, strict=True)
            for one, other in zip(ones, others, strict=True)
        )
        limit = _AGREEMENT.get(self.model.dtype, _AGREEMENT_HALF)
        verdict = "agree" if worst <= limit else "do not agree"
        return worst <= limit, f"read both ways, log-probabilities {verdict}: largest difference {worst:.1e}"

    # --- from asks to rows ---------------------------------------------------------------------------------

    def _prepare(
        self, asks: Sequence[Ask], max_pixels: int | None, looks: Looks, *, features: bool
    ) -> tuple[list, list[_Row]]:
        """What the model is to see of every distinct frame (its features, or the tower's input), and rows."""
        frames = list({id(frame): frame for ask in asks for frame in ask.frames}.values())
        index = {id(frame): i for i, frame in enumerate(frames)}
        self._encode(frames, max_pixels, looks)
        tensors = [looks[id(frame)].tensors for frame in frames]
        pictures = tensors
        if features:
            pictures = [look.features for look in self.look(frames, max_pixels, looks)]
        rows = []
        for number, ask in enumerate(asks):
            images = tuple(index[id(frame)] for frame in ask.frames)
            tokens = self.encoder.tokens(ask.messages, ask.frames, [tensors[image] for image in images])
            self._check_length(len(tokens["input_ids"]))
            for stem in _stems(ask.candidates) or [()]:
                rows.append(self._row(number, tokens, stem, images, tensors, pictures if features else None))
        return pictures, rows

    def _check_length(self, tokens: int) -> None:
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and tokens >= limit:
            raise ContextOverflow(
                f"The question and its images come to {tokens} tokens; this model reads at most {limit}. "
                "Ask with fewer images.",
                f"问题及其图像共 {tokens} 个 token，该模型最多处理 {limit} 个。请减少图像数量。",
            )

    def _placed(self, tensors: Tensors) -> Tensors:
        place, kind = self.model.device, self.model.dtype
        return {
            name: tensor.to(place, kind if tensor.is_floating_point() else tensor.dtype)
            for name, tensor in tensors.items()
        }

    def _encode(self, frames: Sequence[Frame], max_pixels: int | None, looks: Looks) -> None:
        for frame in frames:
            if id(frame) not in looks:
                looks[id(frame)] = Look(self._placed(self.encoder.image(frame, max_pixels)))

    def _see(self, new: Sequence[Look]) -> None:
        """One pass of the vision tower."""
        out = self.model.get_image_features(**_joined([look.tensors for look in new]), return_dict=True)
        features, states = out.pooler_output, out.last_hidden_state
        if len(features) != len(new) or any(each.ndim != 2 for each in features):
            raise ValueError("its vision tower does not give one list of features an image")
        patches = [int(grid.prod()) for look in new for grid in look.tensors.get("image_grid_thw", ())]
        by_patch = states is not None and states.ndim == 2 and len(states) == sum(patches)
        parted = states.split(patches) if by_patch else [None] * len(new)
        for look, mine, own in zip(new, features, parted, strict=True):
            look.features, look.states = mine, own

    def _row(
        self,
        number: int,
        tokens: dict[str, list[int]],
        stem: Candidate,
        images: tuple[int, ...],
        tensors: Sequence[Tensors],
        features: Sequence[Tensor] | None,
    ) -> _Row:
        whole = {
            name: [*values, *(stem if name == "input_ids" else [values[-1]] * len(stem))]
            for name, values in tokens.items()
        }
        owners = iter([image for image in images for _ in range(len(features[image]))] if features else ())
        is_image = [token == self.encoder.image_token_id for token in whole["input_ids"]]
        places = tuple(
            -1 - next(owners) if image and features else token
            for token, image in zip(whole["input_ids"], is_image, strict=True)
        )
        return _Row(number, whole, self._positions(whole, images, tensors), images, places, stem)

    def _positions(
        self, tokens: dict[str, list[int]], images: tuple[int, ...], tensors: Sequence[Tensors]
    ) -> Tensor:
        """Where each token of one prompt stands: [3, T] with M-RoPE, else [1, T]."""
        if self._rope_index is None or not images:
            return torch.arange(len(tokens["input_ids"]))[None]
        ids = torch.tensor([tokens["input_ids"]])
        kinds = torch.tensor([tokens["mm_token_type_ids"]])
        grid = torch.cat([tensors[image]["image_grid_thw"] for image in images]).cpu()
        positions, _ = self._rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=grid)
        return positions[:, 0]

    # --- from rows to logits -------------------------------------------------------------------------------

    def _read_whole(
        self, rows: Sequence[_Row], pictures: Sequence[Tensors], at_once: int
    ) -> Iterator[tuple[_Row, Tensor]]:
        """Each row with the logits of its last tokens [stem + 1, V], every prompt read from its start."""
        for group in _alike(rows, lambda row: row.length, at_once):
            images = [pictures[image] for row in group for image in row.images]
            inputs = self._batch([(row, 0, row.length) for row in group])
            out = self._call(inputs | (_joined(images) if images else {}), group, use_cache=False)
            yield from _last(group, out.logits)

    def _read_shared(
        self, rows: Sequence[_Row], features: Sequence[Tensor], at_once: int
    ) -> Iterator[tuple[_Row, Tensor]]:
        """The same, but what several rows have in common is read once."""
        families: dict[int | None, list[_Row]] = {}
        for row in rows:
            families.setdefault(row.images[0] if row.images else None, []).append(row)
        branches = [_Branch(tuple(family), 0, 0) for family in families.values()]
        yield from self._grow(branches, None, None, features, at_once)

    def _grow(
        self,
        branches: Sequence[_Branch],
        cache: DynamicCache | None,
        mask: Tensor | None,
        features: Sequence[Tensor],
        at_once: int,
    ) -> Iterator[tuple[_Row, Tensor]]:
        """Read each branch to where its rows part, and go on with what grows from there.

        `cache` and `mask` [branches before, P] hold what was read already. One part after another is
        followed to its ends, so that no more than `at_once` rows a fork are kept.
        """
        for part in _alike(branches, lambda branch: branch.end - branch.start, at_once):
            pieces = [(branch.rows[0], branch.start, branch.end) for branch in part]
            inputs = self._batch(pieces)
            past = None
            if cache is not None:
                chosen = torch.tensor([branch.parent for branch in part], device=self.model.device)
                past = _repeated(cache, chosen)
                inputs["attention_mask"] = torch.cat([mask[chosen], inputs["attention_mask"]], dim=1)
            shown = [features[image] for piece in pieces for image in _images_in(*piece)]
            ends = [branch.rows[0] for branch in part if branch.ends]
            out = self._call(inputs | _seen(shown), ends, past_key_values=past, use_cache=True)
            done = [i for i, branch in enumerate(part) if branch.ends]
            yield from _last(ends, out.logits[done])
            forks = [fork for i, branch in enumerate(part) for fork in branch.forks(i)]
            if forks:
                _require_plain(out.past_key_values)
                yield from self._grow(forks, out.past_key_values, inputs["attention_mask"], features, at_once)

    def _batch(self, parts: Sequence[tuple[_Row, int, int]]) -> Tensors:
        """Tokens `start` to `end` of each row, padded on the left: [R, T], positions [R, T] or [3, R, T]."""
        length = max(end - start for _, start, end in parts)
        batch: dict[str, Tensor] = {}
        for name in parts[0][0].tokens:
            fill = self.encoder.pad_token_id if name == "input_ids" else 0
            lines = [
                [fill] * (length - end + start) + row.tokens[name][start:end] for row, start, end in parts
            ]
            batch[name] = torch.tensor(lines)
        batch["attention_mask"] = torch.tensor(
            [[0] * (length - end + start) + [1] * (end - start) for _, start, end in parts]
        )
        depth = max(row.positions.shape[0] for row, _, _ in parts)
        positions = torch.zeros(depth, len(parts), length, dtype=torch.long)
        for i, (row, start, end) in enumerate(parts):
            positions[:, i, length - end + start :] = row.positions[:, start:end]
        batch["position_ids"] = positions if self._rope_index is not None else positions[0]
        return {name: tensor.to(self.model.device) for name, tensor in batch.items()}

    def _call(self, inputs: Tensors, rows: Sequence[_Row], **options):
        """The model's output, with logits for as many last tokens as any of `rows` wants."""
        if self._short_logits:
            options["logits_to_keep"] = 1 + max((len(row.stem) for row in rows), default=0)
        return self.model(**inputs, **options)


def _stems(candidates: Sequence[Candidate]) -> list[Candidate]:
    """What must be read behind the prompt so that every candidate's tokens can be rated: the longest ones."""
    stems = sorted({candidate[:-1] for candidate in candidates}, key=len, reverse=True)
    kept: list[Candidate] = []
    for stem in stems:
        if not any(longer[: len(stem)] == stem for longer in kept):
            kept.append(stem)
    return kept


def _fill_in(
    found: list[LogProbabilities | None], candidates: Sequence[Candidate], stem: Candidate, logits: Tensor
) -> None:
    """Rate those candidates whose beginning `stem` holds; `logits` [stem + 1, V]."""
    logarithms = logits.float().log_softmax(-1)
    for i, candidate in enumerate(candidates):
        if found[i] is None and stem[: len(candidate) - 1] == candidate[:-1]:
            found[i] = tuple(logarithms[range(len(candidate)), list(candidate)].tolist())


def _common(rows: Sequence[_Row]) -> int:
    """How many first tokens, images included, are the same in all rows; each keeps one of its prompt."""
    length = min(row.asked for row in rows) - 1
    first = rows[0].places
    for row in rows[1:]:
        different = (i for i in range(length) if row.places[i] != first[i])
        length = next(different, length)
    return length


def _last(rows: Sequence[_Row], logits: Tensor) -> Iterator[tuple[_Row, Tensor]]:
    """Of logits [R, T, V] those that each row wants, [stem + 1, V]."""
    for row, own in zip(rows, logits, strict=True):
        yield row, own[-1 - len(row.stem) :]


def _require_plain(cache: DynamicCache) -> None:
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        raise ValueError("its cache is not made of keys and values alone")


def _images_in(row: _Row, start: int, end: int) -> list[int]:
    """The frames whose tokens stand between `start` and `end`, in order; a frame may come again."""
    found: list[int] = []
    placed = 0
    tokens = [-1 - place for place in row.places[:end] if place < 0]
    skipped = sum(place < 0 for place in row.places[:start])
    for image in row.images:
        count = _tokens_of(row, image)
        if skipped <= placed < len(tokens):
            found.append(image)
        placed += count
    return found


def _tokens_of(row: _Row, image: int) -> int:
    return sum(place == -1 - image for place in row.places) // row.images.count(image)


def _seen(features: Sequence[Tensor]) -> dict:
    """Encoded images, as the library's models take them in place of pixels."""
    if not features:
        return {}
    return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=list(features))}}


def _repeated(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    """A new cache that holds the chosen rows, any of them several times."""
    chosen = [
        (layer.keys.index_select(0, rows), layer.values.index_select(0, rows)) for layer in cache.layers
    ]
    return DynamicCache(chosen)


def _joined(images: Sequence[Tensors]) -> Tensors:
    """Several images as one batch. Where one has more tiles than another (LLaVA-NeXT), zeros fill up the
    rest, as the library's processors do; the model knows the true sizes."""
    joined = {}
    for name in images[0]:
        parts = [image[name] for image in images]
        largest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
        joined[name] = torch.cat([_filled_up(part, largest) for part in parts])
    return joined


def _filled_up(part: Tensor, largest: Sequence[int]) -> Tensor:
    missing = [wanted - size for wanted, size in zip(largest, part.shape[1:], strict=True)]
    return nn.functional.pad(part, [edge for size in reversed(missing) for edge in (0, size)])


def _alike(items: Sequence[Any], length: Callable[[Any], int], most: int) -> Iterator[list[Any]]:
    """Groups of at most `most` items, none shorter than half its group's longest: little is padding."""
    group: list[Any] = []
    for item in sorted(items, key=length, reverse=True):
        if group and (len(group) == most or 2 * length(item) < length(group[0])):
            yield group
            group = []
        group.append(item)
    if group:
        yield group

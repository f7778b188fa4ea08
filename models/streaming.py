"""Let a model generate in a thread and hand its words on as they come.

The loop is the library's own `generate`. What is added: words arrive while the model is still writing;
closing the stream stops the model within one token; an exception in the thread reaches the reader as
that exception instead of leaving it waiting for ever; and readers of one model take turns in the order
they came, because a multimodal model keeps the positions of its latest prompt (`rope_deltas`) and two
prompts at once would corrupt each other. Whoever wants only whole texts asks for several at once (`write`).

Knows nothing of images, prompts or pages: tensors in, characters out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Condition, Event, Thread

import torch
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

HEARTBEAT = (
    0.25  # seconds between empty pieces while nothing is ready; a reader can only leave between pieces
)
_HALF_CHARACTER = (
    "\ufffd"  # what a tokenizer writes for the first bytes of a character whose last are yet to come
)
_GREEDY = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


@dataclass(frozen=True)
class Piece:
    """What is new in a stream: `text` may be empty (a heartbeat, or half a character held back).

    `new_tokens` counts all tokens so far. The last piece alone has `stopped_by`: "end" when the model
    finished, "length" when `max_new_tokens` ran out.
    """

    text: str
    new_tokens: int
    stopped_by: str | None = None


class Line:
    """People waiting for one thing, served in the order they came. Whoever stands first may use it."""

    def __init__(self):
        self._places: deque[object] = deque()
        self._moved = Condition()

    def join(self) -> object:
        """Stand at the end; the place returned is needed for the other calls."""
        place = object()
        with self._moved:
            self._places.append(place)
        return place

    def wait(self, place: object, seconds: float) -> bool:
        """Wait at most `seconds` to be first; whether we are."""
        with self._moved:
            return self._moved.wait_for(lambda: self._places[0] is place, seconds)

    def leave(self, place: object) -> None:
        """Step out, from the front or from the middle."""
        with self._moved:
            self._places.remove(place)
            self._moved.notify_all()


class Writer:
    """One model, writing for one reader at a time. `decode` makes plain text of token ids."""

    def __init__(self, model: PreTrainedModel, decode: Callable[[Sequence[int]], str]):
        self._model = model
        self._decode = decode
        self._line = Line()

    def stream(
        self,
        inputs: dict[str, torch.Tensor],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> Iterator[Piece]:
        """Generate from a batch of one. The texts of all pieces joined are the generated text.

        Temperature 0 is greedy; above it, the whole distribution is sampled, whatever cut-offs the
        weights' folder names. `seed` sets torch's global generator just before sampling. Closing the
        iterator stops the model and waits until it has: the device is free when `close` returns. A
        character cut in half by the token limit is dropped.
        """
        choice = _GREEDY
        if temperature > 0:
            choice = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
        place = self._line.join()
        try:
            while not self._line.wait(place, HEARTBEAT):
                yield Piece("", 0)
            if seed is not None:
                torch.manual_seed(seed)
            yield from self._generate(inputs, max_new_tokens=max_new_tokens, **choice)
        finally:
            self._line.leave(place)

    def write(self, inputs: dict[str, torch.Tensor], budgets: Sequence[int]) -> list[Piece]:
        """Generate greedily from a batch, input_ids [B, T] padded on the left, and wait until all are done.

        `budgets` holds the most new tokens of each row. One Piece a row: the whole text, equal to what
        `stream` makes of that row alone up to rounding (a batch adds its numbers in another order, so in
        half precision two words that are almost equally likely can change places).
        """
        place = self._line.join()
        try:
            while not self._line.wait(place, HEARTBEAT):
                pass  # in short waits, so that Ctrl-C gets through
            with torch.inference_mode():
                written = self._model.generate(**inputs, **_GREEDY, max_new_tokens=max(budgets))
        finally:
            self._line.leave(place)
        rows = written[:, inputs["input_ids"].shape[1] :].tolist()  # [B, new]
        return [self._whole(row, budget) for row, budget in zip(rows, budgets, strict=True)]

    def _whole(self, ids: list[int], budget: int) -> Piece:
        """A row of a finished batch: what follows the model's own end, or its budget, is not its text."""
        ids = ids[:budget]
        ended = next((i + 1 for i, token in enumerate(ids) if token in self._ends), None)
        ids = ids[:ended]
        text = self._decode(ids).rstrip(_HALF_CHARACTER)
        return Piece(text, len(ids), "length" if ended is None else "end")

    def _generate(self, inputs: dict[str, torch.Tensor], **options) -> Iterator[Piece]:
        mail: SimpleQueue[list[int] | BaseException | None] = SimpleQueue()
        cancelled = Event()

        def run():
            outcome = None
            try:
                with torch.inference_mode():
                    self._model.generate(
                        **inputs,
                        **options,
                        streamer=_Mailbox(mail),
                        stopping_criteria=StoppingCriteriaList([_StopWhen(cancelled)]),
                    )
            except BaseException as error:  # the reader raises it: see _read
                outcome = error
            mail.put(outcome)

        thread = Thread(target=run, name="generate", daemon=True)
        thread.start()
        try:
            yield from self._read(mail, options["max_new_tokens"])
        finally:
            cancelled.set()
            thread.join()

    def _read(self, mail: SimpleQueue, max_new_tokens: int) -> Iterator[Piece]:
        """Pieces from the thread's mail: lists of token ids, then an exception, or None at the end."""
        ids: list[int] = []
        shown = ""
        while True:
            letters = _collect(mail)
            ids += [token for letter in letters if isinstance(letter, list) for token in letter]
            text = self._decode(ids).rstrip(_HALF_CHARACTER)
            new = text[len(shown) :]
            shown += new
            if not letters or isinstance(letters[-1], list):
                yield Piece(new, len(ids))
                continue
            if isinstance(letters[-1], BaseException):
                raise letters[-1]
            ended = len(ids) < max_new_tokens or ids[-1] in self._ends
            yield Piece(new, len(ids), "end" if ended else "length")
            return

    @property
    def _ends(self) -> list[int]:
        """The tokens that end a text."""
        ends = self._model.generation_config.eos_token_id
        return ends if isinstance(ends, list) else [ends]


class _Mailbox(BaseStreamer):
    """Where `generate` drops its tokens. The first drop is the prompt."""

    def __init__(self, mail: SimpleQueue):
        self._mail = mail
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if self._prompt_seen:
            self._mail.put(value.tolist())
        self._prompt_seen = True

    def end(self) -> None:
        """`generate` returns next, which says the same."""


class _StopWhen(StoppingCriteria):
    """Stop every sequence once `event` is set; `generate` asks after each token."""

    def __init__(self, event: Event):
        self._event = event

    def __call__(self, input_ids: torch.Tensor, scores, **kwargs) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self._event.is_set(), device=input_ids.device)


def _collect(mail: SimpleQueue) -> list:
    """Everything that lies in the mail, waiting at most a heartbeat for the first letter."""
    letters = []
    try:
        letters.append(mail.get(timeout=HEARTBEAT))
        while True:
            letters.append(mail.get_nowait())
    except Empty:
        return letters


def room_for_answer(prompt_tokens: int, wanted: int, *, limit: int, least: int) -> int | None:
    """How many tokens may be written after a prompt, when a model reads at most `limit` with both together.

    The number `wanted`, or what is left where that is less; None where fewer are left than `least`, the
    shortest answer that is of use, and than `wanted`.
    """
    room = limit - prompt_tokens
    return min(wanted, room) if room >= min(wanted, least) else None


def is_out_of_memory(error: Exception) -> bool:
    """torch has a class for a full GPU; a full CPU is a plain RuntimeError with the allocator's name."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)

"""The conversation part of a page: bubbles, a box for images and words, and what happens between them.

A page adds its own choices (task, organ …) and says how they become a Turn. Everything else is here:
reading the files, waiting for the weights, streaming, Stop, retry, undo, edit, and the promise that no
failure leaves the page dead. Gradio does not run `.then` after a failure, so nothing that answers a
click may raise: every event ends by handing the box back.

Knows nothing of any one assistant. Nothing here remembers a visitor: see `apps.display`.
"""

from __future__ import annotations

import html
import logging
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import gradio as gr
from gradio.utils import get_upload_folder

from apps import display
from apps.display import Bubble, Expired
from apps.language import both, label, text
from apps.opening import NotOpened, Opening
from apps.privacy import ForeignFile
from assistants.base import Assistant, Reply, Settings, Turn
from assistants.conversation import frames_in_view
from imaging.files import Problem, read_examination
from imaging.frame import Frame
from models.errors import ModelError

log = logging.getLogger(__name__)

AT_ONCE = 8  # conversations that may wait for the model at the same time; more wait in Gradio's queue
_WAIT = 0.5  # seconds between two looks at weights that are still loading
_SHOW_EVERY = 0.04  # seconds; drawing a page more often costs more than a small model's tokens

MakeTurn = Callable[..., Turn]  # (words, frames, *choices) -> Turn
Update = dict  # component → its new value


class Chat:
    """One conversation: `bubbles`, `box` and `status` are its components.

    Build it inside a page's layout (`place_bubbles`, then `place_box`), then `wire` it. `choices` are the
    values of the components that the page wired beside its language; a page that reads files, asks or shows
    otherwise overrides the methods under "What a page may do its own way".
    """

    def __init__(self, opening: Opening, name: str, make_turn: MakeTurn, settings: Settings | None = None):
        self.opening = opening
        self.name = name
        self.make_turn = make_turn
        self.settings = settings or Settings()

    def place_bubbles(self) -> None:
        self.bubbles = gr.Chatbot(
            label=label("conversation"),
            show_label=False,
            elem_id=f"{self.name}-chat",
            elem_classes="conversation",
            height="100%",
            editable="user",
            buttons=["copy"],
            layout="bubble",
            latex_delimiters=[],
            allow_tags=False,
            feedback_options=None,
            allow_file_downloads=False,
            group_consecutive_messages=False,
            watermark=f"{text('watermark', 'zh')} {text('watermark', 'en')}",
        )

    def place_box(self) -> None:
        self.box = gr.MultimodalTextbox(
            label=label("box"),
            show_label=False,
            placeholder=label("box_placeholder"),
            elem_id=f"{self.name}-box",
            elem_classes="ask",
            file_count="multiple",
            file_types=None,  # by content, not by ending: a scanner writes IM_0001
            sources=["upload"],
            lines=1,
            max_lines=8,
            max_plain_text_length=4000,
            stop_btn=False,
        )
        self.status = gr.HTML(both("hint"), elem_id=f"{self.name}-status", elem_classes="status")
        self.received = gr.State(False)  # whether `receive` put a question there for `answer`

    def wire(self, language: gr.components.Component, choices: Sequence[gr.components.Component]) -> None:
        """Connect the events. `language` holds the page's language, `choices` what the page also wants."""
        inputs = [self.bubbles, language, *choices]
        shown = [self.bubbles, self.box, self.status]
        private = {"api_visibility": "private", "show_progress": "hidden"}
        running = {"concurrency_limit": AT_ONCE, "concurrency_id": self.name, **private}
        flagged = [*shown, self.received]
        asked = self.box.submit(
            self.receive,
            [self.box, *inputs],
            flagged,
            trigger_mode="once",
            **running,
        )
        answered = asked.then(self.answer, [self.received, *inputs], flagged, **running)
        again = self.bubbles.retry(self.retry, inputs, shown, **running)
        edited = self.bubbles.edit(self.edit, inputs, shown, **running)
        at_work = [asked, answered, again, edited, *self._more_events(inputs, shown, running)]
        for event in at_work:  # Gradio calls `failure` when an event has been cancelled, too
            event.failure(self.stopped, None, shown[1:], queue=False, **private)
        self.box.stop(None, cancels=at_work)
        self.bubbles.undo(self.undo, self.bubbles, shown, cancels=at_work, queue=False, **private)
        self.bubbles.clear(self.cleared, None, shown[1:], cancels=at_work, queue=False, **private)

    # What a person does. Each is an event's function; the generators yield updates and never raise.

    def receive(self, message: dict, bubbles: list[Bubble], language: str, *choices) -> Iterator[Update]:
        """Take what stands in the box into the conversation; when a file cannot be read, leave it all there.

        A step of its own, before `answer`: when one event empties the box and then goes on, a browser that
        gets both updates at once may keep the files.
        """
        yield {
            self.received: False,
            self.box: gr.MultimodalTextbox(**_BUSY),
            self.status: both("status_reading"),
        }
        yield from self._never_raise(self._receive(message, bubbles, language, *choices), language)

    def answer(self, received: bool, bubbles: list[Bubble], language: str, *choices) -> Iterator[Update]:
        """Answer what was received."""
        yield {self.received: False}
        if received:
            yield from self._never_raise(self._answer(bubbles, language, choices), language, bubbles)

    def retry(self, bubbles: list[Bubble], language: str, event: gr.RetryData, *choices) -> Iterator[Update]:
        """Answer the same question again, from the words and images in its bubbles."""
        _, asked = display.question_at(bubbles, _row(event.index))
        yield from self._answer_again(bubbles, asked, bubbles[asked], language, choices)

    def edit(self, bubbles: list[Bubble], language: str, event: gr.EditData, *choices) -> Iterator[Update]:
        """Answer a question whose words were changed; what came after it goes."""
        _, asked = display.question_at(bubbles, _row(event.index))
        reworded = {"role": "user", "content": str(event.value)}
        yield from self._answer_again(bubbles, asked, reworded, language, choices)

    def undo(self, bubbles: list[Bubble], event: gr.UndoData) -> Update:
        """Take a question back into the box, with its images."""
        return {**self._taken_back(bubbles, _row(event.index)), self.status: both("hint")}

    def stopped(self) -> Update:
        return {self.box: gr.MultimodalTextbox(**_IDLE), self.status: both("status_stopped")}

    def cleared(self) -> Update:
        return {self.box: gr.MultimodalTextbox(**_IDLE), self.status: both("hint")}

    # What a page may do its own way.

    def _more_events(self, inputs: list, shown: list, running: dict) -> list:
        """Further events that answer; `inputs`, `shown` and `running` are as for the others."""
        return []

    def _opening(self, choices: Sequence) -> Opening:
        """The assistant that answers."""
        return self.opening

    def _settings(self, choices: Sequence) -> Settings:
        return self.settings

    def _read(self, files: Sequence[str], language: str) -> tuple[list[Frame], list[Bubble]]:
        """The frames of uploaded files, and what is to be said about the files under the question."""
        return read_uploads(files), []

    def _check(self, words: str, frames: Sequence[Frame], bubbles: list[Bubble]) -> None:
        """Raise when this cannot be asked."""
        if not frames and not any(display.pictures(bubble) for bubble in bubbles):
            raise NoImage

    def _conversation(self, bubbles: list[Bubble]) -> tuple[list[Turn | Reply], Turn]:
        """What was said before, and the question to answer now."""
        return display.conversation(bubbles)

    def _chosen(self, bubbles: list[Bubble], asked: int, choices: Sequence) -> tuple[int, ...]:
        """The frames that a person had named for the question at `asked`."""
        return ()

    def _shown(self, reply: Reply, bubbles: list[Bubble], images: int, language: str) -> list[Bubble]:
        """The answer so far; `bubbles` is the conversation before it, with so many `images` in view."""
        return display.answer_bubbles(reply, images, language)

    # What follows from it.

    def _receive(self, message: dict, bubbles: list[Bubble], language: str, *choices) -> Iterator[Update]:
        frames, notices = self._read(message["files"], language)
        self._check(message["text"], frames, bubbles)
        turn = self.make_turn(message["text"], tuple(frames), *choices)
        assistant = yield from self._wait_for_weights(choices)
        question = display.question_bubbles(assistant.request(turn), frames, language)
        emptied = gr.MultimodalTextbox({"text": "", "files": []}, **_BUSY)
        yield {self.bubbles: [*bubbles, *question, *notices], self.box: emptied, self.received: True}

    def _answer(
        self, bubbles: list[Bubble], language: str, choices: Sequence, chosen: tuple[int, ...] = ()
    ) -> Iterator[Update]:
        """Stream the answer to the last question, from the `chosen` frames where a person named some."""
        started = time.monotonic()
        yield {self.bubbles: bubbles, self.box: gr.MultimodalTextbox(**_BUSY), self.status: _looking(started)}
        assistant = yield from self._wait_for_weights(choices)
        history, turn = self._conversation(bubbles)
        if chosen:
            turn = replace(turn, chosen=chosen)
        images = len(frames_in_view(history, turn))
        shown = 0.0
        with closing(assistant.stream(turn, history, self._settings(choices))) as replies:
            for reply in replies:
                if reply.finished or time.monotonic() - shown > _SHOW_EVERY:
                    shown = time.monotonic()
                    answer = self._shown(reply, bubbles, images, language)
                    yield {self.bubbles: [*bubbles, *answer], self.status: _progress(reply, started)}
        yield self._ready(_summary(reply, started))

    def _answer_again(
        self,
        bubbles: list[Bubble],
        asked: int,
        question: Bubble,
        language: str,
        choices: Sequence,
        chosen: tuple[int, ...] = (),
    ) -> Iterator[Update]:
        """Put `question` where the one at `asked` stood and answer it, from the frames `chosen` or else those
        that were named before."""
        kept = [*bubbles[:asked], question, *bubbles[asked + 1 : display.answer_begins(bubbles, asked)]]
        chosen = chosen or self._chosen(bubbles, asked, choices)
        yield from self._never_raise(self._answer(kept, language, choices, chosen), language)

    def _wait_for_weights(self, choices: Sequence) -> Generator[Update, None, Assistant]:
        """The assistant, when it is there; NotOpened when it will never be."""
        started = time.monotonic()
        opening = self._opening(choices)
        while not opening.wait(_WAIT):
            yield {self.status: both("status_loading", seconds=f"{time.monotonic() - started:.0f}")}
        return opening.require()

    def _never_raise(
        self, updates: Iterator[Update], language: str, asked: list[Bubble] | None = None
    ) -> Iterator[Update]:
        """Pass updates on; whatever goes wrong becomes a sentence, and the box is handed back.

        What the model refused (`asked`, too many images for it, say) goes back into the box, to be
        asked with less.
        """
        with closing(updates):
            try:
                yield from updates
            except Exception as error:  # a page must survive anything
                taken = asked is not None and isinstance(error, ModelError)
                handed_back = self._taken_back(asked, len(asked) - 1) if taken else self._ready("")
                yield {**handed_back, self.status: _problem(explain(error, language))}

    def _taken_back(self, bubbles: list[Bubble], index: int) -> Update:
        """The question at `index` and all after it leave the conversation; it stands in the box again."""
        begins, asked = display.question_at(bubbles, index)
        taken = bubbles[begins : asked + 1]
        files = [picture["path"] for bubble in taken for picture in display.pictures(bubble)]
        content = {"text": display.words(bubbles[asked]), "files": files}
        return {self.bubbles: bubbles[:begins], self.box: gr.MultimodalTextbox(content, **_IDLE)}

    def _ready(self, status: str) -> Update:
        return {self.box: gr.MultimodalTextbox(**_IDLE), self.status: status}


_IDLE = {"submit_btn": True, "stop_btn": False}
_BUSY = {"submit_btn": False, "stop_btn": True}


class NoImage(ValueError):
    """A question, and no image in view."""


class UnreadableUploads(ValueError):
    """Uploaded files that cannot be used; the good ones beside them were not used either."""

    def __init__(self, problems: Sequence[Problem]):
        super().__init__(" ".join(problem.message("en") for problem in problems))
        self.problems = problems

    def message(self, language: str) -> str:
        """A sentence for every bad file."""
        return "\n".join(problem.message(language) for problem in self.problems)


def read_uploads(paths: Sequence[str]) -> list[Frame]:
    """The frames of uploaded files, all or none: a report on fewer images than were sent would mislead.

    Raises UnreadableUploads, also for paths that are no uploads.
    """
    frames, problems = read_examination(paths, within=get_upload_folder())
    if problems:
        raise UnreadableUploads(problems)
    return frames


_EXPECTED = {NoImage: "no_image", Expired: "expired", ForeignFile: "foreign_file"}


def explain(error: Exception, language: str, unforeseen: str = "unexpected") -> str:
    """One sentence for the person who asked. Only the unforeseen is logged, and nothing the visitor sent;
    its text is `unforeseen`."""
    if isinstance(error, UnreadableUploads | ModelError | NotOpened):
        return error.message(language)
    for kind, key in _EXPECTED.items():
        if isinstance(error, kind):
            return text(key, language)
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error(
        "%s while answering; its message is left out, it may hold a file's name\n%s", type(error), where
    )
    return text(unforeseen, language, kind=type(error).__name__)


def _row(index: int | Sequence[int]) -> int:
    """Gradio gives a bubble's place as a number, or as (row, column) for some contents."""
    return index if isinstance(index, int) else index[0]


def _problem(sentence: str) -> str:
    return f'<p class="problem" role="alert">{html.escape(sentence)}</p>'


def _looking(started: float) -> str:
    waiting = both("status_looking", seconds=f"{time.monotonic() - started:.1f}")
    return f'<span class="busy">{waiting}</span>'


def _progress(reply: Reply, started: float) -> str:
    if reply.seconds_to_first_token is None:
        return _looking(started)
    return both("status_writing", first=f"{reply.seconds_to_first_token:.1f}")


def _summary(reply: Reply, started: float) -> str:
    first = reply.seconds_to_first_token or 0.0
    writing = time.monotonic() - started - first
    rate = (reply.new_tokens - 1) / writing if writing > 0 else 0.0
    done = both("status_done", first=f"{first:.1f}", tokens=reply.new_tokens, rate=f"{rate:.0f}")
    if reply.stopped_by == "length":
        return f"{done} {both('status_length', tokens=reply.new_tokens)}"
    return done

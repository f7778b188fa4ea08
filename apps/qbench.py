"""The Quality page: how good ultrasound images are, and which of several is best, by Ultrasound-QBench.

Many images are read and rated a few at a time, so that the table grows while one looks on and Stop keeps what
is there. What the numbers mean is `assistants.qbench`; how they are shown is `apps.ratings`. Also the
endpoints `/quality` and `/compare` for programs.

Nothing here remembers a visitor: the ratings lie in the session's own state, the images in the upload folder.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, Literal

import gradio as gr
from gradio.utils import get_upload_folder

from apps import ratings
from apps.chat import AT_ONCE, UnreadableUploads, explain
from apps.echovlm import ANY_ORGAN, EXAMPLES, ORGANS, organ_choice
from apps.language import LANGUAGES, both, label, language_choice, text
from apps.opening import Opening
from apps.ratings import Rated
from assistants.base import Assistant, Settings, Turn
from imaging.files import read_examination
from imaging.frame import Frame
from models.endpoint import foreign_host
from models.errors import ModelError, UnusableImage

PROMPTS = ("basic", "contextual", "diagnostic", "quantitative")
TOGETHER = 4  # images rated in one go: few enough for a table that grows and a Stop that is heard
MOST_COMPARED = 32
# One artery and one heart at three levels: `python -m simulator OUT --cases 12 --seed 2026 --task compare`
IVUS = tuple(f"quality/ivus-{number}.png" for number in (1, 2, 3))
FOUR_CHAMBERS = tuple(f"quality/heart-{number}.png" for number in (1, 2, 3))
_WAIT = 0.5  # seconds between two looks at weights that are still loading
_QUIET = {"api_visibility": "private", "show_progress": "hidden"}

Update = dict  # component → its new value


def build(openings: dict[str, Opening], language: gr.components.Component) -> gr.components.Component:
    """Place the page in the current layout and connect it; returns the choice of the prompts' language."""
    opening = openings["qbench"]
    with gr.Column(elem_classes="quality-page"):
        if host := foreign_host(opening.weights):
            gr.HTML(f'<p class="problem" role="note">{both("quality_remote", host=host)}</p>')
        with gr.Row(elem_classes="choices"):
            prompt = gr.Radio(
                [(label(f"prompt_{name}"), name) for name in PROMPTS],
                value="basic",
                label=label("prompt"),
                elem_id="quality-prompt",
            )
            organ = organ_choice("quality-organ")
            asked_in = language_choice("prompt_language", "quality-language")
        choices = [prompt, organ, asked_in]
        with gr.Tabs(elem_id="quality-tabs"):
            with gr.Tab(label("tab_rate"), id="rate"):
                _Rate(opening).wire(language, choices)
            with gr.Tab(label("tab_compare"), id="compare"):
                _Compare(opening).wire(language, choices)
    at_once = {"concurrency_limit": AT_ONCE, "concurrency_id": "quality"}
    gr.api(_quality_endpoint(opening), api_name="quality", **at_once)
    gr.api(_compare_endpoint(opening), api_name="compare", **at_once)
    return asked_in


class _Task:
    """What rating and comparing share: files, a button to start, Stop, a line of status."""

    name: str  # also the label of its button
    shown: tuple[str, ...]  # simulated images in the examples' folder, to try it with

    def __init__(self, opening: Opening):
        self.opening = opening
        self.files = gr.File(
            label=label("quality_files"),
            file_count="multiple",
            file_types=None,  # by content, not by ending
            elem_id=f"{self.name}-files",
            height=170,
        )
        with gr.Row(elem_classes="actions"):
            self.start = gr.Button(
                label(f"{self.name}_start"), variant="primary", elem_id=f"{self.name}-start"
            )
            self.stop = gr.Button(label("stop"), interactive=False, elem_id=f"{self.name}-stop")
            self.example = gr.Button(label("quality_example"), elem_id=f"{self.name}-example")
            self.place_actions()
        self.status = gr.HTML(both(f"{self.name}_hint"), elem_id=f"{self.name}-status", elem_classes="status")
        self.place_results()

    def place_actions(self) -> None:
        """Further buttons."""

    def place_results(self) -> None:
        raise NotImplementedError

    def outputs(self) -> list[gr.components.Component]:
        """What running changes beside the buttons and the status."""
        raise NotImplementedError

    def run(
        self, files: list[str], language: str, prompt: str, organ: str, asked_in: str
    ) -> Iterator[Update]:
        """Do it; exceptions become sentences outside. The last update holds `_idle`, too: of two that follow
        at once a browser may lose the first."""
        raise NotImplementedError

    def wire(self, language: gr.components.Component, choices: Sequence[gr.components.Component]) -> None:
        always = [self.start, self.stop, self.status]
        running = {
            "concurrency_limit": AT_ONCE,
            "concurrency_id": "quality",
            "trigger_mode": "once",
            **_QUIET,
        }
        at_work = self.start.click(
            self._run, [self.files, language, *choices], [*always, *self.outputs()], **running
        )
        at_work.failure(
            self.stopped, [language, *self.outputs()], [*always, *self.outputs()], queue=False, **_QUIET
        )
        self.stop.click(None, None, None, cancels=[at_work], **_QUIET)
        shown = [str(EXAMPLES / name) for name in self.shown]
        self.example.click(lambda: shown, None, self.files, queue=False, **_QUIET)

    def stopped(self, language: str, *values: Any) -> Update:
        """After Stop, which Gradio reports as a failure; `values` are those of `outputs`."""
        return {**self._idle(), self.status: both("status_stopped")}

    def _run(self, files: list[str] | None, language: str, *choices: str) -> Iterator[Update]:
        """Never raises: Gradio does not run what follows a failure, and the buttons must come back."""
        yield {
            self.start: gr.Button(interactive=False),
            self.stop: gr.Button(interactive=True),
            self.status: both("status_reading"),
        }
        try:
            with closing(self.run(files or [], language, *choices)) as updates:
                yield from updates
        except Exception as error:  # a page must survive anything
            yield {**self._idle(), self.status: _problem(error, language)}

    def _idle(self) -> Update:
        return {self.start: gr.Button(interactive=True), self.stop: gr.Button(interactive=False)}

    def _weights(self) -> Generator[Update, None, Assistant]:
        started = time.monotonic()
        while not self.opening.wait(_WAIT):
            yield {self.status: both("status_loading", seconds=f"{time.monotonic() - started:.0f}")}
        return self.opening.require()


class _Rate(_Task):
    name = "quality"
    shown = (*IVUS, *FOUR_CHAMBERS)

    def place_actions(self) -> None:
        self.download = gr.DownloadButton(label("quality_csv"), interactive=False, elem_id="quality-csv")

    def place_results(self) -> None:
        self.rows = gr.State([])
        self.bars = gr.HTML("", elem_id="quality-bars")
        self.table = gr.Dataframe(
            ratings.table([], "en"),
            interactive=False,
            label=label("quality_table"),
            elem_id="quality-table",
            buttons=["fullscreen", "copy"],
            pinned_columns=2,
            max_height=520,
            visible="hidden",
        )

    def outputs(self) -> list[gr.components.Component]:
        return [self.rows, self.table, self.bars, self.download]

    def wire(self, language: gr.components.Component, choices: Sequence[gr.components.Component]) -> None:
        super().wire(language, choices)
        self.table.select(self.chosen, [self.rows, language], self.bars, queue=False, **_QUIET)

    def run(
        self, files: list[str], language: str, prompt: str, organ: str, asked_in: str
    ) -> Iterator[Update]:
        if not files:
            raise ModelError(*(text("no_image", each) for each in ("en", "zh")))
        assistant = yield from self._weights()
        yield {self.download: gr.DownloadButton(interactive=False), **self._shown([], language)}
        rated: list[Rated] = []
        started = time.monotonic()
        try:
            for done, rated in rate(assistant, files, prompt, organ, asked_in):
                progress = ratings.progress(done, len(files), time.monotonic() - started)
                yield {**self._shown(rated, language), self.status: progress}
        except Exception as error:  # what was rated before can be saved
            yield {**self._idle(), **self._kept(rated), self.status: _problem(error, language)}
            return
        summary = ratings.summary(rated, time.monotonic() - started)
        yield {**self._idle(), **self._kept(rated), self.status: summary}

    def stopped(self, language: str, *values: Any) -> Update:
        """What was rated stays, and can be saved."""
        rated = values[0]
        done = both("quality_stopped", count=sum(each.problem is None for each in rated))
        return {**super().stopped(language), **self._kept(rated), self.status: done}

    def chosen(self, rated: list[Rated], language: str, event: gr.SelectData) -> str:
        """The bars of the row that was clicked, known by its number: the table may be sorted."""
        number = int(event.row_value[0])
        return ratings.bars(rated[number - 1], language) if 0 < number <= len(rated) else ""

    def _shown(self, rated: list[Rated], language: str) -> Update:
        return {
            self.rows: rated,
            self.table: gr.Dataframe(ratings.table(rated, language), visible=True if rated else "hidden"),
            self.bars: ratings.bars(rated[0], language) if rated else "",
        }

    def _kept(self, rated: list[Rated]) -> Update:
        if not rated:
            return {}
        return {self.download: gr.DownloadButton(value=ratings.save_csv(rated), interactive=True)}


class _Compare(_Task):
    name = "compare"
    shown = FOUR_CHAMBERS[:2]  # two, for the slider

    def place_results(self) -> None:
        self.verdict = gr.HTML("", elem_id="compare-verdict")
        self.slider = gr.ImageSlider(
            label=label("compare_slider"),
            elem_id="compare-slider",
            format="png",
            interactive=False,
            height=420,
            buttons=["fullscreen"],
            visible="hidden",
        )
        self.ranking = gr.Dataframe(
            ratings.ranking([], {}, "en"),
            interactive=False,
            label=label("compare_ranking"),
            elem_id="compare-ranking",
            buttons=["copy"],
            visible="hidden",
        )

    def outputs(self) -> list[gr.components.Component]:
        return [self.verdict, self.slider, self.ranking]

    def run(
        self, files: list[str], language: str, prompt: str, organ: str, asked_in: str
    ) -> Iterator[Update]:
        assistant = yield from self._weights()
        frames = read_compared(files)
        yield {self.status: f'<span class="busy">{both("compare_running", count=len(frames))}</span>'}
        rated, found = compare(assistant, frames, prompt, organ, asked_in)
        pair = tuple(each.picture for each in rated) if len(rated) == 2 else None
        yield {
            **self._idle(),
            self.verdict: ratings.verdict(rated, found, language),
            self.slider: gr.ImageSlider(pair, visible=True if pair else "hidden"),
            self.ranking: gr.Dataframe(ratings.ranking(rated, found, language), visible=True),
            self.status: both("compare_done"),
        }


def _problem(error: Exception, language: str) -> str:
    return f'<p class="problem" role="alert">{html.escape(explain(error, language))}</p>'


# --- what both the page and the endpoints do ----------------------------------------------------------------


def rate(
    assistant: Assistant, files: Sequence[str], prompt: str, organ: str, asked_in: str
) -> Iterator[tuple[int, list[Rated]]]:
    """(files done, all that was rated so far) after every few images; a file that cannot be read is listed
    with its reason in its place."""
    rated: list[Rated] = []
    waiting: list[Frame] = []
    for done, file in enumerate(files, start=1):
        frames, problems = read_examination([file], within=get_upload_folder())
        waiting += frames
        if problems or len(waiting) >= TOGETHER or done == len(files):
            for start in range(0, len(waiting), TOGETHER):
                group = tuple(waiting[start : start + TOGETHER])
                rated = [*rated, *_rated(assistant, group, prompt, organ, asked_in)]
                yield done, rated
            waiting = []
            rated = [*rated, *(ratings.unread(problem.source, problem.error) for problem in problems)]
            if problems:
                yield done, rated


def _rated(
    assistant: Assistant, frames: tuple[Frame, ...], prompt: str, organ: str, asked_in: str
) -> Iterator[Rated]:
    """The frames' ratings, all asked at once; one by one where the model cannot read some of them."""
    try:
        reply = _last(assistant, _turn(prompt, frames, "quality", organ, asked_in))
    except UnusableImage as error:
        if len(frames) == 1:
            yield ratings.unread(ratings.name_of(frames[0]), error)
            return
        for frame in frames:
            yield from _rated(assistant, (frame,), prompt, organ, asked_in)
        return
    for index, frame in enumerate(frames):
        yield ratings.rated(frame, reply, index, asked_in)


def read_compared(files: Sequence[str]) -> list[Frame]:
    """The frames of all files; raises for one that cannot be read, for fewer than two and for too many: a
    ranking with a gap would mislead."""
    frames, problems = read_examination(
        files, max_frames=MOST_COMPARED, max_files=MOST_COMPARED, within=get_upload_folder()
    )
    if problems:
        raise UnreadableUploads(problems)
    if len(frames) < 2:
        raise ModelError(*(text("compare_few", each) for each in ("en", "zh")))
    if len(frames) > MOST_COMPARED:
        facts = {"count": len(frames), "limit": MOST_COMPARED}
        raise ModelError(*(text("too_many_frames", each, **facts) for each in ("en", "zh")))
    return frames


def compare(
    assistant: Assistant, frames: Sequence[Frame], prompt: str, organ: str, asked_in: str
) -> tuple[list[Rated], dict[str, Any]]:
    """Every image's rating, and which is best: `best`, `ranking`, `best_probabilities`."""
    reply = _last(assistant, _turn(prompt, tuple(frames), "compare", organ, asked_in))
    rated = [ratings.rated(frame, reply, index, asked_in) for index, frame in enumerate(frames)]
    found = {key: getattr(reply, key) for key in ("best", "ranking", "best_probabilities")}
    return rated, found


def _turn(prompt: str, frames: tuple[Frame, ...], task: str, organ: str, asked_in: str) -> Turn:
    return Turn(prompt, frames, task, None if organ == ANY_ORGAN else organ, asked_in)


def _last(assistant: Assistant, turn: Turn):
    with closing(assistant.stream(turn, (), Settings())) as replies:
        return list(replies)[-1]


# --- for programs -------------------------------------------------------------------------------------------


def _check_choices(prompt: str, organ: str, language: str) -> None:
    """Raise a ModelError that lists the choices: Gradio does not hold clients to `Literal`."""
    for name, value, allowed in (
        ("prompt", prompt, PROMPTS),
        ("organ", organ, (ANY_ORGAN, *ORGANS)),
        ("language", language, LANGUAGES),
    ):
        if value not in allowed:
            listed = ", ".join(allowed)
            raise ModelError(
                f"{name} {value!r} is not one of {listed}.", f"{name} 的值 {value!r} 无效，可选：{listed}。"
            )


def _answering(
    opening: Opening, language: str, answer: Callable[[Assistant], Iterator[dict]]
) -> Iterator[dict]:
    """What an endpoint yields, once the weights are there; whatever goes wrong becomes one sentence."""
    try:
        while not opening.wait(1.0):
            yield {}
        yield from answer(opening.require())
    except Exception as error:
        told = language if language in LANGUAGES else "en"
        raise gr.Error(explain(error, told), print_exception=False) from None


def _quality_endpoint(opening: Opening):
    def quality(
        files: list[gr.FileData],
        prompt: Literal[PROMPTS] = "basic",
        organ: Literal[(ANY_ORGAN, *ORGANS)] = ANY_ORGAN,
        language: Literal[LANGUAGES] = "en",
    ) -> Iterator[dict]:
        """Rate the quality of ultrasound images; yields the ratings so far, one for each image in order.

        A rating has `image`, `probabilities` of low, medium and high, `level`, `score` 0 to 10, `borderline`
        (null where no cut points were fitted) and `cuts_of`, whose they are, `indicators`, `unfamiliar`, and
        `problem` where a file could not be read. `files_done` counts files. Research use only.
        """

        def answer(assistant: Assistant) -> Iterator[dict]:
            _check_choices(prompt, organ, language)
            if not files:
                raise ModelError(*(text("no_image", each) for each in ("en", "zh")))
            paths = [file["path"] for file in files]
            for done, rated in rate(assistant, paths, prompt, organ, language):
                yield {"files_done": done, "ratings": [each.values(language) for each in rated]}

        yield from _answering(opening, language, answer)

    return quality


def _compare_endpoint(opening: Opening):
    def compare_images(
        files: list[gr.FileData],
        prompt: Literal[PROMPTS] = "basic",
        organ: Literal[(ANY_ORGAN, *ORGANS)] = ANY_ORGAN,
        language: Literal[LANGUAGES] = "en",
    ) -> Iterator[dict]:
        """Say which of 2 to 32 ultrasound images has the best quality, and rank them.

        `best` and `ranking` hold images counted from 0, `best_probabilities` one number for each image,
        `ratings` as in /quality. Research use only.
        """

        def answer(assistant: Assistant) -> Iterator[dict]:
            _check_choices(prompt, organ, language)
            frames = read_compared([file["path"] for file in files])
            rated, found = compare(assistant, frames, prompt, organ, language)
            yield {**found, "ratings": [each.values(language) for each in rated]}

        yield from _answering(opening, language, answer)

    return compare_images

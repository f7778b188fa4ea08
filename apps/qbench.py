"""The Quality page: how good ultrasound images are, and which of several is best, by Ultrasound-QBench.

Many images are read and rated a few at a time, so that the table grows while one looks on, Stop keeps what is
there, and starting again with the same files and choices goes on. What the numbers mean is
`assistants.qbench`; how they are shown is `apps.ratings`. Also the endpoints `/quality` and `/compare` for
programs.

Nothing here remembers a visitor: the ratings lie in the session's own state, the images in the upload folder.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import gradio as gr
from gradio.utils import get_upload_folder

from apps import ratings
from apps.chat import AT_ONCE, UnreadableUploads, explain
from apps.display import save_frame
from apps.echovlm import ANY_ORGAN, EXAMPLES, ORGANS, organ_choice
from apps.language import LANGUAGES, both, label, language_choice, progress, text
from apps.opening import Opening
from apps.ratings import Rated
from assistants.base import Assistant, Turn
from assistants.qbench.assistant import QualityReply
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
Key = tuple[str, str]  # an image's name and where its picture lies, which its pixels decide


@dataclass(frozen=True)
class Asked:
    """What a run is about; another with the same can go on from it."""

    files: tuple[str, ...] = ()
    prompt: str = "basic"
    organ: str = ANY_ORGAN
    asked_in: str = "en"


@dataclass(frozen=True, eq=False)  # each is another: Gradio tells by the hash that a state has changed
class Found:
    """What a run has found so far: the images in order and, of a comparison, which is best."""

    asked: Asked = Asked()
    rated: Sequence[Rated] = ()
    best: Mapping[str, Any] = field(default_factory=dict)
    finished: bool = False


def build(openings: dict[str, Opening], language: gr.components.Component) -> gr.components.Component:
    """Place the page in the current layout and connect it; returns what the prompts' language follows."""
    opening = openings["qbench"]
    proposed = gr.Textbox("en", visible=False)
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
            organ = organ_choice("quality-organ", "organ_unstated")
            asked_in = language_choice("prompt_language", "quality-language")
        gr.HTML(f'<p class="hint">{both("prompt_meaning")}</p>', elem_id="quality-prompts")
        choices = [prompt, organ, asked_in]
        with gr.Tabs(elem_id="quality-tabs"):
            with gr.Tab(label("tab_rate"), id="rate"):
                rating = _Rate(opening)
                rating.wire(language, choices)
            with gr.Tab(label("tab_compare"), id="compare"):
                _Compare(opening).wire(language, choices)
        gr.HTML(ratings.meaning(), elem_id="quality-meaning", elem_classes="hint")
    proposed.change(_followed, [proposed, rating.found], asked_in, queue=False, **_QUIET)
    at_once = {"concurrency_limit": AT_ONCE, "concurrency_id": "quality"}
    gr.api(_quality_endpoint(opening), api_name="quality", **at_once)
    gr.api(_compare_endpoint(opening), api_name="compare", **at_once)
    return proposed


def _followed(proposed: str, found: Found) -> str | dict:
    """The prompts' language follows the page's, but not under a run that is not at its end: it would begin
    anew."""
    return gr.skip() if found.asked.files and not found.finished else proposed


class _Task:
    """What rating and comparing share: files, a button to start, Stop, a line of status, what was found."""

    name: str  # also the label of its button
    shown: tuple[str, ...]  # simulated images in the examples' folder, to try it with

    def __init__(self, opening: Opening):
        self.opening = opening
        self.found = gr.State(Found())
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
            self.folder = gr.UploadButton(
                label("quality_folder"), file_count="directory", elem_id=f"{self.name}-folder"
            )
            self.example = gr.Button(label("quality_example"), elem_id=f"{self.name}-example")
            self.place_actions()
        self.status = gr.HTML(both(f"{self.name}_hint"), elem_id=f"{self.name}-status", elem_classes="status")
        self.place_results()

    def place_actions(self) -> None:
        """Further buttons."""

    def place_results(self) -> None:
        raise NotImplementedError

    def results(self) -> list[gr.components.Component]:
        """What shows what was found."""
        raise NotImplementedError

    def drawn(self, found: Found, language: str) -> Update:
        """What was found, or that it is nothing, on `results`."""
        raise NotImplementedError

    def worded(self, found: Found, language: str) -> gr.Dataframe:
        """The table, which alone must be drawn again when the page changes its language."""
        raise NotImplementedError

    def begun(self, asked: Asked, before: Found) -> Found:
        """What a run starts from; `before` is what the last one left."""
        return Found(asked)

    def kept(self, found: Found) -> Update:
        """What a run that ends, however it does, hands over."""
        return {}

    def run(self, found: Found) -> Iterator[Update]:
        """Find what is missing; exceptions become sentences outside. The last update holds `_idle`, too: of
        two that follow at once a browser may lose the first."""
        raise NotImplementedError

    def wire(self, language: gr.components.Component, choices: Sequence[gr.components.Component]) -> None:
        changed = [self.start, self.stop, self.status, self.found, *self.results()]
        running = {
            "concurrency_limit": AT_ONCE,
            "concurrency_id": "quality",
            "trigger_mode": "once",
            **_QUIET,
        }
        inputs = [self.files, self.found, language, *choices]
        at_work = self.start.click(self._run, inputs, changed, **running)
        at_work.failure(self.stopped, self.found, changed, queue=False, **_QUIET)
        self.stop.click(None, None, None, cancels=[at_work], **_QUIET)
        seen = [self.found, language]
        self.found.change(self.drawn, seen, self.results(), queue=False, **_QUIET)
        language.change(self.worded, seen, self.table, queue=False, **_QUIET)
        self.folder.upload(_added, [self.files, self.folder], self.files, queue=False, **_QUIET)
        shown = [str(EXAMPLES / name) for name in self.shown]
        self.example.click(lambda: shown, None, self.files, queue=False, **_QUIET)

    def stopped(self, found: Found) -> Update:
        """After Stop, which Gradio reports as a failure."""
        return {**self._idle(), **self.kept(found), self.status: both("status_stopped")}

    def _run(self, files: list[str] | None, before: Found, language: str, *choices: str) -> Iterator[Update]:
        """Never raises: Gradio does not run what follows a failure, and the buttons must come back."""
        found = self.begun(Asked(tuple(files or ()), *choices), before)
        yield {
            self.start: gr.Button(interactive=False),
            self.stop: gr.Button(interactive=True),
            self.found: found,
            self.status: both("status_reading"),
        }
        try:
            with closing(self.run(found)) as updates:
                for update in updates:
                    found = update.get(self.found, found)
                    yield update
        except Exception as error:  # a page must survive anything; what was found before stays
            yield {**self._idle(), **self.kept(found), self.status: _problem(error, language)}

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
        self.bars = gr.HTML("", elem_id="quality-bars")
        self.table = gr.Dataframe(
            **ratings.table([], "en"),
            interactive=False,
            wrap=True,
            label=label("quality_table"),
            elem_id="quality-table",
            elem_classes="ratings",
            buttons=["fullscreen", "copy"],
            max_height=520,
        )

    def results(self) -> list[gr.components.Component]:
        return [self.table, self.bars, self.download]

    def wire(self, language: gr.components.Component, choices: Sequence[gr.components.Component]) -> None:
        super().wire(language, choices)
        self.table.select(self.chosen, self.found, self.bars, queue=False, **_QUIET)

    def begun(self, asked: Asked, before: Found) -> Found:
        """A run that did not come to its end goes on, if it is asked the same."""
        return before if before.asked == asked and not before.finished else Found(asked)

    def run(self, found: Found) -> Iterator[Update]:
        if not found.asked.files:
            raise ModelError(*(text("no_image", each) for each in ("en", "zh")))
        assistant = yield from self._weights()
        yield {self.download: gr.DownloadButton(interactive=False)}
        started, again, count = time.monotonic(), 0, len(found.asked.files)
        for done, rated in rate(assistant, found.asked, found.rated):
            if len(rated) <= len(found.rated):
                again = done
                yield {self.status: progress("quality_again", done, count)}
                continue
            found = replace(found, rated=rated)
            left = (time.monotonic() - started) / max(1, done - again) * (count - done)
            status = progress("quality_progress", done, count, left=f"{left:.0f}")
            yield {self.found: found, self.status: status}
        found = replace(found, finished=True)
        good = sum(each.problem is None for each in found.rated)
        how = both("quality_done", count=good, seconds=f"{time.monotonic() - started:.1f}")
        summary = ratings.summary(found.rated, how)
        yield {**self._idle(), **self.kept(found), self.found: found, self.status: summary}

    def stopped(self, found: Found) -> Update:
        """What was rated stays, can be saved, and is where the next run goes on."""
        how = both("quality_stopped", count=sum(each.problem is None for each in found.rated))
        return {**super().stopped(found), self.status: ratings.summary(found.rated, how)}

    def drawn(self, found: Found, language: str) -> Update:
        return {
            self.table: self.worded(found, language),
            self.bars: ratings.bars(found.rated[0]) if found.rated else "",
        }

    def worded(self, found: Found, language: str) -> gr.Dataframe:
        return gr.Dataframe(**ratings.table(found.rated, language))

    def chosen(self, found: Found, event: gr.SelectData) -> str:
        """The bars of the row that was clicked, known by its number: the table may be sorted."""
        number = int(event.row_value[0])
        return ratings.bars(found.rated[number - 1]) if 0 < number <= len(found.rated) else ""

    def kept(self, found: Found) -> Update:
        if not found.rated:
            return {}
        return {self.download: gr.DownloadButton(value=ratings.save_csv(found.rated), interactive=True)}


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
            max_height=420,
            buttons=["fullscreen"],
            visible="hidden",
        )
        self.table = gr.Dataframe(
            **ratings.ranking([], {}, "en"),
            interactive=False,
            wrap=True,
            label=label("compare_ranking"),
            elem_id="compare-ranking",
            elem_classes="ratings",
            buttons=["copy"],
        )

    def results(self) -> list[gr.components.Component]:
        return [self.verdict, self.slider, self.table]

    def run(self, found: Found) -> Iterator[Update]:
        asked = found.asked
        assistant = yield from self._weights()
        frames = read_compared(asked.files)
        yield {self.status: progress("compare_running", 0, len(frames))}
        for rated, best in compare(assistant, frames, asked):
            found = replace(found, rated=rated, best=best, finished=bool(best))
            yield {self.status: progress("compare_running", len(rated), len(frames))}
        summary = ratings.summary(found.rated, both("compare_done"))
        yield {**self._idle(), self.found: found, self.status: summary}

    def drawn(self, found: Found, language: str) -> Update:
        pair = tuple(each.picture for each in found.rated) if len(found.rated) == 2 else None
        return {
            self.verdict: ratings.verdict(found.rated, found.best) if found.best else "",
            self.slider: gr.ImageSlider(pair, visible=True if pair else "hidden"),
            self.table: self.worded(found, language),
        }

    def worded(self, found: Found, language: str) -> gr.Dataframe:
        return gr.Dataframe(**ratings.ranking(found.rated, found.best, language))


def _added(files: list[str] | None, folder: list[str]) -> list[str]:
    """A folder's files, by their names, after those that are there; hidden ones (.DS_Store) are left out."""
    shown = [path for path in folder if not Path(path).name.startswith(".")]
    return list(dict.fromkeys([*(files or ()), *sorted(shown, key=lambda path: Path(path).name)]))


def _problem(error: Exception, language: str) -> str:
    return f'<p class="problem" role="alert">{html.escape(_explained(error, language))}</p>'


def _explained(error: Exception, language: str) -> str:
    return explain(error, language, "quality_unexpected")


# --- what both the page and the endpoints do ----------------------------------------------------------------


def rate(
    assistant: Assistant, asked: Asked, known: Sequence[Rated] = ()
) -> Iterator[tuple[int, list[Rated]]]:
    """(files done, all that was rated so far) after every few images; a file that cannot be read is listed
    with its reason in its place. An image among the `known` is not rated again."""
    memory = {(each.image, each.picture): each for each in known if each.problem is None}
    rated: list[Rated] = []
    waiting: list[Frame] = []
    for done, file in enumerate(asked.files, start=1):
        frames, problems = read_examination([file], within=get_upload_folder())
        waiting += frames
        if problems or len(waiting) >= TOGETHER or done == len(asked.files):
            for start in range(0, len(waiting), TOGETHER):
                rated = [*rated, *_recalled(assistant, waiting[start : start + TOGETHER], asked, memory)]
                yield done, rated
            waiting = []
            rated = [*rated, *(ratings.unread(problem.source, problem.error) for problem in problems)]
            if problems:
                yield done, rated


def _recalled(
    assistant: Assistant, frames: Sequence[Frame], asked: Asked, memory: Mapping[Key, Rated]
) -> list[Rated]:
    """The frames' ratings: from `memory`, else asked."""
    known = [memory.get((ratings.name_of(frame), save_frame(frame))) if memory else None for frame in frames]
    new = tuple(frame for frame, rated in zip(frames, known, strict=True) if rated is None)
    fresh = _rated(assistant, new, asked)
    return [rated or next(fresh) for rated in known]


def _rated(assistant: Assistant, frames: tuple[Frame, ...], asked: Asked) -> Iterator[Rated]:
    """The frames' ratings, all asked at once; one by one where the model cannot read some of them."""
    try:
        *_, reply = _replies(assistant, frames, "quality", asked)
    except UnusableImage as error:
        if len(frames) == 1:
            yield ratings.unread(ratings.name_of(frames[0]), error)
            return
        for frame in frames:
            yield from _rated(assistant, (frame,), asked)
        return
    for index, frame in enumerate(frames):
        yield ratings.rated(frame, reply, index, asked.asked_in)


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
    assistant: Assistant, frames: Sequence[Frame], asked: Asked
) -> Iterator[tuple[list[Rated], dict[str, Any]]]:
    """The ratings of the images that were rated so far, and in the end which is best: `best`, `ranking`,
    `best_probabilities`."""
    for reply in _replies(assistant, tuple(frames), "compare", asked):
        done = frames[: len(reply.ratings)]
        rated = [ratings.rated(frame, reply, index, asked.asked_in) for index, frame in enumerate(done)]
        best = {key: getattr(reply, key) for key in ("best", "ranking", "best_probabilities")}
        yield rated, best if reply.finished else {}


def _replies(
    assistant: Assistant, frames: tuple[Frame, ...], task: str, asked: Asked
) -> Iterator[QualityReply]:
    organ = None if asked.organ == ANY_ORGAN else asked.organ
    turn = Turn(asked.prompt, frames, task, organ, asked.asked_in)
    with closing(assistant.stream(turn)) as replies:
        yield from replies


# --- for programs -------------------------------------------------------------------------------------------


def _asked(files: Any, prompt: str, organ: str, language: str) -> Asked:
    """What a program asked. Raises a ModelError where it is no list of uploads or none of the choices."""
    _check_choices(prompt, organ, language)
    uploads = files or []
    if not isinstance(uploads, list) or not all(map(_is_upload, uploads)):
        raise ModelError(*(text("quality_uploads", each) for each in ("en", "zh")))
    return Asked(tuple(file["path"] for file in uploads), prompt, organ, language)


def _is_upload(file: Any) -> bool:
    return isinstance(file, dict) and isinstance(file.get("path"), str)


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
        raise gr.Error(_explained(error, told), print_exception=False) from None


def _quality_endpoint(opening: Opening):
    def quality(
        files: list[gr.FileData],
        prompt: Literal[PROMPTS] = "basic",
        organ: Literal[(ANY_ORGAN, *ORGANS)] = ANY_ORGAN,
        language: Literal[LANGUAGES] = "en",
    ) -> Iterator[dict]:
        """Rate the quality of ultrasound images; yields the ratings so far, one for each image in order.

        A rating has `image`, `probabilities` of low, medium and high, `level`, `score` 0 to 10, `borderline`
        (null where no cut points were fitted) and `cuts_of`, whose they are, `open_mass` (the share of all
        that the model could have said that names a level), `read_by` (how that was read) and `reasons` (why
        in no better way), `indicators` (high is better), `unfamiliar`, and `problem` where a file could not
        be read. `files_done` counts files. Research use only.
        """

        def answer(assistant: Assistant) -> Iterator[dict]:
            asked = _asked(files, prompt, organ, language)
            if not asked.files:
                raise ModelError(*(text("no_image", each) for each in ("en", "zh")))
            for done, rated in rate(assistant, asked):
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
            asked = _asked(files, prompt, organ, language)
            *_, (rated, best) = compare(assistant, read_compared(asked.files), asked)
            yield {**best, "ratings": [each.values(language) for each in rated]}

        yield from _answering(opening, language, answer)

    return compare_images

"""The Planes page: an abdominal image in; boxes, plane, deductions and a score by AbVLM-Q out.

One image, whose deductions, boxes and planes a clinician may correct (the score follows at once, and the
change is marked as theirs), or a folder, judged one after another with a table, a histogram and files to take
along. Also the endpoint `/plane` for programs. What a person has open is in the page's own state, and goes
with the page.

Knows the page's events; what is shown is `apps.plane_view`, what is kept and exported `apps.plane_review`,
what the model reads `assistants.abvlm_q`.
"""

from __future__ import annotations

import html
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import gradio as gr
import numpy as np
from PIL import Image

from apps import plane_review, plane_view
from apps.chat import AT_ONCE, NoImage, UnreadableUploads, explain, read_uploads
from apps.display import save_frame
from apps.language import LANGUAGES, both, label, language_choice, progress, text
from apps.opening import Opening
from apps.plane_review import Review
from assistants.abvlm_q.scoring import Change
from assistants.base import Turn
from imaging.frame import Frame
from imaging.planes import NON_STANDARD, Planes, load_planes
from models.errors import ModelError

BATCH = 8  # images of a folder that are judged at once
_SHOW_EVERY = 0.2  # seconds; each update draws the whole picture anew
_NAMED_PROBLEMS = 3  # files of a folder that could not be read, by name; the rest is counted
_WAIT = 0.5  # seconds between two looks at weights that are still loading
_HEADS = ("#", "plane_file", "plane_planes", "plane_score", "plane_grade", "plane_main")
# Gradio refuses a choice that is no longer offered in English and beside the page; `_changed` says it.
_UNCHECKED = {"preprocess": False}
_TO_THE_PICTURE = "() => document.querySelector('#plane-status').scrollIntoView({block: 'center'})"
_BESIDE = {"scale": 0, "min_width": 120}  # a button beside what it acts on
_QUIET = {"show_progress": "hidden", "api_visibility": "private"}

Update = dict  # component → its new value


def build(openings: Mapping[str, Opening], language: gr.components.Component) -> gr.components.Component:
    """Place the page in the current layout and connect it; returns the choice of the answer's language."""
    page = PlanesPage(openings["abvlm_q"])
    with gr.Column(elem_classes="plane-page"):
        page.place()
    page.wire(language)
    gr.api(_endpoint(page.opening), api_name="plane", concurrency_limit=AT_ONCE, concurrency_id="plane")
    return page.answer_in


class PlanesPage:
    """Components and events. Every event ends with a state from which a person can go on, whatever fails."""

    def __init__(self, opening: Opening):
        self.opening = opening

    @property
    def protocol(self) -> Planes:
        """The assistant's; before it is there, the published one."""
        return self.opening.assistant.planes if self.opening.assistant else load_planes()

    # ---- layout

    def place(self) -> None:
        self.review, self.queue = gr.State(None, time_to_live=3600), gr.State([], time_to_live=3600)
        self.answer_in = language_choice("answer_language", "plane-language")
        with gr.Tabs(elem_id="plane-ways") as self.ways:
            with gr.Tab(label("tab_one"), id="one"):
                self._place_one()
            with gr.Tab(label("tab_folder"), id="folder"):
                self._place_folder()

    def _place_one(self) -> None:
        with gr.Row():
            with gr.Column(scale=3):
                self.file = gr.File(label=label("plane_file"), elem_id="plane-file", height=120)
                with gr.Row():
                    self.judge = gr.Button(label("plane_judge"), variant="primary", elem_id="plane-judge")
                    self.stop = gr.Button(label("plane_stop"), elem_id="plane-stop")
                self.picture = gr.HTML(plane_view.picture(None, self.protocol), elem_id="plane-picture")
            with gr.Column(scale=2):
                self.status = gr.HTML("", elem_id="plane-status", elem_classes="status")
                self.verdict = gr.HTML("", elem_id="plane-verdict")
                with gr.Accordion(label("plane_correct"), open=False, elem_id="plane-correct"):
                    self._place_corrections()

    def _place_corrections(self) -> None:
        with gr.Row():
            self.struck = gr.Dropdown([], label=label("plane_strike_which"), elem_id="plane-struck")
            self.strike = gr.Button(label("plane_strike"), elem_id="plane-strike", **_BESIDE)
        with gr.Row():
            self.added = gr.Dropdown([], label=label("plane_add_which"), elem_id="plane-added")
            self.reason = gr.Textbox(label=label("plane_reason"), max_length=200, elem_id="plane-reason")
            self.add = gr.Button(label("plane_add"), elem_id="plane-add", **_BESIDE)
        with gr.Row():
            self.planes = gr.Dropdown(
                [], multiselect=True, label=label("plane_rename_which"), elem_id="plane-planes"
            )
            self.rename = gr.Button(label("plane_rename"), elem_id="plane-rename", **_BESIDE)
        self.boxed = gr.Dropdown([], label=label("plane_box_which"), elem_id="plane-boxed")
        self.named = gr.Dropdown([], label=label("plane_box_name"), elem_id="plane-named")
        with gr.Row():
            self.edges = [
                gr.Number(label=name, precision=0, min_width=70, elem_id=f"plane-{name}")
                for name in ("x1", "y1", "x2", "y2")
            ]
        with gr.Row():
            self.correct = gr.Button(label("plane_box"), elem_id="plane-box")
            self.put = gr.Button(label("plane_new_box"), elem_id="plane-new-box")
            self.remove = gr.Button(label("plane_remove_box"), elem_id="plane-remove-box")

    def _place_folder(self) -> None:
        self.files = gr.File(
            label=label("plane_files"), file_count="directory", elem_id="plane-files", height=130
        )
        with gr.Row():
            self.run = gr.Button(label("plane_run"), variant="primary", elem_id="plane-run")
            self.halt = gr.Button(label("plane_halt"), elem_id="plane-halt")
        self.progress = gr.HTML("", elem_id="plane-progress", elem_classes="status")
        self.table = gr.Dataframe(
            headers=self._heads("en"),
            interactive=False,
            wrap=True,
            show_search="filter",
            column_widths=["6%", "22%", "32%", "9%", "11%", "20%"],
            datatype=["number", "str", "str", "number", "str", "str"],
            elem_id="plane-table",
            label=label("plane_table"),
        )
        self.histogram = gr.HTML("", elem_id="plane-histogram")
        with gr.Row():
            self.csv = gr.DownloadButton(label("plane_csv"), interactive=False, elem_id="plane-csv")
            self.json = gr.DownloadButton(label("plane_json"), interactive=False, elem_id="plane-json")

    # ---- events

    def wire(self, language: gr.components.Component) -> None:
        """Connect the events; `language` holds the page's language."""
        running = {"concurrency_limit": AT_ONCE, "concurrency_id": "plane", **_QUIET}
        controls = [self.struck, self.added, self.planes, self.boxed, self.named]
        shown = [self.review, self.picture, self.verdict, self.status, *controls]
        folder = [self.queue, self.progress, self.table, self.histogram, self.csv, self.json]
        asked = [self.file, self.answer_in, language]
        judged = gr.on(
            [self.file.upload, self.judge.click], self.on_judge, asked, shown, trigger_mode="once", **running
        )
        judged.failure(lambda: both("status_stopped"), None, self.status, queue=False, **_QUIET)
        self.stop.click(None, None, None, cancels=[judged], queue=False, **_QUIET)
        self.file.clear(self.on_clear, language, shown, cancels=[judged], queue=False, **_QUIET)
        for button, change, inputs in (
            (self.strike, self.on_strike, [self.struck]),
            (self.add, self.on_add, [self.added, self.reason]),
            (self.rename, self.on_rename, [self.planes]),
            (self.correct, self.on_correct, [self.boxed, self.named, *self.edges]),
            (self.put, self.on_place, [self.named, *self.edges]),
            (self.remove, self.on_remove, [self.boxed]),
        ):
            told = [*shown, self.reason, self.queue, self.table, self.histogram, self.csv, self.json]
            asked_of = [self.review, self.queue, language, *inputs]
            button.click(change, asked_of, told, queue=False, **_UNCHECKED, **_QUIET)
        placed = [self.named, *self.edges]
        self.boxed.change(self.on_box, [self.review, self.boxed], placed, **_UNCHECKED, **_QUIET)
        language.change(self.on_language, [self.review, language], controls, **_QUIET)
        language.change(self.on_table, [self.queue, language], self.table, **_QUIET)
        worked = self.run.click(
            self.on_run, [self.files, self.queue, self.answer_in, language], folder, **running
        )
        worked.failure(self.on_halted, [self.queue, language], folder, queue=False, **_QUIET)
        self.halt.click(None, None, None, cancels=[worked], queue=False, **_QUIET)
        opened = [*shown, self.ways, self.progress]
        seen = self.table.select(self.on_open, [self.queue, language], opened, queue=False, **_QUIET)
        seen.then(None, None, None, js=_TO_THE_PICTURE, queue=False, **_QUIET)

    def on_judge(self, path: str | None, answer_in: str, language: str) -> Iterator[Update]:
        """Judge one file's image, drawing boxes while the answer comes."""
        try:
            yield {**self._cleared(language), self.status: both("status_reading")}
            frame = _one_frame(path)
            review = _begun(frame)
            while not self.opening.wait(_WAIT):
                yield {self.status: both("badge_loading")}
            assistant = self.opening.require()
            yield {
                self.picture: plane_view.picture(review, self.protocol),
                self.status: f'<span class="busy">{both("plane_looking")}</span>',
            }
            last = 0.0
            with closing(assistant.stream(Turn("", (frame,), "plane", None, answer_in))) as replies:
                for reply in replies:
                    if reply.finished or time.monotonic() - last > _SHOW_EVERY:
                        last = time.monotonic()
                        review = review.with_reply(reply)
                        yield self._shown(review, language)
            yield {self.status: both("plane_done", file=frame.source)}
        except Exception as error:  # a page must survive anything
            yield {self.status: _problem(explain(error, language))}

    def on_clear(self, language: str) -> Update:
        """The file was taken away, and what was said of it goes too."""
        return {**self._cleared(language), self.status: ""}

    def on_strike(
        self, review: Review | None, queue: list[Review], language: str, item: str | None
    ) -> Update:
        """The chosen deduction does not hold."""
        return self._changed(review, queue, language, item, lambda: plane_review.strike(item))

    def on_add(
        self, review: Review | None, queue: list[Review], language: str, item: str | None, reason: str
    ) -> Update:
        """The chosen deduction is missing, for this reason."""

        def change() -> Change:
            return plane_review.add(item, review.assessment, reason)

        after = self._changed(review, queue, language, item, change)
        return after | {self.reason: ""} if self.review in after else after

    def on_rename(
        self, review: Review | None, queue: list[Review], language: str, planes: list[str] | None
    ) -> Update:
        """The image is the chosen planes."""
        return self._changed(
            review, queue, language, planes, lambda: plane_review.rename(planes, self.protocol)
        )

    def on_correct(
        self,
        review: Review | None,
        queue: list[Review],
        language: str,
        index: int | None,
        name: str | None,
        *edges: float | None,
    ) -> Update:
        """The chosen box is elsewhere, or another structure's."""

        def change() -> Change:
            return plane_review.correct(index, edges, name, review, self.protocol)

        return self._changed(review, queue, language, index, change)

    def on_place(
        self,
        review: Review | None,
        queue: list[Review],
        language: str,
        name: str | None,
        *edges: float | None,
    ) -> Update:
        """The chosen structure was missed; here it is."""

        def change() -> Change:
            return plane_review.place(edges, name, review, self.protocol)

        return self._changed(review, queue, language, name, change)

    def on_remove(
        self, review: Review | None, queue: list[Review], language: str, index: int | None
    ) -> Update:
        """There is no such structure in the chosen box."""
        return self._changed(review, queue, language, index, lambda: plane_review.remove(index))

    def on_box(self, review: Review | None, index: int | None) -> list[Any]:
        """The chosen structure's name, where the protocol has it, and edges, to be corrected."""
        if review is None or index is None or index >= len(review.assessment.structures):
            return [gr.skip()] * 5
        chosen = review.assessment.structures[index]
        return [chosen.label if chosen.label in self.protocol.structures else None, *chosen.box]

    def on_language(self, review: Review | None, language: str) -> list[Update]:
        """The choices of the corrections in another language."""
        return list(self._choices(review, language).values())

    def on_table(self, queue: list[Review], language: str) -> Update:
        return self._table(queue, language)

    def on_run(
        self, paths: Sequence[str] | None, queue: list[Review], answer_in: str, language: str
    ) -> Iterator[Update]:
        """Judge the folder's images that are not judged yet, BATCH at a time, keeping what is done.

        The page's state is this one list, changed in place: so a correction made meanwhile is not undone.
        """
        try:
            yield {self.progress: both("status_reading")}
            found, problems = yield from self._read(paths)
            queue = _with_known(found, queue)
            yield {**self._listed(queue, language), self.progress: _problems(problems, language)}
            while not self.opening.wait(_WAIT):
                yield {self.progress: both("badge_loading")}
            self.opening.require()
            while waiting := [n for n, each in enumerate(queue) if not _is_done(each)]:
                picked = waiting[:BATCH]
                judged = self._judged([queue[n] for n in picked], answer_in)
                for n, review in zip(picked, judged, strict=True):
                    queue[n] = review
                yield {**self._listed(queue, language), self.progress: _progress(queue, problems, language)}
            yield {self.progress: _progress(queue, problems, language)}
        except Exception as error:  # a page must survive anything
            yield {self.progress: _problem(explain(error, language))}

    def on_halted(self, queue: list[Review], language: str) -> Update:
        """Stopped: what was done is there, also of the batch that was at work."""
        done = sum(map(_is_done, queue))
        return {
            **self._listed(queue, language),
            self.progress: both("plane_halted", done=done, count=len(queue)),
        }

    def on_open(self, queue: list[Review], language: str, event: gr.SelectData) -> Update:
        """Open the image of a row that was clicked: its number stands in the first cell, however sorted."""
        number = int(float(event.row_value[0])) - 1
        if not queue:
            return {self.progress: _problem(text("plane_expired", language))}
        if not 0 <= number < len(queue) or queue[number].assessment is None:
            return {self.ways: gr.skip()}
        return {
            **self._shown(queue[number], language),
            self.status: both("plane_opened", file=queue[number].source),
            self.ways: gr.Tabs(selected="one"),
        }

    # ---- what follows from them

    def _changed(
        self,
        review: Review | None,
        queue: list[Review],
        language: str,
        chosen: object,
        change: Callable[[], Change],
    ) -> Update:
        """The review after a clinician's change, here and in the queue it came from."""
        if review is None or review.assessment is None or chosen is None:
            return {self.status: _problem(text("plane_choose_first", language))}
        try:
            after = review.changed(change(), self.protocol)
        except (ModelError, ValueError) as error:
            told = isinstance(error, ModelError)
            why = error.message(language) if told else text("plane_stale", language)
            return {self.status: _problem(text("plane_bad_change", language, why=why))}
        told = {**self._shown(after, language), self.status: both("plane_changed")}
        if review in queue:
            for n in (n for n, each in enumerate(queue) if each == review):
                queue[n] = after
            told |= self._listed(queue, language)
        return told

    def _shown(self, review: Review, language: str) -> Update:
        """An image, with all that may be corrected once it is finished."""
        told = {
            self.review: review if review.finished else None,
            self.picture: plane_view.picture(review, self.protocol),
            self.verdict: plane_view.verdict(review, self.protocol),
        }
        return told | (self._choices(review, language) if review.finished else {})

    def _cleared(self, language: str) -> Update:
        """No image: what was known of the one before must not stand beside another file's name."""
        return {
            self.review: None,
            self.picture: plane_view.picture(None, self.protocol),
            self.verdict: "",
            **self._choices(None, language),
        }

    def _choices(self, review: Review | None, language: str) -> Update:
        found = review.assessment if review else None
        protocol = self.protocol

        def words(subject: str, fault: str, points: float) -> str:
            return f"{plane_view.deduction_words(subject, fault, protocol, language)} −{points:g}"

        scored = found is not None and found.score is not None
        counted = [each for each in found.deductions if not each.struck] if scored else []
        strikable = [(words(each.subject, each.fault, each.points), each.item) for each in counted]
        addable = plane_review.addable(found, protocol) if found else []
        boxes = enumerate(found.structures) if found else ()
        planes = (*protocol.planes, NON_STANDARD) if found else ()
        return {
            self.struck: gr.Dropdown(strikable, value=None),
            self.added: gr.Dropdown([(words(*each), f"{each[0]}.{each[1]}") for each in addable], value=None),
            self.planes: gr.Dropdown(
                [(protocol.name(key, language), key) for key in planes],
                value=list(found.planes) if found else [],
                multiselect=True,
            ),
            self.boxed: gr.Dropdown(
                [
                    (f"{n + 1} {plane_view.subject_name(each.label, protocol, language)}", n)
                    for n, each in boxes
                ],
                value=None,
            ),
            self.named: gr.Dropdown(
                [(protocol.name(key, language), key) for key in protocol.structures], value=None
            ),
        }

    def _read(
        self, paths: Sequence[str] | None
    ) -> Generator[Update, None, tuple[list[Review], list[UnreadableUploads]]]:
        """The images of a folder, and its bad files; NoImage without a folder. The images of a cine are told
        apart by their numbers."""
        if not paths:
            raise NoImage
        found, problems, last = [], [], time.monotonic()
        in_order = sorted(paths, key=lambda path: (Path(path).name, path))  # folders are named by hashes
        for done, path in enumerate(in_order):
            if time.monotonic() - last > _SHOW_EVERY:
                last = time.monotonic()
                yield {self.progress: progress("plane_reading", done, len(in_order))}
            try:
                frames = read_uploads([path])
            except UnreadableUploads as error:
                problems.append(error)
                continue
            for frame in frames:
                review = _begun(frame)  # the same pixels have the same path: it is named by their hash
                if len(frames) > 1:
                    review = replace(review, source=f"{frame.source} #{frame.index + 1}")
                found.append(review)
        return _told_apart(found), problems

    def _judged(self, reviews: Sequence[Review], answer_in: str) -> list[Review]:
        """The reviews with the assistant's answers: all at once, or one by one where that fails, so that one
        image never keeps the others from being judged."""
        try:
            turns = [Turn("", (_reread(review),), "plane", None, answer_in) for review in reviews]
            replies = self.opening.require().answer(turns)
        except Exception as error:  # whatever it is, it is told beside its image
            if len(reviews) == 1:
                told = {each: explain(error, each) for each in LANGUAGES}
                return [replace(reviews[0], error=told)]
            return [judged for each in reviews for judged in self._judged([each], answer_in)]
        return [review.with_reply(reply) for review, reply in zip(reviews, replies, strict=True)]

    def _listed(self, queue: list[Review], language: str) -> Update:
        """Table, histogram and files of a queue."""
        done = [each for each in queue if _is_done(each)]
        assistant = self.opening.assistant
        model = assistant.title if assistant else ""
        files = {
            self.csv: ("planes.csv", plane_review.as_csv),
            self.json: ("planes.json", plane_review.as_json),
        }
        return {
            self.queue: queue,
            self.table: self._table(queue, language),
            self.histogram: plane_view.histogram(done, self.protocol),
            **{  # nothing to take along is not what another folder left there
                button: gr.DownloadButton(
                    value=_written(name, write(done, model)) if done else None, interactive=bool(done)
                )
                for button, (name, write) in files.items()
            },
        }

    def _table(self, queue: list[Review], language: str) -> Update:
        rows = [plane_view.row(n + 1, each, self.protocol, language) for n, each in enumerate(queue)]
        return gr.Dataframe(value=rows or None, headers=self._heads(language))

    def _heads(self, language: str) -> list[str]:
        return [head if head == "#" else text(head, language) for head in _HEADS]


def _one_frame(path: str | None) -> Frame:
    """The image of a file. NoImage without one, ModelError for a cine: none of its images is left out
    unsaid."""
    frames = read_uploads([path]) if path else []
    if not frames:
        raise NoImage
    if len(frames) > 1:
        source = frames[0].source
        raise ModelError(
            f"{source} holds several images, and one is assessed at a time. Export a single image, or open "
            "the file under Folder on the page, where each is assessed.",
            f"{source} 含多幅图像，而每次只评价一幅。请导出单幅图像，"
            "或在页面的“文件夹”中打开该文件，逐幅评价。",
        )
    return frames[0]


def _begun(frame: Frame) -> Review:
    """An image before it is judged; what the model will see lies in the upload folder for an hour."""
    height, width = frame.pixels.shape[:2]
    return Review(frame.source, save_frame(frame), frame.offset, (width, height))


def _reread(review: Review) -> Frame:
    """The part of the picture that was kept, as it is: it has been cut to its sector. ModelError when an hour
    has passed."""
    try:
        with Image.open(review.path) as image:
            pixels = np.array(image.convert("RGB"))
    except FileNotFoundError as error:
        raise ModelError(text("plane_gone", "en"), text("plane_gone", "zh")) from error
    return Frame(pixels, None, review.source, offset=review.offset)


def _is_done(review: Review) -> bool:
    return review.finished or review.error is not None


def _with_known(found: Sequence[Review], queue: Sequence[Review]) -> list[Review]:
    """The images of a folder, with what is known of those that were judged before. One that was refused is
    tried again."""
    known = {(each.source, each.path): each for each in queue if each.finished}
    return [known.get((each.source, each.path), each) for each in found]


def _told_apart(found: Sequence[Review]) -> list[Review]:
    """Files of one name, as DICOM exports have them in every folder, with numbers behind it; folders do not
    come along with an upload."""
    met: Counter[str] = Counter()
    named = []
    for each in found:
        met[each.source] += 1
        again = met[each.source] > 1
        named.append(replace(each, source=f"{each.source} ({met[each.source]})") if again else each)
    return named


def _progress(queue: Sequence[Review], problems: Sequence[UnreadableUploads], language: str) -> str:
    done = sum(map(_is_done, queue))
    return f"{progress('plane_progress', done, len(queue))}{_problems(problems, language)}"


def _problems(problems: Sequence[UnreadableUploads], language: str) -> str:
    """The first few files that could not be read, a line each, and how many more there are."""
    more = len(problems) - _NAMED_PROBLEMS
    lines = [each.message(language) for each in problems[:_NAMED_PROBLEMS]]
    lines += [text("plane_more_problems", language, count=more)] if more > 0 else []
    return "".join(map(_problem, lines))


def _problem(sentence: str) -> str:
    return f'<p class="problem" role="alert">{html.escape(sentence)}</p>'


def _written(name: str, content: str) -> str:
    """A file to take along, in a folder of its own among the uploads: it goes when they go."""
    folder = tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"])
    path = Path(folder) / name
    path.write_text(content, "utf-8")
    return str(path)


def _endpoint(opening: Opening):
    """The function behind `/plane`, typed for its clients."""

    def plane(file: gr.FileData, language: Literal[LANGUAGES] = "en") -> dict:
        """Judge one abdominal image: boxes (pixels of the image as it lies in the file), planes, deductions
        with reasons, score and grade, and what is doubtful about them.

        `language` is that of the reasons. `unfamiliar` marks an image unlike all that demo weights were
        trained on: the rest then means nothing. Research use only.
        """
        try:
            if language not in LANGUAGES:
                listed = ", ".join(LANGUAGES)
                raise ModelError(
                    f"language {language!r} is not one of {listed}.",
                    f"language 的值 {language!r} 无效，可选：{listed}。",
                )
            while not opening.wait(1.0):
                continue
            frame = _one_frame(file["path"] if file else None)
            (reply,) = opening.require().answer([Turn("", (frame,), "plane", None, language)])
            return plane_review.record(_begun(frame).with_reply(reply))
        except Exception as error:
            told = language if language in LANGUAGES else "en"
            raise gr.Error(explain(error, told), print_exception=False) from None

    return plane

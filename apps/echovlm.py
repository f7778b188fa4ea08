"""The Report page: ultrasound images in, a drafted report, diagnosis or answer by EchoVLM out.

Also the endpoint `/report` for programs. Knows the page's choices and examples; how a conversation runs is
`apps.chat`, what the model reads is `assistants.echovlm`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gradio as gr
import yaml

from apps.chat import AT_ONCE, Chat, NoImage, explain, read_uploads
from apps.display import answer_bubbles
from apps.language import LANGUAGES, both, label, language_choice
from apps.opening import Opening
from assistants.base import Turn
from imaging.frame import Frame
from models.errors import ModelError

EXAMPLES = Path(__file__).parent / "examples"
TASKS = ("report", "diagnosis", "vqa")
ORGANS = ("thyroid", "breast", "liver", "kidney", "gynaecology", "vessel", "heart")
ANY_ORGAN = "any"


@dataclass(frozen=True)
class Example:
    """A simulated examination that fills the box."""

    title: str  # a key of texts.yaml
    files: tuple[str, ...]
    task: str
    organ: str | None


def examples() -> list[Example]:
    """The examples whose images are there."""
    entries = yaml.safe_load((EXAMPLES / "examples.yaml").read_text("utf-8"))
    found = [
        Example(
            entry["title"],
            tuple(str(EXAMPLES / name) for name in entry["files"]),
            entry["task"],
            entry["organ"],
        )
        for entry in entries
    ]
    return [example for example in found if all(Path(file).is_file() for file in example.files)]


def make_turn(words: str, frames: tuple[Frame, ...], task: str, organ: str, language: str) -> Turn:
    """What a person chose on the page as a Turn. An organ of "any" lets the model say."""
    return Turn(words, frames, task, None if organ == ANY_ORGAN else organ, language)


def build(openings: Mapping[str, Opening], language: gr.components.Component) -> gr.components.Component:
    """Place the page in the current layout and connect it; returns the choice of the answer's language."""
    opening = openings["echovlm"]
    chat = Chat(opening, "report", make_turn)
    with gr.Column(elem_classes="chat-page"):
        chat.place_bubbles()
        cards = _example_cards()
        with gr.Row(elem_classes="choices"):
            task = gr.Radio(
                [(label(f"task_{name}"), name) for name in TASKS],
                value="report",
                label=label("task"),
                elem_id="report-task",
                min_width=220,
            )
            organ = organ_choice("report-organ")
            answer_in = language_choice("answer_language", "report-language", min_width=180)
        chat.place_box()
    chat.wire(language, [task, organ, answer_in])
    for card, example in cards:
        filled = ({"text": "", "files": list(example.files)}, example.task, example.organ or ANY_ORGAN)
        card.click(
            lambda filled=filled: filled,
            None,
            [chat.box, task, organ],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
    gr.api(_endpoint(opening), api_name="report", concurrency_limit=AT_ONCE, concurrency_id="report")
    return answer_in


def _example_cards() -> list[tuple[gr.Button, Example]]:
    """A button per example, with its first image; the stylesheet hides them once a conversation began."""
    found = examples()
    if not found:
        return []
    with gr.Column(elem_classes="empty", elem_id="report-empty"):
        gr.HTML(f"<h2>{both('empty_title')}</h2><p>{both('empty_text')}</p>")
        with gr.Row(elem_classes="examples"):
            return [
                (gr.Button(label(example.title), icon=example.files[0], elem_classes="example"), example)
                for example in found
            ]


def _check_choices(task: str, organ: str, language: str) -> None:
    """Raise a ModelError that lists the choices: Gradio does not hold clients to `Literal`."""
    for name, value, allowed in (
        ("task", task, TASKS),
        ("organ", organ, (ANY_ORGAN, *ORGANS)),
        ("language", language, LANGUAGES),
    ):
        if value not in allowed:
            listed = ", ".join(allowed)
            raise ModelError(
                f"{name} {value!r} is not one of {listed}.", f"{name} 的值 {value!r} 无效，可选：{listed}。"
            )


def organ_choice(elem_id: str, unnamed: str = "organ_any") -> gr.Dropdown:
    """Which organ is shown, or any; `unnamed` is the text for that."""
    return gr.Dropdown(
        [(label(unnamed), ANY_ORGAN), *((label(f"organ_{name}"), name) for name in ORGANS)],
        value=ANY_ORGAN,
        label=label("organ"),
        elem_id=elem_id,
        filterable=False,
        min_width=180,
    )


def _endpoint(opening: Opening):
    """The function behind `/report`, typed for its clients."""

    def report(
        files: list[gr.FileData],
        text: str = "",
        task: Literal[TASKS] = "report",
        organ: Literal[(ANY_ORGAN, *ORGANS)] = ANY_ORGAN,
        language: Literal[LANGUAGES] = "en",
    ) -> Iterator[str]:
        """Draft a report from ultrasound images, or answer a question about them; yields the text so far.

        An empty text stands for the task's standard request. Images unlike all that demo weights were
        trained on put a notice above the text. Research use only.
        """
        try:
            _check_choices(task, organ, language)
            while not opening.wait(1.0):
                yield ""
            frames = read_uploads([file["path"] for file in files])
            if not frames:
                raise NoImage
            turn = make_turn(text, tuple(frames), task, organ, language)
            with closing(opening.require().stream(turn)) as replies:
                for reply in replies:
                    yield "\n\n".join(
                        bubble["content"] for bubble in answer_bubbles(reply, len(frames), language)
                    )
        except Exception as error:
            told = language if language in LANGUAGES else "en"
            raise gr.Error(explain(error, told), print_exception=False) from None

    return report

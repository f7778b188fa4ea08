"""The Chat page: many images of one case, a question, and an answer from the frame that shows it.

LLaVA-Ultra answers where its weights are there; the frame choice also stands in front of EchoVLM, which then
reads one frame of the case. Which it was, and how, is a step of the conversation (`apps.selection`); clicking
another frame answers from that one.

Also the endpoint `/chat` for programs, which hold their own conversation and bring it along. Knows the page's
choices; how a conversation runs is `apps.chat`, what the model reads is the assistant's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Literal

import gradio as gr
from gradio.utils import get_upload_folder

from apps import display
from apps.chat import AT_ONCE, Chat, UnreadableUploads, explain
from apps.display import Bubble
from apps.language import LANGUAGES, blank, both, label, language_choice, text
from apps.opening import Opening
from apps.selection import chosen_before, picked, step_bubble
from assistants.base import Reply, Settings, Turn
from assistants.conversation import frames_in_view
from assistants.selection import MOST_FRAMES, SelectionReply
from imaging.files import read_examination
from imaging.frame import Frame
from models.errors import ModelError

FRAMES = {"choose": "frames_choose", "all": "frames_all"}  # how to use them → a key of texts.yaml
CINE_FRAMES = MOST_FRAMES // 2  # of one cine, evenly spaced: others may join the case; chosen
NAMES = {"llava_ultra": "LLaVA-Ultra", "echovlm": "EchoVLM"}
EXCHANGE = {"text": str, "answer": str, "files": int}  # one entry of `/chat`'s history
EXAMPLE = tuple(sorted(str(file) for file in (Path(__file__).parent / "examples/sweep").iterdir()))
SHOWN = 2  # which of them is the button's picture: the one with the lesion
_NOTICE = "⚠️ "  # begins a paragraph of `/chat`'s text that is the page's and not the assistant's


def make_turn(words: str, frames: tuple[Frame, ...], assistant: str, use: str, language: str) -> Turn:
    """A question, or where nothing is written a request for a report."""
    return Turn(words, frames, "vqa" if words.strip() else "report", None, language)


def settings_for(assistant: str, use: str) -> Settings:
    """LLaVA-Ultra's weights say how many frames they keep; EchoVLM, which reads all by itself, keeps one."""
    if use == "all":
        return Settings(keep=MOST_FRAMES)
    return Settings() if assistant == "llava_ultra" else Settings(keep=1)


class CaseChat(Chat):
    """A conversation about one case. Its choices: assistant, use of the frames, language of the answer."""

    def __init__(self, openings: Mapping[str, Opening]):
        super().__init__(next(iter(openings.values())), "chat", make_turn)
        self.openings = openings

    def place_box(self) -> None:
        super().place_box()
        self.picked = gr.Textbox(elem_id="chat-pick", visible="hidden")

    def pick(self, value: str, bubbles: list[Bubble], language: str, *choices) -> Iterator[dict]:
        """Answer a question again, from the frame that was clicked; what came after it goes."""
        found = picked(value)
        if found is None or not any(display.words(bubble) for bubble in bubbles[: found[0]]):
            return
        step, frame = found
        _, asked = display.question_at(bubbles, step - 1)
        yield from self._answer_again(bubbles, asked, bubbles[asked], language, choices, (frame,))

    def _more_events(self, inputs: list, shown: list, running: dict) -> list:
        return [self.picked.change(self.pick, [self.picked, *inputs], shown, **running)]

    def _opening(self, choices: Sequence) -> Opening:
        return self.openings[choices[0]]

    def _settings(self, choices: Sequence) -> Settings:
        return settings_for(choices[0], choices[1])

    def _read(self, files: Sequence[str], language: str) -> tuple[list[Frame], list[Bubble]]:
        frames, notice = read_case(files, language)
        return frames, [display.aside(notice, display.ON_FILES)] if notice else []

    def _check(self, words: str, frames: Sequence[Frame], bubbles: list[Bubble]) -> None:
        in_view = sum(len(display.pictures(bubble)) for bubble in bubbles if bubble["role"] == "user")
        check_case(words, len(frames) + in_view)

    def _answer(
        self, bubbles: list[Bubble], language: str, choices: Sequence, chosen: tuple[int, ...] = ()
    ) -> Iterator[dict]:
        """A person's choice of frame stands until new images come, or all frames are to be used."""
        yield from super()._answer(bubbles, language, choices, chosen or _standing(bubbles, choices))

    def _chosen(self, bubbles: list[Bubble], asked: int, choices: Sequence) -> tuple[int, ...]:
        step = display.answer_begins(bubbles, asked)
        return _standing(bubbles[: step + 1], choices)

    def _shown(self, reply: Reply, bubbles: list[Bubble], images: int, language: str) -> list[Bubble]:
        selection = reply.selection if isinstance(reply, SelectionReply) else None
        step = [step_bubble(selection, bubbles, language)] if selection and images > 1 else []
        general = [display.aside(text("no_image_in_view", language))] if not images else []
        return [*step, *general, *display.answer_bubbles(reply, images, language)]


def _standing(bubbles: list[Bubble], choices: Sequence) -> tuple[int, ...]:
    """The frames of a person's choice that still holds at the end of `bubbles`."""
    return () if choices[1] == "all" else chosen_before(bubbles)


def read_case(files: Sequence[str], language: str) -> tuple[list[Frame], str]:
    """The frames of the good files, and a sentence that names the bad ones (empty where there are none).

    Raises UnreadableUploads when no file is good.
    """
    frames, problems = read_examination(
        files, max_frames=CINE_FRAMES, max_files=MOST_FRAMES, within=get_upload_folder()
    )
    if not problems:
        return frames, ""
    if not frames:
        raise UnreadableUploads(problems)
    named = blank(language).join(problem.message(language) for problem in problems)
    return frames, text("left_out", language, problems=named, count=len(frames))


def check_case(words: str, frames: int) -> None:
    """Raise ModelError for nothing at all, or for more frames than can be compared."""
    if not frames and not words.strip():
        raise ModelError(*(text("nothing_asked", each) for each in ("en", "zh")))
    if frames > MOST_FRAMES:
        facts = {"count": frames, "limit": MOST_FRAMES}
        raise ModelError(*(text("too_many_frames", each, **facts) for each in ("en", "zh")))


def said_before(
    history: Sequence[dict], paths: Sequence[str], language: str
) -> tuple[list[Turn | Reply], list[str]]:
    """The turns and replies of `/chat`'s history with the frames of their files, and the files left over.

    `paths` are those of the whole conversation. What the page itself had put above an answer is no part of
    it, and a broken file was named when it was new. Raises ModelError for a history of another form, or one
    that speaks of more files than there are.
    """
    said: list[Turn | Reply] = []
    left = list(paths)
    for number, entry in enumerate(history, start=1):
        count = _files_of(entry, number)
        if count > len(left):
            raise ModelError(
                f"history {number}: files: {count}, but only {len(left)} are left. Send all files of the "
                "conversation, oldest first.",
                f"history {number}：files 为 {count}，但只剩 {len(left)} 个文件。"
                "请按先后顺序发送整个对话的全部文件。",
            )
        frames, _ = read_case(left[:count], language)
        left = left[count:]
        said += [
            make_turn(entry["text"], tuple(frames), "", "", language),
            Reply(_without_notices(entry["answer"]), finished=True),
        ]
    return said, left


def _files_of(entry: dict, number: int) -> int:
    """How many files came with an exchange; ModelError, naming key and place, for one of another form."""
    for key, kind in EXCHANGE.items():
        value = entry.get(key, 0 if key == "files" else None) if isinstance(entry, dict) else None
        if not isinstance(value, kind) or isinstance(value, bool) or (kind is int and value < 0):
            raise ModelError(
                f'history {number}: {key}: expected {{"text": …, "answer": …, "files": how many}}',
                f'history {number}：{key}：应为 {{"text": …, "answer": …, "files": 文件数}}',
            )
    return entry.get("files", 0)


def _notices(left_out: str, images: int, language: str) -> list[str]:
    """What `/chat` puts above an answer as the page does: which files were left out, and that no image is
    in view."""
    general = "" if images else text("no_image_in_view", language)
    return [f"{_NOTICE}{each}" for each in (left_out, general) if each]


def _without_notices(answer: str) -> str:
    return "\n\n".join(part for part in answer.split("\n\n") if not part.startswith(_NOTICE))


def build(openings: Mapping[str, Opening], language: gr.components.Component) -> gr.components.Component:
    """Place the page in the current layout and connect it; returns the choice of the answer's language."""
    chat = CaseChat(openings)
    with gr.Column(elem_classes="chat-page"):
        chat.place_bubbles()
        with gr.Column(elem_classes="empty", elem_id="chat-empty"):
            gr.HTML(f"<h2>{both('chat_title')}</h2><p>{both('chat_text')}</p>")
            with gr.Row(elem_classes="examples"):
                button = gr.Button(label("chat_example"), icon=EXAMPLE[SHOWN], elem_classes="example")
        with gr.Row(elem_classes="choices"):
            assistant = gr.Radio(
                [(NAMES[name], name) for name in openings],
                value=next(iter(openings)),
                label=label("assistant"),
                elem_id="chat-assistant",
                visible=len(openings) > 1,
                min_width=180,
            )
            use = gr.Radio(
                [(label(key), name) for name, key in FRAMES.items()],
                value="choose",
                label=label("frames"),
                elem_id="chat-frames",
                min_width=180,
            )
            answer_in = language_choice("answer_language", "chat-language", min_width=180)
        chat.place_box()
    chat.wire(language, [assistant, use, answer_in])
    button.click(example, language, chat.box, queue=False, show_progress="hidden", api_visibility="private")
    gr.api(_endpoint(openings), api_name="chat", concurrency_limit=AT_ONCE, concurrency_id="chat")
    return answer_in


def example(language: str) -> dict:
    """A simulated sweep and a question that fits it, for the box."""
    return {"text": text("chat_example_question", language), "files": list(EXAMPLE)}


def _check_choices(openings: Mapping[str, Opening], assistant: str, frames: str, language: str) -> None:
    """Raise a ModelError that lists the choices: Gradio does not hold clients to `Literal`."""
    for name, value, allowed in (
        ("assistant", assistant, tuple(openings)),
        ("frames", frames, tuple(FRAMES)),
        ("language", language, LANGUAGES),
    ):
        if value not in allowed:
            listed = ", ".join(allowed)
            raise ModelError(
                f"{name} {value!r} is not one of {listed}.", f"{name} 的值 {value!r} 无效，可选：{listed}。"
            )


def _check_form(files: object, words: object, chosen: object, history: object) -> None:
    """Raise a ModelError that names the argument of another form: Gradio holds clients to no type, either."""
    for name, right, expected, expected_zh in (
        ("files", _is_list(files, _is_upload), "a list of uploaded files", "已上传文件的列表"),
        ("text", isinstance(words, str), "words", "文字"),
        ("chosen", _is_list(chosen, _is_number), "a list of frames, counted from 0", "从 0 开始的帧序号列表"),
        ("history", _is_list(history), "a list of exchanges", "对话记录的列表"),
    ):
        if not right:
            raise ModelError(f"{name}: expected {expected}.", f"{name}：应为{expected_zh}。")


def _is_list(value: object, of: Callable[[object], bool] = lambda each: True) -> bool:
    return isinstance(value, list | tuple) and all(map(of, value))


def _is_upload(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("path"), str)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _endpoint(openings: Mapping[str, Opening]):
    """The function behind `/chat`, typed for its clients."""
    first = next(iter(openings))

    def chat(
        files: list[gr.FileData],
        text: str = "",
        assistant: Literal[tuple(NAMES)] = first,
        frames: Literal[tuple(FRAMES)] = "choose",
        language: Literal[LANGUAGES] = "en",
        chosen: list[int] = (),
        history: list[dict] = (),
    ) -> Iterator[tuple[str, dict]]:
        """Ask about the frames of one case; yields the text so far and which frames it is written from.

        The selection holds `frames`, `kept`, `scores` (relative to this case), `how` and `redundant`, with
        frames counted from 0; it is empty without images and where EchoVLM reads all. `chosen` names frames
        to answer from instead. Files that cannot be read are named above the text, and that no image is in
        view.

        The server remembers nobody. To ask further, send the conversation along: `history` has an entry for
        each question before, oldest first, {"text": what was asked, "answer": the last text that came back,
        "files": how many files were new with it}; `files` are all of them in that order, and those beyond
        the history's come with this question. All frames stay in view and are counted on. Research use only.
        """
        try:
            _check_choices(openings, assistant, frames, language)
            _check_form(files, text, chosen, history)
            while not openings[assistant].wait(1.0):
                yield "", {}
            paths = [file["path"] for file in files]
            before, new = said_before(history, paths, language)
            case, notice = read_case(new, language)
            images = len(frames_in_view(before, Turn(frames=tuple(case))))
            check_case(text, images)
            turn = replace(make_turn(text, tuple(case), assistant, frames, language), chosen=tuple(chosen))
            above = _notices(notice, images, language)
            settings = settings_for(assistant, frames)
            with closing(openings[assistant].require().stream(turn, before, settings)) as replies:
                for reply in replies:
                    said = [bubble["content"] for bubble in display.answer_bubbles(reply, images, language)]
                    yield "\n\n".join([*above, *said]), getattr(reply, "selection", None) or {}
        except Exception as error:
            told = language if language in LANGUAGES else "en"
            raise gr.Error(explain(error, told), print_exception=False) from None

    return chat

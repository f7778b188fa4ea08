"""The pages' words in Chinese and English: all texts, and how a page changes language without losing
anything.

Texts are data (texts.yaml). Labels change in the browser, through Gradio's own translations; HTML that
the server composes carries both languages and the stylesheet hides one; what enters the conversation is
written once, in the language the page had then.

Knows nothing of any one page.
"""

from __future__ import annotations

import html
import json
from functools import cache
from pathlib import Path

import gradio as gr
import yaml

LANGUAGES = ("zh", "en")
_NAMES = {"zh": "中文", "en": "English"}
_FOLDER = Path(__file__).parent


@cache
def _texts() -> dict[str, dict[str, str]]:
    return yaml.safe_load((_FOLDER / "texts.yaml").read_text("utf-8"))


@cache
def translations() -> gr.I18n:
    """All texts for `launch(i18n=…)`."""
    return gr.I18n(**{each: {key: text[each] for key, text in _texts().items()} for each in LANGUAGES})


def label(key: str):
    """A text that the browser translates, for labels, buttons and choices. KeyError when unknown."""
    _texts()[key]
    return translations()(key)


def language_choice(key: str, elem_id: str, **options: int) -> gr.Radio:
    """In which language is asked or answered, whatever the page's own; `key` is the label's."""
    choices = [(_NAMES[each], each) for each in LANGUAGES]
    return gr.Radio(choices, value="en", label=label(key), elem_id=elem_id, **options)


def text(key: str, language: str, **values: object) -> str:
    """A text in `language` ("zh" or "en") with its `values` filled in."""
    return _texts()[key][language].format(**values)


def blank(language: str) -> str:
    """What stands between two words or sentences."""
    return "" if language == "zh" else " "


def both(key: str, **values: object) -> str:
    """A text as HTML in both languages; the stylesheet shows the page's own. Values are escaped."""
    safe = {name: html.escape(str(value)) for name, value in values.items()}
    return "".join(f'<span lang="{each}">{text(key, each, **safe)}</span>' for each in LANGUAGES)


def progress(key: str, done: int, count: int, **values: object) -> str:
    """Words in both languages that say how far a work is, and a bar."""
    words = both(key, done=done, count=count, **values)
    goes_on = ' class="busy"' if done < count else ""
    return f'<span{goes_on}>{words}</span> <progress max="{count}" value="{done}"></progress>'


def script(mode: str, outputs: int) -> str:
    """JavaScript for a Gradio event: "load" picks the visitor's language, "toggle" the other one.

    Returns the language ("zh" or "en") to each of the event's outputs: the page's, and those to answer in.
    """
    tabs = json.dumps(
        [names for key, names in _texts().items() if key.startswith("tab_")], ensure_ascii=False
    )
    switch = f"({(_FOLDER / 'language.js').read_text('utf-8')})('{mode}', {tabs})"
    return f"async () => Array({outputs}).fill(await {switch})"


def images_script() -> str:
    """JavaScript that looks after the pictures of a conversation (images.js)."""
    names = json.dumps(_texts()["image"], ensure_ascii=False)
    return f"() => ({(_FOLDER / 'images.js').read_text('utf-8')})({names})"

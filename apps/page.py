"""The whole page: header, research-use strip, tabs; and how it is launched.

One `gr.Blocks`, one tab per way of working. Adding one is a line in PAGES and a module with a
`build(openings, language)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from apps import abvlm_q, echovlm, llava_ultra, privacy, qbench
from apps.language import LANGUAGES, both, images_script, label, script, text, translations
from apps.opening import Opening

# name of a tab, the assistants that can serve it (the first one there is its default), what builds it
PAGES = (
    ("report", ("echovlm",), echovlm.build),
    ("chat", ("llava_ultra", "echovlm"), llava_ultra.build),
    ("plane", ("abvlm_q",), abvlm_q.build),
    ("quality", ("qbench",), qbench.build),
)
ASSISTANTS = ("echovlm", "llava_ultra", "abvlm_q", "qbench")  # all of them, in the order of their badges

_FOLDER = Path(__file__).parent
_FONT = ["system-ui", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif"]


class Page(gr.Blocks):
    """Blocks that check each request before Gradio acts on the files it names, and forget uploads in time."""

    def launch(self, *args, **kwargs):
        launched = super().launch(*args, **kwargs)
        privacy.start_deleting()
        return launched

    async def preprocess_data(self, block_fn, inputs: list[Any], *args, **kwargs):
        try:
            privacy.check_inputs(inputs)
        except privacy.ForeignFile as error:
            raise gr.Error(str(error), print_exception=False) from None
        return await super().preprocess_data(block_fn, inputs, *args, **kwargs)


def compose(openings: Mapping[str, Opening]) -> Page:
    """The page for these assistants: every tab that one of them can serve. Weights may still be loading."""
    with Page(
        title="超声助手 · Ultrasound Assistant",
        analytics_enabled=False,
        fill_width=True,
        elem_id="page",
    ) as page:
        language = gr.Textbox("en", visible=False)
        with gr.Row(elem_id="header"):
            gr.HTML(_title(), elem_id="title")
            badges = gr.HTML(_badges(openings), elem_id="badges")
            switch = gr.Button(label("switch_language"), elem_id="switch-language", size="sm", min_width=80)
        notices = gr.HTML(_notices(openings), elem_id="notices")
        with gr.Tabs(elem_id="tabs"):
            answers = []
            for tab, names, build in PAGES:
                if able := {name: openings[name] for name in names if name in openings}:
                    with gr.Tab(label(f"tab_{tab}"), id=tab):
                        answers.append(build(able, language))
        gr.HTML(f'<p class="privacy">{both("privacy")}</p>')
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        page.load(None, None, [language, *answers], js=script("load", 1 + len(answers)), **quiet)
        page.load(None, None, None, js=images_script(), **quiet)
        switch.click(None, None, [language, *answers], js=script("toggle", 1 + len(answers)), **quiet)
        watch = gr.Timer(1.0)
        watch.tick(lambda: _watch(openings), None, [badges, notices, watch], queue=False, **quiet)
    return page


def launch_options() -> dict[str, Any]:
    """For `Page.launch`, beside host and port."""
    return {
        **privacy.LAUNCH,
        "i18n": translations(),
        "theme": _theme(),
        "css": (_FOLDER / "style.css").read_text("utf-8"),
        "favicon_path": str(_FOLDER / "favicon.svg"),
        "allowed_paths": [str(echovlm.EXAMPLES)],
        "quiet": True,
    }


def _theme() -> gr.themes.Base:
    colors = gr.themes.colors
    return gr.themes.Base(
        primary_hue=colors.teal,
        secondary_hue=colors.teal,
        neutral_hue=colors.slate,
        font=_FONT,
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Noto Sans Mono CJK SC", "monospace"],
        radius_size=gr.themes.sizes.radius_lg,
    ).set(
        body_background_fill="#f6f8f9",
        body_background_fill_dark="#0b1117",
        block_background_fill="#ffffff",
        block_background_fill_dark="#131b24",
        background_fill_secondary="#eef2f4",
        background_fill_secondary_dark="#0f1720",
        border_color_primary="#dde4e8",
        border_color_primary_dark="#263340",
        border_color_accent="#c3d0d6",
        border_color_accent_dark="#34444f",
        body_text_color="#17222b",
        body_text_color_dark="#e6edf2",
        body_text_color_subdued="#55646f",
        body_text_color_subdued_dark="#9fb0bc",
    )


def _title() -> str:
    mark = (
        (_FOLDER / "favicon.svg").read_text("utf-8").replace("<svg", '<svg class="mark" aria-hidden="true"')
    )
    return f'{mark}<div><h1>{both("title")}</h1><p class="tagline">{both("tagline")}</p></div>'


def _badges(openings: Mapping[str, Opening]) -> str:
    return "".join(opening.badge() for opening in openings.values())


def _notices(openings: Mapping[str, Opening]) -> str:
    """What must be read first: research use always, then demo weights and failures where there are any."""
    always = "".join(
        f'<span class="always" lang="{each}">{text("research_only", each)}</span>' for each in LANGUAGES
    )
    demo = any(opening.assistant and opening.assistant.demo for opening in openings.values())
    more = f'<span class="more">{both("demo_notice")}</span>' if demo else ""
    failures = "".join(opening.failure_notice() for opening in openings.values() if opening.error)
    return f'<p class="strip"><strong>{always}</strong>{more}</p>{failures}'


def _watch(openings: Mapping[str, Opening]) -> tuple[str, str, gr.Timer]:
    """Badges and notices now; the timer stops once every assistant is there or has failed."""
    waiting = not all(opening.done for opening in openings.values())
    return _badges(openings), _notices(openings), gr.Timer(active=waiting)

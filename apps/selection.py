"""The step "looked at 5 frames, used frame 3" as a bubble that opens to the frames with their scores.

The frames stand in their own order, kept and left out, with near-identical ones marked. Each is a button
whose value says which step and which frame was meant; `images.js` hands a click on. What a person chose
stays in the step's id, so that the next question goes on with it, and nowhere on the server.

Knows nothing of how the frames were chosen, of events, or of files as they were uploaded.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from apps.display import STEP, Bubble, mark, pictures
from apps.language import blank, text

_HOW = {"feature": "step_feature", "attention": "step_attention", "person": "step_person"}


def step_bubble(selection: dict[str, Any], bubbles: Sequence[Bubble], language: str) -> Bubble:
    """The step for `assistants.selection.SelectionReply.selection`, to follow the conversation `bubbles`."""
    shown = [picture for bubble in bubbles if bubble["role"] == "user" for picture in pictures(bubble)]
    count, kept = selection["frames"], selection["kept"]
    key = "step_all" if len(kept) == count else "step_one" if len(kept) == 1 else "step_some"
    title = text(key, language, count=count, kept=_numbers(kept, language))
    why = blank(language).join(text(each, language) for each in _explained(selection))
    frames = "".join(
        _frame(selection, at, picture["path"], len(bubbles), language) for at, picture in enumerate(shown)
    )
    chosen = f":{','.join(map(str, kept))}" if selection["how"] == "person" else ""
    return {
        "role": "assistant",
        "content": f'<p class="why">{html.escape(why)}</p><div class="frames">{frames}</div>',
        "metadata": {"title": title, "id": f"{STEP}{chosen}", "status": "done"},
    }


def _explained(selection: dict[str, Any]) -> list[str]:
    """Keys of what is said about a choice: how it came, what scores are, what likeness does not mean."""
    everything = len(selection["kept"]) == selection["frames"] and selection["how"] != "person"
    alike = ["step_alike"] if selection["redundant"] else []
    return ["step_everything" if everything else _HOW[selection["how"]], "step_relative", *alike]


def chosen_before(bubbles: Sequence[Bubble]) -> tuple[int, ...]:
    """The frames that a person chose at the last step of the conversation; empty when the assistant did, or
    when images came after it."""
    for bubble in reversed(bubbles):
        if mark(bubble).partition(":")[0] == STEP:
            return tuple(int(number) for number in re.findall(r"\d+", mark(bubble)))
        if bubble["role"] == "user" and pictures(bubble):
            return ()
    return ()


def picked(value: str) -> tuple[int, int] | None:
    """(place of the step in the conversation, frame) of a button's value; None for anything else."""
    found = re.fullmatch(r"(\d{1,6})-(\d{1,4})", value.partition(" ")[0])
    return (int(found[1]), int(found[2])) if found else None


def _frame(selection: dict[str, Any], at: int, path: str, step: int, language: str) -> str:
    number, used = at + 1, at in selection["kept"]
    alternative = text("frame", language, number=number)
    said = [f"{selection['scores'][at]:.0%}", text("frame_used" if used else "frame_left_out", language)]
    twins = [other for group in selection["redundant"] if at in group for other in group if other != at]
    if twins:
        said.append(text("frame_twin", language, others=_numbers(twins, language)))
    told = "".join(f"<span>{html.escape(each)}</span>" for each in said)
    source = html.escape(f"gradio_api/file={quote(path)}")
    return (
        f'<button type="button" class="frame{" kept" if used else ""}" value="{step}-{at}" '
        f'title="{html.escape(text("frame_pick", language, number=number))}">'
        f'<img src="{source}" alt="{html.escape(alternative)}"><b>{number}</b>{told}</button>'
    )


def _numbers(indices: Sequence[int], language: str) -> str:
    """Indices, ascending, as numbers from 1; three or more in a row as "3–7"."""
    runs: list[list[int]] = []
    for number in (index + 1 for index in indices):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    said = [
        each for run in runs for each in ([f"{run[0]}–{run[-1]}"] if len(run) > 2 else [str(n) for n in run])
    ]
    return ("、" if language == "zh" else ", ").join(said)

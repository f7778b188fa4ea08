"""Ratings of image quality as a table, as bars, as a ranking, and as CSV.

Bars stand in the fixed order low, medium, high, whichever is longest. Knows nothing of events or of how an
image was rated.
"""

from __future__ import annotations

import csv
import html
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gradio.utils import get_upload_folder

from apps.display import save_frame
from apps.language import both, text
from imaging.errors import UnreadableFile
from imaging.frame import Frame
from models.errors import UnusableImage

LEVELS = ("low", "medium", "high")  # the order of bars and columns
INDICATORS = ("clarity", "contrast", "noise", "detail_resolution", "uniformity", "artefacts", "overall")
CSV_NAME = "quality.csv"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs a cell that begins so


@dataclass(frozen=True)
class Rated:
    """One image: its name, where its picture lies, and what was found; or a `problem` and nothing else."""

    image: str
    picture: str | None = None
    found: Mapping[str, Any] = field(default_factory=dict)
    unfamiliar: bool = False
    problem: Mapping[str, str] | None = None  # language → sentence

    def values(self, language: str) -> dict[str, Any]:
        """For programs; without the picture's place on this machine."""
        return {
            "image": self.image,
            **{key: self.found.get(key) for key in FOUND},
            "unfamiliar": self.unfamiliar,
            "problem": self.problem[language] if self.problem else None,
        }


FOUND = (
    "prompt", "language", "probabilities", "level", "level_by", "cuts_of", "score", "borderline", "open_mass",
    "indicators", "model", "wording",
)  # fmt: skip


def rated(frame: Frame, reply: Any, index: int, language: str) -> Rated:
    """Image `index` of a `QualityReply`."""
    several = reply.ratings is not None
    own = reply.ratings[index] if several else {key: getattr(reply, key, None) for key in FOUND}
    found = {key: own.get(key) for key in FOUND}
    found |= {"prompt": reply.prompt, "language": language, "model": reply.model, "wording": reply.wording}
    return Rated(name_of(frame), save_frame(frame), found, index in reply.unfamiliar)


def name_of(frame: Frame) -> str:
    """The file's name, with the number of the frame where that is not its first."""
    return frame.source if frame.index == 0 else f"{frame.source} #{frame.index + 1}"


def unread(name: str, error: UnreadableFile | UnusableImage) -> Rated:
    """What could not be rated, and why."""
    return Rated(name, problem={each: error.message(each) for each in ("zh", "en")})


def table(images: Sequence[Rated], language: str) -> dict[str, list]:
    """For `gr.Dataframe`: number, image, probabilities, level, score, borderline, indicators, a note."""
    names = ["number", "image", *LEVELS, "level", "score", "borderline", *INDICATORS, "note"]
    heads = [text(f"column_{name}", language) for name in names]
    return {"headers": heads, "data": [_row(i, each, language) for i, each in enumerate(images, start=1)]}


def _row(number: int, image: Rated, language: str) -> list:
    found = image.found
    shares, indicators = found.get("probabilities") or {}, found.get("indicators") or {}
    return [
        number,
        image.image,
        *(_rounded(shares.get(level), 3) for level in LEVELS),
        level_name(found.get("level"), language) if image.problem is None else "",
        _rounded(found.get("score"), 2),
        _yes(found.get("borderline"), language),
        *(_indicator(indicators.get(name), language) for name in INDICATORS),
        _note(image, language),
    ]


def _indicator(value: float | str | None, language: str) -> float | str | None:
    return level_name(value, language) if isinstance(value, str) else _rounded(value, 1)


def _note(image: Rated, language: str) -> str:
    if image.problem:
        return image.problem[language]
    return text("note_unfamiliar", language) if image.unfamiliar else ""


def _yes(value: bool | None, language: str) -> str:
    """A dash where nobody knows: without cut points no image is borderline."""
    return "–" if value is None else text("yes" if value else "no", language)


def level_name(level: str | None, language: str) -> str:
    return text(f"level_{level or 'none'}", language)


def bars(image: Rated, language: str) -> str:
    """The image and its three probabilities as HTML, in the fixed order."""
    if image.problem:
        return f'<p class="problem">{html.escape(image.problem[language])}</p>'
    shares = image.found.get("probabilities") or {}
    drawn = "".join(_bar(level, shares.get(level), image.found.get("level") == level) for level in LEVELS)
    score = image.found.get("score")
    said = both("quality_score", score=f"{score:.1f}") if score is not None else ""
    return (
        f'<figure class="rating"><img src="gradio_api/file={html.escape(quote(image.picture))}" '
        f'alt="{html.escape(image.image)}"><figcaption><b>{html.escape(image.image)}</b> {said}'
        f'<div class="bars">{drawn}</div></figcaption></figure>'
    )


def _bar(level: str, share: float | None, chosen: bool) -> str:
    figure = "–" if share is None else f"{share:.0%}"
    return (
        f'<div class="bar{" chosen" if chosen else ""}"><span class="name">{both(f"level_{level}")}</span>'
        f'<span class="track"><span class="fill {level}" style="width:{(share or 0):.1%}"></span></span>'
        f'<span class="figure">{figure}</span></div>'
    )


def verdict(images: Sequence[Rated], found: Mapping[str, Any], language: str) -> str:
    """Which image is best, and how probable that is; above it what means nothing."""
    best = found["best"]
    share = f"{found['best_probabilities'][best]:.0%}"
    name = both("compare_best", number=best + 1, name=images[best].image, share=share)
    strange = [image.image for image in images if image.unfamiliar]
    doubt = (
        f'<p class="doubt">⚠️ {both("compare_unfamiliar", images=", ".join(strange))}</p>' if strange else ""
    )
    return f'{doubt}<p class="verdict">{name}</p>'


def ranking(images: Sequence[Rated], found: Mapping[str, Any], language: str) -> dict[str, list]:
    """For `gr.Dataframe`: images from best to worst."""
    names = ("rank", "number", "image", "best", "level", "score")
    rows = [
        [
            rank,
            index + 1,
            images[index].image,
            _rounded(found["best_probabilities"][index], 3),
            level_name(images[index].found.get("level"), language),
            _rounded(images[index].found.get("score"), 2),
        ]
        for rank, index in enumerate(found.get("ranking", ()), start=1)
    ]
    return {"headers": [text(f"column_{name}", language) for name in names], "data": rows}


def progress(done: int, files: int, seconds: float) -> str:
    """A bar with words; the time left once there is something to tell it by."""
    left = f"{seconds / done * (files - done):.0f}"
    words = both("quality_progress", done=done, files=files, left=left)
    return f'<span class="busy">{words}</span> <progress value="{done}" max="{files}"></progress>'


def summary(images: Sequence[Rated], seconds: float) -> str:
    failed = sum(image.problem is not None for image in images)
    strange = sum(image.unfamiliar for image in images)
    parts = [both("quality_done", count=len(images) - failed, seconds=f"{seconds:.1f}")]
    parts += [both("quality_failed", count=failed)] if failed else []
    parts += [f"<strong>{both('quality_unfamiliar', count=strange)}</strong>"] if strange else []
    placed = dict.fromkeys(image.found.get("cuts_of") for image in images)
    parts += [both("quality_cuts", population=population) for population in placed if population]
    return " ".join(parts)


def save_csv(images: Sequence[Rated]) -> str:
    """Write the ratings to a new file in the upload folder, where they expire like an image; its path.

    Columns are named alike in both languages, so that a program can rely on them. The mark at the beginning
    makes Excel read Chinese.
    """
    keys = [key for key in FOUND if key not in ("probabilities", "indicators")]
    folder = tempfile.mkdtemp(dir=_made(Path(get_upload_folder())))
    path = Path(folder) / CSV_NAME
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *LEVELS, *keys, *INDICATORS, "unfamiliar", "problem"])
        for image in images:
            values, shares = image.values("en"), image.found.get("probabilities") or {}
            indicators = image.found.get("indicators") or {}
            row = [
                image.image,
                *(shares.get(level) for level in LEVELS),
                *(values[key] for key in keys),
                *(indicators.get(name) for name in INDICATORS),
                image.unfamiliar,
                values["problem"],
            ]
            writer.writerow([_plain(cell) for cell in row])
    return str(path)


def _plain(cell: Any) -> Any:
    """A file may be called "=…": as text, not as a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)

"""Ratings of image quality as a table, as bars, as a ranking, and as CSV.

Bars stand in the fixed order low, medium, high, whichever is longest. HTML is in both languages; a table is
in one, and drawn anew when the page changes its language. Knows nothing of events or of how an image was
rated.
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
from apps.language import LANGUAGES, both, text
from assistants.qbench.clustering import brief
from assistants.qbench.prompts import MOST_IMAGES
from assistants.qbench.rating import DOUBTFUL, alike
from imaging.errors import UnreadableFile
from imaging.frame import Frame
from models.errors import UnusableImage

LEVELS = ("low", "medium", "high")  # the order of bars and columns
INDICATORS = ("clarity", "contrast", "noise", "detail_resolution", "uniformity", "artefacts", "overall")
CSV_NAME = "quality.csv"
_WIDTHS = {"number": 48, "rank": 54, "image": 155, "note": 230, "level": 78, "borderline": 100, "best": 130}
_WIDTH = 90  # of every other column, in pixels
_DIGITS = {**dict.fromkeys((*LEVELS, "best"), 3), "score": 2, **dict.fromkeys(INDICATORS, 1)}
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
            **{named(key): self.found.get(key) for key in FOUND},
            "unfamiliar": self.unfamiliar,
            "problem": self.problem[language] if self.problem else None,
        }


FOUND = (
    "prompt", "language", "probabilities", "level", "level_by", "cuts_of", "score", "borderline", "open_mass",
    "path", "reasons", "indicators", "model", "wording",
)  # fmt: skip


def named(key: str) -> str:
    """What a program finds it under: Gradio's clients take any "path" for a file, and fetch it."""
    return "read_by" if key == "path" else key


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


def table(images: Sequence[Rated], language: str) -> dict[str, Any]:
    """Keywords of `gr.Dataframe`: number, image, level and what is to be noted first, indicators last."""
    names = ["number", "image", "level", "note", "score", *LEVELS, "borderline", *INDICATORS]
    rows = [{"number": number, **_cells(each, language)} for number, each in enumerate(images, start=1)]
    return _drawn(names, rows, language)


def ranking(images: Sequence[Rated], found: Mapping[str, Any], language: str) -> dict[str, Any]:
    """Keywords of `gr.Dataframe`: images from best to worst."""
    rows = [
        {
            "rank": rank,
            "number": index + 1,
            "best": found["best_probabilities"][index],
            **_cells(images[index], language),
        }
        for rank, index in enumerate(found.get("ranking", ()), start=1)
    ]
    return _drawn(["rank", "number", "image", "best", "score", "level", "note"], rows, language)


def _drawn(names: Sequence[str], rows: Sequence[Mapping[str, Any]], language: str) -> dict[str, Any]:
    """Numbers sort as numbers and are written with equal decimals; a column without notes is narrow."""
    noted = any(row["note"] for row in rows)
    widths = [_WIDTH if name == "note" and not noted else _WIDTHS.get(name, _WIDTH) for name in names]
    value = {
        "headers": [text(f"column_{name}", language) for name in names],
        "data": [[row[name] for name in names] for row in rows],
        "metadata": {"display_value": [[_written(row[name], name) for name in names] for row in rows]},
    }
    return {"value": value, "column_widths": widths, "visible": True if rows else "hidden"}


def _written(value: Any, name: str) -> str:
    if isinstance(value, float) and name in _DIGITS:
        return f"{value:.{_DIGITS[name]}f}"
    return "" if value is None else str(value)


def _cells(image: Rated, language: str) -> dict[str, Any]:
    """What is known of an image, by column."""
    found = image.found
    shares, indicators = found.get("probabilities") or {}, found.get("indicators") or {}
    return {
        "image": image.image,
        "level": level_name(found.get("level"), language) if image.problem is None else "",
        "note": _note(image, language),
        "score": _rounded(found.get("score"), "score"),
        **{level: _rounded(shares.get(level), level) for level in LEVELS},
        "borderline": _yes(found.get("borderline"), language),
        **{name: _indicator(indicators.get(name), name, language) for name in INDICATORS},
    }


def _indicator(value: float | str | None, name: str, language: str) -> float | str | None:
    return level_name(value, language) if isinstance(value, str) else _rounded(value, name)


def _note(image: Rated, language: str) -> str:
    if image.problem:
        return image.problem[language]
    return {"zh": "；", "en": "; "}[language].join(_notes(image, language))


def _notes(image: Rated, language: str) -> list[str]:
    """What a reader of the rating must know first."""
    notes = [text("note_unfamiliar", language)] if image.unfamiliar else []
    if _doubtful(image):
        notes.append(text("note_doubt", language, mass=f"{image.found['open_mass']:.0%}"))
    return notes


def _doubtful(image: Rated) -> bool:
    """Whether the model hardly wanted to answer with a level."""
    mass = image.found.get("open_mass")
    return mass is not None and mass < DOUBTFUL


def _yes(value: bool | None, language: str) -> str:
    """A dash where nobody knows: without cut points no image is borderline."""
    return "–" if value is None else text("yes" if value else "no", language)


def level_name(level: str | None, language: str) -> str:
    return text(f"level_{level or 'none'}", language)


def bars(image: Rated) -> str:
    """The image and its three probabilities as HTML, in the fixed order, under what is to be noted."""
    if image.problem:
        return f'<p class="problem">{_told(image.problem)}</p>'
    shares, name = image.found.get("probabilities") or {}, html.escape(image.image)
    level, score = image.found.get("level"), image.found.get("score")
    placed = f"{both('column_level')} {both('level_' + (level or 'none'))}"
    if image.found.get("borderline"):
        placed += f" ({both('column_borderline')})"
    drawn = "".join(_bar(each, shares.get(each), level == each) for each in LEVELS)
    said = both("quality_score", score=f"{score:.2f}") if score is not None else ""
    return (
        f'<figure class="rating"><img src="gradio_api/file={html.escape(quote(image.picture))}" '
        f'alt="{name}"><figcaption><b>{name}</b><p>{placed}{said}</p>{_warning(image)}'
        f'<div class="bars">{drawn}</div></figcaption></figure>'
    )


def _warning(image: Rated) -> str:
    notes = {each: _note(image, each) for each in LANGUAGES}
    return f'<p class="doubt" role="note">⚠️ {_told(notes)}</p>' if notes["en"] else ""


def _told(sentence: Mapping[str, str]) -> str:
    """A sentence that is there in each language, as HTML of which the stylesheet shows one."""
    return "".join(f'<span lang="{each}">{html.escape(sentence[each])}</span>' for each in LANGUAGES)


def _bar(level: str, share: float | None, chosen: bool) -> str:
    figure = "–" if share is None else f"{share:.0%}"
    return (
        f'<div class="bar{" chosen" if chosen else ""}"><span class="name">{both(f"level_{level}")}</span>'
        f'<span class="track"><span class="fill {level}" style="width:{(share or 0):.1%}"></span></span>'
        f'<span class="figure">{figure}</span></div>'
    )


def verdict(images: Sequence[Rated], found: Mapping[str, Any]) -> str:
    """Which image is best, how probable that is and by mere chance would be; above it what means nothing,
    below it what the ranking goes by."""
    best, shares = found["best"], found["best_probabilities"]
    said = both(
        "compare_best" if len(alike(shares)) == 1 else "compare_even",
        number=best + 1,
        name=images[best].image,
        share=f"{shares[best]:.0%}",
        chance=f"{1 / len(images):.0%}",
    )
    return f'{_strange(images)}<p class="verdict">{said}</p>{_order(len(images))}'


def _strange(images: Sequence[Rated]) -> str:
    strange = [image.image for image in images if image.unfamiliar]
    if not strange:
        return ""
    return f'<p class="doubt">⚠️ {both("compare_unfamiliar", images=", ".join(strange))}</p>'


def _order(count: int) -> str:
    """What ranks go by, where there is more than a first and a second."""
    hints = [both("compare_order")] if count > 2 else []
    hints += [both("compare_unasked", most=MOST_IMAGES)] if count > MOST_IMAGES else []
    return f'<p class="hint">{" ".join(hints)}</p>' if hints else ""


def summary(images: Sequence[Rated], how: str) -> str:
    """What came of it, after `how` it ended: what could not be read, what means nothing, whose cut points
    decided, in which language was asked."""
    failed = sum(image.problem is not None for image in images)
    strange = sum(image.unfamiliar for image in images)
    parts = [how]
    parts += [both("quality_failed", count=failed)] if failed else []
    parts += [f"<strong>{both('quality_unfamiliar', count=strange)}</strong>"] if strange else []
    placed = dict.fromkeys(image.found.get("cuts_of") for image in images)
    parts += [both("quality_cuts", population=brief(population)) for population in placed if population]
    asked = dict.fromkeys(image.found.get("language") for image in images)
    parts += [both(f"asked_{language}") for language in asked if language]
    return " ".join(parts)


def meaning() -> str:
    """What the numbers mean, folded away."""
    keys = ("level", "borderline", "indicators")
    told = "".join(f"<p>{both(f'meaning_{key}')}</p>" for key in keys)
    return f"<details><summary>{both('meaning')}</summary>{told}</details>"


def save_csv(images: Sequence[Rated]) -> str:
    """Write the ratings to a new file in the upload folder, where they expire like an image; its path.

    Columns are named alike in both languages, so that a program can rely on them. The mark at the beginning
    makes Excel read Chinese.
    """
    keys = [named(key) for key in FOUND if key not in ("probabilities", "indicators")]
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
                *(_joined(values[key]) for key in keys),
                *(indicators.get(name) for name in INDICATORS),
                image.unfamiliar,
                values["problem"],
            ]
            writer.writerow([_plain(cell) for cell in row])
    return str(path)


def _joined(value: Any) -> Any:
    return "; ".join(value) if isinstance(value, tuple) else value


def _plain(cell: Any) -> Any:
    """A file may be called "=…": as text, not as a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _rounded(value: float | None, name: str) -> float | None:
    """As it will be written, so that equal cells sort as equals."""
    return None if value is None else round(value, _DIGITS[name])

"""Ratings as sentences, in Chinese or English. A template fills in numbers; no model writes here.

The wording is data (prompts.yaml, `report`). Knows nothing of how the numbers were found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from assistants.qbench.clustering import brief
from assistants.qbench.prompts import LEVELS, wording
from assistants.qbench.rating import DOUBTFUL, Comparison, Rating, alike


def say(
    ratings: Sequence[Rating],
    found: Sequence[Mapping[str, Any]],
    comparison: Comparison | None,
    language: str,
) -> str:
    """One line an image, after the verdict where several are compared, before whose cuts decided the levels;
    `found` holds the images' indicators."""
    lines = [] if comparison is None else _verdict(comparison, language)
    for number, (rating, more) in enumerate(zip(ratings, found, strict=True), start=1):
        lines.append(_rating(number, rating, more, language))
    for population in dict.fromkeys(rating.cuts_of for rating in ratings if rating.cuts_of):
        lines.append(_form("placed", language).format(population=brief(population)))
    return "\n".join(lines)


def level_name(level: str | None, language: str) -> str:
    """ "high quality", "中等质量"; for no level, that none was named."""
    if level is None:
        return _form("unread", language)
    return wording()["says"][language].format(level=wording()["names"][language][level])


def _rating(number: int, rating: Rating, found: Mapping[str, Any], language: str) -> str:
    image, level = _image(number, language), level_name(rating.level, language)
    if rating.probabilities is None:
        parts = [_form("raw", language).format(image=image, level=level)]
    else:
        shares = {each: rating.probabilities[each] for each in LEVELS}
        filled = {"image": image, "level": level, "score": rating.score} | shares
        parts = [_form("rating", language).format(**filled)]
    if rating.borderline:
        parts.append(_form("borderline", language))
    scores = {name: score for name, score in (found["indicators"] or {}).items() if isinstance(score, float)}
    if scores:
        names = wording()["quantitative"]["indicators"]
        one = _form("indicator", language)
        listed = [one.format(name=names[name][language], score=score) for name, score in scores.items()]
        parts.append(_form("indicators", language).format(scores=_form("between", language).join(listed)))
    if rating.open_mass is not None and rating.open_mass < DOUBTFUL:
        parts.append(_form("doubt", language).format(mass=rating.open_mass))
    return (" " if language == "en" else "").join(parts)


def _verdict(comparison: Comparison, language: str) -> list[str]:
    best, count = comparison.ranking[0], len(comparison.ranking)
    p = comparison.probabilities[best]
    named = alike(comparison.probabilities)
    form = "best" if len(named) == 1 else "alike"
    images = _form("between", language).join(_image(i + 1, language) for i in named)
    lines = [_form(form, language).format(image=images, images=images, p=p, chance=1 / count)]
    if len(comparison.ranking) > 2:
        images = [_image(i + 1, language) for i in comparison.ranking]
        lines.append(_form("ranking", language).format(images=_form("between", language).join(images)))
    return lines


def _image(number: int, language: str) -> str:
    return _form("image", language).format(i=number)


def _form(name: str, language: str) -> str:
    return wording()["report"][name][language]

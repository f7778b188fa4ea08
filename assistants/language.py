"""Which of the suite's two languages a text is written in. Knows nothing of what it says."""

from __future__ import annotations

import re

_CHINESE = re.compile(r"[\u3400-\u9fff]")
_LETTER = re.compile(r"[A-Za-z]")


def language_of(text: str) -> str | None:
    """The language: "zh" when `text` has any Chinese character, else "en"; None without any letter.

    A Chinese sentence may hold Latin words ("BI-RADS 4a类"), an English one no Chinese.
    """
    if _CHINESE.search(text):
        return "zh"
    return "en" if _LETTER.search(text) else None

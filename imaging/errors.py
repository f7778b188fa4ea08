"""What went wrong with a person's file, said in one sentence in their language.

The sentences live in `messages.yaml`, so that a clinician can review them. Knows nothing of how files are
read.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml

LANGUAGES = ("zh", "en")


class UnreadableFile(ValueError):
    """A file that cannot become frames. `str()` is the English sentence; `message("zh")` the Chinese one.

    `code` is one of the keys of messages.yaml; `facts` holds what the sentence mentions: always `name` (the
    file's name without its folder), and what the code adds (`syntax`, `field`, `limit` …).
    """

    def __init__(self, code: str, name: str, **facts: str | int):
        self.code = code
        self.facts: dict[str, str | int] = {"name": name, **facts}
        super().__init__(self.message("en"))

    def message(self, language: str) -> str:
        """One sentence or two: what is wrong and what to do. `language` is "zh" or "en"."""
        if language not in LANGUAGES:
            raise ValueError(f"language {language!r} is not one of {', '.join(LANGUAGES)}")
        return _messages()[self.code][language].format(**self.facts)


@cache
def _messages() -> dict[str, dict[str, str]]:
    return yaml.safe_load(Path(__file__).with_name("messages.yaml").read_text(encoding="utf-8"))

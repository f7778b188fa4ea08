"""What a turn says to a model: the standard request of a task, or a person's own words and two hints.

Each assistant brings its wording as data (`requests`, `organs`, `organ_hint` and `answer_language` in its
prompts.yaml) and says in `prompts` what stands around it. Knows nothing of images, templates or any model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from assistants.base import Turn
from assistants.language import language_of

TASKS = ("report", "diagnosis", "vqa")
LANGUAGES = ("zh", "en")


@dataclass(frozen=True, eq=False)
class Wording:
    """The sentences of one assistant's prompts.yaml."""

    data: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Wording:
        return cls(yaml.safe_load(path.read_text("utf-8")))

    def organs(self) -> tuple[str, ...]:
        """The organs a turn may name, in the order of the data file."""
        return tuple(self.data["organs"])

    def standard_request(self, task: str, language: str, organ: str | None = None) -> str:
        """The wording of `task` when a person writes nothing. ValueError for an unknown task, language,
        organ."""
        check("task", task, TASKS)
        check("language", language, LANGUAGES)
        wording = self.data["requests"][task][language]
        if organ is None:
            return wording["plain"]
        return wording["organ"].format(organ=self._organ_name(organ, language))

    def request(self, turn: Turn) -> str:
        """The words of a turn as the model reads them.

        A person's own words go first and unchanged. Two short lines may follow: the chosen organ, where
        images come along and the words do not mention it; and the answer's language, where the words are in
        the other one.
        """
        own = turn.text.strip()
        if not own:
            return self.standard_request(turn.task, turn.language, turn.organ)
        check("task", turn.task, TASKS)
        check("language", turn.language, LANGUAGES)
        check("organ", turn.organ, (None, *self.organs()))
        written_in = language_of(own) or turn.language
        lines = [own]
        if turn.organ is not None and turn.frames and not self._mentions(own, turn.organ):
            name = self._organ_name(turn.organ, written_in)
            lines.append(self.data["organ_hint"][written_in].format(organ=name))
        if written_in != turn.language:
            lines.append(self.data["answer_language"][turn.language])
        return "\n".join(lines)

    def _organ_name(self, organ: str, language: str) -> str:
        check("organ", organ, self.organs())
        return self.data["organs"][organ][language]

    def _mentions(self, text: str, organ: str) -> bool:
        names = {organ, *(self._organ_name(organ, language) for language in LANGUAGES)}
        return any(name in text.lower() for name in names)


def check(field: str, value: str | None, allowed: Sequence[str | None]) -> None:
    """ValueError that names `field` for a value that is not one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{field} {value!r} is not one of {', '.join(map(str, allowed))}")

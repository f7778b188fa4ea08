"""Put probes to a model and read what stands at the score: probabilities, or only the word it wrote.

Two readers with one face. `LocalReader` has the model and reads its logits (Ultrasound-QBench, step 1);
`RemoteReader` has a chat service, whose answers cannot be begun for it: it is told to say one word, and the
service's alternatives for that word are read where it gives them.

Knows nothing of scores, clusters or pages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from assistants.qbench import levels
from assistants.qbench.prompts import Probe, answer_message, choices
from imaging.frame import Frame
from models.endpoint import Endpoint
from models.errors import ModelError
from models.likelihood import ROWS, Ask, Likelihood, Looks
from models.streaming import Writer

Asked = tuple[Probe, tuple[Frame, ...]]

ALTERNATIVES, TEXT = "alternatives", "text"  # paths of a service, beside levels.TOKEN and levels.SEQUENCE
LONGEST_WORD = 12  # tokens; 中等质量 is as many bytes, and may be as many tokens


@dataclass(frozen=True)
class Reading:
    """What stands at a probe's score. `probabilities` of the choices add up to 1, None where only `text` was
    to be had; `open_mass` is their share of everything the model could have said."""

    path: str
    probabilities: Mapping[str, float] | None = None
    open_mass: float | None = None
    reasons: tuple[str, ...] = ()
    text: str | None = None


class NoScorePlace(ModelError):
    """Levels cannot be told apart behind the beginning of the answer (`levels.find`)."""


class Reader(Protocol):
    def read(
        self, asked: Sequence[Asked], max_pixels: int | None = None, looks: Looks | None = None
    ) -> list[Reading]:
        """One reading a probe, by probabilities where the model gives them. `looks` keeps what was made of
        the frames for later calls."""
        ...

    def write(self, asked: Sequence[Asked], max_pixels: int | None = None) -> list[Reading]:
        """One reading a probe, by the word that the model writes (the paper's baseline)."""
        ...


class LocalReader:
    """Reads the logits of a model at hand; `share` as in `Likelihood.of`."""

    def __init__(self, likelihood: Likelihood, *, share: bool | None = None):
        self.likelihood, self.share = likelihood, share
        self._writer = Writer(likelihood.model, likelihood.encoder.decode)
        self._tokens: dict[tuple[str, int], levels.LevelTokens] = {}

    def read(
        self, asked: Sequence[Asked], max_pixels: int | None = None, looks: Looks | None = None
    ) -> list[Reading]:
        """See `Reader`; raises NoScorePlace where a tokenizer leaves no place to read a score."""
        tokens = [self.tokens(probe) for probe, _ in asked]
        asks = [
            Ask(probe.messages(), frames, found.candidates)
            for (probe, frames), found in zip(asked, tokens, strict=True)
        ]
        read = self.likelihood.of(asks, share=self.share, max_pixels=max_pixels, looks=looks)
        readings = []
        for found, logarithms in zip(tokens, read, strict=True):
            shares, mass = found.read(logarithms)
            readings.append(Reading(found.path, shares, mass, found.reasons))
        return readings

    def write(self, asked: Sequence[Asked], max_pixels: int | None = None) -> list[Reading]:
        """See `Reader`. The word is written behind the same beginning of the answer that `read` looks at."""
        texts: list[str] = []
        for start in range(0, len(asked), ROWS):
            group = [Ask(probe.messages(), frames, ()) for probe, frames in asked[start : start + ROWS]]
            inputs = self.likelihood.inputs(group, max_pixels)
            texts += [piece.text for piece in self._writer.write(inputs, [LONGEST_WORD] * len(group))]
        return [Reading(TEXT, text=text) for text in texts]

    def tokens(self, probe: Probe) -> levels.LevelTokens:
        """The tokens of the probe's choices in this model's vocabulary, found once."""
        key = (probe.answer, probe.images)
        if key not in self._tokens:
            question = {"role": "user", "content": [{"type": "text", "text": probe.question}]}

            def tokenise(answer: str) -> list[int]:
                messages = (question, answer_message(answer))
                return self.likelihood.encoder.tokens(messages, (), ())["input_ids"]

            try:
                self._tokens[key] = levels.find(tokenise, probe.answer, choices(probe))
            except ValueError as error:
                raise NoScorePlace(
                    f"This model's tokenizer leaves no place to read a score: {error}. Ask in the other "
                    "language, or choose another model.",
                    f"该模型的分词器无法给出读取评分的位置：{error}。请换用另一种提示词语言，或选择其他模型。",
                ) from error
        return self._tokens[key]


class RemoteReader:
    """Reads the answers of a chat service, one call a probe."""

    def __init__(self, endpoint: Endpoint):
        self.endpoint = endpoint

    def read(
        self, asked: Sequence[Asked], max_pixels: int | None = None, looks: Looks | None = None
    ) -> list[Reading]:
        """See `Reader`. The service looks for itself, with its own budget of pixels."""
        return [self._read(probe, frames) for probe, frames in asked]

    def write(self, asked: Sequence[Asked], max_pixels: int | None = None) -> list[Reading]:
        return [Reading(TEXT, text=self._ask(probe, frames).text) for probe, frames in asked]

    def _ask(self, probe: Probe, frames: tuple[Frame, ...]):
        question = f"{probe.question}\n{probe.one_word}"
        return self.endpoint.ask(question, frames, max_new_tokens=LONGEST_WORD)

    def _read(self, probe: Probe, frames: tuple[Frame, ...]) -> Reading:
        said = self._ask(probe, frames)
        if said.first is None:
            return Reading(TEXT, text=said.text, reasons=("the service gives no log-probabilities",))
        shares, reasons = _shares(said.first, choices(probe))
        mass = sum(shares.values())
        if not mass:
            return Reading(TEXT, text=said.text, reasons=(*reasons, "no choice is among the alternatives"))
        normal = {choice: share / mass for choice, share in shares.items()}
        return Reading(ALTERNATIVES, normal, mass, reasons, said.text)


def _shares(first: Mapping[str, float], words: levels.Words) -> tuple[dict[str, float], tuple[str, ...]]:
    """Probability of each choice among a service's alternatives for the first token, by their text."""
    names = {
        word.strip().casefold(): choice
        for choice, (own, synonyms) in words.items()
        for word in (*own, *synonyms)
    }
    shares = dict.fromkeys(words, 0.0)
    for token, logarithm in first.items():
        choice = names.get(token.strip().casefold())
        if choice is not None:
            shares[choice] += math.exp(logarithm)
    absent = [choice for choice, share in shares.items() if not share]
    return shares, tuple(f"{choice!r} is not among the alternatives given: taken as 0" for choice in absent)

"""Ultrasound-QBench answers: a turn with its images goes in, ratings or a comparison come out.

Ultrasound-QBench (2025): four prompts about one image, three qualitative and one quantitative, and one about
several images. The numbers are the model's; the sentences are made from the numbers by a template and say
nothing of their own.

A turn's `text` is empty (the standard prompt leads), the name of a prompt ("basic", "contextual",
"diagnostic", "quantitative", which then leads), or a question of its own about one image's quality. The whole
story of one answer is `QBenchAssistant.stream`. Knows nothing of pages, files or test sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from assistants.base import DEMO_MARK, Reply, Settings, Turn, require_demo_weights
from assistants.qbench import prompts, rating, sentences
from assistants.qbench.adapter import fingerprint, open_weights
from assistants.qbench.clustering import FILE, CutPoints, choose, load
from assistants.qbench.prompts import Probe
from assistants.qbench.rating import Comparison, Rating
from assistants.qbench.reading import Asked, LocalReader, Reader, Reading, RemoteReader
from imaging.frame import Frame
from models.any_model import Opened
from models.backbone import number_format
from models.endpoint import Endpoint, is_endpoint
from models.errors import ModelError, OutOfMemory
from models.familiarity import Familiarity, appearance
from models.likelihood import ROWS, Likelihood, Looks
from models.registry import title_of
from models.streaming import is_out_of_memory

TASKS = ("quality", "compare")
STRATEGIES = ("softmax", "raw", "both")
SINGLE = prompts.PROMPTS[:4]  # those about one image


@dataclass(frozen=True)
class QualityReply(Reply):
    """What was found beside the text.

    Of one image: its level, the levels' `probabilities`, `score` 0 … 10 and so on by the leading `prompt`
    (fields of `rating.Rating`), `indicators` (scores 0 … 10, or levels where only words were written) and
    `by_prompt`, the four prompts' ratings, each with the `word` that was written where one was. Of several
    images `ratings` holds the same for each, and the fields of one image are empty. Of a comparison also
    `best` (index of the image), `ranking` (best first), `best_probabilities`, and the two opinions they are
    made of. `model` and `wording` (of the leading prompt) are fingerprints: scores of two do not compare.
    `cuts_of` names the population whose cuts decided the level.
    """

    task: str | None = None
    model: str | None = None
    prompt: str | None = None
    wording: str | None = None
    strategy: str | None = None
    level: str | None = None
    level_by: str | None = None
    cuts_of: str | None = None
    probabilities: Mapping[str, float] | None = None
    score: float | None = None
    open_mass: float | None = None
    path: str | None = None
    reasons: tuple[str, ...] | None = None
    borderline: bool | None = None
    indicators: Mapping[str, float | str | None] | None = None
    by_prompt: Mapping[str, Mapping[str, Any]] | None = None
    ratings: tuple[Mapping[str, Any], ...] | None = None
    best: int | None = None
    ranking: tuple[int, ...] | None = None
    best_probabilities: tuple[float, ...] | None = None
    best_by_levels: tuple[float, ...] | None = None
    best_by_question: tuple[float, ...] | None = None


class QBenchAssistant:
    """The `Assistant` of the Ultrasound-QBench paper, on any model that a `Reader` can read.

    `prompt` leads where a turn names none. `strategy` is "softmax", or "raw", the paper's baseline; "both"
    rates by softmax and also has the word written, which stands beside it in `by_prompt`.
    """

    name = "qbench"
    settings = Settings()

    def __init__(
        self,
        reader: Reader,
        title: str,
        *,
        demo: bool = False,
        model: str = "",
        device: str = "cpu",
        dtype: str = "float32",
        folders: tuple[Path, ...] = (),
        cut_points: Sequence[CutPoints] = (),
        familiarity: Familiarity | None = None,
        prompt: str = "basic",
        strategy: str = "softmax",
    ):
        if prompt not in SINGLE:
            raise ValueError(f"prompt {prompt!r} is not one of {', '.join(SINGLE)}")
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy {strategy!r} is not one of {', '.join(STRATEGIES)}")
        self.reader, self.title, self.demo, self.model = reader, title, demo, model
        self.device, self.folders = device, folders
        self.dtype = dtype if strategy == "softmax" else f"{dtype} {strategy}"
        self.cut_points = tuple(cut_points)
        self.prompt, self.strategy = prompt, strategy
        self._familiarity = familiarity

    @classmethod
    def open(
        cls,
        weights: str | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        quantize: str | None = None,
        prompt: str = "basic",
        strategy: str = "softmax",
    ) -> QBenchAssistant:
        """Open the demo weights (None), a folder of whole weights or of an adapter, a Hugging Face id, or a
        chat service ("http://host/v1#model").

        Raises what `adapter.open_weights` does, and ValueError for a badly written service.
        """
        chosen = {"prompt": prompt, "strategy": strategy}
        if is_endpoint(weights):
            service = Endpoint.named(weights)
            title = f"Ultrasound-QBench · {service.model}"
            place = {"device": "remote", "dtype": f"{service.address}#{service.model}"}
            return cls(RemoteReader(service), title, model=service.model, **place, **chosen)
        path = str(weights or require_demo_weights(cls.name))
        opened, folders = open_weights(path, device=device, dtype=dtype, quantize=quantize)
        own = folders[0]
        demo = (own / DEMO_MARK).is_file()
        return cls(
            _local(opened),
            title_of("Ultrasound-QBench", path, demo=demo, quantize=quantize),
            demo=demo,
            model=fingerprint(folders),
            device=str(opened.model.device),
            dtype=number_format(opened.model, quantize),
            folders=folders,
            cut_points=load(own / FILE),
            familiarity=Familiarity.load(own) if opened.backbone else None,
            **chosen,
        )

    def request(self, turn: Turn) -> str:
        """The words the model will read for `turn`: the questions, the leading one first, each with the
        beginning of its answer."""
        probes = self._probes(turn)
        if turn.task == "compare":
            probes = [prompts.comparative(max(2, len(turn.frames)), turn.language), *probes]
        return "\n".join(dict.fromkeys(f"{probe.question} {probe.answer} …" for probe in probes))

    def stream(
        self, turn: Turn, history: Sequence[Turn | Reply] = (), settings: Settings | None = None
    ) -> Iterator[Reply]:
        """Rate or compare `turn`'s images; what was said before plays no part.

        An unfinished Reply with all ratings so far comes after every `ROWS` images, and a reader can leave
        there. Raises ModelError (ContextOverflow, OutOfMemory, UnusableImage …) with a text for the person
        who asked, ValueError for an unknown task, organ or language.
        """
        _check(turn)
        probes = self._probes(turn)
        ratings: list[dict[str, Rating]] = []
        frames, looks = iter(turn.frames), {}
        while group := tuple(islice(frames, ROWS)):
            ratings += self._rate([(turn, probes, group)], settings, looks)[0]
            yield self._reply(turn, probes, ratings, None)
        comparison = self._compare([(turn, probes, ratings)], settings, looks)[0]
        unfamiliar = self._unfamiliar(turn.frames, settings, looks)
        reply = self._reply(turn, probes, ratings, comparison)
        yield replace(reply, finished=True, stopped_by="end", unfamiliar=unfamiliar)

    def answer(self, turns: Sequence[Turn], settings: Settings | None = None) -> list[Reply]:
        """The last reply to each turn, the images of all read together."""
        for turn in turns:
            _check(turn)
        probes, looks = [self._probes(turn) for turn in turns], {}
        rated = self._rate(
            [(turn, mine, turn.frames) for turn, mine in zip(turns, probes, strict=True)], settings, looks
        )
        together = list(zip(turns, probes, rated, strict=True))
        replies = []
        for (turn, mine, ratings), comparison in zip(
            together, self._compare(together, settings, looks), strict=True
        ):
            reply = self._reply(turn, mine, ratings, comparison)
            unfamiliar = self._unfamiliar(turn.frames, settings, looks)
            replies.append(replace(reply, finished=True, stopped_by="end", unfamiliar=unfamiliar))
        return replies

    def _probes(self, turn: Turn) -> list[Probe]:
        """All that is asked about one image of the turn, the leading prompt first."""
        own = turn.text.strip()
        if turn.task == "quality" and own and own not in SINGLE:
            return [prompts.own_question(own, turn.language)]
        lead = own if own in SINGLE else self.prompt
        probes = [prompts.qualitative(name, turn.language, turn.organ) for name in prompts.QUALITATIVE]
        probes += prompts.quantitative(turn.language)
        return sorted(probes, key=lambda probe: not probe.name.startswith(lead))

    def _rate(
        self,
        wanted: Sequence[tuple[Turn, list[Probe], tuple[Frame, ...]]],
        settings: Settings | None,
        looks: Looks,
    ) -> list[list[dict[str, Rating]]]:
        """Of every turn and image the rating by every probe, by name; all read in one go. `looks` keeps what
        the vision tower made of the images."""
        asked = [(probe, (frame,)) for _, probes, frames in wanted for frame in frames for probe in probes]
        readings = iter(self._read(asked, settings, looks))
        return [
            [{probe.name: self._rating(turn, probe, next(readings)) for probe in probes} for _ in frames]
            for turn, probes, frames in wanted
        ]

    def _rating(self, turn: Turn, probe: Probe, reading: Reading) -> Rating:
        source = {"model": self.model, "prompt": _prompt(probe.name), "language": turn.language}
        cuts = choose(self.cut_points, turn.organ, wording=probe.fingerprint, **source)
        return rating.rate(probe.name, reading, turn.language, cuts)

    def _compare(
        self,
        wanted: Sequence[tuple[Turn, list[Probe], list[dict[str, Rating]]]],
        settings: Settings | None,
        looks: Looks,
    ) -> list[Comparison | None]:
        """Of every turn that compares: its images by their ratings and by the direct question."""
        asked: list[Asked] = []
        for turn, _, _ in wanted:
            if turn.task == "compare" and len(turn.frames) <= prompts.MOST_IMAGES:
                probe = prompts.comparative(len(turn.frames), turn.language)
                orders = rating.orders(len(turn.frames))
                asked += [(probe, tuple(turn.frames[i] for i in order)) for order in orders]
        readings = iter(self._read(asked, settings, looks))
        return [
            self._comparison(turn, [each[_lead(probes)] for each in ratings], readings)
            for turn, probes, ratings in wanted
        ]

    def _comparison(
        self, turn: Turn, ratings: list[Rating], readings: Iterator[Reading]
    ) -> Comparison | None:
        if turn.task != "compare":
            return None
        count = len(turn.frames)
        question = None
        if count <= prompts.MOST_IMAGES:
            question = rating.best_by_question(list(islice(readings, count)), count)
        return rating.compare(ratings, question)

    def _read(self, asked: Sequence[Asked], settings: Settings | None, looks: Looks) -> list[Reading]:
        if not asked:
            return []
        max_pixels, full = (settings or self.settings).max_pixels, None
        try:
            if self.strategy == "raw":
                return self.reader.write(asked, max_pixels)
            readings = self.reader.read(asked, max_pixels, looks)
            return self._with_words(asked, readings, max_pixels) if self.strategy == "both" else readings
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            full = OutOfMemory(
                f"{self.device} ran out of memory. Ask again with fewer images; whoever runs the server can "
                "start it with --quantize 4bit.",
                f"{self.device} 内存不足。请减少图像数量后重试；服务器管理员也可以用 --quantize 4bit 启动。",
            )
        raise full  # out here, where the failed pass and its tensors are already forgotten

    def _with_words(
        self, asked: Sequence[Asked], readings: Sequence[Reading], max_pixels: int | None
    ) -> list[Reading]:
        """Beside the probabilities the word that is written where a level is asked for; the single indicators
        are not written."""
        spoken = [i for i, (probe, _) in enumerate(asked) if probe.images == 1 and _is_prompt(probe.name)]
        written = self.reader.write([asked[i] for i in spoken], max_pixels)
        found = list(readings)
        for i, words in zip(spoken, written, strict=True):
            found[i] = replace(found[i], text=words.text)
        return found

    def _unfamiliar(
        self, frames: Sequence[Frame], settings: Settings | None, looks: Looks
    ) -> tuple[int, ...]:
        """Which images are unlike all the demo weights were trained on; none for published weights."""
        if self._familiarity is None or not isinstance(self.reader, LocalReader) or not frames:
            return ()
        seen = self.reader.likelihood.look(frames, (settings or self.settings).max_pixels, looks)
        far = self._familiarity.far(torch.stack([appearance(look.states, look.features) for look in seen]))
        return tuple(index for index, strange in enumerate(far) if strange)

    def _reply(
        self,
        turn: Turn,
        probes: Sequence[Probe],
        ratings: Sequence[dict[str, Rating]],
        comparison: Comparison | None,
    ) -> QualityReply:
        lead = _lead(probes)
        wordings = {probe.name: probe.fingerprint for probe in probes}
        found = [_found(each, lead, wordings) for each in ratings]
        several = len(turn.frames) > 1
        reply = QualityReply(
            text=sentences.say([each[lead] for each in ratings], found, comparison, turn.language),
            task=turn.task,
            model=self.model,
            prompt=lead.partition(":")[0],
            wording=wordings[lead],
            strategy=self.strategy,
            ratings=tuple(found) if several else None,
            **({} if several else found[0]),
        )
        if comparison is None:
            return reply
        return replace(
            reply,
            best=comparison.ranking[0],
            ranking=comparison.ranking,
            best_probabilities=comparison.probabilities,
            best_by_levels=comparison.by_levels,
            best_by_question=comparison.by_question,
        )


def _lead(probes: Sequence[Probe]) -> str:
    """The leading probe's name: the quantitative prompt leads by its overall indicator."""
    name = probes[0].name
    return "quantitative:overall" if name.startswith("quantitative") else name


def _prompt(name: str) -> str:
    """The prompt that a probe stands for (the quantitative one by its overall indicator), or its name."""
    return name.removesuffix(":overall")


def _is_prompt(name: str) -> bool:
    """Whether a probe stands for its whole prompt."""
    return ":" not in _prompt(name)


def _found(ratings: Mapping[str, Rating], lead: str, wordings: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a QualityReply about one image."""
    own = ratings[lead]
    indicators = {
        name.partition(":")[2]: each.level if each.score is None else each.score
        for name, each in ratings.items()
        if ":" in name
    }
    by_prompt = {
        _prompt(name): {
            "level": each.level,
            "probabilities": each.probabilities,
            "score": each.score,
            "open_mass": each.open_mass,
            "path": each.path,
            "reasons": each.reasons or None,
            "wording": wordings[name],
            "text": each.text,
            "word": each.word,
        }
        for name, each in ratings.items()
        if _is_prompt(name)
    }
    return {
        "level": own.level,
        "level_by": own.level_by,
        "cuts_of": own.cuts_of,
        "probabilities": own.probabilities,
        "score": own.score,
        "open_mass": own.open_mass,
        "path": own.path,
        "reasons": own.reasons or None,
        "borderline": own.borderline,
        "indicators": indicators or None,
        "by_prompt": by_prompt,
    }


def _check(turn: Turn) -> None:
    """ValueError for an unknown task; ModelError for too few images."""
    if turn.task not in TASKS:
        raise ValueError(f"task {turn.task!r} is not one of {', '.join(TASKS)}")
    least = 2 if turn.task == "compare" else 1
    if len(turn.frames) < least:
        raise ModelError(
            "Add an image to be rated." if least == 1 else "Add two images or more to be compared.",
            "请添加需要评价的图像。" if least == 1 else "请添加两幅或更多需要比较的图像。",
        )


def _local(opened: Opened) -> LocalReader:
    return LocalReader(Likelihood(opened.model, opened.encoder))

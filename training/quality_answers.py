"""Teach a Qwen2-VL to rate image quality as the rater asks: every probe, the level at its score.

Ultrasound-QBench (2025) rates zero-shot and asks for tuning on the domain (section V.B c). A sample is some
images of one view. Each passes the vision tower once, and all that is asked about it (a qualitative prompt
or a question of the case's own, and some indicators of the quantitative one, drawn anew each time) is one
tree of tokens: what the prompts begin with in common is read once and no branch sees another, as the rater
itself reads them (`models.likelihood`). One more tree asks which of the sample's images is best.

Learned are the level and the mark that ends the answer, nothing else: the rater begins the answer itself, so
words before the score are never the model's to say; the end mark keeps a written answer (the raw strategy) to
the one word. Where scores are known, a score between two levels is taught as shares of both, which keeps the
order within a level; so does DeQA-Score (arXiv 2501.11561) with the spread of opinions.

`QualityWarmup` comes first: what a tower learned from label maps says little of blur or gain, so it learns to
read the indicators' scores and the artefacts' strengths. Knows nothing of LoRA or of stages.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assistants.qbench import prompts
from assistants.qbench.prompts import LEVELS, Probe
from imaging.case import Case, CaseError
from imaging.files import load_frames
from models.any_model import SuiteEncoder
from models.encoding import Encoder, Tensors
from training.even_tower import see

# Scores that are all low, all medium, all high. The levels' borders (4 and 7 in the simulator's rule) lie
# halfway between: there two levels have half each.
MIDDLES = (2.5, 5.5, 8.5)
SIZES = {
    2: 0.5,
    3: 0.2,
    4: 0.1,
    **dict.fromkeys(range(5, prompts.MOST_IMAGES + 1), 0.04),
}  # of samples; chosen
LEAST_GAP = 0.5  # between the best image's score and the next: closer, nobody could tell; chosen
TRIES = 20  # draws of other images before one is left alone
MOST_TREES = 1024  # kept at a time, 0.1 MB each; images of one size need fewer
TOLD_ORGAN = 0.5  # share of images whose organ the prompts name; chosen
INDICATORS = 3  # asked of an image in a step, beside one question about the whole; chosen
OF_COMPARISON = 4.0  # weight of a comparison beside each of the probes of its images; chosen


@dataclass(frozen=True)
class Rated:
    """An image and its truth. `shares` of LEVELS by indicator, "overall" always among them; `worth` orders
    images; `view` is what only like images share; `questions` are (language, words). `scores` (0 … 10, by
    indicator) and `strengths` (0 … 1, by artefact; what is absent is not named) where they are known."""

    path: Path
    view: tuple
    organ: str | None
    worth: float
    shares: Mapping[str, tuple[float, ...]]
    questions: tuple[tuple[str, str], ...] = ()
    scores: Mapping[str, float] | None = None
    strengths: Mapping[str, float] | None = None


def rated_images(cases: Sequence[Case]) -> list[Rated]:
    """Every image of the tasks quality and compare once, in order of path.

    CaseError for a case without levels, or whose level is not that of its overall score.
    """
    found: dict[Path, Rated] = {}
    questions: dict[Path, list[tuple[str, str]]] = defaultdict(list)
    for case in cases:
        levels = case.extra.get("levels") or [case.level]
        if len(levels) != len(case.images) or not set(levels) <= set(LEVELS):
            raise CaseError(
                f"case {case.id} has no level for each of its images: there is nothing to learn from it"
            )
        listed = [case.extra.get(key) for key in ("attributes", "artefacts")]
        if case.task != "compare":
            listed = [None if each is None else [each] for each in listed]
            if case.question and case.language in prompts.LANGUAGES:
                questions[case.images[0]].append((case.language, case.question))
        scores, strengths = (each or [None] * len(levels) for each in listed)
        for path, level, score, strength in zip(case.images, levels, scores, strengths, strict=True):
            found[path] = _rated(case, path, level, score, strength)
    return [replace(found[path], questions=tuple(questions[path])) for path in sorted(found)]


def _rated(case: Case, path: Path, level: str, scores: Mapping[str, float] | None, strengths: Any) -> Rated:
    view = (case.extra.get("dataset"), case.extra.get("view"), case.organ)
    organ = case.organ if case.organ in prompts.organs() else None
    if scores is None:
        shares = {"overall": tuple(float(each == level) for each in LEVELS)}
        return Rated(path, view, organ, MIDDLES[::-1][LEVELS.index(level)], shares)
    shares = {name: shares_of(score) for name, score in scores.items()}
    if shares["overall"][LEVELS.index(level)] < max(shares["overall"]):
        raise CaseError(
            f"case {case.id}: level {level} is not that of an overall score of {scores['overall']}: the "
            f"middles of the levels are taken to be {MIDDLES}"
        )
    return Rated(path, view, organ, scores["overall"], shares, (), scores, strengths)


def shares_of(score: float) -> tuple[float, ...]:
    """What a score of 0 … 10 has of each of LEVELS: of the two whose middles it lies between, by nearness."""
    low, middle, high = MIDDLES
    points = {"low": (1, 0, 0), "medium": (0, 1, 0), "high": (0, 0, 1)}
    return tuple(float(np.interp(score, (low, middle, high), points[level])) for level in LEVELS)


# --- the warm-up -------------------------------------------------------------------------------------------


class QualityHeads(nn.Module):
    """Read-outs of the mean over an image's merged tokens of `width`."""

    def __init__(self, width: int, indicators: int, artefacts: int):
        super().__init__()
        self.scores = nn.Linear(width, indicators)
        self.strengths = nn.Linear(width, artefacts)


class QualityWarmup:
    """A `training.loop.Stage`: one sample is one image. The heads are thrown away."""

    name = "quality warm-up"
    lengths = None

    def __init__(self, tower: nn.Module, encoder: Encoder, cases: Sequence[Case]):
        """`tower` maps patches to merged tokens. CaseError for an image without scores and strengths."""
        self.images = rated_images(cases)
        for image in self.images:
            if image.scores is None or image.strengths is None:
                raise CaseError(
                    f"{image.path} has no truth to warm up on (keys attributes, artefacts): order the cases "
                    "from the simulator with --task quality compare"
                )
        self.indicators = prompts.indicators()
        self.artefacts = sorted({name for image in self.images for name in image.strengths})
        self.encoder, self.tower = encoder, tower
        self.heads = QualityHeads(tower.config.hidden_size, len(self.indicators), len(self.artefacts))
        self.module = nn.ModuleDict({"tower": tower, "heads": self.heads})

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Sequence[int], rng: np.random.Generator) -> Tensors:
        """Pixels, `scores` [B, indicators] and `strengths` [B, artefacts], both 0 … 1. The monitor's setting
        is left as it is: too much gain is what has to be seen."""
        picked = [self.images[i] for i in indices]
        scores = [[image.scores[name] / 10 for name in self.indicators] for image in picked]
        strengths = [[image.strengths.get(name, 0.0) for name in self.artefacts] for image in picked]
        return _pixels(self.encoder, picked) | {
            "scores": torch.tensor(scores),
            "strengths": torch.tensor(strengths),
        }

    def loss(self, batch: Tensors) -> tuple[Tensor, dict[str, float]]:
        device = next(self.tower.parameters()).device
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        seen = see(self.tower, batch["pixel_values"], batch["image_grid_thw"])
        means = torch.stack([tokens.float().mean(0) for tokens in seen])  # [B, D]
        losses = {
            name: F.smooth_l1_loss(head(means), batch[name], beta=0.1)
            for name, head in (("scores", self.heads.scores), ("strengths", self.heads.strengths))
        }
        return sum(losses.values()), {name: float(value.detach()) for name, value in losses.items()}


def _pixels(encoder: Encoder, images: Sequence[Rated]) -> Tensors:
    return encoder.encode_images([load_frames([image.path])[0] for image in images])


# --- the answers -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tree:
    """Prompts with all their possible answers as one row of T tokens, parents before children.

    `picture` [T] is -1 for a word, else which of the images the token belongs to; `positions` [3, T] are the
    tokens' own in their prompts; `sees` [T, T] whether one (row) has another (column) before it in its
    prompt, or is it. `scores` has for every probe what to predict for each of its choices: (token's place in
    the row, next token), the end mark the last.
    """

    tokens: Tensor
    picture: Tensor
    positions: Tensor
    sees: Tensor
    scores: tuple[Mapping[str, tuple[tuple[int, int], ...]], ...]


def taught_words(encoder: Encoder, cases: Sequence[Case]) -> list[int]:
    """Ids of the tokens that the rater's questions and answers are made of, in order; an image's placeholder
    is none.

    A small base never met many of them, such as the English levels: those have one embedding, nearly, and
    could be neither read nor said apart."""
    probes = [prompts.comparative(count, language) for language in prompts.LANGUAGES for count in SIZES]
    for language in prompts.LANGUAGES:
        probes += prompts.quantitative(language)
        for organ in (None, *prompts.organs()):
            probes += [prompts.qualitative(name, language, organ) for name in prompts.QUALITATIVE]
    own = {question for image in rated_images(cases) for question in image.questions}
    probes += [prompts.own_question(words, language) for language, words in sorted(own)]
    reader, grid = SuiteEncoder(encoder), {"image_grid_thw": torch.tensor([[1, 4, 4]])}
    found = {encoder.tokenizer.eos_token_id}
    for probe in probes:
        for choice in prompts.choices(probe):
            answer = prompts.answer_message(prompts.full_answer(probe, choice))
            said = reader.tokens((probe.messages()[0], answer), (), [grid] * probe.images)
            found.update(said["input_ids"])
    return sorted(found - {encoder.image_token_id})


class QualityAnswers:
    """A `training.loop.Stage` over a Qwen2-VL-like model, or one with LoRA. One sample is an image with
    others of its view."""

    lengths = None

    def __init__(
        self,
        name: str,
        model: nn.Module,
        encoder: Encoder,
        cases: Sequence[Case],
        max_length: int | None = None,
    ):
        """`max_length` is of one prompt, in tokens. CaseError as in `rated_images`."""
        self.name, self.module, self.encoder, self.max_length = name, model, encoder, max_length
        self.images = rated_images(cases)
        self.views: dict[tuple, list[int]] = defaultdict(list)
        for number, image in enumerate(self.images):
            self.views[image.view].append(number)
        self._trees: dict[tuple, Tree] = {}

    def __len__(self) -> int:
        return len(self.images)

    def weight(self, batch: dict[str, Any]) -> float:
        """How much is learned: the loss is a mean over it."""
        return sum(float(batch[part]["weight"].sum()) for part in ("ratings", "comparisons") if part in batch)

    def batch(self, indices: Sequence[int], rng: np.random.Generator) -> dict[str, Any]:
        """`pixel_values` and `image_grid_thw` of every image once; `ratings` with a row an image and
        `comparisons` with a row a sample of several images, as `_rows` makes them."""
        samples = [[self.images[i] for i in self.with_others(int(index), rng)] for index in indices]
        pictures = [image for images in samples for image in images]
        pixels = _pixels(self.encoder, pictures)
        grids = [tuple(grid) for grid in pixels["image_grid_thw"].tolist()]
        ratings, comparisons, first = [], [], 0
        for images in samples:
            places = range(first, first + len(images))
            for place, image in zip(places, images, strict=True):
                ratings.append(self._rating(image, place, grids, rng))
            if len(images) > 1:
                comparisons.append(self._comparison(images, places, grids, rng))
            first += len(images)
        batch = pixels | {"ratings": self._rows(ratings, grids)}
        return batch | ({"comparisons": self._rows(comparisons, grids)} if comparisons else {})

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        """Mean cross entropy at the scores and end marks. Figures: of the levels, and of the best image's
        number (0 where none was asked); of shared levels it ends above 0, at the shares' own entropy."""
        model = self.module.get_base_model() if hasattr(self.module, "get_base_model") else self.module
        device = next(model.parameters()).device
        pixels, grid = batch["pixel_values"].to(device), batch["image_grid_thw"].to(device)
        features = torch.cat(see(model.model.visual, pixels, grid))  # [all images' tokens, D]
        sums, figures = [], {"levels": 0.0, "best": 0.0}
        for part, figure in (("ratings", "levels"), ("comparisons", "best")):
            if part in batch:
                rows = {name: tensor.to(device) for name, tensor in batch[part].items()}
                sums.append(_cross_entropy(model, rows, features))
                figures[figure] = float(sums[-1].detach() / rows["weight"].sum())
        return sum(sums) / self.weight(batch), figures

    def with_others(self, index: int, rng: np.random.Generator) -> list[int]:
        """The image and some others of its view in random order, one of them clearly the best; the image
        alone where its view has none such."""
        pool = self.views[self.images[index].view]
        sizes = [size for size in SIZES if size <= len(pool)]
        for _ in range(TRIES if sizes else 0):
            shares = np.array([SIZES[size] for size in sizes])
            size = int(rng.choice(sizes, p=shares / shares.sum()))
            others = [pool[i] for i in rng.choice(len(pool), size, replace=False)]
            drawn = [index, *[other for other in others if other != index][: size - 1]]
            best, second = sorted((self.images[i].worth for i in drawn), reverse=True)[:2]
            if best - second >= LEAST_GAP:
                return [drawn[i] for i in rng.permutation(size)]
        return [index]

    def _rating(
        self, image: Rated, place: int, grids: Sequence[tuple], rng: np.random.Generator
    ) -> tuple[Tree, Sequence[int], list[dict[str, float]]]:
        """The tree of all that is asked about one image, its place in the batch, the shares to be learned."""
        language = str(rng.choice(prompts.LANGUAGES))
        organ = image.organ if rng.random() < TOLD_ORGAN else None
        whole = [prompts.qualitative(name, language, organ) for name in prompts.QUALITATIVE]
        whole += [prompts.own_question(words, own) for own, words in image.questions if own == language]
        parts = [probe for probe in prompts.quantitative(language) if _indicator(probe) in image.shares]
        first = int(rng.integers(len(parts)))  # neighbours, so that few trees serve many images
        drawn = {(first + i) % len(parts) for i in range(INDICATORS)}
        probes = [whole[int(rng.integers(len(whole)))], *(parts[i] for i in sorted(drawn))]
        wanted = [dict(zip(LEVELS, image.shares[_indicator(probe)], strict=True)) for probe in probes]
        return self._tree(probes, (grids[place],)), (place,), wanted

    def _comparison(
        self, images: Sequence[Rated], places: Sequence[int], grids: Sequence[tuple], rng: np.random.Generator
    ) -> tuple[Tree, Sequence[int], list[dict[str, float]]]:
        probe = prompts.comparative(len(images), str(rng.choice(prompts.LANGUAGES)))
        best = max(range(len(images)), key=lambda i: images[i].worth)
        tree = self._tree([probe], tuple(grids[place] for place in places))
        return tree, places, [{str(best + 1): OF_COMPARISON}]

    def _tree(self, probes: Sequence[Probe], grids: tuple[tuple, ...]) -> Tree:
        """Grown once: it depends on words and sizes, never on what images show."""
        key = (tuple((probe.question, probe.answer) for probe in probes), grids)
        if key not in self._trees:
            if len(self._trees) == MOST_TREES:
                self._trees.clear()
            self._trees[key] = grow(self.module, self.encoder, probes, grids, self.max_length)
        return self._trees[key]

    def _rows(
        self, asked: Sequence[tuple[Tree, Sequence[int], list[dict[str, float]]]], grids: Sequence[tuple]
    ) -> Tensors:
        """Trees [R, T], padded on the right: `tokens`; `feature`, a token's number among all images' tokens,
        -1 for a word; `positions` [3, R, T]; `sees` bool [R, 1, T, T]. To be learned: `goal` [G, 3], of
        which row and token the next is which, with its `weight` [G]."""
        count, length = len(asked), max(len(tree.tokens) for tree, _, _ in asked)
        rows = {
            "tokens": torch.full((count, length), self.encoder.tokenizer.pad_token_id),
            "feature": torch.full((count, length), -1),
            "positions": torch.zeros(3, count, length, dtype=torch.long),
            "sees": torch.eye(length, dtype=torch.bool).repeat(count, 1, 1, 1),  # padding sees itself
        }
        sizes = [int(np.prod(grid)) // self.encoder.image_processor.merge_size**2 for grid in grids]
        firsts = np.cumsum([0, *sizes])
        goals, weights = [], []
        for row, (tree, places, wanted) in enumerate(asked):
            size = len(tree.tokens)
            rows["tokens"][row, :size] = tree.tokens
            rows["positions"][:, row, :size] = tree.positions
            rows["sees"][row, 0, :size, :size] = tree.sees
            for picture, place in enumerate(places):
                at = (tree.picture == picture).nonzero()[:, 0]
                rows["feature"][row, at] = torch.arange(firsts[place], firsts[place + 1])
            for choices, shares in zip(tree.scores, wanted, strict=True):
                for choice, share in shares.items():
                    goals += [(row, node, token) for node, token in choices[choice] if share]
                    weights += [share for _ in choices[choice] if share]
        return rows | {"goal": torch.tensor(goals), "weight": torch.tensor(weights)}


def _indicator(probe: Probe) -> str:
    """The qualitative prompts ask for the overall level."""
    return probe.name.partition(":")[2] or "overall"


def grow(
    model: nn.Module,
    encoder: Encoder,
    probes: Sequence[Probe],
    grids: Sequence[tuple[int, int, int]],
    max_length: int | None = None,
) -> Tree:
    """The tree of probes about the same images, whose sizes in patches are `grids`.

    The tokens are those the rater reads (`models.any_model.SuiteEncoder`). ValueError where an answer changes
    the tokens before its score; CaseError for a prompt longer than `max_length`.
    """
    reader, shown = SuiteEncoder(encoder), [{"image_grid_thw": torch.tensor([grid])} for grid in grids]
    nodes: dict[tuple[int, int], int] = {}  # (parent, key) -> place in the row
    tokens, picture, positions, parents, scores = [], [], [], [], []
    for probe in probes:
        prompt = reader.tokens(probe.messages(), (), shown)
        asked = len(prompt["input_ids"])
        found = {}
        for choice in prompts.choices(probe):
            answer = prompts.answer_message(prompts.full_answer(probe, choice))
            path = reader.tokens((probe.messages()[0], answer), (), shown)
            ids = path["input_ids"]
            if ids[:asked] != prompt["input_ids"] or len(ids) == asked:
                raise ValueError(f"{probe.answer!r} has other tokens when {choice!r} follows than alone")
            if max_length is not None and len(ids) > max_length:
                raise CaseError(
                    f"a question about {len(grids)} images has {len(ids)} tokens, more than max_length "
                    f"{max_length}"
                )
            own, where = _pictures(ids, encoder, grids), _positions(model, path, grids)
            at, trail = -1, []
            for i, token in enumerate(ids):
                key = (at, token if own[i] < 0 else -1 - own[i])
                if key not in nodes:
                    nodes[key] = len(tokens)
                    parents.append(at)
                    tokens.append(token)
                    picture.append(own[i])
                    positions.append(where[:, i])
                at = nodes[key]
                trail.append(at)
            said = [*ids[asked:], encoder.tokenizer.eos_token_id]
            found[choice] = tuple(zip(trail[asked - 1 :], said, strict=True))
        scores.append(found)
    sees = torch.eye(len(tokens), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            sees[node] |= sees[parent]
    return Tree(torch.tensor(tokens), torch.tensor(picture), torch.stack(positions, 1), sees, tuple(scores))


def _pictures(ids: Sequence[int], encoder: Encoder, grids: Sequence[tuple]) -> list[int]:
    """Which image each token belongs to; -1 for a word."""
    sizes = [int(np.prod(grid)) // encoder.image_processor.merge_size**2 for grid in grids]
    owners = iter([number for number, size in enumerate(sizes) for _ in range(size)])
    return [next(owners) if token == encoder.image_token_id else -1 for token in ids]


def _positions(model: nn.Module, path: Mapping[str, list[int]], grids: Sequence[tuple]) -> Tensor:
    """Where each token of one prompt stands, by the model's own rule (M-RoPE): [3, T]."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    ids, kinds = (torch.tensor([path[key]]) for key in ("input_ids", "mm_token_type_ids"))
    positions, _ = model.model.get_rope_index(
        ids, mm_token_type_ids=kinds, image_grid_thw=torch.tensor(grids)
    )
    return positions[:, 0]


def _cross_entropy(model: nn.Module, rows: Tensors, features: Tensor) -> Tensor:
    """The sum over the goals, each times its weight; read by the language model in one pass."""
    words = model.get_input_embeddings()(rows["tokens"])  # [R, T, D]
    number = rows["feature"]
    read = torch.where((number >= 0)[..., None], features[number.clamp_min(0)].to(words.dtype), words)
    hidden = model.model.language_model(
        inputs_embeds=read, attention_mask=rows["sees"], position_ids=rows["positions"], use_cache=False
    ).last_hidden_state
    row, node, token = rows["goal"].unbind(1)
    logits = model.lm_head(hidden[row, node]).float()  # [G, V]: nothing is predicted elsewhere
    return (rows["weight"] * F.cross_entropy(logits, token, reduction="none")).sum()

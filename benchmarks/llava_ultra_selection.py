"""`python -m benchmarks.llava_ultra_selection`: which frame LLaVA-Ultra reads, and what the choice is worth.

Makes groups of two to eight near-identical frames anew from a seed, one to three of them valid, one group in
six with a lesion of at most 10 pixels (`python -m simulator --task group`), and asks for the diagnosis, with
the site named and without. Ways to choose:

    score      the feature score (Eq. 3), as the assistant chooses. Trained with Eq. 5 it is the paper's
               Func. b, with distillation 0 its Func. a: give both weights
    question   attention to the question (Eq. 4, training-free)
    findings   attention to the findings, which only training has: the teacher of Eq. 5
    random     any frame
    valid      any valid frame: what a choice that never errs would bring
    all        no choice, every frame goes to the language model. In training it reads one a case, here and in
               the paper: `all` says what these weights do with several, not what a model taught so would

First table: how often the frame is valid (Wilson 95 % intervals over groups), and of `findings` for every N
of Eq. 4, with the share of its target in Eq. 5 that lies on valid frames for several `sharpness`. Second, the
shape of the paper's Table 3: answers by LLaVA-Med's definitions (`eval`, profile llava), BLEU-1 with its 95 %
interval (bootstrap over patients), tokens read, and seconds from features to the first token, one case at a
time. Third, what the score is worth: its BLEU-1 less that of every other row on the same requests (paired
bootstrap over patients, `eval compare`). Several `--weights NAME=FOLDER` stand side by side; without SAM is
one of another training. Seconds depend on the machine: compare within a table.

Before the last stage of a training, `--unfinished RECIPE --choice-only --ways findings question` says whether
the teacher knows the frame, with which N, and which `sharpness` makes its target neither flat nor blind.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from assistants.base import Turn
from assistants.llava_ultra import LlavaUltraForConditionalGeneration
from assistants.llava_ultra.encoding import Encoder
from assistants.llava_ultra.images import encode_frames
from assistants.llava_ultra.published import open_published
from eval.comparison import compare as compare_pairs
from eval.intervals import wilson
from eval.pairs import Pair
from eval.result import MICRO
from eval.scoring import Options, score_pairs
from imaging.case import Case, CaseError, read_cases
from imaging.files import load_frames
from models.checkpoint import resolve
from models.errors import ModelError
from models.frame_choice import attention_scores, normalise
from training.loop import OtherRecipe
from training.recipe import RecipeError, read_recipe
from training.simulated import simulate
from training.ultra import fresh_ultra

WEIGHTS = "weights/demo/llava_ultra"
RUNS = Path("runs")  # where trainings leave their output
SMALL_PX = 10.0  # long axis of a small lesion
LONGEST_ANSWER = 96  # tokens
BATCH = 16  # answers written at once
COLUMNS = ("EM", "F1", "P", "R", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-uniform")
SHARPNESS = (1, 4, 8, 16)
SITES = {True: "named", False: "not named"}
SCORED = Options(profiles=("llava",), sections=("llava",), group_by="site", cluster="patient")
TRIALS = 1  # of a randomisation test, which is not shown


@dataclass(frozen=True)
class Opened:
    """One set of weights under the name it has in the tables."""

    name: str
    model: LlavaUltraForConditionalGeneration
    encoder: Encoder


@dataclass(frozen=True)
class Read:
    """A case with the frames that one way chose, its prompt, and the seconds to the first token."""

    case: Case
    frames: tuple[int, ...]
    prompt: dict[str, Tensor]
    images: Tensor
    seconds: float


Way = Callable[[Opened, Case, Tensor], Sequence[int]]  # image tokens [k, T, D] of a case -> its frames


def _score(opened: Opened, case: Case, images: Tensor) -> Sequence[int]:
    return [int(opened.model.feature_scores(images).argmax())]


def _attention(opened: Opened, case: Case, images: Tensor, text: str) -> list[int]:
    return [int(_attention_scores(opened, images, text).argmax())]


def _attention_scores(opened: Opened, images: Tensor, text: str, layers: int | None = None) -> Tensor:
    """Eq. 4 for the frames of one case: float32 [k], from N = `layers` or what the weights say."""
    words = opened.model.get_input_embeddings()(opened.encoder.words(text).to(images.device))
    layers = layers or opened.model.config.attention_layers
    return attention_scores(images, words, opened.model.model.language_model, layers)


def _random(opened: Opened, case: Case, images: Tensor, among: Sequence[int] | None = None) -> list[int]:
    """The same frame for all weights and both requests of a case."""
    rng = np.random.default_rng([len(images), *case.patient.encode()])
    return [int(rng.choice(range(len(images)) if among is None else among))]


WAYS: dict[str, Way] = {
    "score": _score,
    "question": lambda opened, case, images: _attention(opened, case, images, case.question),
    "findings": lambda opened, case, images: _attention(opened, case, images, case.extra["findings"]),
    "random": _random,
    "valid": lambda opened, case, images: _random(opened, case, images, case.valid_images),
    "all": lambda opened, case, images: range(len(images)),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.llava_ultra_selection",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cases", type=int, default=500, help="groups of frames (default 500)")
    parser.add_argument("--seed", type=int, default=20261, help="of the cases; training used 1 and 11")
    parser.add_argument("--weights", nargs="+", default=[f"demo={WEIGHTS}"], metavar="NAME=FOLDER")
    parser.add_argument("--unfinished", type=Path, metavar="RECIPE", help="a training as far as it is")
    parser.add_argument("--choice-only", action="store_true", help="print the first table alone")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--output", type=Path, help="folder for the cases")
    args = parser.parse_args(arguments)
    if unnamed := [words for words in args.weights if not all(words.partition("=")[::2])]:
        parser.error(f"--weights {unnamed[0]}: expected NAME=FOLDER")
    try:
        if args.unfinished:
            opened = [open_unfinished(args.unfinished, RUNS)]
        else:
            opened = [_open(*words.partition("=")[::2]) for words in args.weights]
        with tempfile.TemporaryDirectory() as folder:
            cases = _cases(args.output or Path(folder), args.cases, args.seed)
            compare(opened, cases, args.ways, print, answers=not args.choice_only)
    except (ModelError, RecipeError, OtherRecipe, CaseError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _open(name: str, folder: str) -> Opened:
    model = open_published(resolve(folder)).model
    return Opened(name, model, Encoder.open(resolve(folder), model.config))


def open_unfinished(path: Path, runs: Path) -> Opened:
    """The model of a fresh recipe with every stage that is done in its output, `runs` / its name."""
    recipe = read_recipe(path)
    output = runs / recipe.name
    cases = [case for order in ("cases", "groups") for case in read_cases(output / order / "cases.jsonl")]
    encoder, model = fresh_ultra(recipe, cases)
    done = "nothing"
    for stage in recipe.stages:
        if (kept := output / stage.name / "model.safetensors").is_file():
            model.load_state_dict(load_file(kept), strict=False)
            done = stage.name
    return Opened(f"after {done}", model.eval(), encoder)


def _cases(folder: Path, count: int, seed: int) -> list[Case]:
    order = {"cases": count, "seed": seed, "task": ["group"], "rows": 2, "quiet": True}
    simulate(order, folder, lambda line: None)
    return read_cases(folder / "cases.jsonl")


@torch.no_grad()
def compare(
    opened: Sequence[Opened],
    cases: Sequence[Case],
    ways: Sequence[str],
    say: Callable[[str], None],
    *,
    answers: bool = True,
) -> None:
    """Print all three tables for all weights and ways, or without `answers` the first."""
    say(f"{len({case.images for case in cases})} groups, {len(cases)} requests\n")
    say("| weights | choice | valid | lesion <= 10 px | larger |\n|---|---|---|---|---|")
    read_as: dict[tuple[str, str], list[Read]] = {}
    for one in opened:
        features = {case.images: _features(one, case) for case in tqdm(cases, desc=one.name, mininterval=10)}
        for way in ways:
            read = [_read(one, way, case, features[case.images]) for case in cases]
            if way != "all":
                say(_validity(one.name, way, ((each.case, each.frames[0]) for each in read)))
            read_as[one.name, way] = read
        depth = one.model.config.text_config.num_hidden_layers if "findings" in ways else 0
        for layers in range(1, depth + 1):
            scores = [_attention_scores(one, features[c.images], c.extra["findings"], layers) for c in cases]
            hits = [(case, int(each.argmax())) for case, each in zip(cases, scores, strict=True)]
            way = f"findings, N = {layers}; of the target on valid frames: {_targets(cases, scores)}"
            say(_validity(one.name, way, hits))
    say(_validity("", "chance", ((case, None) for case in cases)))
    if not answers:
        return
    head = " | ".join(COLUMNS)
    say(f"\n| weights | choice | site | {head} | tokens | s |\n|{'---|' * (len(COLUMNS) + 5)}")
    answered = {}
    for one in opened:
        for way in ways:
            pairs = _answers(one, way, read_as[one.name, way])
            answered[one.name, way] = pairs
            for line in _scores(one.name, way, pairs, read_as[one.name, way]):
                say(line)
    if first := answered.get((opened[0].name, "score")):
        say(f"\n| BLEU-1 of {opened[0].name}, score, less that of | all requests |\n|---|---|")
        for (name, way), pairs in answered.items():
            if pairs is not first:
                say(f"| {name}, {way} | {_difference(pairs, first)} |")


def _features(one: Opened, case: Case) -> Tensor:
    """Image tokens [k, T, D] of a case's frames."""
    frames = load_frames(case.images)
    return one.model.image_features(**encode_frames(frames, one.model.config))


def _read(one: Opened, way: str, case: Case, images: Tensor) -> Read:
    """Choose, and write the first token."""
    begun = time.perf_counter()
    frames = tuple(WAYS[way](one, case, images))
    kept = images[list(frames)]
    turn = Turn(case.question, (None,) * len(frames), "diagnosis", None, case.language)
    prompt = one.encoder.encode([turn])
    one.model(**prompt, image_features=kept, logits_to_keep=1)
    return Read(case, frames, prompt, kept, time.perf_counter() - begun)


def _validity(name: str, way: str, chosen: Iterable[tuple[Case, int | None]]) -> str:
    """One line: the share of groups whose frame is valid; without a frame, the mean share of valid ones.

    A group's two requests are about the same frames: together they count once, as their mean.
    """
    hits: dict[bool, dict[tuple, list[float]]] = {True: {}, False: {}}
    for case, frame in chosen:
        share = len(case.valid_images) / len(case.images) if frame is None else frame in case.valid_images
        hits[case.extra["lesion_px"] <= SMALL_PX].setdefault(case.images, []).append(float(share))
    small, larger = ([float(np.mean(shares)) for shares in hits[size].values()] for size in (True, False))
    cells = [_share(found, way == "chance") for found in (small + larger, small, larger)]
    return f"| {name} | {way} | {' | '.join(cells)} |"


def _targets(cases: Sequence[Case], scores: Sequence[Tensor]) -> str:
    """What Eq. 5 asks for, for each sharpness: the mean share of a case's target on its valid frames."""
    found = []
    for sharpness in SHARPNESS:
        targets = [normalise(sharpness * each) for each in scores]
        shares = [float(each[list(c.valid_images)].sum()) for c, each in zip(cases, targets, strict=True)]
        found.append(f"{np.mean(shares):.2f} at {sharpness}")
    return ", ".join(found)


def _share(hits: Sequence[float], plain: bool) -> str:
    if not hits:
        return "–"
    text = f"{100 * np.mean(hits):.1f} % of {len(hits)}"
    if plain:
        return text
    low, high = (100 * limit for limit in wilson(round(sum(hits)), len(hits)))
    return f"{text} ({low:.1f}–{high:.1f})"


def _answers(one: Opened, way: str, read: Sequence[Read]) -> list[Pair]:
    """What is answered to every request, with the site named and without."""
    pairs = []
    for first in tqdm(range(0, len(read), BATCH), desc=f"{one.name} {way}", mininterval=10):
        some = read[first : first + BATCH]
        for each, text in zip(some, _write(one, some), strict=True):
            values = {"site": SITES[each.case.extra["site_named"]], "answer_type": "open"}
            patient = {"patient": each.case.patient}
            pairs.append(Pair(each.case.id, text, (each.case.answer,), values | patient))
    return pairs


def _scores(name: str, way: str, pairs: Sequence[Pair], read: Sequence[Read]) -> list[str]:
    """Lines of the second table."""
    groups = {group.name: group.cells for group in score_pairs(pairs, SCORED).sections[0].groups}
    lines = []
    for named, site in SITES.items():
        some = [each for each in read if each.case.extra["site_named"] == named]
        if some:
            figures = [f"{groups[site][column].value:.1f}" for column in COLUMNS]
            bleu = groups[site]["BLEU-1"]
            if bleu.low is not None:  # not for one patient alone
                figures[COLUMNS.index("BLEU-1")] += f" ({bleu.low:.1f}–{bleu.high:.1f})"
            tokens = np.mean([each.prompt["input_ids"].shape[1] for each in some])
            seconds = np.median([each.seconds for each in some])
            line = [name, way, site, *figures, f"{tokens:.0f}", f"{seconds:.3f}"]
            lines.append(f"| {' | '.join(line)} |")
    return lines


def _difference(other: Sequence[Pair], first: Sequence[Pair]) -> str:
    """BLEU-1 of `first` less that of `other`, over all requests."""
    cells = compare_pairs(other, first, SCORED, trials=TRIALS).cells
    cell = next(cell for cell in cells if (cell.column, cell.group) == ("BLEU-1", MICRO))
    return f"{cell.difference:+.1f} ({cell.low:+.1f} to {cell.high:+.1f})"


def _write(one: Opened, some: Sequence[Read]) -> list[str]:
    """The answers to several prompts, greedy."""
    batch = one.encoder.pad([each.prompt for each in some])
    images = torch.cat([each.images for each in some])
    ids = one.model.generate(**batch, image_features=images, max_new_tokens=LONGEST_ANSWER, do_sample=False)
    return [one.encoder.decode(row) for row in ids[:, batch["input_ids"].shape[1] :].tolist()]


if __name__ == "__main__":
    sys.exit(main())

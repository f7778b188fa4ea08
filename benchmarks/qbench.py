"""`python -m benchmarks.qbench`: images a second for Ultrasound-QBench's five prompts, five ways.

One model and the same images, made from a seed. Reading the levels' probabilities at the score's place with
every image's beginning read once; the same with whole prompts in batches of 16, and with each prompt of each
image in a call of its own; writing the word and parsing it in batches of 16; and writing with each prompt of
each image in a call of its own, as scripts around `generate` do. An image's five prompts are the three
qualitative ones, the quantitative one (seven indicators), and the comparison with the next image in both
orders. CPU seconds, or on a GPU wall seconds; then the largest difference between probabilities read alone,
in batches and with shared beginnings, and exit status 1 where it is more than 1e-5 in float32. Compare
ratios, not seconds: another machine has others.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from assistants.qbench import prompts
from assistants.qbench.assistant import QBenchAssistant
from assistants.qbench.reading import Asked, LocalReader, Reading
from imaging.frame import Frame

SIDE = 224  # pixels, as the demo's simulated images
EQUAL = 1e-5  # how far probabilities read in different ways may lie apart in float32


def frames_of(count: int, seed: int) -> list[Frame]:
    """Images of noise: how long a model takes does not depend on what they show."""
    rng = np.random.default_rng(seed)
    shape = (SIDE, SIDE, 3)
    return [Frame(rng.integers(0, 256, shape, dtype=np.uint8), None, f"noise {i}") for i in range(count)]


def five_prompts(frames: Sequence[Frame], language: str) -> list[list[list[Asked]]]:
    """Of every image its five prompts, and of every prompt its probes."""
    asked = []
    for i, frame in enumerate(frames):
        following = frames[(i + 1) % len(frames)]
        single = [[(prompts.qualitative(name, language), (frame,))] for name in prompts.QUALITATIVE]
        scoring = [(probe, (frame,)) for probe in prompts.quantitative(language)]
        which = prompts.comparative(2, language)
        asked.append([*single, scoring, [(which, (frame, following)), (which, (following, frame))]])
    return asked


def shared(reader: LocalReader, asked: list[list[list[Asked]]]) -> list[Reading]:
    """All of it at once, common beginnings read once."""
    return reader.read(_flat(asked))


def separate(reader: LocalReader, asked: list[list[list[Asked]]]) -> list[Reading]:
    """Each prompt of each image in a call of its own, read whole."""
    found = []
    for image in asked:
        for probes in image:
            found += _whole(reader, probes)
    return found


def batched(reader: LocalReader, asked: list[list[list[Asked]]]) -> list[Reading]:
    """All of it at once, every prompt read whole."""
    return _whole(reader, _flat(asked))


def alone(reader: LocalReader, asked: list[list[list[Asked]]]) -> list[Reading]:
    """Every probe in a call of its own, read whole: nothing is padded or shared."""
    return [reading for one in _flat(asked) for reading in _whole(reader, [one])]


def written(reader: LocalReader, asked: list[list[list[Asked]]]) -> list[Reading]:
    """The words are written and parsed, 16 prompts at once."""
    return reader.write(_flat(asked))


def written_separately(reader: LocalReader, asked: list[list[list[Asked]]]) -> list[Reading]:
    return [reading for image in asked for probes in image for reading in reader.write(probes)]


WAYS: dict[str, Callable[[LocalReader, list[list[list[Asked]]]], list[Reading]]] = {
    "probabilities, shared beginnings": shared,
    "probabilities, in batches": batched,
    "probabilities, five separate calls": separate,
    "written and parsed, in batches": written,
    "written and parsed, five separate calls": written_separately,
}


def seconds(work: Callable[[], object], device: str) -> float:
    """Of this process on a CPU; by the clock where a GPU does the work."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    started = clock()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - started


def difference(one: Sequence[Reading], other: Sequence[Reading]) -> float:
    """The largest between two probabilities of the same choice."""
    return max(
        abs(a.probabilities[choice] - b.probabilities[choice])
        for a, b in zip(one, other, strict=True)
        for choice in a.probabilities
    )


def _whole(reader: LocalReader, asked: Sequence[Asked]) -> list[Reading]:
    return LocalReader(reader.likelihood, share=False).read(asked)


def _flat(asked: list[list[list[Asked]]]) -> list[Asked]:
    return [probe for image in asked for prompt in image for probe in prompt]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.qbench", description=__doc__)
    parser.add_argument("--weights", help="a folder or id; the demo weights when not given")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--language", choices=prompts.LANGUAGES, default="en")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--repeats", type=int, default=1, help="the best counts")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(arguments)
    if args.images < 2:
        parser.error("--images must be 2 or more: each is compared with the next")
    rater = QBenchAssistant.open(args.weights, device=args.device, dtype=args.dtype)
    asked = five_prompts(frames_of(args.images, args.seed), args.language)
    warm = shared(rater.reader, asked[:1])  # finds the tokens and whether beginnings can be shared
    print(f"{rater.title}, {rater.device}, {rater.dtype}, {args.images} images, {args.language}")
    print(f"path {warm[0].path}; {rater.reader.likelihood.why}\n")
    taken = {}
    print("| way | seconds | images/s | times the first way's |\n|---|---|---|---|")
    for name, way in WAYS.items():
        runs = (seconds(lambda way=way: way(rater.reader, asked), rater.device) for _ in range(args.repeats))
        taken[name] = min(runs)
        ratio = taken[name] / next(iter(taken.values()))
        print(f"| {name} | {taken[name]:.2f} | {args.images / taken[name]:.2f} | {ratio:.1f}× |", flush=True)
    once, apart = shared(rater.reader, asked), 0.0
    print()
    for name, way in (("in batches", batched), ("alone", alone)):
        apart = max(apart, far := difference(once, way(rater.reader, asked)))
        print(f"shared against {name}: largest difference {far:.1e}")
    return int(rater.dtype == "float32" and apart > EQUAL)


if __name__ == "__main__":
    sys.exit(main())

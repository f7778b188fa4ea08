"""`python -m benchmarks.abvlm_q`: seconds an image and images an hour, one at a time and in batches.

The images are simulated standard planes, made from a seed, because how long an answer takes depends on how
much there is to say: the tokens written are printed beside the seconds. AbVLM-Q (2025), Results, has 1.2 s
single and 0.4 s batched on an RTX 3090 with Qwen2-VL-2B: another machine and another model, printed for the
ratio alone.

Wall seconds, after one warm-up of each size. Compare ratios, not seconds: another machine has others.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from assistants.abvlm_q.assistant import AbVLMQAssistant, PlaneReply
from assistants.base import Turn
from imaging.frame import Frame
from models.errors import ModelError
from simulator.planes import draw

PAPER = {1: 1.2, None: 0.4}  # seconds an image, single and batched


def turns_of(count: int, seed: int, language: str) -> list[Turn]:
    """Requests about `count` simulated views."""
    shots = [draw(np.random.default_rng([seed, number])) for number in range(count)]
    frames = [Frame(shot.picture.pixels, None, f"simulated {n}") for n, shot in enumerate(shots)]
    return [Turn("", (frame,), "plane", None, language) for frame in frames]


def one_by_one(assistant: AbVLMQAssistant, turns: Sequence[Turn], batch: int) -> list[PlaneReply]:
    """As the page asks about one image: streamed."""
    return [list(assistant.stream(turn))[-1] for turn in turns]


def in_batches(assistant: AbVLMQAssistant, turns: Sequence[Turn], batch: int) -> list[PlaneReply]:
    """As the page judges a folder."""
    return [
        reply for i in range(0, len(turns), batch) for reply in assistant.answer(list(turns[i : i + batch]))
    ]


def seconds(work: Callable[[], list[PlaneReply]]) -> tuple[float, list[PlaneReply]]:
    """Wall seconds; what is answered is text on the host, so a GPU is waited for."""
    started = time.perf_counter()
    replies = work()
    return time.perf_counter() - started, replies


def row(name: str, taken: float, replies: Sequence[PlaneReply], first: float) -> str:
    """A line of the table; `first` is what the first way took."""
    images, tokens = len(replies), sum(reply.new_tokens for reply in replies)
    per_image = taken / images
    return (
        f"| {name} | {per_image:.2f} | {3600 / per_image:.0f} | {tokens / images:.0f} | "
        f"{first / taken:.2f}× |"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.abvlm_q", description=__doc__)
    parser.add_argument("--weights", help="a folder or id; the demo weights when not given")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[8], help="batch sizes to compare with single"
    )
    parser.add_argument("--language", choices=("zh", "en"), default="zh")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--repeats", type=int, default=1, help="the best counts")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(arguments)
    if args.images < 1 or min(args.batch) < 1 or args.repeats < 1:
        parser.error("--images, --batch and --repeats must be 1 or more")
    try:
        assistant = AbVLMQAssistant.open(args.weights, device=args.device, dtype=args.dtype)
    except ModelError as error:
        print(error, file=sys.stderr)
        return 2
    turns = turns_of(args.images, args.seed, args.language)
    print(
        f"{assistant.title}, {assistant.device}, {assistant.dtype}, {args.images} images, {args.language}\n"
    )
    print("| way | seconds an image | images an hour | tokens an image | throughput of single |")
    print("|---|---|---|---|---|")
    ways = [("single", one_by_one, 1), *((f"batch {size}", in_batches, size) for size in args.batch)]
    first = None
    for name, way, size in ways:
        way(assistant, turns[:size], size)
        runs = [seconds(lambda way=way, size=size: way(assistant, turns, size)) for _ in range(args.repeats)]
        taken, replies = min(runs, key=lambda run: run[0])
        first = first or taken
        print(row(name, taken, replies, first), flush=True)
    ratio = PAPER[1] / PAPER[None]
    print(
        f"\nThe paper, RTX 3090 with 2B: {PAPER[1]} s single, {PAPER[None]} s batched ({ratio:.1f}×); "
        "another machine, model and images."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m benchmarks.llava_ultra`: what choosing a frame saves, against reading all of them.

The same weights and the same frames, two ways: the encoders look at all k frames in one batch, the feature
score keeps one, and the language model reads that one; or the language model reads all k. Seconds from a
frame's pixels, their squares and sizes included, to the first token (best of `--repeats`), and the peak
memory above that of opening the weights, each in a process of its own. `seen` is the way with the choice
where the frames were looked at before, as in a conversation's second question: their features are kept.

Then the same as counted operations, at this size and, on `meta`, at the paper's (CLIP ViT-L/14, SAM ViT-L,
LLaMA-13B): both encoders up to the layers that are read and the fusion, for every frame either way; of the
decoder all layers over frames and WORDS tokens of words, its attention counted as what a causal model needs,
half the square; the vocabulary for the first token alone. The score is a thousandth of an encoder and left
out.

At the paper's size the ratio stays below two and a half at eight frames, however good the choice: SAM looks
at 1024 x 1024 pixels, more than a third of what reading a frame and its question costs a decoder of 13
billion parameters, and that is paid for every frame.

Without --weights a model of the demo recipe's sizes with random numbers and few words: how long one takes
does not depend on what it knows. Images are noise, for the same reason. Compare ratios, not seconds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from assistants.base import Turn
from assistants.llava_ultra import LlavaUltraConfig, LlavaUltraForConditionalGeneration
from assistants.llava_ultra.encoding import Encoder
from assistants.llava_ultra.images import encode_frames
from assistants.llava_ultra.published import open_published
from imaging.frame import Frame
from models.checkpoint import CheckpointError, resolve
from training.recipe import read_recipe
from training.ultra import fresh_ultra

RECIPE = Path(__file__).parents[1] / "training/recipes/demo_llava_ultra.yaml"
COUNTS = (1, 4, 8, 16)
WAYS = ("chosen", "seen", "all")
QUESTION = "Please give the diagnosis based on these ultrasound images."
WORDS = 64  # tokens of a question at the paper's size
SIDE = 224  # pixels, as the demo's simulated images
PAPER = {  # LLaVA-Ultra, "Experiment Details"; SAM's and LLaMA's numbers are those of their config.json
    "sam_config": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "mlp_dim": 4096,
        "global_attn_indexes": [5, 11, 17, 23],
    },
    "text_config": {
        "model_type": "llama",
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "vocab_size": 32000,
        "max_position_embeddings": 8192,
    },
    "projector_type": "linear",
}

Parts = tuple[Encoder, LlavaUltraForConditionalGeneration]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.llava_ultra", description=__doc__)
    parser.add_argument("--weights", help="folder; without it random numbers in the demo recipe's sizes")
    parser.add_argument("--repeats", type=int, default=5, help="the best counts")
    parser.add_argument("--counted-only", action="store_true", help="leave seconds and memory out")
    args = parser.parse_args()
    try:
        weights = resolve(args.weights) if args.weights else None
    except CheckpointError as error:
        parser.error(str(error))
    if not args.counted_only:
        _print_measured(weights, args.repeats)
    with torch.device("meta"):
        own = LlavaUltraConfig.from_pretrained(weights) if weights else _open(None)[1].config
        for title, config in (("these weights", own), ("paper", LlavaUltraConfig(**PAPER))):
            _print_counted(title, LlavaUltraForConditionalGeneration(config))


def _print_measured(weights: Path | None, repeats: int) -> None:
    print("| k | way | first token, s | against all | peak memory, MB |\n|---|---|---|---|---|")
    spawn = multiprocessing.get_context("spawn")
    for count in COUNTS:
        found = {}
        for way in WAYS:
            with ProcessPoolExecutor(1, spawn) as alone:
                found[way] = alone.submit(measure, weights, way, count, repeats).result()
        for way, (seconds, memory) in found.items():
            ratio = found["all"][0] / seconds
            print(f"| {count} | {way} | {seconds:.3f} | {ratio:.1f}× sooner | {memory:.0f} |", flush=True)


def measure(weights: Path | None, way: str, count: int, repeats: int) -> tuple[float, float]:
    """Seconds to the first token of a case of `count` frames, and MB above what the weights take."""
    encoder, model = _open(weights)
    rng = np.random.default_rng(count)
    noise = [rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(count)]
    frames = [Frame(pixels, None, f"noise {i}") for i, pixels in enumerate(noise)]
    shape = count, model.config.image_tokens, model.config.text_config.hidden_size
    features = torch.randn(shape) if way == "seen" else None  # no encoder's memory counts
    before, taken = _peak_mb(), []
    with torch.no_grad():
        for _ in range(repeats + 1):  # the first is the slowest: what a library sets up once
            begun = time.perf_counter()
            _first_token(encoder, model, frames, way, features)
            taken.append(time.perf_counter() - begun)
    return min(taken), _peak_mb() - before


def _open(weights: Path | None) -> Parts:
    if weights is None:
        encoder, model = fresh_ultra(read_recipe(RECIPE), [])
        return encoder, model.eval()
    model = open_published(weights).model
    return Encoder.open(weights, model.config), model


def _first_token(
    encoder: Encoder,
    model: LlavaUltraForConditionalGeneration,
    frames: list[Frame],
    way: str,
    features: Tensor | None = None,
) -> Tensor:
    """Logits of the first token; `features` where the frames were looked at before."""
    if features is None:
        features = model.image_features(**encode_frames(frames, model.config))
    kept = features if way == "all" else features[model.feature_scores(features).argmax()][None]
    prompt = encoder.encode([Turn(QUESTION, (None,) * len(kept))])
    return model(**prompt, image_features=kept, logits_to_keep=1).logits


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux


def _print_counted(title: str, model: LlavaUltraForConditionalGeneration) -> None:
    print(f"\n{title}, counted: {sum(p.numel() for p in model.parameters()):,} parameters")
    print("| k | encoders, GFLOP | one frame, GFLOP | all, GFLOP | all / chosen | all / seen |")
    print("|---|---|---|---|---|---|")
    encoders = _encoder_flops(model)
    for count in COUNTS:
        one, every = (_decoder_flops(model, frames) for frames in (1, count))
        look = count * encoders
        cells = [f"{flops / 1e9:.2f}" for flops in (look, one, every)]
        ratios = [f"{(look + every) / (look + one):.2f}", f"{every / one:.2f}"]
        print(f"| {count} | {' | '.join(cells + ratios)} |")


def _encoder_flops(model: LlavaUltraForConditionalGeneration) -> int:
    """Operations of both encoders and the fusion for one frame; of a model on `meta`, too."""
    inner, config = model.model, model.config
    device = next(model.parameters()).device
    sizes = (config.vision_config.image_size, config.sam_config.image_size)
    pixels = [torch.zeros(1, 3, size, size, device=device) for size in sizes]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        clip = inner.vision_tower.tokens(pixels[0], config.vision_feature_layer)[:, 1:]
        inner.fusion(clip, inner.sam_tower(pixels[1]).last_hidden_state)
    return counter.get_total_flops()


def _decoder_flops(model: LlavaUltraForConditionalGeneration, frames: int) -> int:
    """Operations until the first token of `frames` frames and WORDS words."""
    length = frames * model.config.image_tokens + WORDS
    device = next(model.parameters()).device
    embeddings = torch.zeros(1, length, model.config.text_config.hidden_size, device=device)
    # A finished mask: from any other the library asks for values, which `meta` has not got.
    mask = torch.ones(1, 1, length, length, dtype=torch.bool, device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        out = model.model.language_model(inputs_embeds=embeddings, attention_mask=mask, use_cache=False)
        model.lm_head(out.last_hidden_state[:, -1:])
    return counter.get_total_flops() - _above_the_diagonal(counter)


def _above_the_diagonal(counter: FlopCounterMode) -> int:
    """Half of what was counted for attention, whose full square no causal model needs."""
    attention = ("bmm", "scaled_dot_product")  # its names with and without a kernel; linear layers are mm
    by_operation = counter.get_flop_counts()["Global"].items()
    found = [flops for kind, flops in by_operation if any(name in str(kind) for name in attention)]
    return sum(found) // 2


if __name__ == "__main__":
    main()

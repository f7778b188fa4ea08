"""`python -m benchmarks.abvlm_q_peer`: a plain convolutional classifier of planes, AbVLM-Q's peer.

AbVLM-Q (2025), Table 3, compares with ConvNeXt-T on the same images. Here is a small network of ConvNeXt's
blocks (arXiv 2201.03545, section 2: depthwise 7 x 7, LayerNorm, four times wider, GELU), trained from nothing
on the same simulated cases, with one yes-or-no output for each plane. The budget is the same number of looks
at an image, however long each takes: --looks. It writes a file that `python -m eval score` reads, so both
stand in one table.

Knows planes only: no boxes, no deductions, no score.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from assistants.abvlm_q.encoding import cut_image
from imaging.case import Case, CaseError, case_values, read_cases
from imaging.planes import NON_STANDARD, load_planes
from training.vision import jitter

SIDE = 192  # pixels; chosen, as the next line, for what two CPU cores can do in half an hour
WIDTHS, DEPTHS = (32, 64, 128, 256), (2, 2, 6, 2)  # of its four stages: a third of ConvNeXt-T's width
RATE = 1e-3  # highest learning rate; chosen
LOOKS = 60_000  # what two CPU cores do in half an hour


class Block(nn.Module):
    """One block of ConvNeXt over [B, C, H, W]."""

    def __init__(self, width: int):
        super().__init__()
        self.near = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 1e-2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.near(x).permute(0, 2, 3, 1)
        y = self.scale * self.narrow(F.gelu(self.wide(self.norm(y))))
        return x + y.permute(0, 3, 1, 2)


class Classifier(nn.Module):
    """Grey images [B, 1, SIDE, SIDE] to logits [B, labels]."""

    def __init__(self, labels: int, widths: Sequence[int] = WIDTHS, depths: Sequence[int] = DEPTHS):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, widths[0], 4, stride=4)]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if stage:
                layers += [nn.GroupNorm(1, widths[stage - 1]), nn.Conv2d(widths[stage - 1], width, 2, 2)]
            layers += [Block(width) for _ in range(depth)]
        self.body, self.norm = nn.Sequential(*layers), nn.LayerNorm(widths[-1])
        self.head = nn.Linear(widths[-1], labels)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.body(x).mean((2, 3))))


def labels_of() -> tuple[str, ...]:
    """The protocol's planes and the non-standard view, in order."""
    return (*load_planes().planes, NON_STANDARD)


def picture(case: Case, rng: np.random.Generator | None = None) -> np.ndarray:
    """The scan sector of a case's image, uint8 [SIDE, SIDE]; with `rng` under another setting of the monitor,
    as AbVLM-Q's own training has it."""
    frame, _ = cut_image(case)
    image = Image.fromarray(frame.pixels)
    image = jitter(image, rng) if rng else image
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def tensor(pictures: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """[B, 1, SIDE, SIDE] from about -2 to 2."""
    stack = torch.from_numpy(np.stack(pictures))[:, None].to(device).float()
    return stack / 64 - 1


def truth(cases: Sequence[Case]) -> Tensor:
    """1 for every label that a case has, float32 [B, labels]."""
    return torch.tensor([[float(label in case.plane) for label in labels_of()] for case in cases])


def fit(model: Classifier, cases: Sequence[Case], steps: int, batch: int, seed: int) -> list[float]:
    """Learn for so many steps; returns the loss of each. AdamW, the rate follows a cosine."""
    rng, device = np.random.default_rng(seed), next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    order, losses = np.array([], int), []
    model.train()
    for step in tqdm(range(steps), unit="step"):
        gone = step / steps
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, gone / 0.03 + 0.01) * 0.5 * (1 + math.cos(math.pi * gone))
        if len(order) < batch:
            order = np.concatenate([order, rng.permutation(len(cases))])
        picked, order = [cases[i] for i in order[:batch]], order[batch:]
        logits = model(tensor([picture(case, rng) for case in picked], device))
        loss = F.binary_cross_entropy_with_logits(logits, truth(picked).to(device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@torch.no_grad()
def stated(model: Classifier, cases: Sequence[Case], batch: int = 32) -> list[list[str]]:
    """The planes of each case: every one with a probability of a half or more, or the likeliest."""
    model.eval()
    labels, found = labels_of(), []
    device = next(model.parameters()).device
    for i in range(0, len(cases), batch):
        for row in model(tensor([picture(case) for case in cases[i : i + batch]], device)):
            found.append(
                [labels[n] for n in (row >= 0).nonzero()[:, 0].tolist()] or [labels[int(row.argmax())]]
            )
    return found


def write(path: Path, cases: Sequence[Case], planes: Sequence[Sequence[str]], how: dict) -> None:
    """The cases with what was found, in the shape of `python -m eval predict`."""
    with path.open("w", encoding="utf-8") as file:
        for case, found in zip(cases, planes, strict=True):
            said = {"prediction": "; ".join(found), "prediction_plane": list(found), "fingerprint": how}
            file.write(json.dumps(case_values(case, path.parent) | said, ensure_ascii=False) + "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.abvlm_q_peer", description=__doc__)
    parser.add_argument("--train", type=Path, required=True, help="cases.jsonl that AbVLM-Q learned from")
    parser.add_argument("--cases", type=Path, required=True, help="cases.jsonl to answer")
    parser.add_argument("--output", type=Path, required=True, help="where the predictions go")
    parser.add_argument("--looks", type=int, default=LOOKS, help="images looked at, repeats included")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(arguments)
    try:
        learned, asked = (list(read_cases(path)) for path in (args.train, args.cases))
    except (OSError, CaseError) as error:
        print(error, file=sys.stderr)
        return 2
    seen = {case.images: case for case in learned}  # rows of one image differ in words, which it cannot read
    if shared := {case.id for case in learned} & {case.id for case in asked}:
        print(f"{len(shared)} cases are in both files, such as {min(shared)}", file=sys.stderr)
        return 2
    torch.manual_seed(args.seed)
    model = Classifier(len(labels_of())).to(
        "cuda" if torch.cuda.is_available() else "cpu", memory_format=torch.channels_last
    )
    steps = args.looks // args.batch_size
    started = time.monotonic()
    losses = fit(model, list(seen.values()), steps, args.batch_size, args.seed)
    minutes = (time.monotonic() - started) / 60
    numbers = sum(p.numel() for p in model.parameters())
    how = {"peer": "ConvNeXt blocks", "parameters": numbers, "steps": steps, "batch": args.batch_size}
    how |= {"images": len(seen), "seed": args.seed}
    write(args.output, asked, stated(model, asked), how)
    print(
        f"{numbers:,} parameters, {steps} steps of {args.batch_size} of {len(seen)} images in {minutes:.0f} "
        f"minutes, loss at the end {np.mean(losses[-50:]):.4f}; {len(asked)} answers in {args.output}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

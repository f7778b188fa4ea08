"""`python -m benchmarks.familiarity --real FOLDER`: do the demo weights know a simulated image from any
other?

Distances (`models.familiarity`) of fresh simulated images against those of real ultrasound images in FOLDER
and of the photographs that scikit-learn carries. Prints the area under the ROC curve and what the stored
threshold lets through.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_sample_images
from sklearn.metrics import roc_auc_score

from assistants.base import Settings, open_assistant
from eval.intervals import wilson
from imaging.case import read_cases
from imaging.files import read_examination
from imaging.frame import Frame
from models.backbone import Backbone
from models.familiarity import Familiarity, appearance, vision_features
from models.likelihood import Likelihood
from training.simulated import simulate


def distances(assistant, familiarity: Familiarity, frames: list[Frame]) -> torch.Tensor:
    """Distance of every frame from the training images."""
    look = LOOKS[assistant.name]
    return familiarity.distance(torch.cat([look(assistant, frame) for frame in frames]))


def _before_qwen2_vl(parts: Backbone, frame: Frame) -> torch.Tensor:
    images = parts.encoder.encode_images([frame], Settings().max_pixels)
    return vision_features(parts.model.model.visual, images["pixel_values"], images["image_grid_thw"])


def _as_rated(likelihood: Likelihood, frame: Frame) -> torch.Tensor:
    (look,) = likelihood.look([frame], Settings().max_pixels, {})
    return appearance(look.states, look.features)[None]


LOOKS = {  # what is compared of a frame
    "echovlm": lambda assistant, frame: _before_qwen2_vl(assistant.backbone, frame),
    "llava_ultra": lambda assistant, frame: assistant.appearance([frame]),
    "qbench": lambda assistant, frame: _as_rated(assistant.reader.likelihood, frame),
    "abvlm_q": lambda assistant, frame: _before_qwen2_vl(assistant.backbone, frame),
}
ORDERS = {  # what each was trained to look at
    "echovlm": {"task": ["report"]},
    "llava_ultra": {"task": ["report"]},
    "qbench": {"task": ["quality"], "organ": "all"},
    "abvlm_q": {"task": ["plane"]},
}


def simulated(count: int, seed: int, assistant: str = "echovlm") -> list[Frame]:
    """The frames of `count` fresh cases of the kind that the assistant was trained on."""
    order = {"cases": count, "seed": seed, **ORDERS[assistant], "quiet": True}
    with tempfile.TemporaryDirectory() as folder:
        simulate(order, Path(folder), lambda line: None)
        paths = [path for case in read_cases(Path(folder) / "cases.jsonl") for path in case.images]
        return [frame for path in paths for frame in read_examination([path])[0]]


def real(folder: Path) -> list[Frame]:
    """One frame of every image and DICOM below the folder that can be read; masks are no images."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and "masks" not in path.parts]
    frames = [read_examination([path], max_frames=1)[0] for path in paths]
    return [frame for found in frames for frame in found]


def photographs() -> list[Frame]:
    return [Frame(picture.copy(), None, "photograph") for picture in load_sample_images().images]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.familiarity", description=__doc__)
    parser.add_argument("--assistant", default="echovlm", choices=LOOKS, help="whose demo weights")
    parser.add_argument("--real", type=Path, help="folder of real ultrasound images")
    parser.add_argument("--cases", type=int, default=150, help="simulated cases (default 150)")
    parser.add_argument("--seed", type=int, default=20261, help="of the cases; training used others")
    args = parser.parse_args()
    assistant = open_assistant(args.assistant)
    familiarity = Familiarity.load(assistant.folders[0])
    known = distances(assistant, familiarity, simulated(args.cases, args.seed, args.assistant))
    passed = int((known <= familiarity.threshold).sum())
    low, high = wilson(passed, len(known))
    share = f"{100 * low:.1f}–{100 * high:.1f} %"
    print(f"seed {args.seed}: {passed} of {len(known)} simulated images pass ({share})")
    for name, frames in (("real", real(args.real) if args.real else []), ("photographs", photographs())):
        if frames:
            far = distances(assistant, familiarity, frames)
            truth = [0] * len(known) + [1] * len(far)
            area = roc_auc_score(truth, torch.cat([known, far]))
            caught = int((far > familiarity.threshold).sum())
            print(f"{name}: AUC {area:.4f}, notice above {caught} of {len(far)}")


if __name__ == "__main__":
    main()

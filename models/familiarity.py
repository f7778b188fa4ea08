"""Does an image look like the ones these weights were trained on?

Mahalanobis distance of an image's pooled vision features from the training images' (Lee et al. 2018, "A
simple unified framework for detecting out-of-distribution samples", with one class): mean and covariance
are fitted on the features of training images, the threshold is a quantile of the distances of held-out
ones. Directions in which training images hardly vary share one variance (probabilistic principal
components, Tipping & Bishop 1999), which keeps the file small. Stored beside the weights in
`familiarity.safetensors`. Only demo weights carry it: what published weights were trained on is not known
here. What is compared is each model's own: Qwen2-VL's tokens before and after the merger
(`vision_features`), LLaVA-Ultra's image tokens (its Eq. 2); both are `pooled` alike.

Says nothing about whether an answer is right, only that an image is unlike all training images.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FILE = "familiarity.safetensors"
SHRINKAGE = 0.02  # share of the mean variance added to the covariance's diagonal; chosen, not tuned
NARROW = 1.05  # directions up to this many times the smallest variance share one


class Familiarity:
    """`mean` [D]; orthonormal `directions` [K, D] with their `variances` [K], and `rest`, the
    variance in every other direction; `threshold` a distance."""

    def __init__(self, mean: Tensor, directions: Tensor, variances: Tensor, rest: float, threshold: float):
        self.mean, self.directions, self.variances = mean, directions, variances
        self.rest, self.threshold = rest, threshold

    @classmethod
    def load(cls, folder: Path) -> Familiarity | None:
        """The folder's, or None where the weights have none."""
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        stored = load_file(path)
        tensors = (stored[name].float() for name in ("mean", "directions", "variances"))
        return cls(*tensors, float(stored["rest"]), float(stored["threshold"]))

    @classmethod
    def fit(cls, training: Tensor, held_out: Tensor, quantile: float) -> Familiarity:
        """From features [N, D] of training images; `quantile` of the held-out images shall pass."""
        mean = training.mean(0)
        centred = (training - mean).double()
        covariance = centred.T @ centred / (len(training) - 1)
        covariance += (
            SHRINKAGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.double)
        )
        values, vectors = torch.linalg.eigh(covariance)
        wide = values > NARROW * values[0]
        rest = float(values[~wide].mean())
        fitted = cls(mean, vectors.T[wide].float(), values[wide].float(), rest, 0.0)
        fitted.threshold = float(torch.quantile(fitted.distance(held_out), quantile))
        return fitted

    def save(self, folder: Path) -> None:
        tensors = {
            "mean": self.mean,
            "directions": self.directions.half(),
            "variances": self.variances,
            "rest": torch.tensor(self.rest),
            "threshold": torch.tensor(self.threshold),
        }
        save_file({name: t.contiguous() for name, t in tensors.items()}, Path(folder) / FILE)

    def distance(self, features: Tensor) -> Tensor:
        """Mahalanobis distance of features [N, D] -> [N], divided by sqrt(D) so that about 1 is usual."""
        centred = features - self.mean
        along = centred @ self.directions.T
        across = centred - along @ self.directions
        squared = (along.square() / self.variances).sum(1) + across.square().sum(1) / self.rest
        return (squared / self.mean.shape[0]).sqrt()

    def far(self, features: Tensor) -> list[bool]:
        """For features [N, D], whether each is farther away than the threshold."""
        return (self.distance(features) > self.threshold).tolist()

    def unfamiliar(self, model: nn.Module, pixel_values: Tensor, image_grid_thw: Tensor) -> list[bool]:
        """For each image before a Qwen2-VL's vision tower, whether it is farther away than the threshold."""
        return self.far(vision_features(model.model.visual, pixel_values, image_grid_thw))


def pooled(tokens: Tensor) -> Tensor:
    """Mean and spread over an image's tokens: [..., T, C] -> float32 [..., 2 C] on the CPU."""
    tokens = tokens.float()
    return torch.cat([tokens.mean(dim=-2), tokens.std(dim=-2)], dim=-1).cpu()


@torch.no_grad()
def vision_features(tower: nn.Module, pixel_values: Tensor, image_grid_thw: Tensor) -> Tensor:
    """Mean and spread over an image's tokens, before the merger and after it: float32 [images, 2 * (C + D)]
    on the CPU."""
    out = tower(pixel_values.type(tower.dtype), grid_thw=image_grid_thw)
    patches = image_grid_thw.prod(-1)
    states = torch.split(out.last_hidden_state, patches.tolist())
    tokens = torch.split(out.pooler_output, (patches // tower.spatial_merge_size**2).tolist())
    return torch.stack([appearance(*parts) for parts in zip(states, tokens, strict=True)])


def appearance(states: Tensor, tokens: Tensor) -> Tensor:
    """Mean and spread over one image's patches [P, C] and tokens [T, D]: float32 [2 * (C + D)] on the CPU."""
    return torch.cat([pooled(states), pooled(tokens)])

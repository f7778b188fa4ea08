"""Does an image look like the ones these weights were trained on?

Mahalanobis distance of an image's pooled vision features from the training images' (Lee et al. 2018, "A
simple unified framework for detecting out-of-distribution samples", with one class): mean and covariance
are fitted on the features of training images, the threshold is a quantile of the distances of held-out
ones. Stored beside the weights in `familiarity.safetensors`. Only demo weights carry it: what published
weights were trained on is not known here.

Says nothing about whether an answer is right, only that an image is unlike all training images.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FILE = "familiarity.safetensors"
SHRINKAGE = 0.02  # share of the mean variance added to the covariance's diagonal; chosen, not tuned


class Familiarity:
    """`mean` [D], `whitener` [D, D] (its rows whiten centred features), `threshold` a distance."""

    def __init__(self, mean: Tensor, whitener: Tensor, threshold: float):
        self.mean, self.whitener, self.threshold = mean, whitener, threshold

    @classmethod
    def load(cls, folder: Path) -> Familiarity | None:
        """The folder's, or None where the weights have none."""
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        stored = load_file(path)
        return cls(stored["mean"].float(), stored["whitener"].float(), float(stored["threshold"]))

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
        fitted = cls(mean, (vectors / values.sqrt()).T.float(), 0.0)
        fitted.threshold = float(torch.quantile(fitted.distance(held_out), quantile))
        return fitted

    def save(self, folder: Path) -> None:
        tensors = {
            "mean": self.mean,
            "whitener": self.whitener.half(),
            "threshold": torch.tensor(self.threshold),
        }
        save_file({name: t.contiguous() for name, t in tensors.items()}, Path(folder) / FILE)

    def distance(self, features: Tensor) -> Tensor:
        """Mahalanobis distance of features [N, D] -> [N], divided by sqrt(D) so that about 1 is usual."""
        return ((features - self.mean) @ self.whitener.T).norm(dim=1) / self.mean.shape[0] ** 0.5

    def unfamiliar(self, model: nn.Module, pixel_values: Tensor, image_grid_thw: Tensor) -> list[bool]:
        """For each image, whether it is farther away than the threshold."""
        features = vision_features(model.model.visual, pixel_values, image_grid_thw)
        return (self.distance(features) > self.threshold).tolist()


@torch.no_grad()
def vision_features(tower: nn.Module, pixel_values: Tensor, image_grid_thw: Tensor) -> Tensor:
    """Mean and spread over an image's tokens, before the merger and after it: float32 [images, 2 * (C + D)]
    on the CPU."""
    out = tower(pixel_values.type(tower.dtype), grid_thw=image_grid_thw)
    patches = image_grid_thw.prod(-1)
    tokens = patches // tower.spatial_merge_size**2
    pooled = []
    for states, lengths in ((out.last_hidden_state, patches), (out.pooler_output, tokens)):
        for part in torch.split(states.float(), lengths.tolist()):
            pooled.append(torch.cat([part.mean(0), part.std(0)]))
    count = len(patches)
    return torch.stack([torch.cat([pooled[i], pooled[count + i]]) for i in range(count)]).cpu()

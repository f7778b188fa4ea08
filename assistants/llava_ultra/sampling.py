"""Teach a score that tells which frame of an examination shows the finding.

LLaVA-Ultra (2024), section 3.3. One report comes with k frames of which few show what it says. Eq. 3 scores
a frame from its projected features alone, so that it works without a report; Eq. 5 teaches it, during
training, from the attention between frames and findings text (Eq. 4, `models.frame_choice`).

Knows nothing of prompts, images or the choice itself: features in, one number a frame out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.frame_choice import normalise


class FeatureScore(nn.Module):
    """Eq. 3: s = sum over j = 1..d of w_j * h_j.

    The equation sums over the d channels of H, but the text calls w a weighting of H's tokens ("avoid
    treating them equally", "focus on tokens that are more expressive"), and for a score both must go. Read
    here as both: `token_query` weighs the T tokens by what they hold (softmax, so that the result is the
    weighted average the text speaks of), and `channel_weight` is Eq. 3's sum over the averaged channels. A
    weight for each place on the grid would be the other reading; it would expect a lesion always to lie
    where it lay in training.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.token_query = nn.Parameter(torch.zeros(hidden_size))
        self.channel_weight = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, features: Tensor) -> Tensor:
        """features [k, T, D] -> scores float32 [k], comparable among the frames of one case."""
        tokens = features.float()
        focus = (tokens @ self.token_query.float()).softmax(dim=1)  # [k, T]
        average = torch.einsum("kt,ktd->kd", focus, tokens)  # [k, D]
        return average @ self.channel_weight.float()  # [k], Eq. 3


def distillation_loss(feature_scores: Tensor, attention_scores: Tensor) -> Tensor:
    """L_adr of Eq. 5 for one case: both scores [k]; the cross entropy of their softmaxes over its frames.

    The paper writes Norm without saying which; a softmax is the one for which log Norm is always finite.
    The attention scores are the teacher and get no gradient.
    """
    teacher = normalise(attention_scores.detach().float())
    return -(teacher * feature_scores.float().log_softmax(dim=0)).sum()

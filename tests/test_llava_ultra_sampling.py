"""Eq. 3 and Eq. 5 in small numbers."""

import math

import pytest
import torch

from assistants.llava_ultra.sampling import FeatureScore, distillation_loss


def score(token_query, channel_weight):
    made = FeatureScore(len(token_query))
    with torch.no_grad():
        made.token_query.copy_(torch.tensor(token_query))
        made.channel_weight.copy_(torch.tensor(channel_weight))
    return made


def test_equation_3_by_hand():
    """Tokens (0, 4) and (ln 3, 8): weights 1/4 and 3/4, average (.., 7), and w takes twice the second."""
    features = torch.tensor([[[0.0, 4.0], [math.log(3), 8.0]]])
    assert score([1.0, 0.0], [0.0, 2.0])(features).item() == pytest.approx(14, abs=1e-5)


def test_without_a_query_it_is_the_plain_mean():
    torch.manual_seed(0)
    features = torch.randn(3, 5, 4)
    made = score([0.0] * 4, [1.0, -1.0, 2.0, 0.5])
    assert torch.allclose(made(features), features.mean(dim=1) @ made.channel_weight)


def test_the_place_of_a_token_and_the_order_of_frames_do_not_count():
    torch.manual_seed(0)
    features = torch.randn(4, 6, 3)
    made = score([0.3, -2.0, 1.0], [1.0, 0.2, -0.7])
    scores = made(features)
    assert torch.allclose(made(features[:, torch.randperm(6)]), scores, atol=1e-6)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(made(features[order]), scores[order], atol=1e-6)


def test_one_token_can_decide():
    """A finding in one token of 576: a mean would drown it."""
    features = torch.zeros(2, 576, 2)
    features[1, 300] = torch.tensor([10.0, 1.0])
    assert torch.allclose(score([1.0, 0.0], [0.0, 1.0])(features), torch.tensor([0.0, 0.975]), atol=1e-3)


def test_scores_are_float32_whatever_the_features_are():
    features = torch.randn(2, 3, 4).bfloat16()
    assert score([0.0] * 4, [1.0] * 4)(features).dtype == torch.float32


def test_equation_5_by_hand():
    """Teacher (1/4, 3/4), student (1/2, 1/2): the cross entropy is ln 2; it is least where they agree."""
    attention = torch.tensor([0.0, math.log(3)])
    assert distillation_loss(torch.zeros(2), attention).item() == pytest.approx(math.log(2))
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert distillation_loss(attention, attention).item() == pytest.approx(entropy, abs=1e-6)


def test_only_the_student_learns():
    student = torch.zeros(3, requires_grad=True)
    teacher = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    distillation_loss(student, teacher).backward()
    assert teacher.grad is None
    assert torch.allclose(student.grad, torch.full((3,), 1 / 3) - teacher.detach().softmax(0), atol=1e-6)


def test_distillation_teaches_the_score_which_frame_it_is():
    """From zeros, by Eq. 5 alone: the marked frame of each case comes to have the highest score."""
    torch.manual_seed(0)
    made = FeatureScore(8)
    optimizer = torch.optim.Adam(made.parameters(), lr=0.05)
    features = torch.randn(40, 4, 16, 8)  # cases, frames, tokens, channels
    marked = torch.randint(0, 4, (40,))
    features[torch.arange(40), marked, torch.randint(0, 16, (40,)), 2] += 6
    teacher = torch.nn.functional.one_hot(marked, 4).float() * 5
    for _ in range(60):
        loss = sum(distillation_loss(made(f), t) for f, t in zip(features, teacher, strict=True)) / 40
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    chosen = torch.stack([made(case).argmax() for case in features])
    assert (chosen == marked).float().mean() > 0.9

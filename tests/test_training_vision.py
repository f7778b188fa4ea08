"""The dense warm-up: its targets are what the label map and the truth say, and its loss teaches the tower."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from imaging.case import read_cases
from models.encoding import Encoder
from simulator.__main__ import main as simulate
from simulator.tissue import LABELS
from training.vision import CELLS, LESION, TISSUES, VisionWarmup, shares


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> VisionWarmup:
    folder = tmp_path_factory.mktemp("cases")
    simulate(["--cases", "12", "--seed", "4", "--labels", "--rows", "2", "--quiet", str(folder)])
    torch.manual_seed(0)
    config = Qwen2VLVisionConfig(depth=1, embed_dim=32, num_heads=2, hidden_size=48, mlp_ratio=2)
    encoder = Encoder(tiny.tokenizer(), tiny.image_processor(), 0)
    encoder.image_processor.size = {"shortest_edge": 56 * 56, "longest_edge": 448 * 448}
    return VisionWarmup(
        Qwen2VisionTransformerPretrainedModel(config), encoder, read_cases(folder / "cases.jsonl")
    )


def test_the_classes_are_the_simulators():
    assert len(LABELS) == TISSUES and LABELS["lesion"] == LESION


def test_shares_are_the_label_map_seen_in_blocks():
    labels = np.zeros((224, 224), np.uint8)
    labels[:28, 28:42] = LESION  # half of the second token
    labels[196:, 196:] = 2
    found = shares(labels)
    assert found.shape == (64, TISSUES) and np.allclose(found.sum(1), 1)
    assert found[1, LESION] == pytest.approx(0.5) and found[63, 2] == 1.0 and found[0, 0] == 1.0
    cells = shares(labels, CELLS)
    assert cells.shape == (64, 16, TISSUES) and np.allclose(cells.mean(1), found)
    assert cells[1, :, LESION].tolist() == [1, 1, 0, 0] * 4


def test_a_lesions_cells_say_its_kind(stage):
    batch = stage.batch(range(len(stage)), np.random.default_rng(0))
    wanted = stage._by_kind(batch)
    assert torch.allclose(wanted.sum(-1), torch.ones(()), atol=1e-5)
    for row, kind in enumerate(batch["kind"].tolist()):
        named = wanted[row, ..., LESION:].sum((0, 1)).nonzero().flatten().tolist()
        assert named == ([] if kind < 0 else [kind])


def test_every_image_is_one_sample_whatever_the_rows(stage):
    examinations = {case.images: case for case, _ in stage.images}
    assert len(examinations) == 12 and len(stage) == sum(len(images) for images in examinations)


def test_targets_follow_the_truth_of_the_view(stage):
    batch = stage.batch(range(len(stage)), np.random.default_rng(0))
    for row, (case, i) in enumerate(stage.images):
        exam = case.extra["examination"]
        view, lesion = exam["views"][i], exam["lesion"]
        assert stage.vocabulary.words["organ"][batch["organ"][row]] == exam["organ"]
        assert bool(batch["present"][row]) == view["shows_lesion"]
        assert (batch["tissue"][row, :, LESION].sum() > 0) == view["shows_lesion"]
        if view["shows_lesion"]:
            assert stage.vocabulary.words["kind"][batch["kind"][row]] == lesion["kind"]
            assert float(batch["size"][row, 0].exp()) == pytest.approx(lesion["long_mm"], rel=1e-4)
        else:
            assert batch["kind"][row] == -1
        assert (~batch["measures"][row].isnan()).sum() == (len(exam["measures"]) if i == 0 else 0)


def test_a_few_steps_lower_the_loss_and_reach_the_patch_embedding(stage):
    batch = stage.batch(range(8), np.random.default_rng(0))
    optimizer = torch.optim.AdamW(stage.module.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss, figures = stage.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0] and set(figures) >= {"tissue", "cells", "present", "kind", "organ"}
    assert stage.tower.patch_embed.proj.weight.grad.abs().sum() > 0

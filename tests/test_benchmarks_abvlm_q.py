"""AbVLM-Q's benchmarks at toy size: they run, and the peer's answers stand in the evaluation's table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_abvlm_q_assistant import save

from assistants.abvlm_q.assistant import AbVLMQAssistant
from assistants.base import Settings
from benchmarks import abvlm_q, abvlm_q_peer
from benchmarks.abvlm_q_peer import Classifier, fit, labels_of, stated, truth, write
from eval.metrics import planes
from eval.pairs import read_pairs
from imaging.case import read_cases
from simulator.__main__ import main as simulate


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planes")
    simulate(f"--cases 6 --seed 5 --task plane --quiet {folder / 'cases'}".split())
    return folder / "cases/cases.jsonl"


def test_single_and_batched_stand_in_one_table(tmp_path, capsys, monkeypatch):
    few = Settings(max_new_tokens=4, max_pixels=56 * 56)
    monkeypatch.setattr(AbVLMQAssistant, "settings", few)
    folder = save(tmp_path, max_position_embeddings=4096)
    assert (
        abvlm_q.main(["--weights", str(folder), "--images", "3", "--batch", "2", "3", "--device", "cpu"]) == 0
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[1:]] == ["| single", "| batch 2", "| batch 3"]
    assert lines[1].endswith("1.00× |")


def test_weights_that_are_not_there_end_with_a_sentence(tmp_path, capsys):
    assert abvlm_q.main(["--weights", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_the_peer_learns_planes_and_its_file_is_scored(cases, tmp_path, monkeypatch):
    monkeypatch.setattr(abvlm_q_peer, "SIDE", 64)
    torch.manual_seed(0)
    found = list(read_cases(cases))
    model = Classifier(len(labels_of()), (8, 16), (1, 1))
    before = loss_of(model, found)
    losses = fit(model, found, steps=80, batch=6, seed=0)
    assert len(losses) == 80 and loss_of(model, found) < 0.6 * before
    said = stated(model, found)
    assert len(said) == 6 and all(set(each) <= set(labels_of()) and each for each in said)
    output = tmp_path / "peer.jsonl"
    write(output, found, [case.plane for case in found], {"peer": "x"})
    pairs = read_pairs(output)
    columns = {
        each.name: each.finish(each.counts.sum(axis=0)) for each in planes.measures(pairs, labels_of())
    }
    assert columns["Label accuracy"] == columns["Subset accuracy"] == 1


def loss_of(model, cases) -> float:
    with torch.no_grad():
        logits = model(
            abvlm_q_peer.tensor([abvlm_q_peer.picture(case) for case in cases], torch.device("cpu"))
        )
        return float(torch.nn.functional.binary_cross_entropy_with_logits(logits, truth(cases)))


def test_the_peers_truth_is_the_cases(cases):
    found = list(read_cases(cases))
    rows = truth(found)
    assert rows.shape == (6, 12)
    for row, case in zip(rows, found, strict=True):
        assert {labels_of()[n] for n in np.flatnonzero(row)} == set(case.plane)


def test_the_peer_may_not_be_asked_what_it_learned(cases, tmp_path, capsys):
    words = ["--train", str(cases), "--cases", str(cases), "--output", str(tmp_path / "x.jsonl")]
    assert abvlm_q_peer.main(words) == 2
    assert "are in both files" in capsys.readouterr().err

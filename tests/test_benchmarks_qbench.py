"""The rater's speed benchmark asks all five prompts, and its ways of reading agree."""

import tiny

from assistants.qbench import prompts
from benchmarks import qbench


def test_an_image_has_five_prompts():
    frames = qbench.frames_of(2, seed=0)
    first, second = qbench.five_prompts(frames, "zh")
    names = {probe.name.partition(":")[0] for prompt in first for probe, _ in prompt}
    assert names == set(prompts.PROMPTS) and len(first) == len(second) == 5
    assert [shown for _, shown in first[4]] == [tuple(frames), tuple(frames[::-1])]


def test_the_command_compares_five_ways_and_fails_where_they_disagree(tmp_path, capsys, monkeypatch):
    command = ["--weights", str(tiny.save(tmp_path, "qwen2_vl")), "--images", "2", "--device", "cpu"]
    monkeypatch.setattr(qbench, "SIDE", 56)
    assert qbench.main(command) == 0
    said = capsys.readouterr().out
    assert all(f"| {way} |" in said for way in qbench.WAYS) and "shared against alone" in said
    monkeypatch.setattr(qbench, "difference", lambda *_: 2e-5)
    assert qbench.main(command) == 1

"""A whole recipe at the smallest size: from the simulator to a folder that opens and answers; each stage
teaches only what it names; a run that was stopped goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from assistants.base import Turn, open_assistant
from assistants.echovlm.assistant import DEMO_MARK
from imaging.files import load_frames
from training import run as running
from training.__main__ import main
from training.begun import OtherRecipe, begin
from training.conversation import Conversations, SeenImages, SeenTower
from training.recipe import Lora, Recipe, RecipeError, read_recipe
from training.stages import MIXTURE, freeze, with_lora

RECIPES = Path(__file__).parents[1] / "training/recipes"
RECIPE = RECIPES / "demo_qwen2_vl.yaml"


def toy(name: str, folder: Path, **changes) -> tuple[Path, Recipe]:
    """A demo recipe at toy size, two steps a stage, written under `folder`."""
    raw = yaml.safe_load((RECIPES / f"{name}.yaml").read_text("utf-8"))
    raw |= {"weights": str(folder / name), "precision": "no"} | changes
    raw["simulate"] |= {"cases": 4, "rows": 1, "workers": 1, "quiet": True}
    raw["held_out"] |= {"cases": 3, "workers": 1, "quiet": True}
    for stage in raw["stages"]:
        stage["schedule"] |= {"steps": 2, "batch_size": 2, "checkpoint_every": 1}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path, read_recipe(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The dense demo recipe at toy size."""
    folder = tmp_path_factory.mktemp("run")
    text = yaml.safe_load(RECIPE.read_text("utf-8"))["text"]
    text |= {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 1, "num_key_value_heads": 1}
    _, recipe = toy(
        "demo_qwen2_vl",
        folder,
        vocabulary=600,
        tokenizer_cases=[{"cases": 2, "seed": 3, "task": ["plane"], "quiet": True}],
        vision={"depth": 1, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 4},
        text=text,
    )
    return folder, recipe


@pytest.fixture(scope="module")
def weights(small) -> Path:
    folder, recipe = small
    return running.run(recipe, folder / "output", say=lambda line: None)


@pytest.fixture(scope="module")
def echovlm(small, weights):
    """EchoVLM's demo recipe at toy size on the dense weights: the recipe and what it shipped."""
    folder, _ = small
    mixture = {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 64}
    own = yaml.safe_load((RECIPES / "demo_echovlm.yaml").read_text("utf-8"))["mixture"]
    _, recipe = toy("demo_echovlm", folder, base=str(weights), mixture=own | mixture)
    return recipe, running.run(recipe, folder / "echovlm", say=lambda line: None)


def test_the_finished_folders_open_and_answer(small, weights, echovlm):
    folder, _ = small
    for shipped in (weights, echovlm[1]):
        assert (shipped / DEMO_MARK).is_file()
        opens_and_answers(folder, shipped)


def opens_and_answers(folder: Path, weights: Path) -> None:
    assistant = open_assistant("echovlm", str(weights), device="cpu")
    image = next((folder / "output/cases/images").iterdir())
    *_, reply = assistant.stream(Turn("", tuple(load_frames([image])), "report", None, "zh"))
    assert reply.finished and reply.prompt_tokens > 64
    assert all(shard.stat().st_size < 9_000_000 for shard in weights.glob("*.safetensors"))


def test_a_second_run_does_nothing_again(small, weights, monkeypatch):
    folder, recipe = small
    monkeypatch.setattr(running, "train", lambda *_, **__: pytest.fail("trained again"))
    said = []
    before = {path.name: load_file(path) for path in weights.glob("*.safetensors")}
    running.run(replace(recipe, weights=str(folder / "again")), folder / "output", say=said.append)
    assert [line for line in said if "done before" in line] == [
        f"{stage.name}: done before" for stage in recipe.stages
    ]
    for name, tensors in before.items():
        again = load_file(weights / name)
        assert all(torch.equal(again[key], tensor) for key, tensor in tensors.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 9}, "seed was 1, is 9"),
        ({"vocabulary": 700}, "vocabulary was 600, is 700"),
        ({"simulate": {"cases": 5}}, "simulate.cases was 4, is 5"),
        ({"stages": {"steps": 3}}, "stages.vision.schedule.steps was 2, is 3"),
    ],
)
def test_another_recipe_does_not_go_on_where_one_began(small, weights, change, message, capsys):
    folder, _ = small
    raw = yaml.safe_load((folder / "demo_qwen2_vl.yaml").read_text("utf-8"))
    for key, value in change.items():
        if key == "stages":
            raw["stages"][0]["schedule"] |= value
        else:
            raw[key] = raw[key] | value if isinstance(value, dict) else value
    other = folder / "other.yaml"
    other.write_text(yaml.safe_dump(raw))
    assert main([str(other), "--output", str(folder / "output"), "--resume"]) == 2
    assert message in capsys.readouterr().err


def test_a_stage_that_has_not_begun_may_change(small, tmp_path):
    _, recipe = small
    begin(recipe, tmp_path)
    (tmp_path / "vision").mkdir()
    longer = [replace(s, schedule=replace(s.schedule, steps=7)) for s in recipe.stages]
    begin(replace(recipe, weights="elsewhere", stages=(recipe.stages[0], *longer[1:])), tmp_path)
    with pytest.raises(OtherRecipe, match="stages.vision.schedule.steps was 2, is 7"):
        begin(replace(recipe, stages=tuple(longer)), tmp_path)


def test_a_key_that_came_later_counts_as_its_default(small, tmp_path):
    _, recipe = small
    begin(recipe, tmp_path)
    path = tmp_path / "recipe.json"
    older = json.loads(path.read_text("utf-8"))
    assert older.pop("keep_features") is True and older.pop("gradient_checkpointing") is False
    path.write_text(json.dumps(older))
    with pytest.raises(OtherRecipe, match="keep_features was False, is True") as refused:
        begin(recipe, tmp_path)
    assert "gradient_checkpointing" not in str(refused.value)


def test_the_tokenizer_reads_more_than_the_cases(small, weights):
    folder, _ = small
    more = running.read_cases(folder / "output/tokenizer_cases/0/cases.jsonl")
    assert {case.task for case in more} == {"plane"}


@pytest.fixture
def parts(small, echovlm):
    folder, _ = small
    recipe, _ = echovlm
    cases = running.read_cases(folder / "output/cases/cases.jsonl")
    encoder, dense = running.open_base(recipe)
    torch.manual_seed(0)
    return recipe, cases, encoder, running.EchoVLMForConditionalGeneration.from_dense(dense, **recipe.mixture)


def test_stage_one_gives_gradients_to_the_mixture_alone(parts):
    _, cases, encoder, model = parts
    freeze(model, MIXTURE)
    task = Conversations("t", model, encoder, cases, None)
    task.loss(task.batch([0], running.np.random.default_rng(0)))[0].backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None}
    assert learned and all(".mlp." in name and ".mlp.ffn." not in name for name in learned)
    assert {name for name, _ in model.named_parameters() if MIXTURE.search(name)} == learned


def test_stage_two_is_lora_on_the_base_and_all_of_the_mixture(parts):
    recipe, _, _, model = parts
    wrapped = with_lora(model, recipe.stages[-1].lora, seed=0)
    learns = {name for name, p in wrapped.named_parameters() if p.requires_grad}
    for part in ("visual.blocks.0.attn.qkv", "visual.merger.mlp.0", "self_attn.q_proj"):
        assert any(part in name and "lora_" in name for name in learns), part
    assert all("lora_" in name or MIXTURE.search(name) for name in learns)
    assert not any("patch_embed" in name or "embed_tokens" in name for name in learns)
    assert any(".experts." in name for name in learns)


def test_only_the_answers_are_learned(parts):
    _, cases, encoder, model = parts
    task = Conversations("t", model, encoder, cases, None)
    batch = task.batch([0, 1], running.np.random.default_rng(4))
    for row in range(2):
        labels = batch["labels"][row]
        text = encoder.tokenizer.decode(batch["input_ids"][row][labels != -100])
        picked = [case for case in task.examinations[row] if case.answer in text]
        assert picked and text.count("<|im_end|>") == len(picked)
        rest = "".join(case.answer + "<|im_end|>" for case in picked)
        assert sorted(rest) == sorted(text)


def test_seen_images_stand_in_for_the_tower(parts, tmp_path):
    _, cases, encoder, model = parts
    model.eval()
    live = Conversations("t", model, encoder, cases, None)
    batch = live.batch([1], running.np.random.default_rng(2))
    loss = live.loss(batch)[0]
    tower = model.model.visual
    seen = SeenImages(tmp_path, tower, encoder, cases)
    model.model.visual = SeenTower(tower)
    stored = Conversations("t", model, encoder, cases, seen)
    same = stored.batch([1], running.np.random.default_rng(2))
    assert torch.equal(same["input_ids"], batch["input_ids"])
    assert float(stored.loss(same)[0].detach()) == pytest.approx(float(loss.detach()), abs=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer_cases": 3}, "tokenizer_cases: 3 is not a list"),
        ({"sed": 3}, "sed: unknown key"),
        ({"precision": "int3"}, "precision: 'int3'"),
        ({"stages": ["vision"]}, r"stages\[0\]: expected keys"),
        ({"stages": [{"name": "x"}, {"name": "x"}]}, "same name"),
        ({"stages": [{"name": "x", "kind": "instruct", "schedule": {}}]}, r"stages\[0\]"),
        ({"stages": []}, "stages: at least one"),
        ({"stages": [{"name": "x", "kind": "magic"}]}, r"stages\[0\].kind: 'magic'"),
        (
            {"stages": [{"name": "x", "kind": "moe", "schedule": {"step": 1}}]},
            r"stages\[0\].schedule.step: unknown",
        ),
        ({"stages": [{"name": "x", "kind": "moe", "schedule": {"steps": 1}}]}, r"schedule: .*batch_size"),
    ],
)
def test_a_wrong_recipe_names_the_key(tmp_path, change, message):
    raw = yaml.safe_load(RECIPE.read_text("utf-8")) | change
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(RecipeError, match=message):
        read_recipe(path)


def test_every_recipe_in_the_repository_reads():
    for path in RECIPE.parent.glob("*.yaml"):
        assert read_recipe(path).stages


def test_lora_numbers_are_the_papers():
    lora = read_recipe(RECIPES / "demo_echovlm.yaml").stages[-1].lora
    assert (lora.rank, lora.alpha, lora.dropout) == (8, 16, 0.05)
    assert isinstance(lora, Lora)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "there is no case in"),
        ('{"id": "a", "images": ["a.png"], "answer": null}', "case a has no truth to warm up on"),
    ],
)
def test_cases_that_teach_nothing_end_with_one_sentence(small, tmp_path, lines, message, capsys):
    folder, _ = small
    raw = yaml.safe_load((folder / "demo_qwen2_vl.yaml").read_text("utf-8"))
    raw.pop("tokenizer_cases")
    recipe, cases = tmp_path / "recipe.yaml", tmp_path / "cases.jsonl"
    recipe.write_text(yaml.safe_dump(raw))
    cases.write_text(lines)
    out = str(tmp_path / "out")
    assert main([str(recipe), "--output", out, "--cases", str(cases)]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1

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

from assistants.base import DEMO_MARK, Turn, open_assistant
from imaging.case import Case
from imaging.files import load_frames
from models.encoding import IGNORED
from training import run as running
from training import simulated
from training.__main__ import main
from training.begun import begin
from training.conversation import (
    Conversations,
    SeenImages,
    SeenTower,
    mark,
    pick_rows,
    reordered,
    turn_weights,
)
from training.loop import OtherRecipe
from training.recipe import OF_THE_OUTPUT, Lora, Recipe, RecipeError, read_recipe
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
def said() -> list[str]:
    """What the run of `weights` says."""
    return []


@pytest.fixture(scope="module")
def weights(small, said) -> Path:
    folder, recipe = small
    return running.run(recipe, folder / "output", say=said.append)


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
    (tmp_path / "seen").mkdir()
    path = tmp_path / "recipe.json"
    older = json.loads(path.read_text("utf-8"))
    assert older.pop("keep_features") is True and older.pop("gradient_checkpointing") is False
    path.write_text(json.dumps(older))
    with pytest.raises(OtherRecipe, match="keep_features was False, is True") as refused:
        begin(recipe, tmp_path)
    assert "gradient_checkpointing" not in str(refused.value)


def test_a_recipe_may_change_while_nothing_is_made_of_the_cases(small, tmp_path):
    _, recipe = small
    begin(recipe, tmp_path)
    other = replace(recipe, vocabulary=700)
    begin(other, tmp_path)
    (tmp_path / "cases").mkdir()  # `training.simulated` knows whose
    begin(recipe, tmp_path)
    (tmp_path / "seen").mkdir()
    with pytest.raises(OtherRecipe, match="vocabulary was 600, is 700"):
        begin(other, tmp_path)


def test_a_refused_start_leaves_the_output_folder_as_good_as_empty(small, tmp_path, monkeypatch, capsys):
    folder, recipe = small
    started = []
    monkeypatch.setattr("training.__main__.run", lambda *_, **__: started.append(1))
    begin(recipe, tmp_path)
    words = [str(folder / "demo_qwen2_vl.yaml"), "--output", str(tmp_path)]
    assert main(words) == 0 and started
    (tmp_path / "vision").mkdir()
    assert main(words) == 2 and "is not empty" in capsys.readouterr().err


def test_given_cases_stay_as_they_were_once_a_stage_has_begun(small, tmp_path):
    file, output = tmp_path / "cases.jsonl", tmp_path / "output"
    recipe = replace(small[1], simulate=None, cases=[str(file)])
    output.mkdir()
    file.write_text("1\n")
    begin(recipe, output)
    file.write_text("1\n2\n")
    begin(recipe, output)
    (output / "vision").mkdir()
    begin(recipe, output)
    file.write_text("1\n3\n")
    with pytest.raises(OtherRecipe, match="cases.jsonl held 2 of them, and holds 2 now, not the same"):
        begin(recipe, output)


def test_an_output_from_before_given_cases_were_marked_goes_on(small, tmp_path):
    file, output = tmp_path / "cases.jsonl", tmp_path / "output"
    file.write_text("1\n")
    recipe = replace(small[1], simulate=None, cases=[str(file)])
    (output / "vision").mkdir(parents=True)
    begin(recipe, output)
    older = json.loads((output / "recipe.json").read_text("utf-8"))
    del older["cases_mark"]
    (output / "recipe.json").write_text(json.dumps(older))
    begin(recipe, output)
    assert "cases_mark" in json.loads((output / "recipe.json").read_text("utf-8"))


def test_what_is_said_counts_the_parts_that_learn_and_all_there_are(weights, said):
    tensors = load_file(weights / "model.safetensors")  # input and output embeddings are one
    tower = sum(t.numel() for name, t in tensors.items() if "visual." in name)
    language = sum(t.numel() for name, t in tensors.items() if "visual." not in name)
    (warmup,) = [line for line in said if line.startswith("vision: ")]
    assert "learn: vision tower and projector" in warmup and ", read-outs beside the model" in warmup
    (line,) = [line for line in said if line.startswith("captions: ")]
    assert line.startswith(
        f"captions: {language:,} of {language + tower:,} parameters learn: language model {language:,};"
    )


def test_no_stage_can_have_the_name_of_what_else_a_run_leaves(small, weights):
    folder, recipe = small
    stages = {stage.name for stage in recipe.stages}
    left = {path.name for path in (folder / "output").iterdir() if path.is_dir()} - stages
    assert left == {"cases", "held_out", "tokenizer_cases", "seen", "weights"} < {*OF_THE_OUTPUT}


# --- the simulator's cases ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("simulate", {"colour": "red"}, "simulate: unrecognized arguments: --colour red"),
        ("held_out", {"task": ["rapport"]}, "held_out: no task is called 'rapport'; choose from report,"),
        ("held_out", {"rows": "many"}, "held_out: argument --rows: invalid int value: 'many'"),
        ("held_out", {"organ": "spleen"}, "held_out: the task report has no organ 'spleen'"),
        ("tokenizer_cases", {"task": ["plane", "report"]}, r"tokenizer_cases[0]: the tasks plane, report"),
    ],
)
def test_an_order_that_the_simulator_refuses_ends_before_anything_is_drawn(
    small, tmp_path, key, change, message, capsys
):
    folder, _ = small
    raw = yaml.safe_load((folder / "demo_qwen2_vl.yaml").read_text("utf-8"))
    order = raw[key][0] if key == "tokenizer_cases" else raw[key]
    order |= change
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(raw))
    assert main([str(recipe), "--output", str(tmp_path / "out")]) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert error.startswith(f"demo_qwen2_vl: {message}"), error
    assert not (tmp_path / "out").exists()


ORDER = {"cases": 2, "seed": 5, "task": ["plane"], "quiet": True}


def silent(line: str) -> None:
    pass


def test_an_order_that_was_interrupted_is_carried_out_anew(tmp_path):
    folder = tmp_path / "cases"
    simulated.simulate(ORDER, folder, silent)
    (folder / "cases.jsonl").rename(tmp_path / "whole.jsonl")
    (folder / "images" / "s5-000009-0.png").touch()
    said = []
    assert len(simulated.simulate(ORDER, folder, said.append)) == 2 and len(said) == 1
    assert (folder / "cases.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    assert not (folder / "images" / "s5-000009-0.png").exists()
    simulated.simulate(ORDER, folder, lambda line: pytest.fail("drawn again"))


def test_an_order_says_whose_its_folder_is_before_the_first_case_is_drawn(tmp_path, monkeypatch):
    def killed(command, **_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(simulated.subprocess, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            simulated.simulate(ORDER, tmp_path, silent)
    with pytest.raises(OtherRecipe, match="holds the cases of another recipe"):
        simulated.simulate(ORDER | {"seed": 6}, tmp_path, silent)


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_of_nobody_knows_which_order_is_refused(tmp_path, finished, capfd):
    folder = tmp_path / "cases"
    simulated.simulate(ORDER | {"seed": 6}, folder, silent)
    (folder / "order.json").unlink()
    if not finished:  # the simulator knows its own
        (folder / "cases.jsonl").unlink()
    refusal = (OtherRecipe, "no order.json says whose") if finished else (RecipeError, "ended with status 2")
    for _ in range(2):
        with pytest.raises(refusal[0], match=refusal[1]):
            simulated.simulate(ORDER, folder, silent)
        assert not (folder / "order.json").exists()
    assert finished or "is of another order (seed 6, now 5)" in capfd.readouterr().err


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


@pytest.mark.parametrize(
    ("power", "weights"),
    [(1.0, [1, 1, 1, 1, 1, 1, 1]), (0.0, [1, 1 / 4, 1 / 4, 1 / 4, 1 / 4, 1 / 2, 1 / 2]), (0.5, None)],
)
def test_a_turn_counts_by_a_power_of_its_words(power, weights):
    labels = torch.full((2, 9), IGNORED)
    labels[0, 2] = 7  # a turn of one word
    labels[0, 5:] = 8  # one of four, up to the end of its row
    labels[1, :2] = 9  # one of two, from the beginning of the next
    found = turn_weights(labels, power)
    assert torch.equal(found > 0, labels != IGNORED)
    counts = [1.0] + [4 ** (power - 1)] * 4 + [2 ** (power - 1)] * 2
    assert found[found > 0].tolist() == pytest.approx(weights or counts)


def test_with_the_power_one_the_weighted_loss_is_the_models_own(parts):
    _, cases, encoder, model = parts
    model.train()  # with the balance of the experts, Eq. 9
    model.config.text_config.output_router_logits = True
    plain, nearly, even = (
        Conversations("t", model, encoder, cases, None, turn_weight=power) for power in (1.0, 1 - 1e-9, 0.0)
    )
    batch = plain.batch([0, 1], running.np.random.default_rng(2))
    found = [task.loss(dict(batch)) for task in (plain, nearly, even)]
    own, same, other = (float(loss.detach()) for loss, _ in found)
    assert found[0][1]["balance"] > 0
    assert same == pytest.approx(own, rel=1e-5)
    assert other != pytest.approx(own, rel=1e-4)


def test_a_conversation_has_one_report_and_one_diagnosis_at_most():
    rows = [replace(CASE, id=str(i), task=task) for i, task in enumerate(["report", "diagnosis", "vqa"] * 4)]
    rng = running.np.random.default_rng(0)
    lengths = set()
    for _ in range(200):
        picked = [rows[i].task for i in pick_rows(rows, int(rng.integers(1, 6)), rng)]
        assert picked.count("report") <= 1 and picked.count("diagnosis") <= 1
        lengths.add(len(picked))
    assert lengths == {1, 2, 3, 4, 5}


def test_options_in_another_order_keep_their_words_and_the_answer_its_meaning():
    rng = running.np.random.default_rng(0)
    for answer, rest in (("C", ""), ("C. Kidney", ". Kidney")):
        found = [reordered(replace(LETTERED, answer=answer), rng) for _ in range(60)]
        for case in found:
            asked, *options = case.question.split("\n")
            assert asked == "Which? Reply only with the letter."
            assert [line[:3] for line in options] == ["A. ", "B. ", "C. ", "D. "]
            assert sorted(line[3:] for line in options) == ["breast", "heart", "kidney", "liver"]
            assert case.answer[1:] == rest and f"{case.answer[0]}. kidney" in options
        assert {case.answer[0] for case in found} == set("ABCD")
        assert len({case.question for case in found}) > 20
    for other in (replace(LETTERED, answer="none of these"), CASE):
        assert reordered(other, rng) is other


def test_a_lettered_question_is_put_in_as_many_orders_as_the_recipe_says(parts):
    _, cases, encoder, model = parts
    lettered = replace(LETTERED, images=cases[0].images, language="en")
    for orders in (1, 3):
        task = Conversations("t", model, encoder, [lettered], None, option_orders=orders)
        ids = task.batch([0], running.np.random.default_rng(1))["input_ids"][0]
        said = encoder.tokenizer.decode(ids)
        assert said.count("Which?") == orders
        assert len(set(said.split("Which?")[1:])) == orders


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


def test_recipes_on_the_shipped_weights_need_not_look_at_the_images_again(small, weights, echovlm):
    folder, _ = small
    (seen,) = (folder / "output/seen").glob("seen-*.npy")
    _, dense = running.open_base(echovlm[0])
    assert seen.stem == f"seen-{mark(dense.model.visual)}"


def sized(key: str, **changes) -> dict:
    """A change of the demo recipe's own sizes."""
    return {key: yaml.safe_load(RECIPE.read_text("utf-8"))[key] | changes}


CASE = Case("1", ("1.png",), question="?", answer="!")
LETTERED = replace(
    CASE,
    task="vqa",
    answer_type="closed",
    question="Which? Reply only with the letter.\nA. liver\nB. heart\nC. kidney\nD. breast",
    answer="C",
)
STAGE = {"name": "x", "kind": "captions", "schedule": {"steps": 1, "batch_size": 1, "learning_rate": 0.1}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer_cases": 3}, "tokenizer_cases: 3 is not a list"),
        ({"sed": 3}, "sed: unknown key"),
        ({"precision": "int3"}, "precision: 'int3'"),
        ({"stages": ["vision"]}, r"stages\[0\]: expected keys"),
        ({"stages": [STAGE, STAGE | {"name": "X"}]}, r"stages\[1\].name: two stages have the same name"),
        ({"vision": {"dephts": 6}}, r"recipe.yaml: vision.dephts: unknown key; known are depth, embed_dim"),
        ({"vision": {"hidden_size": 6}}, "vision.hidden_size: unknown key"),
        ({"vision": {"depth": 2.5}}, "vision.depth: 2.5 is not a whole number"),
        (
            {"text": {"hidden_size": 64, "layers": 6}},
            "text.layers: unknown key; .*num_hidden_layers.*rope_para",
        ),
        ({"text": {"hidden_size": 64, "vocab_size": 6}}, "text.vocab_size: unknown key"),
        (
            {"text": {"hidden_size": 64, "rope_parameters": 6}},
            "text.rope_parameters: 6 is not keys and values",
        ),
        ({"text": {"num_attention_heads": 1, "num_key_value_heads": 1}}, "text.hidden_size: not given"),
        (
            sized("text", num_attention_heads=3, num_key_value_heads=3),
            "text.num_attention_heads: hidden_size",
        ),
        (sized("text", num_key_value_heads=3), "text.num_key_value_heads: num_attention_heads, 4, cannot"),
        (sized("text", hidden_size=0), "text.hidden_size: 0 is not above zero"),
        (
            sized("text", rope_parameters={"mrope_section": [1, 2, 3]}),
            r"section: \[1, 2, 3\] does not add up to 32",
        ),
        (sized("text", rope_parameters={"mrope_section": [16, 16]}), r"\[16, 16\] is not a list of 3 whole"),
        (sized("vision", num_heads=5), "vision.num_heads: embed_dim, 192, cannot be shared evenly among 5"),
        (sized("vision", num_heads=96), "vision.num_heads: .* a multiple of 4 to each"),
        (sized("vision", depth=0), "vision.depth: 0 is not above zero"),
        ({"vocabulary": 267}, "vocabulary: 267 is less than 268"),
        ({"tokenizer_cases": [3]}, r"tokenizer_cases: \[3\] is not a list of keys and values"),
        ({"simulate": {"cases": 3}}, "simulate.labels: the kind vision_warmup needs the label maps"),
        ({"simulate": {"cases": 0}}, "simulate.cases: 0 is not a whole number above zero"),
        ({"held_out": {"seed": 3}}, "held_out.cases: None is not a whole number above zero"),
        ({"tokenizer_cases": [{"cases": "4"}]}, r"tokenizer_cases\[0\].cases: '4' is not a whole number"),
        ({"stages": [{"name": "x", "kind": "instruct", "schedule": {}}]}, r"stages\[0\]"),
        ({"stages": []}, "stages: at least one"),
        ({"stages": [{"name": "x", "kind": "magic"}]}, r"stages\[0\].kind: 'magic'"),
        (
            {"stages": [{"name": "x", "kind": "moe", "schedule": {"step": 1}}]},
            r"stages\[0\].schedule.step: unknown",
        ),
        (
            {"stages": [{"name": "x", "kind": "moe", "schedule": {"steps": 1}}]},
            r"stages\[0\].schedule: not given: batch_size, learning_rate$",
        ),
    ],
)
def test_a_wrong_recipe_names_the_key(tmp_path, change, message):
    raw = yaml.safe_load(RECIPE.read_text("utf-8")) | change
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(RecipeError, match=message):
        read_recipe(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision": {"depth": 6}}, "vision.depth: unknown key; known are .*num_hidden_layers"),
        ({"text": {"hiden_size": 6}}, "text.hiden_size: unknown key; known are .*model_type"),
        ({"text": {"model_type": "bert"}}, "text.model_type: 'bert' is not one of llama, mistral"),
        ({"ultra": {"sam_config": {"depth": 6}}}, "ultra.sam_config.depth: unknown key; known are .*mlp_dim"),
        ({"ultra": {"sam_config": 6}}, "ultra.sam_config: 6 is not keys and values"),
        ({"ultra": {"template": "vicuna_v1"}}, "ultra.template: unknown key"),
        ({"text": {"num_key_value_heads": 3}}, "text.num_key_value_heads: num_attention_heads, 32, cannot"),
        ({"ultra": {"sam_config": {"hidden_size": 70}}}, "sam_config.num_attention_heads: hidden_size, 70"),
        ({"groups": {"cases": 2}}, "groups.labels: the kind masks needs the label maps"),
    ],
)
def test_a_wrong_recipe_of_llava_ultra_names_the_key(tmp_path, change, message):
    raw = yaml.safe_load((RECIPES / "demo_llava_ultra.yaml").read_text("utf-8")) | change
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
    (tmp_path / "a.png").touch()
    out = str(tmp_path / "out")
    assert main([str(recipe), "--output", out, "--cases", str(cases)]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1

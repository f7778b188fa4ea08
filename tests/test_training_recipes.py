"""The papers' recipes: their numbers are the papers', wrong keys are named at once, and those whose model is
here run from published weights to a folder that opens."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from transformers import Qwen2VLForConditionalGeneration

from assistants.base import Turn, open_assistant
from assistants.echovlm import EchoVLMForConditionalGeneration
from imaging.case import Case, write_cases
from training.__main__ import main
from training.recipe import RecipeError, read_recipe
from training.stages import Instructions

RECIPES = Path(__file__).parents[1] / "training/recipes"
SMALL = {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 32}


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """A folder with dense weights, `dense`, and six cases with images of different sizes, `cases.jsonl`."""
    folder = tmp_path_factory.mktemp("material")
    tiny.save(folder / "dense", "qwen2_vl")
    cases = []
    for i in range(6):
        Image.fromarray(tiny.frame(84, 56 + 28 * (i % 3), seed=i).pixels).save(folder / f"{i}.png")
        asked = (
            ("report", None, "左叶回声均匀。", "zh") if i % 2 else ("plane", "Which plane?", "None.", "en")
        )
        task, question, answer, language = asked
        values = {"task": task, "question": question, "answer": answer, "language": language}
        cases.append(Case(f"case-{i}", (folder / f"{i}.png",), **values))
    write_cases(folder / "cases.jsonl", cases)
    return folder


def shortened(folder: Path, name: str, precision: str = "no") -> Path:
    """A recipe of the repository with two steps and, where it makes experts, tiny ones."""
    raw = yaml.safe_load((RECIPES / name).read_text("utf-8")) | {"precision": precision}
    raw.pop("abvlm_q", None)  # the cases here are no planes
    if "mixture" in raw:
        raw["mixture"] |= SMALL
    for stage in raw["stages"]:
        stage["schedule"].pop("epochs", None)
        stage["schedule"] |= {"steps": 2, "learning_rate": 0.01, "warmup_ratio": 0.0}
    path = folder / name
    path.write_text(yaml.safe_dump(raw))
    return path


def run(material: Path, folder: Path, name: str, base: Path, precision: str = "no", *more: str) -> Path:
    recipe = shortened(folder, name, precision)
    output = folder / name.removesuffix(".yaml")
    words = ["--base", str(base), "--cases", str(material / "cases.jsonl"), "--output", str(output)]
    assert main([str(recipe), *words, *more]) == 0
    return output


def opened(folder: Path, model_class) -> torch.nn.Module:
    return model_class.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module", params=["no", "bf16"])
def echovlm(request, material, tmp_path_factory) -> tuple[Path, Path]:
    """The outputs of EchoVLM's two stages, one after the other."""
    folder = tmp_path_factory.mktemp(f"echovlm-{request.param}")
    first = run(material, folder, "echovlm_stage1.yaml", material / "dense", request.param)
    return first, run(material, folder, "echovlm_stage2.yaml", first / "weights", request.param)


def test_echovlm_stage_one_changes_the_mixture_alone(echovlm, material):
    first, _ = echovlm
    dense = opened(material / "dense", Qwen2VLForConditionalGeneration)
    model = opened(first / "weights", EchoVLMForConditionalGeneration)
    fresh = EchoVLMForConditionalGeneration.from_dense(dense)
    tolerance = 0.0 if "bf16" not in str(first) else 0.01  # what is frozen was read and written in bfloat16
    changed = 0
    for name, tensor in model.state_dict().items():
        if ".mlp." in name and "language_model" in name and ".mlp.ffn." not in name:
            changed += 1
        else:
            assert torch.allclose(tensor, fresh.state_dict()[name], rtol=tolerance, atol=0), name
    assert changed and model.config.text_config.moe_intermediate_size == 16
    assert (first / "stage1/log.csv").parent.joinpath("done").exists()


def test_echovlm_stage_two_answers(echovlm, material):
    first, second = echovlm
    before = opened(first / "weights", EchoVLMForConditionalGeneration).state_dict()
    after = opened(second / "weights", EchoVLMForConditionalGeneration).state_dict()
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    for part in ("self_attn.q_proj", "visual.merger.mlp.0", "visual.blocks.0.attn.qkv", "mlp.experts"):
        assert any(part in name for name in moved), part
    assert not any(name in "embed_tokens patch_embed lm_head mlp.ffn" for name in moved)
    assistant = open_assistant("echovlm", str(second / "weights"), device="cpu")
    *_, reply = assistant.stream(Turn("", (tiny.frame(),), "report", None, "zh"))
    assert reply.finished


def test_the_same_run_again_does_nothing_and_says_so(echovlm, material, capsys):
    first, _ = echovlm
    name = "echovlm_stage1.yaml"
    words = ["--base", str(material / "dense"), "--cases", str(material / "cases.jsonl")]
    recipe = str(first.parent / name)
    assert main([recipe, *words, "--output", str(first)]) == 2
    assert "is not empty: go on with --resume" in capsys.readouterr().err
    assert main([recipe, *words, "--output", str(first), "--resume"]) == 0
    assert "stage1: done before" in capsys.readouterr().out


def test_abvlm_q_ships_an_adapter_that_answers_as_the_merged_weights_do(material, tmp_path):
    output = run(material, tmp_path, "abvlm_q_lora.yaml", material / "dense")
    merged = opened(output / "weights", Qwen2VLForConditionalGeneration)
    base = opened(material / "dense", Qwen2VLForConditionalGeneration)
    batch = {"input_ids": torch.arange(20, 60)[None], "attention_mask": torch.ones(1, 40, dtype=torch.long)}
    with torch.no_grad():
        wanted, plain = merged(**batch).logits, base(**batch).logits
        adapted = PeftModel.from_pretrained(base, output / "adapter").eval()
        loose = adapted(**batch).logits
        melted = adapted.merge_and_unload()(**batch).logits
    assert torch.allclose(loose, wanted, atol=1e-5) and torch.allclose(melted, wanted, atol=1e-5)
    assert not torch.allclose(plain, wanted, atol=1e-3)
    assert (adapted.peft_config["default"].r, adapted.peft_config["default"].lora_alpha) == (16, 32)


def test_sigterm_ends_the_command_with_a_sentence_and_resume_goes_on(material, tmp_path, capsys, monkeypatch):
    whole = run(material, tmp_path, "abvlm_q_lora.yaml", material / "dense")
    recipe, output = str(tmp_path / "abvlm_q_lora.yaml"), tmp_path / "stopped"
    words = [
        "--base",
        str(material / "dense"),
        "--cases",
        str(material / "cases.jsonl"),
        "--output",
        str(output),
    ]
    learn = Instructions.loss

    def stopping(self, batch):
        os.kill(os.getpid(), signal.SIGTERM)
        return learn(self, batch)

    with monkeypatch.context() as once:
        once.setattr(Instructions, "loss", stopping)
        assert main([recipe, *words]) == 143
    assert "lora: stopped after step 1; go on with --resume" in capsys.readouterr().err
    assert main([recipe, *words, "--resume"]) == 0
    ours, theirs = (load_file(each / "weights/model.safetensors") for each in (output, whole))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


# --- the papers' numbers -----------------------------------------------------------------------------------


TABLE_8 = {"max_length": 32768, "max_pixels": 392 * 392, "precision": "bf16", "gradient_checkpointing": True}


@pytest.mark.parametrize(
    ("name", "lora", "schedule", "whole"),
    [
        (
            "echovlm_stage1.yaml",
            None,
            {"learning_rate": 1e-3, "warmup_ratio": 0.03, "weight_decay": 0.0, "epochs": 1, "batch_size": 1},
            {
                "max_length": 32768,
                "max_pixels": 392 * 392,
                "precision": "bf16",
                "gradient_checkpointing": True,
            },
        ),
        (
            "echovlm_stage2.yaml",
            (8, 16, 0.05),
            {"learning_rate": 2e-5, "warmup_ratio": 0.03, "weight_decay": 0.0, "epochs": 1, "batch_size": 1},
            {
                "max_length": 32768,
                "max_pixels": 392 * 392,
                "precision": "bf16",
                "gradient_checkpointing": True,
            },
        ),
        (
            "abvlm_q_lora.yaml",
            (16, 32, 0.05),
            {"learning_rate": 4e-5, "steps": 20460, "batch_size": 2},
            {"base": "Qwen/Qwen2-VL-2B-Instruct", "precision": "bf16", "abvlm_q": {"prompt": "full"}},
        ),
        ("llava_ultra_align.yaml", None, {"learning_rate": 1e-3, "weight_decay": 0.0}, {}),
        ("llava_ultra_instruct.yaml", (128, 256, 0.05), {"learning_rate": 1e-3, "weight_decay": 0.0}, {}),
        ("demo_echovlm.yaml", (8, 16, 0.05), {}, {"precision": "bf16"}),
    ],
)
def test_the_numbers_are_the_papers(name, lora, schedule, whole):
    recipe = read_recipe(RECIPES / name)
    stage = recipe.stages[-1]
    found = stage.lora and (stage.lora.rank, stage.lora.alpha, stage.lora.dropout)
    assert found == lora
    assert {key: getattr(stage.schedule, key) for key in schedule} == schedule
    assert {key: getattr(recipe, key) for key in whole} == whole


def test_the_mixture_is_table_8():
    mixture = read_recipe(RECIPES / "echovlm_stage1.yaml").mixture
    assert mixture == {
        "mixing": "released",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "router_aux_loss_coef": 0.001,
    }


@pytest.mark.parametrize("name", ["llava_ultra_align.yaml", "llava_ultra_instruct.yaml"])
def test_llava_ultra_takes_16_samples_a_step_on_the_papers_four_gpus(name):
    assert read_recipe(RECIPES / name).stages[0].schedule.samples_a_step(processes=4) == 16


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_key_is_explained_where_it_stands(path):
    """A comment beside or above every key that holds a value; keys of other libraries' settings may share."""
    previous = ""
    for line in path.read_text("utf-8").splitlines():
        is_key = ":" in line.split("#")[0] and not line.split("#")[0].rstrip().endswith(":")
        if is_key and "- name" not in line and not line.strip().startswith("- {"):
            assert "#" in line or previous.strip().startswith("#"), f"{path.name}: {line}"
        previous = line
    assert path.stem == read_recipe(path).name


# --- wrong recipes -----------------------------------------------------------------------------------------


def stage(**changes) -> dict:
    schedule = {"steps": 1, "batch_size": 1, "learning_rate": 0.1} | changes.pop("schedule", {})
    return {"stages": [{"name": "x", "kind": "moe", "schedule": schedule} | changes]}


LORA = {"rank": 8, "alpha": 16, "dropout": 0.05, "targets": "x"}
INSTRUCT = stage(name="y", kind="instruct", lora=LORA)["stages"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"simulate": {"cases": 3}}, "simulate, cases: give one of the two"),
        ({"cases": None}, "simulate, cases: give one of the two"),
        ({"cases": 7}, "cases: 7 is not a text or a list of texts"),
        ({"cases": [3]}, r"cases: \[3\] is not a text or a list of texts"),
        ({"cases": []}, r"cases: \[\] is not a file or several"),
        ({"cases": ["a", ""]}, r"cases: \['a', ''\] is not a file or several"),
        ({"base": ""}, "base: '' is not a folder or a Hugging Face id"),
        ({"mixture": {"moe_intermediate_size": -8}}, "mixture.moe_intermediate_size: -8 is not above zero"),
        ({"mixture": {"router_aux_loss_coef": -1}}, "mixture.router_aux_loss_coef: -1 is not zero or more"),
        ({"stages": [INSTRUCT, stage()["stages"][0]]}, "stages: .* put moe before it"),
        ({"base": None}, "base, or all of vocabulary, vision and text"),
        ({"vocabulary": 300}, "base: it brings its own vocabulary"),
        ({"mixture": {"experts": 4}}, "mixture.experts: unknown key; known are .*num_experts"),
        ({"mixture": {"num_experts": "four"}}, "mixture.num_experts: 'four' is not a whole number"),
        ({"mixture": {"num_experts": 1}}, "mixture: num_experts_per_tok is 2, not between 1 and num_experts"),
        ({"name": "../esc"}, r"name: '\.\./esc' is not a name of letters"),
        ({"name": "a/b"}, "name: 'a/b' is not a name of letters"),
        ({"name": ".."}, r"name: '\.\.' is not a name of letters"),
        ({"name": ""}, "name: '' is not a name of letters"),
        ({"seed": -1}, "(?<=yaml: )seed: -1 is not zero or more"),
        ({"seed": "one"}, "(?<=yaml: )seed: 'one' is not a whole number"),
        ({"held_out": {"cases": 3}}, "held_out, familiarity_quantile: give both or neither"),
        ({"max_length": 0}, "max_length: 0 is not above zero"),
        ({"max_length": "long"}, "max_length: 'long' is not a whole number"),
        ({"gradient_checkpointing": "on please"}, "gradient_checkpointing: 'on please' is not true or false"),
        ({"base": None, "vocabulary": 9, "vision": {}, "text": {}, "mixture": None}, "mixture: the kind moe"),
        (stage(schedule={"learning_rate": "1e-3"}), r"stages\[0\].schedule.learning_rate: '1e-3' .*1\.0e-3"),
        (stage(schedule={"learning_rate": -0.1}), r"learning_rate: -0.1 is not above zero"),
        (stage(schedule={"learning_rate": 0}), r"learning_rate: 0 is not above zero"),
        (stage(schedule={"learning_rate": float("inf")}), "learning_rate: inf is not finite"),
        (stage(schedule={"learning_rate": float("nan")}), "learning_rate: nan is not finite"),
        (stage(schedule={"weight_decay": -0.1}), "weight_decay: -0.1 is not zero or more"),
        (stage(schedule={"minutes": 0}), "minutes: 0 is not above zero"),
        (stage(schedule={"minutes": float("inf")}), "minutes: inf is not finite"),
        (stage(schedule={"gradient_clip": -1}), "gradient_clip: -1 is not above zero"),
        (stage(schedule={"seed": -1}), r"stages\[0\].schedule.seed: -1 is not zero or more"),
        (
            stage(schedule={"betas": [0.9, 1.0]}),
            r"betas: \[0.9, 1.0\] is not made of numbers from 0 to below",
        ),
        (stage(schedule={"betas": [-0.1, 0.9]}), r"betas: \[-0.1, 0.9\] is not made of numbers"),
        (stage(schedule={"betas": [0.9, float("nan")]}), r"betas: \[0.9, nan\] is not made of numbers"),
        (stage(schedule={"epochs": 1}), r"stages\[0\].schedule: steps, epochs: give one of the two"),
        (stage(schedule={"steps": None}), r"stages\[0\].schedule: steps, epochs: give one of the two"),
        (stage(schedule={"batch_size": 1.5}), r"batch_size: 1.5 is not a whole number"),
        (stage(schedule={"batch_size": True}), r"batch_size: True is not a whole number"),
        (stage(schedule={"betas": [0.9]}), r"schedule.betas: \[0.9\] is not a list of 2 numbers"),
        (stage(schedule={"warmup_ratio": 1}), r"warmup_ratio: 1 is not from 0 to below 1"),
        ({"stages": [{"name": "x", "kind": "moe", "schedule": [1]}]}, r"stages\[0\].schedule: expected keys"),
        (stage(lora=LORA), r"stages\[0\].lora: the kind moe has none"),
        (stage(kind="lora"), r"stages\[0\].lora: the kind lora needs it"),
        (stage(kind="lora", lora=LORA | {"targets": "("}), r"lora.targets: '\(' is not a regular expression"),
        (stage(kind="lora", lora=LORA | {"dropout": 2}), r"lora.dropout: 2 is not from 0 to below 1"),
        (stage(kind="lora", lora={"rank": 8}), r"stages\[0\].lora: not given: alpha, dropout, targets$"),
        (stage(name="../esc"), r"stages\[0\].name: '\.\./esc' is not a name of letters"),
        (stage(name=["x"]), r"stages\[0\].name: \['x'\] is not a text"),
        (stage(name="weights"), r"stages\[0\].name: weights is another folder of the output"),
        (stage(name="Seen"), r"stages\[0\].name: seen is another folder of the output"),
        (stage(kind="lora", lora="full"), r"stages\[0\].lora: expected keys and values"),
    ],
)
def test_a_wrong_recipe_names_the_key(tmp_path, change, message):
    raw = yaml.safe_load((RECIPES / "echovlm_stage1.yaml").read_text("utf-8")) | change
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(RecipeError, match=f"recipe.yaml: .*{message}"):
        read_recipe(path)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("echovlm_stage1.yaml", ["--cases", "nowhere.jsonl"], "cases: there is no file nowhere.jsonl"),
        ("echovlm_stage1.yaml", ["--publish"], "weights: --publish needs a place"),
        ("echovlm_stage1.yaml", ["--base", "not/a/folder"], "not/a/folder is neither a folder nor"),
        ("echovlm_stage2.yaml", [], "base: .* has no mixture of experts"),
        ("nothing.yaml", [], "nothing.yaml"),
    ],
)
def test_a_wrong_start_is_one_sentence(material, tmp_path, capsys, name, words, message):
    recipe = shortened(tmp_path, name) if (RECIPES / name).exists() else tmp_path / name
    given = ["--base", str(material / "dense"), "--cases", str(material / "cases.jsonl")]
    assert main([str(recipe), *given, "--output", str(tmp_path / "out"), *words]) == 2
    said = capsys.readouterr().err
    error = said.splitlines()[-1]
    assert "Traceback" not in said
    assert re.search(message, error), error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the recipe cannot be read: No such file or directory"),
        (b"", "the recipe is empty"),
        (b"# nothing but this\n", "the recipe is empty"),
        ("name: 超声".encode("gb18030"), "the recipe is not UTF-8 text: invalid start byte"),
        (b"name: [a\nseed: 1\n", "the recipe is not YAML: .* line 2"),
        (b"- a\n", "expected keys and values, found list"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_sentence(tmp_path, capsys, content, message):
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)
    assert main([str(path), "--output", str(tmp_path / "out")]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert re.match(f"{re.escape(str(path))}: {message}", error), error


@pytest.mark.parametrize("base", ["not/a/folder", "dense"])
def test_a_wrong_base_is_named_before_anything_is_drawn(material, tmp_path, capsys, base):
    """The second stage alone, on weights without experts, and on none at all."""
    raw = yaml.safe_load((RECIPES / "demo_echovlm.yaml").read_text("utf-8"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(raw | {"stages": raw["stages"][1:]}))
    place = str(material / base) if base == "dense" else base
    assert main([str(recipe), "--base", place, "--output", str(tmp_path / "out")]) == 2
    said = "has no mixture of experts" if base == "dense" else "is neither a folder nor"
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_missing_image_is_named_before_the_start_and_a_broken_one_is_a_sentence(material, tmp_path, capsys):
    recipe = shortened(tmp_path, "echovlm_stage1.yaml")
    here, there = tmp_path / "here.png", tmp_path / "gone.png"
    words = [str(recipe), "--base", str(material / "dense"), "--cases", str(tmp_path / "cases.jsonl")]
    words += ["--output", str(tmp_path / "out")]
    here.write_text("no picture")
    asked = {"task": "report", "answer": "左叶回声均匀。", "language": "zh"}
    write_cases(tmp_path / "cases.jsonl", [Case("case-7", (here, there), **asked)])
    assert main(words) == 2
    assert f"case case-7: there is no image {there}\n" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    there.write_text("no picture either")
    assert main(words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert ".png" in error and "Traceback" not in error


def test_a_mixture_that_the_base_has_not_got_is_named(echovlm, material, tmp_path, capsys):
    first, _ = echovlm
    recipe = shortened(tmp_path, "echovlm_stage1.yaml")
    recipe.write_text(recipe.read_text().replace("num_experts: 4", "num_experts: 8"))
    words = ["--base", str(first / "weights"), "--cases", str(material / "cases.jsonl")]
    assert main([str(recipe), *words, "--output", str(tmp_path / "out")]) == 2
    assert "mixture.num_experts: 8, but the base has 4" in capsys.readouterr().err

"""LLaVA-Ultra is taught: a stage gives gradients to what it names and to nothing else, the teacher
chooses the frame, stored features stand in for the towers, and recipes run from nothing, or from a tiny
LLaVA-Med, to a folder that opens."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import ultra
import yaml
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from assistants.base import Settings, Turn
from assistants.llava_ultra.assistant import LlavaUltraAssistant
from assistants.llava_ultra.encoding import Encoder
from assistants.llava_ultra.images import encode_frames
from assistants.llava_ultra.published import open_published
from benchmarks import llava_ultra_selection as selection
from imaging.case import Case, CaseError, read_cases, write_cases
from imaging.files import load_frames
from models.familiarity import Familiarity
from training import run as running
from training.__main__ import main
from training.contrast import Contrast, caption
from training.conversation import as_turn, without_copies
from training.frames import Examinations, SeenFrames, standing_in
from training.masks import LESION, LESION_SHARE, LESION_WEIGHT, Masks, label_map, place_weights, vary
from training.recipe import Lora, RecipeError, read_recipe
from training.simulated import read_labels
from training.stages import CHOICE, FUSION, LANGUAGE, changed_by, freeze, with_lora

RECIPES = Path(__file__).parents[1] / "training/recipes"
INSTRUCT = read_recipe(RECIPES / "llava_ultra_instruct.yaml").stages[0]
TINY_LORA = Lora(rank=2, alpha=4, dropout=0.0, targets=INSTRUCT.lora.targets)
SIZES = {
    "vocabulary": 600,
    "vision": ultra.VISION,
    "text": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
    },
    "ultra": {"projector_type": "linear", "sam_config": ultra.SAM | {"image_size": 64}},
}


def toy(folder: Path, **changes) -> Path:
    """The demo recipe at toy size, two steps a stage, written under `folder`."""
    raw = yaml.safe_load((RECIPES / "demo_llava_ultra.yaml").read_text("utf-8"))
    raw |= {"weights": str(folder / "shipped"), "precision": "no"} | SIZES | changes
    raw["simulate"] |= {"cases": 4, "rows": 1, "workers": 1, "quiet": True}
    raw["groups"] |= {"cases": 3, "rows": 3, "workers": 1, "quiet": True}
    raw["held_out"] |= {"cases": 3, "workers": 1, "quiet": True}
    for stage in raw["stages"]:
        stage["schedule"] |= {"steps": 2, "batch_size": 2, "checkpoint_every": 1}
    path = folder / "demo_llava_ultra.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, Path, list[str]]:
    """The toy recipe, the output of its run, and what was said."""
    folder = tmp_path_factory.mktemp("demo")
    path, said = toy(folder), []
    running.run(read_recipe(path), folder / "output", say=said.append)
    return path, folder / "output", said


@pytest.fixture(scope="module")
def cases(demo) -> list[Case]:
    return [case for order in ("cases", "groups") for case in read_cases(demo[1] / order / "cases.jsonl")]


@pytest.fixture
def parts(demo, cases):
    """Encoder and model as the language stage finds them."""
    recipe = read_recipe(demo[0])
    return running.fresh_ultra(recipe, cases)


# --- from nothing ------------------------------------------------------------------------------------------


def test_the_finished_folder_opens_and_writes(demo, cases):
    shipped = demo[1] / "weights"
    opened = open_published(shipped)
    model, encoder = opened.model, Encoder.open(shipped, opened.model.config)
    assert opened.layout == "own" and (shipped / running.DEMO_MARK).is_file()
    assert model.config.template == "chatml" and model.config.sam_config is not None
    frames = load_frames(cases[-1].images)
    images = model.image_features(**encode_frames(frames, model.config))
    scores = model.feature_scores(images)
    turn = turn_of(cases[-1])
    encoded = encoder.encode([turn])
    with torch.no_grad():
        ids = model.generate(**encoded, image_features=images[scores.argmax()][None], max_new_tokens=3)
    assert ids.shape[1] > encoded["input_ids"].shape[1]


def test_the_finished_folder_knows_its_training_images_from_others(demo, cases):
    assistant = LlavaUltraAssistant.open(str(demo[1] / "weights"), device="cpu")
    familiarity = Familiarity.load(demo[1] / "weights")
    known = load_frames(cases[-1].images)
    noise = [replace(known[0], pixels=np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8))]
    near, far = (familiarity.distance(assistant.appearance(frames)).max() for frames in (known, noise))
    assert far > max(near, familiarity.threshold)
    reply = list(assistant.stream(Turn("Q?", tuple(noise)), (), Settings(max_new_tokens=2)))[-1]
    assert reply.unfamiliar == (0,)


def turn_of(case: Case) -> Turn:
    return as_turn(replace(case, task="vqa"), 1, np.random.default_rng(0))


def test_every_stage_changed_what_it_names_and_said_how_much(demo):
    output, said = demo[1], demo[2]
    of = {name: set(load_file(output / name / "model.safetensors")) for name in STAGES}
    assert all(name.startswith("model.vision_tower.") for name in of["clip"])
    assert all(name.startswith("model.sam_tower.") for name in of["sam"])
    assert {name.split(".")[1] for name in of["language"]} == {"fusion", "language_model"}
    assert {name.split(".")[1] for name in of["align"]} == {"fusion"} and "model.fusion.alpha" in of["align"]
    assert {name.split(".")[1] for name in of["instruct"]} == {"fusion", "language_model", "frame_score"}
    assert not any("embed_tokens" in name or "norm" in name for name in of["instruct"])
    for name in STAGES:
        assert any(line.startswith(f"{name}: ") and "parameters learn" in line for line in said), name
    assert any("frame score 64" in line for line in said)


STAGES = ("clip", "sam", "language", "align", "instruct")


def test_a_second_run_does_nothing_again(demo, monkeypatch):
    monkeypatch.setattr(running, "train", lambda *_, **__: pytest.fail("trained again"))
    said = []
    running.run(read_recipe(demo[0]), demo[1], say=said.append)
    assert [line for line in said if "done before" in line] == [f"{name}: done before" for name in STAGES]


# --- who learns --------------------------------------------------------------------------------------------


def learned(task) -> set[str]:
    """Names of the parameters that a backward pass gives a gradient."""
    task.module.train()
    loss, figures = task.loss(task.batch([0, len(task) - 1], np.random.default_rng(0)))
    loss.backward()
    assert all(np.isfinite(value) for value in figures.values())
    return {name for name, p in task.module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("pattern", "tops"),
    [(LANGUAGE, {"model.fusion", "model.language_model"}), (FUSION, {"model.fusion"})],
)
def test_one_frame_teaches_what_the_stage_names(parts, cases, pattern, tops):
    encoder, model = parts
    freeze(model, pattern)
    names = learned(Examinations("t", model, encoder, cases))
    assert names == {name for name, p in model.named_parameters() if p.requires_grad}
    assert {".".join(name.split(".")[:2]) for name in names} == tops


@pytest.mark.parametrize("distillation", [1.0, 0.0])
def test_the_choice_teaches_lora_fusion_and_score(parts, cases, distillation):
    encoder, model = parts
    wrapped = with_lora(model, TINY_LORA, 0, CHOICE)
    groups = [case for case in cases if "findings" in case.extra]
    names = learned(Examinations("t", wrapped, encoder, groups, distillation=distillation))
    assert all("lora_" in name or CHOICE.search(name) for name in names)
    assert {name.split(".frame_score.")[1] for name in names if "frame_score" in name} == {
        "token_query",
        "channel_weight",
    }
    gradients = {name: p.grad.abs().sum() for name, p in wrapped.named_parameters() if p.grad is not None}
    assert next(value for name, value in gradients.items() if "channel_weight" in name) > 0
    assert "model.frame_score.channel_weight" in changed_by(wrapped)


def test_eq_5_gives_no_gradient_to_the_projectors(parts, cases):
    encoder, model = parts
    groups = [case for case in cases if "findings" in case.extra]
    task = Examinations("t", model, encoder, groups, distillation=1.0)
    batch = task.batch([0, 1], np.random.default_rng(0))
    features = model.image_features(batch["pixel_values"], batch["sam_pixel_values"])
    _, distilled, _ = task._choose(features.split(batch["counts"].tolist()), batch)
    distilled.backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        "model.frame_score.token_query",
        "model.frame_score.channel_weight",
    }


# --- which frame -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [0, 1])
def test_the_language_model_reads_the_frame_the_teacher_names(parts, cases, monkeypatch, wanted):
    encoder, model = parts
    group = [case for case in cases if "findings" in case.extra][:1]
    task = Examinations("t", model, encoder, group, distillation=1.0)
    batch = task.batch([0], np.random.default_rng(0))
    seen = []

    def teacher(features, findings):
        seen.append(encoder.decode(findings.tolist()))
        return torch.eye(len(features))[wanted]

    monkeypatch.setattr(model, "attention_scores", teacher)
    features = model.image_features(batch["pixel_values"], batch["sam_pixel_values"])
    kept, distilled, figures = task._choose([features], batch)
    assert torch.equal(kept[0], features[wanted])
    assert seen == [group[0].extra["findings"]]  # and not the question or the answer
    assert figures["chosen_valid"] == float(wanted in group[0].valid_images)
    assert float(distilled.detach()) == pytest.approx(np.log(len(features)), rel=1e-5)  # an untrained score


@pytest.mark.parametrize("sharpness", [1.0, 4.0])
def test_sharpness_is_a_power_of_the_teachers_shares(parts, cases, monkeypatch, sharpness):
    encoder, model = parts
    group = [case for case in cases if "findings" in case.extra][:1]
    task = Examinations("t", model, encoder, group, distillation=1.0, sharpness=sharpness)
    batch = task.batch([0], np.random.default_rng(0))
    features = torch.randn(3, ultra.TOKENS, 32)
    model.model.frame_score.channel_weight.data.normal_()
    shares = torch.tensor([0.5, 0.3, 0.2])
    monkeypatch.setattr(model, "attention_scores", lambda features, findings: shares.log())
    batch |= {"counts": torch.tensor([3]), "valid": torch.tensor([1, 0, 0])}
    _, distilled, _ = task._choose([features], batch)
    target = shares**sharpness / (shares**sharpness).sum()
    wanted = -(target * model.feature_scores(features).log_softmax(0)).sum()
    assert float(distilled.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)


def test_the_score_and_nothing_else_learns_faster(parts, cases):
    encoder, model = parts
    task = Examinations("t", model, encoder, cases[:1], distillation=1.0, score_rate=5.0)
    faster = [name for name, _ in model.named_parameters() if any(part in name for part in task.rates)]
    assert {name.rpartition(".")[2] for name in faster} == {"token_query", "channel_weight"}
    assert set(task.rates.values()) == {5.0}


def test_a_case_without_findings_is_compared_with_its_report_or_its_answer(parts, cases):
    encoder, model = parts
    report = replace(cases[0], extra={})
    question = replace(report, id="q", task="vqa", question="Is there a lesion?", answer="No")
    for rows, text in (([question], "No"), ([question, report], report.answer)):
        task = Examinations("t", model, encoder, rows, distillation=1.0)
        for seed in range(6):  # whichever row comes first
            findings = task.batch([0], np.random.default_rng(seed))["findings"][0]
            assert encoder.decode(findings.tolist()) == text


def test_findings_longer_than_the_context_name_their_case_and_both_numbers(parts, cases):
    encoder, model = parts
    case = replace(cases[0], id="long", extra={"findings": "low echo " * 3000})
    task = Examinations("t", model, encoder, [case], distillation=1.0)
    with pytest.raises(CaseError, match=r"case long: its findings: The text has \d{4,} tokens.*at most 4096"):
        task.batch([0], np.random.default_rng(0))


def test_the_teacher_is_asked_without_dropout(parts, cases):
    encoder, model = parts
    wrapped = with_lora(model, replace(TINY_LORA, dropout=0.5), 0, CHOICE)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    task = Examinations("t", wrapped, encoder, cases, distillation=1.0)
    wrapped.train()
    twice = torch.randn(1, ultra.TOKENS, 32).expand(2, -1, -1)
    (scores,) = task._teachers([twice], encoder.words("low echo")[None])
    assert scores[0] == pytest.approx(scores[1].item(), abs=1e-6) and wrapped.training


def test_no_conversation_asks_for_a_second_report_or_diagnosis(cases):
    tasks = ["report", "diagnosis", "vqa"] * 2
    rows = [replace(cases[0], id=str(i), task=task) for i, task in enumerate(tasks)]
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(rows))
        asked = sorted(rows[i].task for i in without_copies(rows, order))
        assert asked == ["diagnosis", "report", "vqa", "vqa"]


def test_one_frame_is_one_that_shows_the_finding(parts, cases):
    encoder, model = parts
    group = [case for case in cases if "findings" in case.extra]
    task = Examinations("t", model, encoder, group)
    rng = np.random.default_rng(0)
    valid = [set(rows[0].valid_images) for rows in task.examinations]
    assert len(valid) == 3 and any(valid)
    for rows, frames in zip(task.examinations, valid, strict=True):
        shown = {task._shown(rows[0], rng)[0] for _ in range(200)}
        assert shown == (frames or set(range(len(rows[0].images))))


def test_stored_features_stand_in_for_the_towers(parts, cases, tmp_path):
    encoder, model = parts
    model.eval()
    live = Examinations("t", model, encoder, cases, distillation=1.0)
    batch = live.batch([4, 5], np.random.default_rng(2))
    with torch.no_grad():
        loss = float(live.loss(batch)[0])
        seen = SeenFrames(tmp_path, model.model, encoder, cases)
        towers = model.model.vision_tower, model.model.sam_tower
        with standing_in(model.model, seen):
            stored = Examinations("t", model, encoder, cases, distillation=1.0, seen=seen)
            same = stored.batch([4, 5], np.random.default_rng(2))
            assert float(stored.loss(same)[0]) == pytest.approx(loss, abs=0.02)
    assert (model.model.vision_tower, model.model.sam_tower) == towers
    assert torch.equal(same["input_ids"], batch["input_ids"])
    again = SeenFrames(tmp_path, model.model, encoder, cases)  # found again, not computed again
    assert np.array_equal(again.features["pixel_values"], seen.features["pixel_values"])


# --- the towers --------------------------------------------------------------------------------------------


def test_captions_say_what_their_image_shows(cases):
    group = next(case for case in cases if "findings" in case.extra)
    lesion = group.extra["examination"]["lesion"]
    for i in range(len(group.images)):
        said = caption(group, i, "en")
        assert ("no lesion" in said) == (i not in group.valid_images)
        assert (f"{lesion['kind']} lesion" in said) == (i in group.valid_images)
    assert "病灶" in caption(group, 0, "zh")


def test_a_few_steps_of_contrast_find_the_captions(parts, cases):
    encoder, model = parts
    task = Contrast(model.model.vision_tower, encoder, cases)
    batch = task.batch(range(len(task)), np.random.default_rng(0))
    assert batch["facts"].shape[0] == batch["pixels"].shape[0] == batch["ids"].shape[0]
    assert falls(task, batch)
    assert model.model.vision_tower.embeddings.patch_embedding.weight.grad.abs().sum() > 0


def test_a_few_steps_lower_the_loss_of_the_masks(parts, cases):
    encoder, model = parts
    task = Masks(model.model.sam_tower, encoder, cases)
    batch = task.batch(range(len(task) - 6, len(task)), np.random.default_rng(0))
    assert batch["tissue"].shape == (6, task.side, task.side) and (batch["tissue"] >= LESION).any()
    assert batch["tissue"].max() < task.classes
    assert falls(task, batch)


def test_a_lesions_places_say_its_kind(parts, cases, monkeypatch):
    encoder, model = parts
    task = Masks(model.model.sam_tower, encoder, cases)
    monkeypatch.setattr("training.masks.vary", lambda pixels, labels, rng: (pixels, labels))
    for i, (case, image) in enumerate(task.images):
        found = set(task.batch([i], np.random.default_rng(0))["tissue"].unique().tolist())
        labels = label_map(read_labels(case, image), task.side)
        lesion = case.extra["examination"]["lesion"]
        kinds = {LESION + task.kinds.index(lesion["kind"])} if LESION in labels else set()
        assert {each for each in found if each >= LESION} == kinds


def falls(task, batch) -> bool:
    optimizer = torch.optim.AdamW([p for p in task.module.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(25):
        loss, _ = task.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses[-1] < 0.9 * losses[0]


def test_no_picture_is_shown_twice_alike_and_its_label_map_goes_along():
    labels = np.random.default_rng(1).integers(0, 2, (60, 90), np.uint8)
    pixels = np.repeat(100 * labels[..., None], 3, axis=2)
    shapes, levels = set(), set()
    for seed in range(40):
        seen, own = vary(pixels, labels, np.random.default_rng(seed))
        assert seen.shape == (*own.shape, 3) and seen.dtype == np.uint8
        assert np.array_equal(seen[..., 0] > 0, own == 1)
        shapes.add(own.shape)
        levels.add(int(seen.max()))
    assert (60, 90) in shapes and len(shapes) > 10 and len(levels) > 10
    assert min(height for height, _ in shapes) >= 41 and min(levels) > 60 and max(levels) < 140


def test_a_label_map_lies_where_its_picture_does():
    labels = np.zeros((10, 20), np.uint8)
    labels[:, :10] = LESION
    found = label_map(labels, 20)
    assert (found[5:15, :10] == LESION).all() and (found == LESION).sum() == 100


def test_a_lesion_between_the_middles_of_its_places_is_not_lost():
    labels = np.zeros((40, 40), np.uint8)
    labels[3:5, 3:9] = LESION  # the middles are 2, 6, 10 ...: 2 x 1, 2 x 4 and 2 x 1 pixels of 4 x 4
    found = label_map(labels, 10)
    assert set(zip(*np.nonzero(found), strict=True)) == {(0, 1), (1, 1)} and found.max() == LESION


def test_a_small_lesion_counts_as_a_share_of_its_picture():
    lesion = torch.zeros(3, 50, 50, dtype=torch.bool)
    lesion[1, 7, 7:9] = True  # two places of 2500
    lesion[2, :20] = True
    weights = place_weights(lesion)
    assert torch.equal(weights[0], torch.ones(50, 50))
    assert float(weights[1][lesion[1]].sum()) == pytest.approx(LESION_SHARE * 2500)
    assert set(weights[2].unique().tolist()) == {1.0, LESION_WEIGHT}


@pytest.mark.parametrize(("kind", "missing"), [(Contrast, "examination"), (Masks, "labels")])
def test_a_case_without_truth_is_named(parts, cases, kind, missing):
    encoder, model = parts
    tower = model.model.vision_tower if kind is Contrast else model.model.sam_tower
    with pytest.raises(CaseError, match=f"case x has no .*{missing}"):
        kind(tower, encoder, [Case("x", cases[0].images)])


# --- from a tiny LLaVA-Med ---------------------------------------------------------------------------------


def characters() -> PreTrainedTokenizerFast:
    """A tokenizer of single characters that fits the tiny decoders."""
    signs = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyzINST[]/?. \n"]
    made = Tokenizer(models.BPE({sign: i for i, sign in enumerate(signs)}, [], unk_token="<unk>"))
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="module")
def hospital(tmp_path_factory) -> Path:
    return material(tmp_path_factory.mktemp("hospital"))


def material(folder: Path) -> Path:
    """A tiny LLaVA-Med v1.5 and a tiny SAM, and cases of several images, as a hospital's."""
    ultra.save(folder / "med", *ultra.original("llava_mistral", ultra.reference("mistral")))
    characters().save_pretrained(folder / "med")
    ultra.save_sam(folder / "sam")
    rng, made = np.random.default_rng(0), []
    for i in range(6):
        images = [folder / f"{i}-{k}.png" for k in range(1 + i % 3)]
        for path in images:
            Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
        texts = {"task": "vqa", "question": "kind?", "answer": "cyst.", "language": "en"}
        made.append(Case(f"case-{i}", tuple(images), **texts, extra={"findings": "dark area."}))
    write_cases(folder / "cases.jsonl", made)
    return folder


def shortened(hospital: Path, folder: Path, name: str, **changes) -> Path:
    raw = yaml.safe_load((RECIPES / f"{name}.yaml").read_text("utf-8"))
    raw |= {"precision": "no", "cases": str(hospital / "cases.jsonl")} | changes
    raw["stages"][0]["schedule"] |= {"steps": 3, "learning_rate": 0.01, "warmup_ratio": 0.0}
    raw["stages"][0]["schedule"].pop("epochs")
    if "lora" in raw["stages"][0]:
        raw["stages"][0]["lora"]["rank"] = 2
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.fixture(scope="module", params=["no", "bf16"])
def both(request, hospital, tmp_path_factory) -> tuple[Path, Path]:
    """The outputs of the paper's two stages, one after the other."""
    folder = tmp_path_factory.mktemp(f"both-{request.param}")
    base = {
        "base": str(hospital / "med"),
        "precision": request.param,
        "ultra": {"sam": str(hospital / "sam")},
    }
    first = shortened(hospital, folder, "llava_ultra_align", **base)
    assert main([str(first), "--output", str(folder / "align")]) == 0
    base = {"base": str(folder / "align/weights"), "precision": request.param}
    second = shortened(hospital, folder, "llava_ultra_instruct", **base)
    assert main([str(second), "--output", str(folder / "instruct")]) == 0
    return folder / "align", folder / "instruct"


def test_the_papers_stages_change_what_they_name(both, hospital):
    align, instruct = both
    tolerance = 0.01 if "bf16" in str(align) else 0.0
    opened = open_published(hospital / "med", sam=hospital / "sam", fresh=True)
    states = [opened.model.state_dict()]
    states += [open_published(each / "weights").model.state_dict() for each in both]
    moved = [
        {
            name
            for name in old
            if not torch.allclose(new[name], old[name], rtol=tolerance, atol=tolerance / 100)
        }
        for old, new in zip(states, states[1:], strict=False)
    ]
    fresh = set(opened.fresh)  # random numbers, drawn anew
    assert moved[0] - fresh <= {name for name in states[0] if ".fusion." in name} and moved[0] - fresh
    assert all(".fusion." in n or ".frame_score." in n or "_proj." in n for n in moved[1]), moved[1]
    assert {
        part for part in ("fusion", "frame_score", "q_proj", "down_proj") for n in moved[1] if part in n
    } == {
        "fusion",
        "frame_score",
        "q_proj",
        "down_proj",
    }
    assert open_published(instruct / "weights").model.config.template == "mistral_instruct"


@pytest.mark.parametrize("both", ["no"], indirect=True)
def test_sigterm_stops_the_choice_and_resume_gives_the_same_weights(both, hospital, tmp_path, monkeypatch):
    align, instruct = both
    recipe = shortened(hospital, tmp_path, "llava_ultra_instruct", base=str(align / "weights"))
    learn, output = Examinations.loss, tmp_path / "stopped"

    def stopping(self, batch):
        os.kill(os.getpid(), signal.SIGTERM)
        return learn(self, batch)

    with monkeypatch.context() as once:
        once.setattr(Examinations, "loss", stopping)
        assert main([str(recipe), "--output", str(output)]) == 143
    assert main([str(recipe), "--output", str(output), "--resume"]) == 0
    ours, theirs = (load_file(each / "weights/model.safetensors") for each in (output, instruct))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_what_starts_untrained_is_said(hospital, tmp_path, capsys):
    recipe = shortened(hospital, tmp_path, "llava_ultra_align", base=str(hospital / "med"), ultra={})
    assert main([str(recipe), "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "untrained in" in said and "model.frame_score.token_query" in said and "sam_projector" not in said


# --- wrong recipes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ultra": {"projector": "linear"}}, "ultra.projector: unknown key; known are .*projector_type"),
        ({"ultra": {"sam": "facebook/sam-vit-large"}}, "ultra.sam: unknown key"),
        ({"max_pixels": 9}, "max_pixels: LLaVA-Ultra has no use for it"),
        ({"simulate": None, "cases": "x.jsonl"}, "groups: an order of the simulator"),
        ({"stages": [{"name": "x", "kind": "captions"}]}, "ultra: only the kinds contrast"),
        ({"stages": [{"name": "x", "kind": "captions"}, {"name": "y", "kind": "masks"}]}, "another model"),
        (
            {"stages": [{"name": "x", "kind": "masks", "distillation": 1.0}]},
            "distillation: the kind masks has none",
        ),
        (
            {"stages": [{"name": "x", "kind": "llava_instruct"}]},
            "distillation: the kind llava_instruct needs it",
        ),
        (
            {"stages": [{"name": "x", "kind": "llava_instruct", "distillation": -1.0}]},
            "-1.0 is not zero or more",
        ),
    ],
)
def test_a_wrong_recipe_names_the_key(tmp_path, change, message):
    raw = yaml.safe_load((RECIPES / "demo_llava_ultra.yaml").read_text("utf-8")) | change
    for stage in raw["stages"]:
        stage.setdefault("schedule", {"steps": 1, "batch_size": 1, "learning_rate": 0.1})
        if stage["kind"] == "llava_instruct":
            stage.setdefault("lora", {"rank": 8, "alpha": 16, "dropout": 0.05, "targets": "x"})
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(RecipeError, match=message):
        read_recipe(path)


def test_sizes_that_make_no_model_are_named(tmp_path, cases):
    recipe = read_recipe(toy(tmp_path, ultra={"attention_layers": 9}))
    with pytest.raises(RecipeError, match="vision, text, ultra: attention_layers is 9"):
        running.fresh_ultra(recipe, cases)


def test_the_demo_is_small_enough_for_its_place():
    recipe = read_recipe(RECIPES / "demo_llava_ultra.yaml")
    with torch.device("meta"):
        _, model = running.fresh_ultra(replace(recipe, vocabulary=600), [])
    table = (recipe.vocabulary - 600) * recipe.text["hidden_size"]
    assert 2 * (sum(p.numel() for p in model.parameters()) + table) < 15.5e6  # in bfloat16, with a tokenizer


def test_the_benchmark_of_the_choice_prints_its_tables(demo, cases):
    one = selection._open("toy", str(demo[1] / "weights"))
    asked = [case for case in cases if "site_named" in case.extra]
    printed: list[str] = []
    selection.compare([one], asked, list(selection.WAYS), printed.append)
    text = "\n".join(printed)
    for way in ("score |", "question |", "findings |", "random |", "valid |", "chance |", "findings, N = 2;"):
        assert f"| {way}" in text, way
    assert "| toy | valid | 100.0 % of" in text
    lines = [line for line in text.splitlines() if "| named |" in line or "| not named |" in line]
    assert len(lines) == 2 * len(selection.WAYS)
    tokens = {line.split(" | ")[1]: float(line.split(" | ")[-2]) for line in lines}
    assert tokens["all"] > tokens["score"] == tokens["valid"]
    worth = re.findall(r"\| toy, (\w+) \| ([+-][\d.]+) \(([+-][\d.]+) to ([+-][\d.]+)\) \|", text)
    assert [way for way, *_ in worth] == [way for way in selection.WAYS if way != "score"]
    assert all(float(low) <= float(more) <= float(high) for _, more, low, high in worth)


def test_requests_about_the_same_frames_count_once(cases):
    one = next(case for case in cases if "site_named" in case.extra)
    other = replace(one, images=one.images[::-1])
    right, wrong = one.valid_images[0], next(i for i in range(len(one.images)) if i not in one.valid_images)
    line = selection._validity("a", "score", [(one, right)] * 2 + [(other, wrong)] * 2)
    assert "50.0 % of 2 (" in line
    assert "50.0 % of 1 " in selection._validity("a", "question", [(one, right), (one, wrong)])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--weights", "weights/demo"], "--weights weights/demo: expected NAME=FOLDER"),
        (["--weights", "a=no/such/folder"], "no/such/folder"),
        (["--unfinished", "no/such.yaml"], "no/such.yaml: the recipe cannot be read"),
    ],
)
def test_what_the_benchmark_of_the_choice_cannot_open_is_said(arguments, says, capsys):
    try:
        status = selection.main(arguments)
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2 and says in capsys.readouterr().err


def test_an_unfinished_training_is_asked_what_its_teacher_knows(demo, cases, tmp_path):
    path, output, _ = demo
    (tmp_path / "demo_llava_ultra").symlink_to(output)
    one = selection.open_unfinished(path, tmp_path)
    finished = open_published(output / "weights").model.state_dict()
    ours = one.model.state_dict()
    assert one.name == "after instruct"
    assert all(torch.allclose(ours[name], finished[name], rtol=0.01, atol=1e-4) for name in finished)
    asked = [case for case in cases if "site_named" in case.extra]
    printed: list[str] = []
    selection.compare([one], asked, ["findings"], printed.append, answers=False)
    text = "\n".join(printed)
    assert "N = 1; of the target on valid frames: 0." in text and "at 16 |" in text and "EM" not in text


def test_a_sharper_teacher_leaves_its_second_choice_less():
    case = Case("x", tuple(Path(name) for name in "abc"), valid_images=(0,))
    shares = torch.tensor([0.5, 0.3, 0.2])
    expected = ", ".join(f"{0.5**s / (shares.double() ** s).sum():.2f} at {s}" for s in selection.SHARPNESS)
    assert selection._targets([case], [shares.log()]) == expected

"""The rater is taught: truth of images, one tree of prompts an image, the warm-up, one adapter through both
stages, which rates as the merged weights do."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml
from safetensors.torch import load_file, save_file

from assistants.base import Turn, open_assistant
from assistants.qbench import levels, prompts
from assistants.qbench.reading import LocalReader
from imaging.case import Case, CaseError, read_cases
from imaging.files import load_frames
from imaging.planes import load_planes
from models.any_model import SuiteEncoder
from models.checkpoint import CheckpointError
from models.encoding import Encoder
from models.likelihood import Ask, Likelihood
from simulator.__main__ import main as simulate
from simulator.quality import rules
from training import quality_answers as quality
from training import run as running
from training.__main__ import main
from training.demo_texts import demo_texts
from training.even_tower import see
from training.quality_answers import (
    LEAST_GAP,
    QualityAnswers,
    QualityWarmup,
    rated_images,
    shares_of,
    taught_words,
)
from training.recipe import RecipeError, read_recipe
from training.stages import LORA, LORA_OF_VISION, freeze, with_lora
from training.tokenizer import train_tokenizer

RECIPE = Path(__file__).parents[1] / "training/recipes/demo_qbench.yaml"


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """Six simulated examinations of known quality in `cases`, and tiny demo weights in `base`, whose
    tokenizer is learned as the demo's is."""
    folder = tmp_path_factory.mktemp("quality")
    simulate(f"--cases 6 --seed 5 --task quality compare --quiet {folder / 'cases'}".split())
    torch.manual_seed(0)
    vocabulary = train_tokenizer(demo_texts([], load_planes()), 1200)
    made = tiny.model(vocabulary, "qwen2_vl", max_position_embeddings=4096)
    for saved in (made, vocabulary, tiny.image_processor()):
        saved.save_pretrained(folder / "base")
    (folder / "base/demo.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def cases(material) -> list[Case]:
    return list(read_cases(material / "cases/cases.jsonl"))


@pytest.fixture
def parts(material):
    """Encoder and model of the tiny base, whose random weights are large enough to tell images apart."""
    model = running.Qwen2VLForConditionalGeneration.from_pretrained(material / "base").float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return Encoder.open(material / "base"), model


@pytest.fixture
def stage(parts, cases) -> QualityAnswers:
    encoder, model = parts
    return QualityAnswers("t", model, encoder, cases)


# --- what images are worth ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("score", "high", "medium", "low"),
    [(0, 0, 0, 1), (2.5, 0, 0, 1), (4, 0, 0.5, 0.5), (5.5, 0, 1, 0), (7, 0.5, 0.5, 0), (10, 1, 0, 0)],
)
def test_a_score_is_shared_by_the_levels_around_it(score, high, medium, low):
    assert shares_of(score) == pytest.approx((high, medium, low))


def test_the_levels_meet_where_the_simulators_rule_has_its_borders():
    floors = rules()["levels"]
    assert shares_of(floors["high"])[:2] == pytest.approx((0.5, 0.5))
    assert shares_of(floors["medium"])[1:] == pytest.approx((0.5, 0.5))


def test_every_image_is_known_once_and_its_largest_share_is_its_level(cases):
    images = {image.path: image for image in rated_images(cases)}
    seen = {path for case in cases for path in case.images}
    assert set(images) == seen and len(seen) >= 12
    for case in cases:
        known = case.extra.get("levels") or [case.level]
        for path, level in zip(case.images, known, strict=True):
            image = images[path]
            assert set(image.shares) == set(prompts.indicators()) and image.organ == case.organ
            shares = dict(zip(prompts.LEVELS, image.shares["overall"], strict=True))
            assert shares[level] == max(shares.values()) and sum(shares.values()) == pytest.approx(1)
            assert (case.language, case.question) in image.questions or case.task == "compare"


def test_labels_alone_are_enough():
    case = Case("c", ("a.png",), task="quality", level="medium", organ="spleen", extra={"view": "x"})
    (image,) = rated_images([case])
    assert image.shares == {"overall": (0.0, 1.0, 0.0)} and image.organ is None and image.worth == 5.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": None}, "no level for each of its images"),
        ({"images": ("a.png", "b.png")}, "no level for each of its images"),
        ({"level": "high"}, "level high is not that of an overall score of"),
    ],
)
def test_a_case_that_teaches_nothing_is_named(cases, change, message):
    low = next(case for case in cases if case.level == "low")
    with pytest.raises(CaseError, match=f"case {low.id}.*{message}"):
        rated_images([replace(low, **change)])


# --- one tree of prompts -----------------------------------------------------------------------------------


def probes_of(image, language, organ):
    single = [prompts.qualitative(name, language, organ) for name in prompts.QUALITATIVE]
    own = [prompts.own_question(words, own) for own, words in image.questions if own == language][:1]
    return [*single, *prompts.quantitative(language), *own]


def test_each_branch_is_the_raters_own_prompt(parts):
    encoder, model = parts
    for language in prompts.LANGUAGES:
        probes, grids = probes_of(quality.Rated(Path(), (), None, 0, {}), language, "heart"), [(1, 16, 16)]
        tree = quality.grow(model, encoder, probes, grids)
        whole = 0
        for probe, choices in zip(probes, tree.scores, strict=True):
            reader, shown = SuiteEncoder(encoder), [{"image_grid_thw": torch.tensor(grids)}]
            prompt = reader.tokens(probe.messages(), (), shown)["input_ids"]
            whole += len(prompt)
            found = levels.find(
                lambda answer, probe=probe, reader=reader, shown=shown: reader.tokens(
                    (probe.messages()[0], prompts.answer_message(answer)), (), shown
                )["input_ids"],
                probe.answer,
                prompts.choices(probe),
            )
            assert found.path == levels.TOKEN, (language, probe.name)
            for level, ((last, word), (said, end)) in choices.items():
                assert tree.tokens[tree.sees[last]].tolist() == prompt
                assert (word,) in found.forms[level] and tree.tokens[said] == word
                assert end == encoder.tokenizer.eos_token_id
        assert (tree.picture == 0).sum() == 64 and len(tree.tokens) < whole / 2  # what is shared is read once


def log_probabilities(model, batch, part) -> dict[tuple[int, int, int], float]:
    """Of every goal of a batch, as training reads it."""
    features = torch.cat(see(model.model.visual, batch["pixel_values"], batch["image_grid_thw"]))
    logits = []
    watch = model.lm_head.register_forward_hook(lambda module, given, out: logits.append(out))
    quality._cross_entropy(model, batch[part], features)
    watch.remove()
    goals = [tuple(goal) for goal in batch[part]["goal"].tolist()]
    rows = logits[0].log_softmax(-1)
    return {goal: float(row[goal[2]]) for goal, row in zip(goals, rows, strict=True)}


@torch.no_grad()
def test_what_is_learned_is_what_the_rater_reads(stage, parts):
    """The levels of all probes of three images, and the best of three, to the last digit but one."""
    encoder, model = parts
    likelihood = Likelihood(model, SuiteEncoder(encoder))
    drawn = [image for image in stage.images if image.view == stage.images[0].view][:3]
    pixels = quality._pixels(encoder, drawn)
    grids = [tuple(grid) for grid in pixels["image_grid_thw"].tolist()]
    frames = [load_frames([image.path])[0] for image in drawn]
    asked = []
    for place, image in enumerate(drawn):
        probes = probes_of(image, ("zh", "en")[place % 2], image.organ)[place:]
        tree = quality.grow(model, encoder, probes, [grids[place]])
        equal = [{level: 1.0 for level in prompts.LEVELS}] * len(probes)
        asked.append((tree, (place,), equal, probes))
    probe = prompts.comparative(3, "en")
    best = (quality.grow(model, encoder, [probe], grids), (0, 1, 2), [dict.fromkeys("123", 1.0)], [probe])
    batch = pixels | {
        "ratings": stage._rows([each[:3] for each in asked], grids),
        "comparisons": stage._rows([best[:3]], grids),
    }
    assert stage.weight(batch) == len(batch["ratings"]["goal"]) + len(batch["comparisons"]["goal"])
    for part, trees in (("ratings", asked), ("comparisons", [best])):
        learned = log_probabilities(model, batch, part)
        firsts, asks = [], []
        for row, (tree, places, _, probes) in enumerate(trees):
            for probe, choices in zip(probes, tree.scores, strict=True):
                firsts.append([(row, *goals[0]) for goals in choices.values()])
                words = tuple((goal[2],) for goal in firsts[-1])
                asks.append(Ask(probe.messages(), tuple(frames[i] for i in places), words))
        assert len(asks) >= (27 if part == "ratings" else 1)
        for goals, read in zip(firsts, likelihood.of(asks, share=False), strict=True):
            assert [learned[goal] for goal in goals] == pytest.approx([one for (one,) in read], abs=2e-5)


def test_a_sample_has_one_clearly_best_image_of_one_view(stage):
    rng, sizes = np.random.default_rng(0), []
    for index in [*range(len(stage))] * 20:
        drawn = stage.with_others(index, rng)
        images = [stage.images[i] for i in drawn]
        assert index in drawn and len(set(drawn)) == len(drawn)
        assert len({image.view for image in images}) == 1
        if len(drawn) > 1:
            best, second = sorted((image.worth for image in images), reverse=True)[:2]
            assert best - second >= LEAST_GAP
        sizes.append(len(drawn))
    assert {2, 3, 4} <= set(sizes) and max(sizes) <= prompts.MOST_IMAGES and np.mean(np.equal(sizes, 2)) > 0.3


def test_the_best_images_number_is_the_answer(stage):
    worth = (3.0, 9.0, 6.0)
    images = [replace(stage.images[0], worth=each) for each in worth]
    _, _, (wanted,) = stage._comparison(images, range(3), [(1, 4, 4)] * 3, np.random.default_rng(0))
    assert list(wanted) == ["2"]


def test_a_batch_rates_every_image_once_and_compares_each_sample(stage):
    rng = np.random.default_rng(1)
    batch = stage.batch([0, 5, 9], rng)
    images, rows = len(batch["image_grid_thw"]), len(batch["ratings"]["tokens"])
    assert images == rows and len(batch["comparisons"]["tokens"]) <= 3
    weights, goals = batch["ratings"]["weight"], batch["ratings"]["goal"]
    for row in range(rows):
        # One question about the whole and three indicators; of each the level and the end.
        assert float(weights[goals[:, 0] == row].sum()) / 2 == pytest.approx(4)
    alone = QualityAnswers("t", stage.module, stage.encoder, [replace(first(stage), extra={})])
    batch = alone.batch([0], rng)
    assert "comparisons" not in batch and float(batch["ratings"]["weight"].sum()) / 2 == 2
    loss, figures = alone.loss(batch)
    assert torch.isfinite(loss) and figures["best"] == 0


def first(stage) -> Case:
    """The case of a single image without scores."""
    return Case("c", (stage.images[0].path,), "Good?", None, "heart", "en", task="quality", level="low")


def test_a_prompt_longer_than_the_recipe_allows_is_refused(parts, cases):
    encoder, model = parts
    short = QualityAnswers("t", model, encoder, cases, max_length=30)
    with pytest.raises(CaseError, match="more than max_length 30"):
        short.batch([0], np.random.default_rng(0))


@pytest.mark.parametrize("kind", ["warm-up", "answers"])
def test_a_few_steps_lower_every_loss_and_reach_the_tower(parts, cases, kind):
    encoder, model = parts
    wrapped = with_lora(model, read_recipe(RECIPE).stages[0].lora, seed=0, also=None)
    if kind == "warm-up":
        freeze(wrapped, LORA_OF_VISION)
        stage = QualityWarmup(wrapped.get_base_model().model.visual, encoder, cases)
    else:
        freeze(wrapped, LORA)
        stage = QualityAnswers("t", wrapped, encoder, cases)
    batch = stage.batch([0] if kind == "answers" else [0, 4, 8], np.random.default_rng(0))
    optimizer = torch.optim.AdamW([p for p in stage.module.parameters() if p.requires_grad], lr=1e-2)
    figures = []
    for _ in range(12):
        loss, found = stage.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        figures.append(found)
    falls = {name: figures[-1][name] / figures[0][name] for name in figures[0]}
    assert len(falls) == 2 and max(falls.values()) < 0.9, falls
    moved = {name for name, p in wrapped.named_parameters() if p.grad is not None and p.grad.any()}
    assert any("visual.blocks" in name for name in moved) and all("lora_" in name for name in moved)
    assert any("language_model" in name for name in moved) == (kind == "answers")


def test_the_warm_ups_truth_is_the_cases(parts, cases):
    encoder, model = parts
    stage = QualityWarmup(model.model.visual, encoder, cases)
    batch = stage.batch(range(len(stage)), np.random.default_rng(0))
    truth = {path: s for case in cases if case.task == "quality" for path in case.images
             for s in [(case.extra["attributes"], case.extra["artefacts"])]}  # fmt: skip
    for row, image in enumerate(stage.images):
        if image.path in truth:
            scores, strengths = truth[image.path]
            read = dict(zip(stage.indicators, batch["scores"][row].tolist(), strict=True))
            assert {name: round(10 * share, 1) for name, share in read.items()} == scores
            read = dict(zip(stage.artefacts, batch["strengths"][row].tolist(), strict=True))
            assert {name: round(share, 3) for name, share in read.items() if share} == strengths
    with pytest.raises(CaseError, match="--task quality compare"):
        QualityWarmup(model.model.visual, encoder, [replace(cases[0], extra={})])


def test_images_of_several_sizes_are_seen_alike(parts):
    encoder, model = parts
    frames = [tiny.frame(56, 84, seed=1), tiny.frame(84, 84, seed=2)]
    both = encoder.encode_images(frames)
    seen = see(model.model.visual, both["pixel_values"], both["image_grid_thw"])
    for frame, tokens in zip(frames, seen, strict=True):
        alone = encoder.encode_images([frame])
        (own,) = see(model.model.visual, alone["pixel_values"], alone["image_grid_thw"])
        assert torch.allclose(tokens, own, atol=1e-4)


def test_the_words_that_are_taught_are_those_of_every_sample(parts, cases, stage):
    encoder, _ = parts
    words = set(taught_words(encoder, cases))
    batch = stage.batch(range(len(stage)), np.random.default_rng(3))
    said = {int(token) for part in ("ratings", "comparisons") for token in batch[part]["goal"][:, 2]}
    read = {int(t) for part in ("ratings", "comparisons") for t in batch[part]["tokens"].unique()}
    assert said <= words and read - {encoder.image_token_id, encoder.tokenizer.pad_token_id} <= words
    assert encoder.image_token_id not in words and len(words) < len(encoder.tokenizer)


# --- the recipe, from start to end -------------------------------------------------------------------------


def toy(material: Path, folder: Path, **changes) -> Path:
    """The demo recipe on the tiny base: two orders of three examinations, two steps a stage."""
    raw = yaml.safe_load(RECIPE.read_text("utf-8"))
    raw |= {"base": str(material / "base"), "weights": str(folder / "published"), "precision": "no"}
    raw["more_cases"] = raw["more_cases"][:1]
    for order in (raw["simulate"], raw["held_out"], *raw["more_cases"]):
        order |= {"cases": 3, "workers": 1, "quiet": True}
    raw |= changes
    for stage in raw["stages"]:
        stage["lora"] |= {"rank": 2, "dropout": 0.0}
        del stage["schedule"]["minutes"]  # the learning rate would follow the clock
        stage["schedule"] |= {"steps": 2, "batch_size": 2, "checkpoint_every": 1}
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.fixture(scope="module")
def trained(material, tmp_path_factory) -> Path:
    """What the toy recipe left: output in `out`, the published adapter in `published`."""
    folder = tmp_path_factory.mktemp("trained")
    assert main([str(toy(material, folder)), "--output", str(folder / "out"), "--publish"]) == 0
    return folder


def test_the_adapter_rates_as_the_merged_weights_do(trained, material):
    """Half precision apart: the adapter is published in bfloat16, and so are the merged weights."""
    adapter, merged, base = (
        open_assistant("qbench", str(path), device="cpu")
        for path in (trained / "published", trained / "out/weights", material / "base")
    )
    assert adapter.demo and "demo weights" in adapter.title
    assert adapter.folders == (trained / "published", material / "base")
    assert len({adapter.model, merged.model, base.model}) == 3  # scores of two models do not compare
    frames = tuple(load_frames(sorted((material / "cases/images").iterdir())[:2]))
    replies = [
        list(rater.stream(Turn("", frames, "compare", "heart", "zh")))[-1]
        for rater in (adapter, merged, base)
    ]
    ours, theirs, before = (
        torch.tensor([each["score"] for each in reply.ratings] + list(reply.best_probabilities))
        for reply in replies
    )
    assert torch.allclose(ours, theirs, atol=2e-3) and not torch.equal(ours, before)
    assert all(each["path"] == "token" for each in replies[0].ratings)
    assert replies[0].unfamiliar is not None


def test_cases_of_all_orders_are_learned_and_both_stages_teach_one_adapter(trained):
    out = trained / "out"
    organs = {
        case.organ for part in ("cases", "more_cases/0") for case in read_cases(out / part / "cases.jsonl")
    }
    assert organs >= {"heart", "thyroid"}
    warm, final = (
        load_file(out / "warmup/model.safetensors"),
        load_file(trained / "published/adapter_model.safetensors"),
    )
    assert warm and all("visual" in name and "lora_" in name for name in warm)
    ups = {name: tensor for name, tensor in final.items() if "lora_B" in name}
    assert all(tensor.abs().sum() > 0 for name, tensor in ups.items() if "language_model" in name)
    assert any(tensor.abs().sum() > 0 for name, tensor in ups.items() if "visual" in name)
    assert {tensor.dtype for tensor in final.values()} == {torch.bfloat16}
    assert (trained / "published/familiarity.safetensors").is_file()
    assert not (trained / "published/model.safetensors").exists()


def test_a_finished_run_is_not_done_again(trained, monkeypatch):
    monkeypatch.setattr(running, "train", lambda *_, **__: pytest.fail("trained again"))
    shutil.rmtree(trained / "out/weights")
    assert main([str(trained / "toy.yaml"), "--output", str(trained / "out"), "--resume"]) == 0
    assert (trained / "out/weights/model.safetensors").is_file()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "does not fit its base: 1 tensors"),
        ("reshaped", "does not fit its base: 1 tensors"),
        ("pickled", "holds no adapter for its base"),
        ("kind", "is no LoRA adapter of a model that the suite trains"),
        ("circle", "is an adapter, too"),
    ],
)
def test_an_adapter_that_is_not_whole_is_refused(trained, tmp_path, fault, message):
    shutil.copytree(trained / "published", tmp_path / "adapter")
    file, config = (
        tmp_path / "adapter" / name for name in ("adapter_model.safetensors", "adapter_config.json")
    )
    tensors = load_file(file)
    name = min(tensors)
    if fault == "missing":
        save_file({key: tensor for key, tensor in tensors.items() if key != name}, file)
    elif fault == "reshaped":
        save_file(tensors | {name: tensors[name][:1].contiguous()}, file)
    elif fault == "pickled":
        file.rename(file.with_suffix(".bin"))
    elif fault == "kind":
        config.write_text(config.read_text().replace('"LORA"', '"LOHA"'))
    else:
        values = json.loads(config.read_text()) | {"base_model_name_or_path": str(config.parent)}
        config.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=message):
        open_assistant("qbench", str(tmp_path / "adapter"), device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"abvlm_q": {"prompt": "short"}}, "qbench, abvlm_q: an adapter learns one of the two"),
        ({"simulate": None, "cases": "a.jsonl"}, "more_cases: orders of the simulator"),
        ({"kind": "captions"}, "qbench: only the kinds vision_warmup, lora_language, lora teach it"),
        ({"no lora": True}, "qbench: a vision_warmup before the kind lora needs its lora"),
        ({"more_cases": [{"cases": 0}]}, r"more_cases\[0\].cases: 0 is not"),
    ],
)
def test_a_recipe_that_cannot_teach_it_names_the_key(tmp_path, change, message):
    raw = yaml.safe_load(RECIPE.read_text("utf-8"))
    if "kind" in change:
        raw["stages"] = [{k: v for k, v in raw["stages"][0].items() if k != "lora"} | change]
    elif "no lora" in change:
        del raw["stages"][0]["lora"]
    else:
        raw |= change
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(RecipeError, match=message):
        read_recipe(tmp_path / "recipe.yaml")


def test_written_answers_end_with_the_level(trained, parts):
    """The raw strategy reads the tokens whose end is taught: a level and then the end mark."""
    encoder, model = parts
    reader = LocalReader(Likelihood(model, SuiteEncoder(encoder)))
    for language in prompts.LANGUAGES:
        probe = prompts.qualitative("basic", language)
        assert reader.tokens(probe).path == levels.TOKEN
        (reading,) = reader.write([(probe, (tiny.frame(),))])
        assert isinstance(reading.text, str)

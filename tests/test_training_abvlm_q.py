"""AbVLM-Q is taught: the warm-up's truth and losses, the answers, one adapter through both stages."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from test_abvlm_q_assistant import save
from test_imaging_sector import fan, screen

from assistants.abvlm_q.answers import Names, read
from assistants.abvlm_q.encoding import Marks, canvas_of, cut_image, cut_to_sector
from assistants.base import Settings, Turn, demo_weights, open_assistant
from imaging.case import Case, CaseError, read_cases
from imaging.files import load_frames
from imaging.planes import PUBLISHED, load_planes
from models.boxes import MARKS, RELATIVE
from models.encoding import IGNORED, Encoder
from models.familiarity import FILE as FAMILIARITY
from simulator.__main__ import main as simulate
from training import run as running
from training.__main__ import main
from training.conversation import Conversations
from training.plane_answers import PlaneAnswers, taught_words
from training.plane_warmup import BINS, PlaneWarmup, between_bins, digits_of, shares_under
from training.recipe import RecipeError, read_recipe
from training.stages import LORA_OF_VISION, freeze, with_lora

RECIPE = Path(__file__).parents[1] / "training/recipes/demo_abvlm_q.yaml"
PROTOCOL = load_planes()


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """Six simulated planes with label maps in `cases`, and tiny demo weights in `base`."""
    folder = tmp_path_factory.mktemp("planes")
    simulate(
        f"--cases 6 --seed 5 --task plane --rows 2 --labels --quiet {folder / 'cases'}".split(),
    )
    save(folder / "base", max_position_embeddings=4096)
    (folder / "base/demo.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def cases(material) -> list[Case]:
    return list(read_cases(material / "cases/cases.jsonl"))


@pytest.fixture
def parts(material):
    """Encoder and model of the tiny base."""
    torch.manual_seed(0)
    model = running.Qwen2VLForConditionalGeneration.from_pretrained(material / "base").float()
    encoder = Encoder.open(material / "base")
    encoder.image_processor.size = {"shortest_edge": 56 * 56, "longest_edge": 224 * 224}
    return encoder, model


# --- the warm-up -------------------------------------------------------------------------------------------


def test_shares_are_the_label_map_seen_under_any_grid():
    labels = np.zeros((60, 90), np.uint8)
    labels[:30, 15:30] = 4
    labels[30:, 60:] = 2
    shares = shares_under(labels, 2, 3, 5)
    assert shares.shape == (6, 5) and np.allclose(shares.sum(1), 1)
    assert shares[0, 4] == pytest.approx(0.5) and shares[5, 2] == 1 and shares[1, 0] == 1
    odd = shares_under(labels, 7, 4, 5)  # tokens that do not divide the picture
    assert np.allclose(odd.sum(1), 1) and odd.mean(0)[0] == pytest.approx((labels == 0).mean(), abs=0.05)


def test_a_place_between_bins_comes_back_as_their_mean():
    places = torch.tensor([[0.0, 0.013, 0.5, 1.0], [0.25, 0.333, 0.77, 0.99]])
    shares = between_bins(places)
    assert shares.shape == (2, 4, BINS) and torch.allclose(shares.sum(-1), torch.ones(2, 4))
    centres = (torch.arange(BINS) + 0.5) / BINS
    assert torch.allclose((shares * centres).sum(-1), places.clamp(0.5 / BINS, 1 - 0.5 / BINS), atol=1e-6)


def test_digits_are_those_that_an_answer_writes():
    places = torch.tensor([[0.0, 0.004, 0.009, 0.01, 0.1, 0.57, 0.999, 1.0]])
    assert digits_of(places).tolist() == [[[0, 0], [0, 0], [0, 0], [0, 1], [1, 0], [5, 7], [9, 9], [9, 9]]]


@pytest.mark.parametrize("step", [1, 10])
def test_the_warm_ups_edges_are_those_of_the_answers(cases, parts, step):
    encoder, model = parts
    case = next(case for case in cases if len(case.boxes) > 1)
    truth = PlaneWarmup(model.model.visual, encoder, [case], PROTOCOL, step).batch(
        [0], np.random.default_rng(0)
    )
    answers = PlaneAnswers("t", model, encoder, [case], PROTOCOL, "short", step=step)
    labels = answers.batch([0], np.random.default_rng(0))["labels"]
    text = Marks(encoder).decode(labels[labels != IGNORED].tolist())
    written = re.findall(r"\((\d+),(\d+)\),\((\d+),(\d+)\)", text)
    taught = {tuple(round(1000 * edge) for edge in edges) for edges in truth["edges"].tolist()}
    assert taught == {tuple(map(int, edges)) for edges in written}


def test_the_warm_ups_truth_is_the_cases(cases, parts):
    encoder, model = parts
    stage = PlaneWarmup(model.model.visual, encoder, cases, PROTOCOL)
    assert len(stage) == 6  # two rows of one image are one sample
    batch = stage.batch(range(6), np.random.default_rng(0))
    tokens = batch["image_grid_thw"].prod(1) // 4
    assert torch.equal(torch.bincount(batch["image"]), tokens)
    assert batch["shares"].shape[0] == tokens.sum() and torch.allclose(
        batch["shares"].sum(1), torch.ones(int(tokens.sum()))
    )
    boxes = [(number, entry) for number, case in enumerate(stage.cases) for entry in case.boxes]
    assert len(boxes) == len(batch["place"]) == len(batch["edges"])
    for row, (number, entry) in enumerate(boxes):
        case = stage.cases[number]
        assert batch["place"][row, 0] == number
        known = case.extra["structures"].get(entry["label"], {})
        wanted = known.get("label", case.extra["beside"].get(entry["label"]))
        assert batch["place"][row, 1] == wanted
        assert (batch["edges"][row] * 224 - torch.tensor(entry["box"])).abs().max() < 0.2
        states = {"displayed": 0, "incomplete": 1}
        assert batch["state"][row] == states.get(known.get("state"), -1)
        own = batch["shares"][batch["image"] == number][:, wanted]
        side = int(len(own) ** 0.5)
        lit = own.reshape(side, side).nonzero()
        x1, y1, x2, y2 = (value * side / 224 for value in entry["box"])
        assert (lit[:, 0] >= int(y1)).all() and (lit[:, 0] < y2).all()
        assert (lit[:, 1] >= int(x1)).all() and (lit[:, 1] < x2).all()
    for number, case in enumerate(stage.cases):
        assert {stage.planes[i] for i in batch["planes"][number].nonzero()[:, 0]} == set(case.plane)


def test_the_maps_and_boxes_are_cut_like_the_image(tmp_path, parts):
    """A screen of 400 x 320 with a sector in it: truth is in fractions of what is left of it."""
    encoder, model = parts
    rng = np.random.default_rng(3)
    pixels, _ = screen(rng, fan(rng))
    labels = np.zeros(pixels.shape[:2], np.uint8)
    (frame, (x, y)) = cut_to_sector(opened_picture(tmp_path, pixels))
    height, width = frame.pixels.shape[:2]
    labels[y : y + height // 2, x : x + width // 2] = 3
    (tmp_path / "labels").mkdir()
    Image.fromarray(labels).save(tmp_path / "labels/a.png")
    box = [x, y, x + width // 2, y + height // 2]
    case = Case(
        "a",
        (tmp_path / "images/a.png",),
        task="plane",
        plane=("spleen_longitudinal",),
        score=10,
        boxes=({"label": "spleen", "box": box},),
        extra={
            "labels": ["labels/a.png"],
            "structures": {"spleen": {"label": 3, "state": "displayed"}},
            "beside": {},
            "attenuation_share": 0.0,
        },
    )
    batch = PlaneWarmup(model.model.visual, encoder, [case], PROTOCOL).batch([0], rng)
    assert torch.allclose(batch["edges"], torch.tensor([[0.0, 0.0, 0.5, 0.5]]), atol=0.01)
    assert float(batch["shares"][:, 3].mean()) == pytest.approx(0.25, abs=0.02)


def opened_picture(folder: Path, pixels: np.ndarray):
    (folder / "images").mkdir()
    Image.fromarray(pixels).save(folder / "images/a.png")
    return load_frames([folder / "images/a.png"], cut_to_sector=False)[0]


@pytest.mark.parametrize("adapted", [False, True])
def test_a_few_steps_lower_every_loss_of_the_warm_up(cases, parts, adapted):
    encoder, model = parts
    if adapted:
        lora = read_recipe(RECIPE).stages[0].lora
        model = with_lora(model, lora, seed=0, also=None)
        freeze(model, LORA_OF_VISION)
        model = model.get_base_model()
    stage = PlaneWarmup(model.model.visual, encoder, cases, PROTOCOL)
    batch = stage.batch(range(6), np.random.default_rng(0))
    learns = [p for p in stage.module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learns, lr=2e-3)
    seen = []
    for _ in range(150):
        loss, figures = stage.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(figures)
    assert set(seen[0]) == {"shares", "edges", "digits", "state", "planes", "attenuation"}
    late = {name: np.mean([figures[name] for figures in seen[-10:]]) for name in seen[0]}
    falls = {name: late[name] / seen[0][name] for name in seen[0]}
    assert max(falls.values()) < 0.9, falls
    moved = {name for name, p in stage.module["tower"].named_parameters() if p.grad is not None}
    assert moved and (not adapted or all("lora_" in name for name in moved))


def test_an_image_without_any_box_teaches_too(cases, parts):
    encoder, model = parts
    empty = replace(cases[0], boxes=())
    stage = PlaneWarmup(model.model.visual, encoder, [empty], PROTOCOL)
    loss, _ = stage.loss(stage.batch([0], np.random.default_rng(0)))
    assert torch.isfinite(loss)


def test_cases_without_label_maps_are_refused(cases, parts):
    encoder, model = parts
    bare = replace(cases[0], extra={})
    with pytest.raises(CaseError, match=f"case {bare.id} has no truth .*--task plane --labels"):
        PlaneWarmup(model.model.visual, encoder, [bare], PROTOCOL)


# --- the answers -------------------------------------------------------------------------------------------


def test_a_sample_is_the_assistants_own_prompt_and_answer(cases, parts):
    encoder, model = parts
    stage = PlaneAnswers("t", model, encoder, cases, PROTOCOL, "short")
    assert len(stage) == 6
    rng, asked = np.random.default_rng(1), set()
    for number in range(6):
        for _ in range(3):
            batch = stage.batch([number], rng)
            labels = batch["labels"][0]
            assert stage.weight(batch) == int((labels[1:] != IGNORED).sum())
            text = Marks(encoder).decode(labels[labels != IGNORED].tolist())
            case = stage.examinations[number][0]
            frame, origin = cut_image(case)
            canvas = canvas_of(RELATIVE, frame, origin, encoder, batch)
            answer, counts = read(text, Names(PROTOCOL), canvas)
            assert (answer.planes, answer.score, dict(counts)) == (case.plane, case.score, {})
            assert {named.label for named in answer.boxes} == {entry["label"] for entry in case.boxes}
            prompt = encoder.decode(batch["input_ids"][0][labels == IGNORED].tolist())
            asked.add(any(row.question in prompt for row in stage.examinations[number]))
    assert asked == {True, False}
    coarse = PlaneAnswers("t", model, encoder, cases, PROTOCOL, "short", step=10)
    labels = coarse.batch(range(6), rng)["labels"]
    edges = re.findall(r"[(,](\d+)(?=[,)])", Marks(encoder).decode(labels[labels != IGNORED].tolist()))
    assert len(edges) > 20 and all(edge.endswith("0") for edge in edges)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plane": ()}, "planes with a score are needed"),
        ({"score": 1.5}, "score 1.5, but its deductions leave"),
        ({"boxes": ({"label": "gizzard", "box": [1, 2, 3, 4]},)}, "'gizzard' is not one of"),
        ({"images": ("a.png", "b.png")}, "2 images; a plane is judged from one"),
        (
            {"score": 9, "deductions": ({"item": "attenuation.mild", "points": 1},)},
            "not the protocol's: points",
        ),
        ({"plane": ("no_such_plane",)}, "not the protocol's: "),
    ],
)
def test_a_case_that_no_answer_can_be_written_for_is_named(cases, parts, change, message):
    encoder, model = parts
    scored = next(case for case in cases if case.score is not None)
    with pytest.raises(CaseError, match=f"case {scored.id}.*{message}"):
        PlaneAnswers("t", model, encoder, [replace(scored, **change)], PROTOCOL, "short")


def test_one_pass_for_all_images_changes_no_loss(cases, parts):
    encoder, model = parts
    tower = model.model.visual
    model = with_lora(model, read_recipe(RECIPE).stages[0].lora, seed=0, also=None).eval()
    stage = PlaneAnswers("t", model, encoder, cases, PROTOCOL, "short")
    batch = stage.batch(range(3), np.random.default_rng(0))
    ours, _ = stage.loss(batch)
    assert model.get_base_model().model.visual is tower
    theirs, _ = Conversations.loss(stage, batch)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-4)
    ours.backward()
    assert all(p.grad is not None for n, p in tower.named_parameters() if "lora_" in n)


def test_the_warm_ups_questions_go_on_beside_the_answers(cases, parts):
    encoder, model = parts
    model = with_lora(model, read_recipe(RECIPE).stages[0].lora, seed=0, also=None).eval()
    tower = model.get_base_model().model.visual
    warmup = PlaneWarmup(tower, encoder, cases, PROTOCOL)
    alone = PlaneAnswers("t", model, encoder, cases, PROTOCOL, "short")
    stage = PlaneAnswers("t", model, encoder, cases, PROTOCOL, "short", warmup=warmup, grounding=0.5)
    assert any(name.startswith("heads.") for name, _ in stage.module.named_parameters())
    batch = stage.batch(range(4), np.random.default_rng(0))
    both, figures = stage.loss(batch)
    truth = batch.pop("truth")
    words, _ = alone.loss(batch)
    asked, parts_of_it = warmup.loss({**batch, **truth})
    assert figures == pytest.approx({"words": words.item()} | parts_of_it, rel=1e-4)
    assert both.item() == pytest.approx(words.item() + 0.5 * asked.item(), rel=1e-4)
    both.backward()
    assert warmup.heads.digits.weight.grad.abs().sum() > 0
    again = warmup.batch(range(4), np.random.default_rng(0))  # the same images, in the warm-up's own way
    for name in ("shares", "place", "edges", "state", "planes"):
        assert torch.equal(truth[name], again[name]), name


def test_layers_that_run_again_for_their_gradients_run_the_same_way(cases, parts):
    encoder, model = parts
    model = with_lora(model, read_recipe(RECIPE).stages[0].lora, seed=0, also=None).train()
    stage = PlaneAnswers("t", model, encoder, cases, PROTOCOL, "short")
    batch = stage.batch(range(2), np.random.default_rng(0))
    expected, _ = stage.loss(batch)
    expected.backward()
    wanted = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.activation_checkpointing_enable({"use_reentrant": False})
    found, _ = stage.loss(batch)
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    for name, gradient in wanted.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, atol=1e-4, rtol=1e-3, msg=name)


def test_the_words_that_are_taught_are_those_of_every_sample(cases, parts):
    encoder, model = parts
    words = set(taught_words(encoder, cases, PROTOCOL, "short"))
    stage = PlaneAnswers("t", model, encoder, cases, PROTOCOL, "short")
    batch = stage.batch(range(6), np.random.default_rng(2))
    assert set(batch["labels"][batch["labels"] != IGNORED].tolist()) <= words
    assert set(encoder.tokenizer.convert_tokens_to_ids(list(MARKS))) <= words
    assert encoder.image_token_id not in words and len(words) < len(encoder.tokenizer)


def test_a_sample_longer_than_the_recipe_allows_is_named(cases, parts):
    encoder, model = parts
    stage = PlaneAnswers("t", model, encoder, cases[:1], PROTOCOL, "full", max_length=50)
    with pytest.raises(CaseError, match="more than max_length 50"):
        stage.batch([0], np.random.default_rng(0))


# --- the recipe, from start to end -------------------------------------------------------------------------


def toy(material: Path, folder: Path, **changes) -> Path:
    """The demo recipe on the tiny base: two steps a stage, small images."""
    raw = yaml.safe_load(RECIPE.read_text("utf-8"))
    raw |= {"base": str(material / "base"), "weights": str(folder / "published"), "precision": "no"}
    raw |= {"min_pixels": 84 * 84, "max_pixels": 112 * 112} | changes
    raw.pop("simulate")
    raw["cases"] = str(material / "cases/cases.jsonl")
    raw |= {"held_out": None, "familiarity_quantile": None}
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
    recipe = toy(material, folder)
    assert main([str(recipe), "--output", str(folder / "out"), "--publish"]) == 0
    return folder


def test_the_adapter_answers_as_the_merged_weights_do(trained, material):
    adapter, merged = (
        open_assistant("abvlm_q", str(trained / part), device="cpu") for part in ("published", "out/weights")
    )
    ours, theirs = adapter.backbone.model.state_dict(), merged.backbone.model.state_dict()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs)
    turn = Turn("", tuple(load_frames([next((material / "cases/images").iterdir())])), "plane")
    assert adapter.request(turn) == merged.request(turn)
    few = Settings(max_new_tokens=4)
    replies = [list(each.stream(turn, (), few))[-1] for each in (adapter, merged)]
    assert replies[0].prompt_tokens == replies[1].prompt_tokens
    assert replies[0].new_tokens == 4 and replies[0].text == replies[1].text


def test_what_is_published_is_the_adapter_with_its_marks(trained):
    published = trained / "published"
    assert {path.name for path in published.iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "preprocessor_config.json",
        "abvlm_q.json",
    }
    assert not (published / "model.safetensors").exists()
    for folder in (published, trained / "out/weights"):
        assert json.loads((folder / "abvlm_q.json").read_text()) == {"prompt": "short"}


def test_all_stages_teach_one_adapter(trained, material):
    """Vision parts of the adapter moved in the warm-up, language parts and words in the answers."""
    language = load_file(trained / "out/language/model.safetensors")
    assert not any("visual" in name for name in language)
    assert any("trainable_tokens" in name for name in language)
    warm = load_file(trained / "out/warmup/model.safetensors")
    final = load_file(trained / "published/adapter_model.safetensors")
    assert warm and all("visual" in name and "lora_" in name for name in warm)
    named = {name.replace(".default.", "."): tensor for name, tensor in warm.items()}
    assert set(named) <= set(final)
    config = json.loads((trained / "published/adapter_config.json").read_text())
    (words,) = [tensor for name, tensor in final.items() if "trainable_tokens_delta" in name]
    base = load_file(material / "base/model.safetensors")
    (embeddings,) = [tensor for name, tensor in base.items() if name.endswith("embed_tokens.weight")]
    rows = embeddings[config["trainable_token_indices"]]
    assert words.shape == rows.shape and (words != rows).any(1).float().mean() > 0.5
    ups = [name for name in final if "lora_B" in name and "language_model" in name]
    assert ups and all(final[name].abs().sum() > 0 for name in ups)
    assert any(named[name].abs().sum() > 0 for name in named if "lora_B" in name)
    near = [float((final[name] - tensor).abs().mean()) for name, tensor in named.items() if "lora_A" in name]
    assert max(near) < 0.02  # two steps of the second stage, from where the first one ended


@pytest.mark.parametrize("gone", ["", "lora"])
def test_a_run_that_was_stopped_goes_on_where_it_was(trained, material, tmp_path, monkeypatch, gone):
    shutil.copytree(trained, tmp_path / "again")
    out = tmp_path / "again/out"
    shutil.rmtree(out / "weights")
    if gone:
        shutil.rmtree(out / gone)
        shutil.rmtree(out / "adapter")
    else:
        monkeypatch.setattr(running, "train", lambda *_, **__: pytest.fail("trained again"))
    assert main([str(trained / "toy.yaml"), "--output", str(out), "--resume"]) == 0
    for part in ("weights/model.safetensors", "adapter/adapter_model.safetensors"):
        ours, theirs = load_file(out / part), load_file(trained / "out" / part)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items()), part


def test_an_adapter_is_gone_on_from(trained, material, tmp_path, capsys):
    recipe = yaml.safe_load(toy(material, tmp_path).read_text())
    recipe["stages"] = recipe["stages"][2:]
    recipe["stages"][0]["schedule"]["learning_rate"] = 1e-9
    (tmp_path / "on.yaml").write_text(yaml.safe_dump(recipe))
    words = ["--adapter", str(trained / "published"), "--output"]
    assert main([str(tmp_path / "on.yaml"), *words, str(tmp_path / "out")]) == 0
    before = load_file(trained / "published/adapter_model.safetensors")
    after = load_file(tmp_path / "out/adapter/adapter_model.safetensors")
    assert before.keys() == after.keys() and any(tensor.any() for tensor in before.values())
    assert all(torch.allclose(before[name].float(), after[name].float(), atol=1e-6) for name in before)
    recipe["stages"][0]["lora"]["rank"] = 4
    (tmp_path / "on.yaml").write_text(yaml.safe_dump(recipe))
    assert main([str(tmp_path / "on.yaml"), *words, str(tmp_path / "other")]) == 2
    assert "adapter: its rank is 2, not 4 as the recipe's" in capsys.readouterr().err
    assert main([str(tmp_path / "on.yaml"), "--adapter", "nowhere", "--output", str(tmp_path / "no")]) == 2
    assert "adapter: nowhere is no adapter" in capsys.readouterr().err


def test_a_demo_is_marked_small_and_knows_strange_images(material, tmp_path):
    path = toy(material, tmp_path)
    raw = yaml.safe_load(path.read_text())
    order = {"task": ["plane"], "workers": 1, "quiet": True}
    raw |= {
        "simulate": order | {"cases": 4, "seed": 42, "rows": 1, "labels": True},
        "held_out": order | {"cases": 3, "seed": 2},
        "familiarity_quantile": 0.985,
    }
    raw.pop("cases")
    path.write_text(yaml.safe_dump(raw))
    assert main([str(path), "--output", str(tmp_path / "out"), "--publish"]) == 0
    published = tmp_path / "published"
    assert (published / FAMILIARITY).is_file()
    tensors = load_file(published / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    opened = open_assistant("abvlm_q", str(published), device="cpu")
    assert opened.demo and "demo weights" in opened.title


@pytest.mark.parametrize("name", ["demo_abvlm_q", "demo_qbench"])
def test_the_demo_adapters_are_small_enough_for_the_repository(name):
    """Numbers of the LoRA on the demo base's own sizes, two bytes each."""
    recipe, base = (read_recipe(RECIPE.with_name(f"{each}.yaml")) for each in (name, "demo_qwen2_vl"))

    class Vocabulary(list):
        def convert_tokens_to_ids(self, token):
            return 0

    class Reader:
        tokenizer, image_token_id = Vocabulary(range(base.vocabulary)), 0

    with torch.device("meta"):
        lora = recipe.stages[0].lora
        words = range(400) if lora.words else ()  # about as many as the answers have
        wrapped = with_lora(running.dense_model(base, Reader()), lora, 0, None, words)
    numbers = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    assert 2 * numbers < 3_000_000  # beside the familiarity statistics


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"abvlm_q": {"prompt": "long"}}, "abvlm_q.prompt: 'long' is not one of full, short"),
        ({"abvlm_q": {}}, "abvlm_q.prompt: None is not one of"),
        (
            {"abvlm_q": {"prompt": "full", "plains": "a"}},
            "abvlm_q.plains: unknown key; known are prompt, planes, step",
        ),
        ({"min_pixels": 99999999, "max_pixels": 3136}, "min_pixels: 99999999 is more than max_pixels 3136"),
        ({"min_pixels": 0}, "min_pixels: 0 is not above zero"),
        ({"abvlm_q": {"prompt": "short", "step": 0}}, "abvlm_q.step: 0 is not a whole number from 1"),
        ({"stages": [0]}, r"stages\[0\].lora: the next stage"),
        ({"stages": [0, 1]}, r"stages\[1\].lora: the next stage"),
        ({"stages": [2, 2]}, "the stage of the kind lora comes last"),
        ({"rank": 4}, r"stages\[0\].lora: the next stage, .* must go on with the same lora"),
        ({"grounding": -1.0}, "grounding: -1.0 is not zero or more"),
        ({"grounding": 1.0, "labels": False}, "simulate.labels: the kind vision_warmup needs"),
        (
            {"grounding": 1.0, "alone": True, "labels": False},
            "simulate.labels: grounding needs the label maps",
        ),
        ({"no lora": True}, "a vision_warmup before the kind lora needs its lora"),
    ],
)
def test_a_recipe_that_cannot_teach_it_names_the_key(tmp_path, change, message):
    raw = yaml.safe_load(RECIPE.read_text("utf-8"))
    if "rank" in change:
        raw["stages"][0]["lora"] = raw["stages"][0]["lora"] | {"rank": 4}
    elif "grounding" in change:
        raw["stages"][-1]["grounding"] = change["grounding"]
        raw["simulate"]["labels"] = change.get("labels", True)
        if "alone" in change:
            del raw["stages"][:-1]
    elif "no lora" in change:
        del raw["stages"][0]["lora"]
    elif "stages" in change:
        raw["stages"] = [raw["stages"][i] | {"name": str(place)} for place, i in enumerate(change["stages"])]
    else:
        raw |= change
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(RecipeError, match=message):
        read_recipe(path)


def test_a_hospitals_own_protocol_is_taught_and_a_bad_one_ends_the_run(material, tmp_path, capsys):
    own = tmp_path / "planes.yaml"
    own.write_text(PUBLISHED.read_text("utf-8").replace("zh: 脾脏长轴切面", "zh: 本院脾脏切面"), "utf-8")
    path = toy(material, tmp_path, abvlm_q={"prompt": "short", "planes": str(own)})
    assert running._protocol(read_recipe(path)).planes["spleen_longitudinal"].name.zh.startswith("本院")
    own.write_text("score: 3", "utf-8")
    assert main([str(path), "--output", str(tmp_path / "out")]) == 2
    assert "abvlm_q.planes" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_without_a_lora_stage_whole_weights_come_out(material, tmp_path):
    raw = yaml.safe_load(toy(material, tmp_path).read_text())
    del raw["stages"][1:], raw["stages"][0]["lora"]
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(raw))
    assert main([str(tmp_path / "toy.yaml"), "--output", str(tmp_path / "out"), "--publish"]) == 0
    assert (tmp_path / "published/model.safetensors").is_file() and not (tmp_path / "out/adapter").exists()
    before = load_file(material / "base/model.safetensors")
    after = load_file(tmp_path / "published/model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name].to(before[name].dtype))}
    assert moved and all("visual" in name for name in moved)


def test_demo_weights_may_be_an_adapter(trained, monkeypatch):
    monkeypatch.setattr("assistants.base._DEMO", trained)
    assert demo_weights("published") == trained / "published" and demo_weights("nothing") is None


def test_grounding_is_for_planes_alone(tmp_path):
    raw = yaml.safe_load(RECIPE.read_text("utf-8"))
    del raw["abvlm_q"], raw["stages"][:-1], raw["stages"][0]["lora"]["words"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(RecipeError, match=r"stages\[0\].grounding: only abvlm_q has it"):
        read_recipe(tmp_path / "recipe.yaml")


def test_planes_are_for_one_assistant_alone():
    with pytest.raises(ValueError, match="'echovlm' knows no planes"):
        open_assistant("echovlm", planes="planes.yaml")

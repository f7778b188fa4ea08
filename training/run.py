"""Run a recipe from nothing to a weights folder: simulate, learn a tokenizer, train the stages in order,
ship.

Every step leaves its result under the output folder and is skipped when it is there, so a run that was
stopped at any moment goes on where it was. The shipped folder is what `open_assistant` opens: bfloat16
safetensors in shards under 9 MB, tokenizer, chat template, image processor, and the familiarity statistics.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import GenerationConfig, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from assistants.echovlm import EchoVLMForConditionalGeneration
from assistants.echovlm.assistant import DEMO_MARK
from assistants.echovlm.prompts import LANGUAGES, organs, standard_request
from imaging.case import Case, read_cases
from imaging.files import load_frames
from models.encoding import Encoder
from models.familiarity import Familiarity, vision_features
from training.conversation import Conversations, SeenImages, SeenTower
from training.loop import train
from training.recipe import Recipe, StageRecipe
from training.stages import MIXTURE, freeze, learning, with_lora
from training.tokenizer import train_tokenizer
from training.vision import VisionWarmup

FAMILIAR_IMAGES = 6000  # training images behind the familiarity statistics
SHARD = "8MB"


def run(recipe: Recipe, output: Path, say: Callable[[str], None] = print, *, publish: bool = False) -> Path:
    """Everything up to the finished weights; returns their folder: `output/weights`, or with `publish` the
    recipe's own. What stands in `output` already is not done again."""
    cases = simulate(recipe.simulate, output / "cases", say)
    held_out = simulate(recipe.held_out, output / "held_out", say)
    encoder = make_encoder(recipe, cases)
    model: nn.Module = dense_model(recipe, encoder)
    for stage in recipe.stages:
        model = _run_stage(recipe, stage, model, encoder, cases, output, say)
    folder = Path(recipe.weights) if publish else output / "weights"
    return ship(recipe, model, encoder, cases, held_out, folder, say)


def simulate(arguments: dict[str, object], folder: Path, say: Callable[[str], None]) -> list[Case]:
    """The cases of `python -m simulator`, made unless they are there: training meets the simulator only on
    disk."""
    order = folder / "order.json"
    wanted = json.dumps(arguments, sort_keys=True)
    if not (folder / "cases.jsonl").exists():
        command = [sys.executable, "-m", "simulator", str(folder)]
        for key, value in arguments.items():
            values = value if isinstance(value, list) else [] if isinstance(value, bool) else [value]
            if value is not False:
                command += [f"--{key}", *map(str, values)]
        say("$ " + " ".join(command[1:]))
        subprocess.run(command, check=True)
        order.write_text(wanted)
    elif order.exists() and order.read_text() != wanted:
        raise ValueError(f"{folder} holds the cases of another recipe ({order}); choose another --output")
    return list(read_cases(folder / "cases.jsonl"))


def make_encoder(recipe: Recipe, cases: Sequence[Case]) -> Encoder:
    """Tokenizer from the cases' texts and the assistant's standard requests; Qwen2-VL's image processor."""
    texts = [text for case in cases for text in (case.question, case.answer)]
    requests = [
        standard_request(task, language, organ)
        for task in ("report", "diagnosis", "vqa")
        for language in LANGUAGES
        for organ in (None, *organs())
    ]
    tokenizer = train_tokenizer([*texts, *requests * 50], recipe.vocabulary)
    return Encoder(tokenizer, Qwen2VLImageProcessorPil(), tokenizer.convert_tokens_to_ids("<|image_pad|>"))


def dense_model(recipe: Recipe, encoder: Encoder) -> Qwen2VLForConditionalGeneration:
    """A fresh Qwen2-VL of the recipe's size."""
    token = encoder.tokenizer.convert_tokens_to_ids
    config = Qwen2VLConfig(
        vision_config=recipe.vision | {"hidden_size": recipe.text["hidden_size"]},
        text_config=recipe.text
        | {
            "vocab_size": len(encoder.tokenizer),
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        image_token_id=encoder.image_token_id,
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(recipe.seed)
    model = Qwen2VLForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    model.generation_config = GenerationConfig(
        eos_token_id=token("<|im_end|>"),
        pad_token_id=token("<|endoftext|>"),
        bos_token_id=token("<|endoftext|>"),
    )
    return model


def _run_stage(
    recipe: Recipe,
    stage: StageRecipe,
    model: nn.Module,
    encoder: Encoder,
    cases: Sequence[Case],
    output: Path,
    say: Callable[[str], None],
) -> nn.Module:
    """One stage: prepare what learns, train unless it is done, and keep the weights after it."""
    folder = output / stage.name
    kept = folder / "model.safetensors"
    if stage.kind == "moe":
        torch.manual_seed(recipe.seed)
        model = EchoVLMForConditionalGeneration.from_dense(model, **recipe.mixture)
    if kept.exists():
        _restore(model, kept)
        say(f"{stage.name}: done before")
        return model
    trained = _train(stage, model, encoder, cases, output, recipe.precision, say)
    folder.mkdir(parents=True, exist_ok=True)
    writing = kept.with_suffix(".writing")
    save_file({name: tensor.contiguous() for name, tensor in _untied(trained).items()}, writing)
    writing.rename(kept)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return trained


def _train(
    stage: StageRecipe,
    model: nn.Module,
    encoder: Encoder,
    cases: Sequence[Case],
    output: Path,
    precision: str,
    say: Callable[[str], None],
) -> nn.Module:
    folder = output / stage.name
    if stage.kind == "vision_warmup":
        freeze(model, None)
        model.model.visual.requires_grad_(True)
        warmup = VisionWarmup(model.model.visual, encoder, cases)
        heads = output / "dense_heads.safetensors"  # a later warm-up stage goes on with the same read-outs
        if heads.exists():
            warmup.heads.load_state_dict(load_file(heads))
        say(f"{stage.name}: {learning(warmup.module):,} parameters learn, {len(warmup):,} images")
        train(warmup, stage.schedule, folder, precision=precision, resume=True)
        save_file(warmup.heads.state_dict(), heads)
        return model
    if stage.kind == "instruct":
        wrapped = with_lora(model, stage.lora, stage.schedule.seed)
        task = Conversations(stage.name, wrapped, encoder, cases, None)
        say(f"{stage.name}: {learning(wrapped):,} parameters learn, {len(task):,} examinations")
        train(task, stage.schedule, folder, precision=precision, resume=True)
        return wrapped.merge_and_unload()
    tower = model.model.visual
    freeze(model, MIXTURE if stage.kind == "moe" else None)
    if stage.kind == "captions":
        model.model.language_model.requires_grad_(True)
    seen = SeenImages(output / "seen", tower, encoder, cases)
    model.model.visual = SeenTower(tower)
    model.config.text_config.output_router_logits = stage.kind == "moe"  # the load-balancing loss, Eq. 9
    task = Conversations(stage.name, model, encoder, cases, seen)
    say(f"{stage.name}: {learning(model):,} parameters learn, {len(task):,} examinations")
    train(task, stage.schedule, folder, precision=precision, resume=True)
    model.model.visual = tower
    return model


def _restore(model: nn.Module, path: Path) -> None:
    """Load what `_untied` kept; all of it, and nothing else, must fit."""
    result = model.load_state_dict(load_file(path), strict=False)
    missing = [name for name in result.missing_keys if name != "lm_head.weight"]
    if missing or result.unexpected_keys:
        raise ValueError(f"{path} is of another recipe: {', '.join(missing + result.unexpected_keys)[:300]}")


def _untied(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state without tensors that are another's view (the tied head)."""
    seen, state = set(), {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            state[name] = tensor
    return state


def ship(
    recipe: Recipe,
    model: nn.Module,
    encoder: Encoder,
    cases: Sequence[Case],
    held_out: Sequence[Case],
    folder: Path,
    say: Callable[[str], None],
) -> Path:
    """Write the weights folder, whole or not at all; the model card is left in place."""
    fresh = folder.with_name(folder.name + ".writing")
    shutil.rmtree(fresh, ignore_errors=True)
    model = model.to(torch.bfloat16).eval()
    model.config.text_config.output_router_logits = False
    model.save_pretrained(fresh, max_shard_size=SHARD)
    encoder.save(fresh)
    shipped = type(model).from_pretrained(fresh, dtype=torch.float32).eval()
    rng = np.random.default_rng(recipe.seed)
    training = _features(shipped, encoder, cases, rng)
    familiarity = Familiarity.fit(
        training, _features(shipped, encoder, held_out, rng), recipe.familiarity_quantile
    )
    familiarity.save(fresh)
    (fresh / DEMO_MARK).write_text(json.dumps({"recipe": recipe.name, "seed": recipe.seed}) + "\n")
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    if (old / "README.md").exists():
        shutil.copy(old / "README.md", folder)
        say(f"{folder / 'README.md'} still has the figures of the weights before: measure and correct it")
    shutil.rmtree(old, ignore_errors=True)
    say(f"weights in {folder}")
    return folder


def _features(
    model: nn.Module, encoder: Encoder, cases: Sequence[Case], rng: np.random.Generator
) -> torch.Tensor:
    """Pooled vision features of up to FAMILIAR_IMAGES random images of the cases."""
    paths = sorted({path for case in cases for path in case.images})
    picked = [paths[i] for i in rng.permutation(len(paths))[:FAMILIAR_IMAGES]]
    batches = []
    for i in range(0, len(picked), 32):
        images = encoder.encode_images(load_frames(picked[i : i + 32]))
        batches.append(vision_features(model.model.visual, images["pixel_values"], images["image_grid_thw"]))
    return torch.cat(batches)

"""Run a recipe from its cases to a weights folder: the cases, the model, the stages in order, ship.

A model starts fresh (with a tokenizer learned on the cases) or from published weights. Every step leaves
its result under the output folder and is skipped when it is there, so a run that was stopped at any moment
goes on where it was. Started by `accelerate launch`, all processes learn and the main one alone writes.

The shipped folder is what `open_assistant` opens: safetensors, tokenizer, chat template, image processor.
Demo weights come in bfloat16 shards under 9 MB, with the familiarity statistics. A stage of the kind `lora`
ships its adapter, too; of AbVLM-Q and Ultrasound-QBench that is what is published.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import GenerationConfig, PreTrainedModel, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from assistants.abvlm_q.prompts import FORM_FILE
from assistants.base import DEMO_MARK
from assistants.echovlm import EchoVLMForConditionalGeneration
from imaging.case import Case, read_cases
from imaging.files import load_frames
from imaging.frame import Frame
from imaging.planes import Planes, PlanesError, load_planes
from models.adapter import adapter_folder, base_of, config_of, fill
from models.checkpoint import load_model, model_class_for, read_json, resolve
from models.encoding import PLACES, Encoder
from models.familiarity import FILE as FAMILIARITY
from models.familiarity import Familiarity, vision_features
from training import plane_answers, quality_answers
from training.begun import begin
from training.contrast import Contrast
from training.conversation import SeenImages, SeenTower
from training.demo_texts import demo_texts
from training.frames import Examinations, SeenFrames, standing_in
from training.loop import OtherRecipe, Stage, processes, train, write_tensors
from training.masks import Masks
from training.plane_answers import PlaneAnswers
from training.plane_warmup import PlaneWarmup
from training.quality_answers import QualityAnswers, QualityWarmup
from training.recipe import LEAVES_LORA, Recipe, RecipeError, StageRecipe
from training.simulated import place, rehearse, simulate
from training.stages import (
    CHOICE,
    FUSION,
    LANGUAGE,
    LORA,
    LORA_OF_LANGUAGE,
    LORA_OF_VISION,
    MIXTURE,
    Instructions,
    changed_by,
    describe,
    freeze,
    learn_in_float32,
    with_lora,
)
from training.tokenizer import train_tokenizer
from training.ultra import appearance as ultra_appearance
from training.ultra import fresh_ultra, open_ultra
from training.vision import VisionWarmup

FAMILIAR_IMAGES = 6000  # training images behind the familiarity statistics
DEMO_SHARD = "8MB"  # committed to the repository, where larger files are unwelcome
HEADS = "heads.safetensors"  # in a stage's folder: read-outs beside the model, which no weights hold
SHARD = "5GB"  # the library's own habit


def run(
    recipe: Recipe, output: Path, say: Callable[[str], None] = print, *, publish: bool = False
) -> Path | None:
    """Everything up to the finished weights; returns their folder: `output/weights`, or with `publish` the
    recipe's own. What stands in `output` already is not done again.

    None after a stage under FSDP or DeepSpeed, whose tensors lie in pieces: they are gathered into a file,
    and the next start goes on from it. Raises RecipeError for inputs that are not there, OtherRecipe for an
    `output` that another recipe began, and what `training.loop.train` and `models.checkpoint.resolve` raise.
    """
    _require_inputs(recipe, publish)
    given = _given(recipe)
    state = processes()
    say = say if state.is_main_process else _silent
    with state.main_process_first():  # the others find what it made
        rehearse(recipe, output)  # before the folder is begun: a refused order may still be mended
        output.mkdir(parents=True, exist_ok=True)
        begin(recipe, output)
        drawn = _drawn(recipe, output, say)
        cases = given or _to_learn(recipe, drawn)
        encoder, model = _first(recipe, cases, drawn, say)
    for stage in recipe.stages:
        model = _Stage(recipe, stage, encoder, cases, output, say).run(model)
        if model is None:
            say(f"{stage.name}: learned, and gathered in {output / stage.name}; start again with --resume")
            return None
    published = Path(recipe.weights) if publish else None
    merged = output / "weights" if recipe.ships_adapter else published or output / "weights"
    with state.main_process_first():
        if state.is_main_process:
            ship(recipe, model, encoder, cases, drawn.get("held_out"), merged, say)
            if recipe.ships_adapter:
                _ship_adapter(output, published, say)
    return published or merged


def _silent(line: str) -> None:
    """What a process that is not the main one says."""


def _require_inputs(recipe: Recipe, publish: bool) -> None:
    """RecipeError, in the first second, for what this machine or this version has not got."""
    for path in recipe.cases or ():
        if not Path(path).is_file():
            raise RecipeError(f"{recipe.name}: cases: there is no file {path}; name yours with --cases")
    if publish and recipe.weights is None:
        raise RecipeError(f"{recipe.name}: weights: --publish needs a place for the weights")
    if recipe.abvlm_q:
        _protocol(recipe)
    if recipe.base is not None:
        _require_base(recipe)
    if recipe.adapter is not None:
        _require_adapter(recipe)


def _require_base(recipe: Recipe) -> None:
    """Find the base, downloading it where needed, and see that it is a model the stages can begin with."""
    config = read_json(resolve(recipe.base) / "config.json")
    if recipe.of_llava_ultra:  # `assistants.llava_ultra.published` knows more layouts than there are classes
        return
    has = issubclass(model_class_for(config), EchoVLMForConditionalGeneration)
    kinds = [stage.kind for stage in recipe.stages]
    if "instruct" in kinds and "moe" not in kinds and not has:
        raise RecipeError(
            f"{recipe.name}: base: {recipe.base} has no mixture of experts, which the kind instruct "
            "teaches; begin with a stage of the kind moe, as echovlm_stage1.yaml does"
        )


def _require_adapter(recipe: Recipe) -> None:
    """See that the adapter to go on from is of the recipe's base, and its LoRA the first stage's."""
    folder, wanted = adapter_folder(recipe.adapter), recipe.stages[0].lora
    if folder is None:
        raise RecipeError(f"{recipe.name}: adapter: {recipe.adapter} is no adapter")
    if (base := base_of(folder)) != recipe.base:
        raise RecipeError(f"{recipe.name}: adapter: {recipe.adapter} is on {base}, not on {recipe.base}")
    has = config_of(folder)
    own = {"rank": has.r, "alpha": has.lora_alpha, "targets": has.target_modules}
    for key, value in own.items():
        if value != getattr(wanted, key):
            named = getattr(wanted, key)
            raise RecipeError(
                f"{recipe.name}: adapter: its {key} is {value!r}, not {named!r} as the recipe's"
            )


def _protocol(recipe: Recipe) -> Planes:
    """The protocol of standard planes that AbVLM-Q's answers go by."""
    try:
        return load_planes((recipe.abvlm_q or {}).get("planes"))
    except (OSError, PlanesError) as error:
        raise RecipeError(f"{recipe.name}: abvlm_q.planes: {error}") from error


def _drawn(recipe: Recipe, output: Path, say: Callable[[str], None]) -> dict[str, list[Case]]:
    """The simulator's cases by the recipe's key; those of a list of orders together."""
    drawn: dict[str, list[Case]] = {}
    for key, order in recipe.orders.items():
        drawn.setdefault(key.split("[")[0], []).extend(simulate(order, output / place(key), say))
    return drawn


def _given(recipe: Recipe) -> list[Case]:
    """The cases of the recipe's files; none where they are drawn."""
    cases = [case for path in recipe.cases or () for case in read_cases(path)]
    if recipe.cases is not None and not cases:
        raise RecipeError(f"{recipe.name}: cases: there is no case in {', '.join(recipe.cases)}")
    _require_images(recipe, cases)
    return cases


def _to_learn(recipe: Recipe, drawn: dict[str, list[Case]]) -> list[Case]:
    """What the stages learn from, where it is drawn."""
    cases = [*drawn["simulate"], *drawn.get("groups", ()), *drawn.get("more_cases", ())]
    _require_images(recipe, cases)
    return cases


def _require_images(recipe: Recipe, cases: Sequence[Case]) -> None:
    for case in cases:
        for path in case.images:
            if not os.path.exists(path):
                raise RecipeError(f"{recipe.name}: case {case.id}: there is no image {path}")


def _first(
    recipe: Recipe, cases: Sequence[Case], drawn: dict[str, list[Case]], say: Callable[[str], None]
) -> tuple[Encoder, nn.Module]:
    """Encoder and model before the first stage."""
    if recipe.base is not None:
        return open_ultra(recipe, processes().device, say) if recipe.of_llava_ultra else open_base(recipe)
    read = [*cases, *drawn.get("tokenizer_cases", ())]
    if recipe.of_llava_ultra:
        return fresh_ultra(recipe, read)
    encoder = make_encoder(recipe, read)
    return encoder, dense_model(recipe, encoder)


def open_base(recipe: Recipe) -> tuple[Encoder, PreTrainedModel]:
    """Encoder and model of the recipe's `base`, whole or not at all.

    With precision bf16 the frozen weights stay in bfloat16; what learns is raised to float32 by its stage.
    """
    folder = resolve(recipe.base)
    dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
    model_class = model_class_for(read_json(folder / "config.json"))
    model = load_model(
        model_class, folder, dtype=dtype, device=processes().device, attn_implementation="sdpa"
    )
    model.name_or_path = recipe.base  # what an adapter names as its base: the id, not this machine's folder
    encoder = Encoder.open(folder)
    _set_budget(recipe, encoder)
    return encoder, model


def _set_budget(recipe: Recipe, encoder: Encoder) -> None:
    """The recipe's `min_pixels` and `max_pixels` in place of the weights' own."""
    own = encoder.image_processor.size  # its edges are in pixels, whatever they say
    smallest = recipe.min_pixels or own["shortest_edge"]
    largest = max(own["longest_edge"], smallest)
    if recipe.max_pixels is not None:
        smallest, largest = min(smallest, recipe.max_pixels), min(largest, recipe.max_pixels)
    encoder.image_processor.size = {"shortest_edge": smallest, "longest_edge": largest}
    if recipe.places is not None:
        setattr(encoder.image_processor, PLACES, recipe.places)


def make_encoder(recipe: Recipe, cases: Sequence[Case]) -> Encoder:
    """Tokenizer from the cases' texts and what the assistants say; Qwen2-VL's image processor."""
    tokenizer = train_tokenizer(demo_texts(cases, _protocol(recipe)), recipe.vocabulary)
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
        tie_word_embeddings=recipe.text.get("tie_word_embeddings", True),
    )
    torch.manual_seed(recipe.seed)
    model = Qwen2VLForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    model.generation_config = GenerationConfig(
        eos_token_id=token("<|im_end|>"),
        pad_token_id=token("<|endoftext|>"),
        bos_token_id=token("<|endoftext|>"),
    )
    return model


class _Stage:
    """One stage of a run: prepare what learns, train unless that is done, keep what changed."""

    def __init__(
        self,
        recipe: Recipe,
        stage: StageRecipe,
        encoder: Encoder,
        cases: Sequence[Case],
        output: Path,
        say: Callable[[str], None],
    ):
        self.recipe, self.stage, self.encoder, self.cases = recipe, stage, encoder, cases
        self.output, self.folder, self.say = output, output / stage.name, say
        self.kept = self.folder / "model.safetensors"
        self.gathered = self.folder / "learned.safetensors"
        before = recipe.stages[: recipe.stages.index(stage)]
        self.heads = self.folder / HEADS
        self.heads_before = [output / each.name / HEADS for each in reversed(before)]
        self.aside: list[nn.Module] = []  # towers whose images were seen before

    def run(self, model: nn.Module) -> nn.Module | None:
        """The model after the stage; None where its tensors lie in pieces in several processes."""
        model = self._with_adapter(self._with_mixture(model))
        if self.kept.exists():
            _restore(model, self.kept)
            self.say(f"{self.stage.name}: done before")
            return model
        teach = {
            "vision_warmup": self._vision,
            "lora_language": self._language,
            "captions": self._words,
            "moe": self._words,
            "contrast": self._tower,
            "masks": self._tower,
            "llava_language": self._one_frame,
            "llava_align": self._one_frame,
            "llava_instruct": self._choice,
        }
        trained = teach.get(self.stage.kind, self._lora)(model)
        if trained is None:
            return None
        model, changed = trained
        if processes().is_main_process:
            state = model.state_dict()
            write_tensors(self.kept, {name: state[name].contiguous() for name in sorted(changed)})
            shutil.rmtree(self.folder / "checkpoint", ignore_errors=True)
            self.gathered.unlink(missing_ok=True)
        processes().wait_for_everyone()
        return model

    def _with_mixture(self, model: nn.Module) -> nn.Module:
        """The kind moe gives a dense model its experts; RecipeError where model and recipe disagree."""
        has, wanted = isinstance(model, EchoVLMForConditionalGeneration), self.recipe.mixture or {}
        if self.stage.kind == "moe" and not has:
            torch.manual_seed(self.recipe.seed)
            return EchoVLMForConditionalGeneration.from_dense(model, **wanted)
        for key, value in wanted.items() if has else ():
            if (own := getattr(model.config.text_config, key)) != value:
                raise RecipeError(f"{self.recipe.name}: mixture.{key}: {value!r}, but the base has {own!r}")
        return model

    def _with_adapter(self, model: nn.Module) -> nn.Module:
        """A warm-up's LoRA stays on the model for the stage that goes on with it, as it is or, where that
        stage was done before, without it: what was kept is merged."""
        if isinstance(model, PeftModel):
            done = self.stage.kind == "lora" and self.kept.exists()
            return model.unload() if done else model
        begins = self.stage.kind in LEAVES_LORA and self.stage.lora is not None
        return self._wrapped(model, None) if begins else model

    def _vision(self, model: nn.Module) -> tuple[nn.Module, set[str]] | None:
        """The tower learns in full, or its LoRA does."""
        if adapted := isinstance(model, PeftModel):
            freeze(model, LORA_OF_VISION)
        else:
            freeze(model, None)
            model.model.visual.requires_grad_(True)
        changed = changed_by(model, merged=not adapted)
        tower = (model.get_base_model() if adapted else model).model.visual
        if self.recipe.qbench:
            warmup = QualityWarmup(tower, self.encoder, self.cases)
        elif self.recipe.abvlm_q:
            warmup = self._plane_warmup(tower)
        else:
            warmup = VisionWarmup(tower, self.encoder, self.cases)
        self._open_heads(warmup)
        if not self._learn(warmup, f"{len(warmup):,} images"):
            return None
        self._keep_heads(warmup)
        if ships_half(self.recipe) and not adapted:
            round_to_half(tower)
        return model, changed

    def _open_heads(self, warmup: Stage) -> None:
        """A stage that asks the tower goes on with the read-outs of the last one that did."""
        if last := next(filter(Path.exists, self.heads_before), None):
            warmup.heads.load_state_dict(load_file(last))

    def _keep_heads(self, warmup: Stage) -> None:
        if processes().is_main_process:
            write_tensors(self.heads, warmup.heads.state_dict())

    def _words(self, model: nn.Module) -> tuple[nn.Module, set[str]] | None:
        """The language model or its mixture learns, the vision tower does not."""
        mixture = self.stage.kind == "moe"
        freeze(model, MIXTURE if mixture else None)
        if not mixture:
            model.model.language_model.requires_grad_(True)
        changed = changed_by(model)
        model.config.text_config.output_router_logits = mixture  # the load-balancing loss, Eq. 9
        if not self.recipe.keep_features:
            return (model, changed) if self._converse(model) else None
        tower = model.model.visual
        with processes().main_process_first():
            seen = SeenImages(self.output / "seen", tower, self.encoder, self.cases)
        model.model.visual, self.aside = SeenTower(tower), [tower]
        whole = self._converse(model, seen)
        model.model.visual = tower
        return (model, changed) if whole else None

    def _language(self, model: PeftModel) -> tuple[nn.Module, set[str]] | None:
        """The language model's part of the LoRA learns, and stays on the model: while the answers are still
        noise, Adam would take full steps in the tower all the same, and spoil what a warm-up taught it."""
        freeze(model, LORA_OF_LANGUAGE)
        changed = changed_by(model, merged=False)
        return (model, changed) if self._converse(model) else None

    def _lora(self, model: nn.Module) -> tuple[nn.Module, set[str]] | None:
        """LoRA learns, in EchoVLM the mixture too; merged afterwards, and kept as it is where it is all."""
        alone = self.stage.kind == "lora"
        if not alone:
            model.config.text_config.output_router_logits = True  # the load-balancing loss, Eq. 9
        wrapped = self._wrapped(model, None if alone else MIXTURE)
        changed = changed_by(wrapped)
        if not self._converse(wrapped):
            return None
        if alone and processes().is_main_process:
            _save_adapter(self.recipe, wrapped, self.encoder, self.output / "adapter")
            self.say(f"adapter in {self.output / 'adapter'}")
        return wrapped.merge_and_unload(), changed

    def _tower(self, model: nn.Module) -> tuple[nn.Module, set[str]] | None:
        """One of LLaVA-Ultra's towers learns; what reads its answers is thrown away."""
        clip = self.stage.kind == "contrast"
        tower = model.model.vision_tower if clip else model.model.sam_tower
        if tower is None:
            raise RecipeError(
                f"{self.recipe.name}: ultra.sam_config: it is off, and the kind masks teaches it"
            )
        freeze(model, None)
        tower.requires_grad_(True)
        changed = changed_by(model)
        task = (Contrast if clip else Masks)(tower, self.encoder, self.cases)
        task.module.to(processes().device)
        samples = f"{len(task):,} {'examinations' if clip else 'images'}"
        return (model, changed) if self._learn(task, samples) else None

    def _one_frame(self, model: nn.Module) -> tuple[nn.Module, set[str]] | None:
        """LLaVA-Ultra's projectors and fusion weight learn, the language model too where it is new."""
        freeze(model, LANGUAGE if self.stage.kind == "llava_language" else FUSION)
        changed = changed_by(model)
        return (model, changed) if self._examine(model.model, model) else None

    def _choice(self, model: nn.Module) -> tuple[nn.Module, set[str]] | None:
        """LLaVA-Ultra's LoRA, projectors, fusion weight and frame score learn; LoRA is merged afterwards."""
        wrapped = self._wrapped(model, CHOICE)
        changed = changed_by(wrapped)
        if not self._examine(model.model, wrapped, self.stage.distillation):
            return None
        return wrapped.merge_and_unload(), changed

    def _examine(self, inner: nn.Module, taught: nn.Module, distillation: float | None = None) -> bool:
        """Learn from cases of many frames; `inner` has the towers, which are frozen."""
        seen = None
        if self.recipe.keep_features:
            with processes().main_process_first():
                seen = SeenFrames(self.output / "seen", inner, self.encoder, self.cases)
            self.aside = [tower for tower in (inner.vision_tower, inner.sam_tower) if tower is not None]
        with standing_in(inner, seen):
            task = Examinations(
                self.stage.name,
                taught,
                self.encoder,
                self.cases,
                distillation=distillation,
                sharpness=self.stage.sharpness,
                score_rate=self.stage.score_rate,
                seen=seen,
                max_length=self.recipe.max_length,
            )
            return self._talk(taught, task)

    def _converse(self, model: nn.Module, seen: SeenImages | None = None) -> bool:
        if self.recipe.abvlm_q:
            return self._judge_planes(model)
        if self.recipe.qbench:
            own = self.stage.name, model, self.encoder, self.cases, self.recipe.max_length
            return self._talk(model, QualityAnswers(*own))
        task = Instructions(
            self.stage.name,
            model,
            self.encoder,
            self.cases,
            seen,
            self.recipe.max_length,
            most_turns=self.stage.most_turns,
            turn_weight=self.stage.turn_weight,
            option_orders=self.stage.option_orders,
        )
        return self._talk(model, task)

    def _judge_planes(self, model: PeftModel) -> bool:
        """AbVLM-Q's answers and, with `grounding`, what its warm-up asks."""
        warmup = None
        if self.stage.grounding:
            warmup = self._plane_warmup(model.get_base_model().model.visual)
            self._open_heads(warmup)
        task = PlaneAnswers(
            self.stage.name,
            model,
            self.encoder,
            self.cases,
            _protocol(self.recipe),
            self.recipe.abvlm_q["prompt"],
            self.recipe.max_length,
            self.recipe.box_step,
            warmup,
            self.stage.grounding,
        )
        whole = self._talk(model, task)
        if warmup and whole:
            self._keep_heads(warmup)
        return whole

    def _plane_warmup(self, tower: nn.Module) -> PlaneWarmup:
        return PlaneWarmup(tower, self.encoder, self.cases, _protocol(self.recipe), self.recipe.box_step)

    def _wrapped(self, model: nn.Module, also: re.Pattern | None) -> PeftModel:
        """The model with the stage's LoRA, a warm-up's where it has one; what matches `also` learns in
        full."""
        if isinstance(model, PeftModel):
            freeze(model, LORA)
            return model
        before = adapter_folder(self.recipe.adapter) if self.recipe.adapter else None
        words = config_of(before).trainable_token_indices if before else self._taught_words()
        try:
            wrapped = with_lora(model, self.stage.lora, self.stage.schedule.seed, also, words or ())
        except ValueError as error:  # peft found no layer of that name
            raise RecipeError(f"{self.recipe.name}: {self.stage.name}: lora.targets: {error}") from error
        if before:
            fill(wrapped, self.recipe.base, before)
        return wrapped

    def _taught_words(self) -> list[int]:
        if not self.stage.lora.words:
            return []
        if self.recipe.qbench:
            return quality_answers.taught_words(self.encoder, self.cases)
        form = self.recipe.abvlm_q["prompt"]
        return plane_answers.taught_words(self.encoder, self.cases, _protocol(self.recipe), form)

    def _talk(self, model: nn.Module, task: Stage) -> bool:
        if self.recipe.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        whole = self._learn(task, f"{len(task):,} examinations")
        if self.recipe.gradient_checkpointing:
            model.activation_checkpointing_disable()
        return whole

    def _learn(self, task: Stage, samples: str) -> bool:
        """Train, or take what several processes learned before; False where it lies in pieces now."""
        self.say(f"{self.stage.name}: {describe(task.module, self.aside)}; {samples}")
        learn_in_float32(task.module)
        if not self.gathered.exists():
            train(task, self.stage.schedule, self.folder, precision=self.recipe.precision, resume=True)
            return not self.gathered.exists()
        _restore(task.module, self.gathered)
        return True


def _save_adapter(recipe: Recipe, wrapped: PeftModel, encoder: Encoder, folder: Path) -> None:
    """The adapter as peft reads it, with tokenizer and image processor, whole or not at all; a demo's in
    bfloat16."""
    fresh = _fresh(folder)
    wrapped.save_pretrained(fresh)
    if _is_demo(recipe):
        for path in fresh.glob("*.safetensors"):
            halves = {name: tensor.bfloat16() for name, tensor in load_file(path).items()}
            save_file(halves, path, metadata={"format": "pt"})
    encoder.save(fresh)
    _leave_marks(recipe, fresh)
    _replace(folder, fresh)


def _leave_marks(recipe: Recipe, folder: Path) -> None:
    """What an assistant must know of weights or of an adapter: the prompt that was taught, and a demo's
    mark."""
    if recipe.abvlm_q:
        (folder / FORM_FILE).write_text(json.dumps({"prompt": recipe.abvlm_q["prompt"]}) + "\n")
    if _is_demo(recipe):
        (folder / DEMO_MARK).write_text(json.dumps({"recipe": recipe.name, "seed": recipe.seed}) + "\n")


def _ship_adapter(output: Path, published: Path | None, say: Callable[[str], None]) -> None:
    """Give the adapter the familiarity statistics of the merged weights, and put it where it is
    published."""
    adapter = output / "adapter"
    if (statistics := output / "weights" / FAMILIARITY).is_file():
        shutil.copy(statistics, adapter)
    if published is not None:
        fresh = _fresh(published)
        shutil.copytree(adapter, fresh)
        _replace(published, fresh)
        say(f"adapter in {published}")


def _restore(model: nn.Module, path: Path) -> None:
    """Bring back the tensors that a stage changed; every one must fit."""
    try:
        strangers = model.load_state_dict(load_file(path), strict=False).unexpected_keys
    except RuntimeError as error:
        raise OtherRecipe(f"{path} is of another recipe: {error}") from error
    if strangers:
        raise OtherRecipe(f"{path} is of another recipe: {', '.join(strangers)[:300]}")


def _fresh(folder: Path) -> Path:
    """An empty place beside `folder`, to be filled and then to take its place."""
    fresh = folder.with_name(folder.name + ".writing")
    shutil.rmtree(fresh, ignore_errors=True)
    return fresh


def _replace(folder: Path, fresh: Path) -> None:
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    if (old / "README.md").exists():  # the model card stays with the place
        shutil.copy(old / "README.md", folder)
    shutil.rmtree(old, ignore_errors=True)


def ship(
    recipe: Recipe,
    model: nn.Module,
    encoder: Encoder,
    cases: Sequence[Case],
    held_out: Sequence[Case] | None,
    folder: Path,
    say: Callable[[str], None],
) -> Path:
    """Write the weights folder, whole or not at all; the model card is left in place."""
    fresh, demo = _fresh(folder), _is_demo(recipe)
    model = model.to(torch.bfloat16 if ships_half(recipe) else torch.float32).eval()
    if isinstance(model, EchoVLMForConditionalGeneration):
        model.config.text_config.output_router_logits = False
    model.save_pretrained(fresh, max_shard_size=DEMO_SHARD if demo else SHARD)
    encoder.save(fresh)
    if held_out is not None:
        _fit_familiarity(recipe, type(model), encoder, cases, held_out, fresh)
    _leave_marks(recipe, fresh)
    card = (folder / "README.md").exists()
    _replace(folder, fresh)
    if card:
        say(f"{folder / 'README.md'} still has the figures of the weights before: measure and correct it")
    say(f"weights in {folder}")
    return folder


def ships_half(recipe: Recipe) -> bool:
    """Whether the finished weights are in bfloat16."""
    return _is_demo(recipe) or recipe.precision == "bf16"


@torch.no_grad()
def round_to_half(tower: nn.Module) -> None:
    """What comes after a warm-up, here and in recipes that begin from these weights, sees one and the same
    tower: the one that is shipped. So what it says about the images is computed once (`SeenImages`)."""
    for parameter in tower.parameters():
        parameter.copy_(parameter.bfloat16())


def _is_demo(recipe: Recipe) -> bool:
    """Whether all that was ever learned comes from the simulator."""
    return recipe.simulate is not None and (
        recipe.base is None or (resolve(recipe.base) / DEMO_MARK).is_file()
    )


def _fit_familiarity(
    recipe: Recipe,
    model_class: type[PreTrainedModel],
    encoder: Encoder,
    cases: Sequence[Case],
    held_out: Sequence[Case],
    folder: Path,
) -> None:
    """Statistics of the training images' features, as the weights in `folder` see them."""
    shipped = model_class.from_pretrained(folder, dtype=torch.float32).eval()
    rng = np.random.default_rng(recipe.seed)
    look = partial(ultra_appearance if recipe.of_llava_ultra else _appearance, shipped, encoder)
    training, others = (_features(look, some, rng) for some in (cases, held_out))
    Familiarity.fit(training, others, recipe.familiarity_quantile).save(folder)


def _features(
    look: Callable[[Sequence[Frame]], torch.Tensor], cases: Sequence[Case], rng: np.random.Generator
) -> torch.Tensor:
    """Pooled vision features of up to FAMILIAR_IMAGES random images of the cases."""
    paths = sorted({path for case in cases for path in case.images})
    picked = [paths[i] for i in rng.permutation(len(paths))[:FAMILIAR_IMAGES]]
    return torch.cat([look(load_frames(picked[i : i + 32])) for i in range(0, len(picked), 32)])


def _appearance(model: nn.Module, encoder: Encoder, frames: Sequence[Frame]) -> torch.Tensor:
    """What `models.familiarity` compares frames by before a Qwen2-VL."""
    images = encoder.encode_images(frames)
    return vision_features(model.model.visual, images["pixel_values"], images["image_grid_thw"])

"""A recipe: everything a training run needs to know, read from one commented YAML file and checked before
it starts.

An unknown, missing or unfitting key is an error that names it, in the first second. Every number in a recipe
says where it comes from in a comment beside it. Whether files and published weights are there is looked at
when the run begins (`training.run`).
"""

from __future__ import annotations

import re
import types
import typing
from dataclasses import dataclass, fields, replace
from pathlib import Path

import yaml

from assistants.echovlm.configuration import MIXTURE_FIELDS
from assistants.llava_ultra.configuration import LlavaUltraConfig
from training.loop import Schedule

PRECISIONS = ("no", "bf16", "fp16")
OF_LLAVA_ULTRA = ("contrast", "masks", "llava_language", "llava_align", "llava_instruct")
KINDS = ("vision_warmup", "captions", "moe", "instruct", "lora", *OF_LLAVA_ULTRA)
WITH_LORA = ("instruct", "lora", "llava_instruct")
WITH_DISTILLATION = ("llava_instruct",)
ULTRA_FIELDS = tuple(LlavaUltraConfig.__annotations__)
BESIDE_THE_BASE = ("base", "clip", "sam")  # arguments of assistants.llava_ultra.published.open_published

_ABOVE_ZERO = (
    "steps epochs batch_size accumulation learning_rate gradient_clip checkpoint_every minutes rank alpha "
    "vocabulary max_pixels max_length sharpness"
).split()
_SHARES = ("warmup_ratio", "dropout", "familiarity_quantile")  # from 0 to below 1


class RecipeError(ValueError):
    """Something in a recipe file is wrong; the message names the file and the key."""


@dataclass(frozen=True)
class Lora:
    """Low-rank adaptation: rank, scale and dropout, and which linear layers get it (a regular expression)."""

    rank: int
    alpha: int
    dropout: float
    targets: str


@dataclass(frozen=True)
class StageRecipe:
    """One stage: `kind` says what learns (`training.stages`), `schedule` how long and how fast.

    `distillation` is the weight of Eq. 5 beside the answers' loss; 0 leaves the frame score to itself.
    `sharpness` is the power that Eq. 5's Norm takes the attention shares to; 1 leaves them as they are.
    """

    name: str
    kind: str
    schedule: Schedule
    lora: Lora | None = None
    distillation: float | None = None
    sharpness: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """What learns from what, and in which order.

    Cases: `simulate`, the arguments of `python -m simulator` that makes them, or `cases`, JSONL files.
    Model: `base`, published weights by folder or Hugging Face id, or a fresh one of `vocabulary` tokens with
    the configuration fields `vision` and `text`. `mixture` holds EchoVLM's own fields. `tokenizer_cases`,
    orders of the simulator, widen what a fresh tokenizer reads; nothing else learns from them.
    `held_out` (arguments of the simulator) and `familiarity_quantile`, the share of its images that must
    pass, make the familiarity statistics. `max_pixels` is the budget of one image and `max_length` of one
    conversation in tokens; None leaves both to the weights. `keep_features` computes what a frozen vision
    tower sees once for each image; the images must have one size then. `weights` is the place for --publish.

    Of LLaVA-Ultra, `ultra` holds the fields of LlavaUltraConfig beside vision and text of a fresh model, or
    what `published.open_published` takes beside the base (sam, clip, base, fields); `groups` is a second
    order of the simulator, cases of several frames; all its stages learn from both.
    """

    name: str
    seed: int
    precision: str
    stages: tuple[StageRecipe, ...]
    simulate: dict[str, object] | None = None
    cases: str | list[str] | None = None
    base: str | None = None
    vocabulary: int | None = None
    tokenizer_cases: list[dict] | None = None
    vision: dict[str, object] | None = None
    text: dict[str, object] | None = None
    mixture: dict[str, object] | None = None
    ultra: dict[str, object] | None = None
    groups: dict[str, object] | None = None
    held_out: dict[str, object] | None = None
    familiarity_quantile: float | None = None
    max_pixels: int | None = None
    max_length: int | None = None
    gradient_checkpointing: bool = False
    keep_features: bool = False
    weights: str | None = None

    @property
    def of_llava_ultra(self) -> bool:
        """Whether its stages teach a LLaVA-Ultra."""
        return any(stage.kind in OF_LLAVA_ULTRA for stage in self.stages)


def read_recipe(path: Path, *, base: str | None = None, cases: list[str] | None = None) -> Recipe:
    """Read and check a recipe; `base` and `cases`, when given, take the place of its own.

    Raises RecipeError naming the key at fault.
    """
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: {error}") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: expected keys and values, found {type(raw).__name__}")
    if base is not None:
        raw["base"] = base
    if cases is not None:
        raw = {key: value for key, value in raw.items() if key != "simulate"} | {"cases": cases}
    stages = _stages(path, raw.pop("stages", None), raw.get("seed", 0))
    if raw.get("precision") not in PRECISIONS:
        raise RecipeError(
            f"{path}: precision: {raw.get('precision')!r} is not one of {', '.join(PRECISIONS)}"
        )
    recipe = _build(Recipe, path, "", raw | {"stages": stages})
    if complaint := _complaint(recipe):
        raise RecipeError(f"{path}: {complaint}")
    return replace(recipe, cases=[recipe.cases] if isinstance(recipe.cases, str) else recipe.cases)


def _stages(path: Path, raw: object, seed: int) -> tuple[StageRecipe, ...]:
    if not raw or not isinstance(raw, list):
        raise RecipeError(f"{path}: stages: at least one stage is needed")
    for i, stage in enumerate(raw):
        if not isinstance(stage, dict):
            raise RecipeError(f"{path}: stages[{i}]: expected keys and values, found {stage!r}")
    names = [stage.get("name") for stage in raw]
    if len(set(names)) < len(names):
        raise RecipeError(f"{path}: stages: two stages have the same name")
    return tuple(_stage(path, f"stages[{i}]", dict(stage), seed) for i, stage in enumerate(raw))


def _stage(path: Path, where: str, raw: dict, seed: int) -> StageRecipe:
    kind = raw.get("kind")
    if kind not in KINDS:
        raise RecipeError(f"{path}: {where}.kind: {kind!r} is not one of {', '.join(KINDS)}")
    parts = {}
    for key, part in (("schedule", Schedule), ("lora", Lora)):
        values = raw.pop(key, None)
        if values is not None and not isinstance(values, dict):
            raise RecipeError(f"{path}: {where}.{key}: expected keys and values, found {values!r}")
        own = {"seed": seed} if key == "schedule" else {}
        if values or key == "schedule":
            parts[key] = _build(part, path, f"{where}.{key}", own | (values or {}))
    if ("lora" in parts) != (kind in WITH_LORA):
        raise RecipeError(
            f"{path}: {where}.lora: the kind {kind} {'needs it' if kind in WITH_LORA else 'has none'}"
        )
    if ("distillation" in raw) != (kind in WITH_DISTILLATION):
        needs = "needs it" if kind in WITH_DISTILLATION else "has none"
        raise RecipeError(f"{path}: {where}.distillation: the kind {kind} {needs}")
    if "sharpness" in raw and kind not in WITH_DISTILLATION:
        raise RecipeError(f"{path}: {where}.sharpness: the kind {kind} has none")
    if "lora" in parts:
        _check_pattern(path, f"{where}.lora.targets", parts["lora"].targets)
    return _build(StageRecipe, path, where, raw | parts)


def _check_pattern(path: Path, where: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise RecipeError(f"{path}: {where}: {pattern!r} is not a regular expression: {error}") from error


def _complaint(recipe: Recipe) -> str | None:
    """What does not go together, beginning with the keys; None for a sound recipe."""
    fresh = (recipe.vocabulary, recipe.vision, recipe.text)
    kinds = [stage.kind for stage in recipe.stages]
    if (recipe.simulate is None) == (recipe.cases is None):
        return "simulate, cases: give one of the two"
    if recipe.base is None and None in fresh:
        return "base, or all of vocabulary, vision and text: one is needed to know the model"
    if recipe.base is not None and any(value is not None for value in fresh):
        return "base: it brings its own vocabulary, vision and text; leave those out"
    if recipe.base is not None and recipe.tokenizer_cases is not None:
        return "base: it brings its own tokenizer; leave tokenizer_cases out"
    if recipe.base is None and "moe" in kinds and recipe.mixture is None:
        return "mixture: the kind moe needs it"
    for key in recipe.mixture or ():
        if key not in MIXTURE_FIELDS:
            return f"mixture.{key}: unknown key; known are {', '.join(sorted(MIXTURE_FIELDS))}"
    if (recipe.held_out is None) != (recipe.familiarity_quantile is None):
        return "held_out, familiarity_quantile: give both or neither"
    return _complaint_about_ultra(recipe)


def _complaint_about_ultra(recipe: Recipe) -> str | None:
    """What does not go together where a stage teaches LLaVA-Ultra, or an entry is for it alone."""
    ours = [stage.kind in OF_LLAVA_ULTRA for stage in recipe.stages]
    if any(ours) != all(ours):
        return f"stages: the kinds {', '.join(OF_LLAVA_ULTRA)} teach another model than the rest"
    for key in ("ultra", "groups"):
        if getattr(recipe, key) is not None and not any(ours):
            return f"{key}: only the kinds {', '.join(OF_LLAVA_ULTRA)} have a use for it"
    for key in ("max_pixels", "held_out", "mixture"):
        if getattr(recipe, key) is not None and any(ours):
            return f"{key}: LLaVA-Ultra has no use for it"
    known = ULTRA_FIELDS if recipe.base is None else (*ULTRA_FIELDS, *BESIDE_THE_BASE)
    if unknown := [key for key in recipe.ultra or () if key not in known]:
        return f"ultra.{unknown[0]}: unknown key; known are {', '.join(sorted(known))}"
    if recipe.groups is not None and recipe.simulate is None:
        return "groups: an order of the simulator, which goes with simulate"
    return None


def _build(kind: type, path: Path, where: str, values: dict):
    hints = typing.get_type_hints(kind)
    known = {f.name for f in fields(kind)}
    dot = f"{where}." if where else ""
    for key, value in values.items():
        if key not in known:
            raise RecipeError(f"{path}: {dot}{key}: unknown key; known are {', '.join(sorted(known))}")
        if problem := _problem(key, value, hints[key]):
            raise RecipeError(f"{path}: {dot}{key}: {value!r} is not {problem}")
    try:
        return kind(**values)
    except ValueError as error:
        raise RecipeError(f"{path}: {where}: {error}") from error
    except TypeError as error:
        missing = sorted(known - set(values))
        raise RecipeError(
            f"{path}: {where or 'top level'}: {error} (not given: {', '.join(missing)})"
        ) from error


def _problem(key: str, value: object, hint: object) -> str | None:
    """What `value` should be and is not; None where it fits its field."""
    if not _fits(value, hint):
        return f"{_words(hint)}{' (YAML wants 1.0e-3, not 1e-3)' if _looks_like_a_number(value) else ''}"
    if value is None:
        return None
    if key == "distillation" and not value >= 0:
        return "zero or more"
    if key in _ABOVE_ZERO and not value > 0:
        return "above zero"
    if key in _SHARES and not 0 <= value < 1:
        return "from 0 to below 1"
    return None


def _fits(value: object, hint: object) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, option) for option in inner)
    if origin is tuple:
        like = inner if inner[-1] is not Ellipsis else (inner[0],) * len(value)
        return isinstance(value, list | tuple) and len(value) == len(like) and all(map(_fits, value, like))
    if origin is list:
        return isinstance(value, list) and all(_fits(each, inner[0]) for each in value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if hint is float else origin or hint)


def _words(hint: object) -> str:
    """A type for people who write YAML."""
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return " or ".join(map(_words, options))
    kinds = {dict: "keys and values", list: "a list", tuple: "a list"}
    return names.get(hint) or kinds.get(typing.get_origin(hint), getattr(hint, "__name__", str(hint)))


def _looks_like_a_number(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value) is not None

"""A recipe: everything a training run needs to know, read from one commented YAML file and checked before
it starts.

An unknown or missing key is an error that names it, in the first second. Every number in a recipe says
where it comes from in a comment beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml

from training.loop import Schedule

PRECISIONS = ("no", "bf16", "fp16")
KINDS = ("vision_warmup", "captions", "moe", "instruct")


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
    """One stage: `kind` says what learns (`training.stages`), `schedule` how long and how fast."""

    name: str
    kind: str
    schedule: Schedule
    lora: Lora | None = None


@dataclass(frozen=True)
class Recipe:
    """`simulate` are the arguments of `python -m simulator` that make the cases; `vision`, `text` and
    `mixture` are fields of the model's configuration; `familiarity_quantile` is the share of held-out
    images that must pass."""

    name: str
    seed: int
    precision: str
    simulate: dict[str, object]
    held_out: dict[str, object]
    vocabulary: int
    vision: dict[str, object]
    text: dict[str, object]
    mixture: dict[str, object]
    familiarity_quantile: float
    weights: str
    stages: tuple[StageRecipe, ...] = field(default=())


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe. Raises RecipeError naming the key at fault."""
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: {error}") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: expected keys and values, found {type(raw).__name__}")
    stages = raw.pop("stages", None)
    if not stages:
        raise RecipeError(f"{path}: stages: at least one stage is needed")
    for i, stage in enumerate(stages):
        if not isinstance(stage, dict):
            raise RecipeError(f"{path}: stages[{i}]: expected keys and values, found {stage!r}")
    names = [stage.get("name") for stage in stages]
    if len(set(names)) < len(names):
        raise RecipeError(f"{path}: stages: two stages have the same name")
    if raw.get("precision") not in PRECISIONS:
        raise RecipeError(
            f"{path}: precision: {raw.get('precision')!r} is not one of {', '.join(PRECISIONS)}"
        )
    made = tuple(
        _stage(path, f"stages[{i}]", dict(stage), raw.get("seed", 0)) for i, stage in enumerate(stages)
    )
    return _build(Recipe, path, "", raw | {"stages": made})


def _stage(path: Path, where: str, raw: dict, seed: int) -> StageRecipe:
    if raw.get("kind") not in KINDS:
        raise RecipeError(f"{path}: {where}.kind: {raw.get('kind')!r} is not one of {', '.join(KINDS)}")
    schedule = _build(Schedule, path, f"{where}.schedule", {"seed": seed} | dict(raw.pop("schedule", {})))
    lora = raw.pop("lora", None)
    if raw["kind"] == "instruct" and not lora:
        raise RecipeError(f"{path}: {where}.lora: the kind instruct needs it")
    lora = _build(Lora, path, f"{where}.lora", lora) if lora else None
    return _build(StageRecipe, path, where, raw | {"schedule": schedule, "lora": lora})


def _build(kind: type, path: Path, where: str, values: dict):
    known = {f.name for f in fields(kind)}
    dot = f"{where}." if where else ""
    for key in values:
        if key not in known:
            raise RecipeError(f"{path}: {dot}{key}: unknown key; known are {', '.join(sorted(known))}")
    try:
        return kind(**values)
    except TypeError as error:
        missing = sorted(known - set(values))
        raise RecipeError(
            f"{path}: {where or 'top level'}: {error} (not given: {', '.join(missing)})"
        ) from error

"""What an output folder was begun with. Its recipe stands in it, and a run goes on with the same one only.

A stage has begun when its folder is there, and must then stay as it was; so must all that lies before the
stages (cases, model, seed, precision). Later stages may still change, and so may the place of the weights.

Knows the recipe's keys by name alone, not what they mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import MISSING, asdict, fields
from pathlib import Path

from training.loop import OtherRecipe, Schedule
from training.recipe import Lora, Recipe, StageRecipe

MAY_CHANGE = ("name", "weights")
# What a key stood for before there was such a key.
DEFAULTS = {
    field.name: field.default
    for kind in (Recipe, StageRecipe, Schedule, Lora)
    for field in fields(kind)
    if field.default is not MISSING
}


def begin(recipe: Recipe, output: Path) -> None:
    """Write the recipe into `output`, once; raise OtherRecipe where another one stands there and has begun
    what this one would do differently, naming the keys."""
    path = output / "recipe.json"
    values = json.loads(json.dumps(asdict(recipe)))  # as they come back from the file
    if path.exists():
        before = json.loads(path.read_text("utf-8"))
        if other := list(_differences(_fixed(before, output), _fixed(values, output))):
            raise OtherRecipe(
                f"{output} was begun by another recipe: {'; '.join(other)}. Choose another --output, or put "
                "the recipe back as it was"
            )
    writing = path.with_suffix(".writing")
    writing.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", "utf-8")
    writing.replace(path)


def _fixed(values: dict, output: Path) -> dict:
    """The keys that must stay as they are; the stages by name, as far as they have begun."""
    begun = {stage["name"]: stage for stage in values["stages"] if (output / stage["name"]).exists()}
    return {key: value for key, value in values.items() if key not in MAY_CHANGE} | {"stages": begun}


def _differences(before: object, now: object, where: str = "") -> Iterator[str]:
    """ "stages.vision.schedule.minutes was 75, is 60" for every key that is not the same."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        if before != now:
            yield f"{where} was {before!r}, is {now!r}"
        return
    for key in [*before, *(key for key in now if key not in before)]:
        was = before.get(key, DEFAULTS.get(key))
        yield from _differences(was, now.get(key), f"{where}.{key}".lstrip("."))

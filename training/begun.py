"""What an output folder was begun with. Its recipe stands in it, and a run goes on with the same one only.

A stage has begun when its folder is there, and must then stay as it was; so must all that lies before the
stages (cases, model, seed, precision), the files of given cases included. Later stages may still change, and
so may the place of the weights. Before anything is made of the cases, all may change: what the simulator has
drawn says itself whose it is (`training.simulated`).

Knows the recipe's keys by name alone, not what they mean.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import MISSING, asdict, fields
from pathlib import Path

from training.loop import OtherRecipe, Schedule
from training.recipe import OF_ORDERS, Lora, Recipe, StageRecipe

RECIPE, WRITING = "recipe.json", "recipe.writing"
CASES_MARK = "cases_mark"  # beside the recipe's keys: what the files of given cases held
MAY_CHANGE = ("name", "weights", CASES_MARK)  # the last is compared by file
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
    path = output / RECIPE
    values = json.loads(json.dumps(asdict(recipe)))  # as they come back from the file
    values[CASES_MARK] = {file: _mark(Path(file)) for file in recipe.cases or ()}
    if path.exists() and _holds_more_than(output, *OF_ORDERS):
        before = json.loads(path.read_text("utf-8"))
        for file, was in before.get(CASES_MARK, {}).items():
            if (now := values[CASES_MARK].get(file, was)) != was:
                raise OtherRecipe(
                    f"{output} was begun with other cases: {file} held {was['cases']:,} of them, and holds "
                    f"{now['cases']:,} now, not the same. Choose another --output, or put the file back"
                )
        if other := list(_differences(_fixed(before, output), _fixed(values, output))):
            raise OtherRecipe(
                f"{output} was begun by another recipe: {'; '.join(other)}. Choose another --output, or put "
                "the recipe back as it was"
            )
    writing = output / WRITING
    writing.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", "utf-8")
    writing.replace(path)


def untouched(output: Path) -> bool:
    """Whether nothing has been made in `output` yet: not there, empty, or with a refused start's recipe."""
    return not output.exists() or not _holds_more_than(output)


def _holds_more_than(output: Path, *names: str) -> bool:
    return any(path.name not in (RECIPE, WRITING, *names) for path in output.iterdir())


def _mark(file: Path) -> dict[str, int | str]:
    """How many cases a file holds, and what changes when any of them does."""
    content = file.read_bytes()
    lines = sum(1 for line in content.splitlines() if line.strip())
    return {"cases": lines, "sha256": hashlib.sha256(content).hexdigest()}


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

"""Cases that a recipe orders from the simulator, which training meets on the command line and on disk alone.

What can be ordered only the simulator knows. So every order is rehearsed with a single case, in a folder that
goes away, before the first is carried out: what the simulator refuses is refused in its own words, and not
after minutes of drawing.

The order stands beside its cases, `order.json`, from the moment the simulator is called. An order that was
interrupted is carried out anew; the simulator itself clears what is left of it, and refuses a folder in which
another order has begun.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from imaging.case import Case, read_cases
from training.loop import OtherRecipe
from training.recipe import Recipe, RecipeError

RECEIPT = "order.json"
CASES = "cases.jsonl"  # the simulator writes it last


def place(key: str) -> Path:
    """Where the cases of an order (a key of `Recipe.orders`) stand in the output folder."""
    return Path("cases" if key == "simulate" else key.replace("[", "/").rstrip("]"))


def read_labels(case: Case, image: int) -> np.ndarray:
    """The label map of one image of a case that was ordered with `labels`: uint8 [height, width]."""
    return np.asarray(Image.open(Path(case.images[image]).parents[1] / case.extra["labels"][image]))


def rehearse(recipe: Recipe, output: Path) -> None:
    """Order one case of everything that is not in `output` yet. RecipeError with the key and the simulator's
    last words where it refuses."""
    waiting = {
        key: order for key, order in recipe.orders.items() if not (output / place(key) / CASES).exists()
    }
    with TemporaryDirectory() as folder:
        started = {
            key: subprocess.Popen(
                _command(order | {"cases": 1}, Path(folder) / place(key)),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for key, order in waiting.items()
        }
        said = {key: process.communicate()[1] for key, process in started.items()}
        for key, process in started.items():
            if process.returncode or not (Path(folder) / place(key) / CASES).exists():
                last = (said[key].strip().splitlines() or ["the simulator made no cases"])[-1]
                raise RecipeError(f"{recipe.name}: {key}: {re.sub('^.*: error: ', '', last)}")


def simulate(arguments: dict[str, object], folder: Path, say: Callable[[str], None]) -> list[Case]:
    """The cases of `python -m simulator`, made in `folder` unless they are there.

    Raises OtherRecipe where `folder` holds those of another order, or of nobody knows which, and RecipeError
    where the simulator fails.
    """
    receipt, wanted = folder / RECEIPT, json.dumps(arguments, sort_keys=True)
    ours = receipt.exists()
    if ours and receipt.read_text("utf-8") != wanted:
        raise OtherRecipe(f"{folder} holds the cases of another recipe ({receipt}); choose another --output")
    if (folder / CASES).exists():
        if not ours:
            raise OtherRecipe(f"{folder} holds cases, and no {RECEIPT} says whose; choose another --output")
        return list(read_cases(folder / CASES))
    folder.mkdir(parents=True, exist_ok=True)
    receipt.write_text(wanted, "utf-8")
    command = _command(arguments, folder)
    say("$ " + " ".join(command[1:]))
    if status := subprocess.run(command).returncode:
        if not ours:  # the folder may be another's
            receipt.unlink()
        raise RecipeError(f"{folder}: the simulator ended with status {status}; its own words stand above")
    return list(read_cases(folder / CASES))


def _command(arguments: dict[str, object], folder: Path) -> list[str]:
    """A list is several words after its key, true the key alone, false nothing."""
    command = [sys.executable, "-m", "simulator", str(folder)]
    for key, value in arguments.items():
        values = value if isinstance(value, list) else [] if isinstance(value, bool) else [value]
        if value is not False:
            command += [f"--{key}", *map(str, values)]
    return command

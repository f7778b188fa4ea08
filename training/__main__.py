"""`python -m training RECIPE.yaml`: make a set of weights from a recipe; stop it at any time and go on with
--resume.

On several GPUs or machines the same words after `accelerate launch -m`; FSDP and DeepSpeed are chosen by
accelerate's own configuration (`accelerate config`). Machines need one output folder in common.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from imaging.case import CaseError
from imaging.errors import UnreadableFile
from models.errors import ModelError
from training.begun import untouched
from training.loop import OtherRecipe, Stopped, processes
from training.recipe import RecipeError, read_recipe
from training.run import run

STOPPED = 143  # what a shell reports of a process that SIGTERM ended


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    try:
        recipe = read_recipe(args.recipe, base=args.base, adapter=args.adapter, cases=args.cases)
        output = args.output or Path("runs") / recipe.name
        if not args.resume and not untouched(output):
            raise RecipeError(f"{output} is not empty: go on with --resume, or choose another --output")
        processes().wait_for_everyone()  # before the first of them writes into it
        run(recipe, output, publish=args.publish)
    except (RecipeError, CaseError, UnreadableFile, ModelError, OtherRecipe) as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, FloatingPointError) as error:  # above all `training.loop.FullDisk`
        print(error, file=sys.stderr)
        return 1
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return STOPPED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    parser.add_argument(
        "--output", type=Path, help="folder for cases, logs and checkpoints (default runs/NAME)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with what stands in the output folder")
    parser.add_argument(
        "--base", metavar="PATH_OR_ID", help="published weights in place of the recipe's base"
    )
    parser.add_argument(
        "--adapter", metavar="PATH", help="an adapter on the base, which the recipe's LoRA goes on from"
    )
    parser.add_argument(
        "--cases", nargs="+", metavar="CASES.jsonl", help="files of cases in place of the recipe's"
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="put the weights where the recipe says, over those that are there",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

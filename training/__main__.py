"""`python -m training RECIPE.yaml`: make a set of weights from a recipe; stop it at any time and go on with
--resume."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from training.recipe import RecipeError, read_recipe
from training.run import run


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    parser.add_argument(
        "--output", type=Path, help="folder for cases, logs and checkpoints (default runs/NAME)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with what stands in the output folder")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="put the weights where the recipe says, over those that are there",
    )
    args = parser.parse_args(arguments)
    try:
        recipe = read_recipe(args.recipe)
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 2
    output = args.output or Path("runs") / recipe.name
    if output.exists() and any(output.iterdir()) and not args.resume:
        print(f"{output} is not empty: go on with --resume, or choose another --output", file=sys.stderr)
        return 2
    run(recipe, output, publish=args.publish)
    return 0


if __name__ == "__main__":
    sys.exit(main())

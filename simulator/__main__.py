"""`python -m simulator --cases N --seed S --task report OUT`: draw examinations and write them as cases."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from imaging.case import Case
from simulator.cases import TASKS, Order, write_examinations
from simulator.examination import ORGANS

SHEET_COLUMNS, SHEET_ROWS, CELL = 8, 6, 224


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    if min(args.cases, args.workers, args.rows) < 1 or args.seed < 0:
        print("--cases, --workers and --rows must be 1 or more, --seed 0 or more", file=sys.stderr)
        return 2
    if (args.out.exists() and not args.out.is_dir()) or (args.out / "cases.jsonl").exists():
        print(f"{args.out} is a file or holds cases already: choose another OUT", file=sys.stderr)
        return 2
    order = Order(args.seed, tuple(args.task), args.organ, args.language, args.rows, args.labels)
    sheet: list[Case] = []
    progress = tqdm(total=args.cases, unit="case", disable=args.quiet)
    for cases in write_examinations(order, args.cases, args.out, args.workers):
        progress.update()
        if sum(len(case.images) for case in sheet) < SHEET_COLUMNS * SHEET_ROWS:
            sheet.append(cases[0])
    progress.close()
    _contact_sheet(sheet, args.out)
    print(f"{args.cases} examinations in {args.out / 'cases.jsonl'}")
    print(f"to look at: {args.out / 'contact_sheet.png'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m simulator", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write cases.jsonl and images/ into")
    parser.add_argument("--cases", type=int, required=True, help="number of examinations")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same files (default 0)")
    parser.add_argument(
        "--task", nargs="+", choices=TASKS, default=["report"], help="what the texts are (default report)"
    )
    parser.add_argument("--organ", choices=ORGANS, help="only this organ (default: all seven, evenly)")
    parser.add_argument(
        "--language", choices=("zh", "en", "both"), default="both", help="of the texts (default both)"
    )
    parser.add_argument(
        "--rows", type=int, default=1, help="rows an examination gets for each task (default 1)"
    )
    parser.add_argument("--labels", action="store_true", help="also write the label map of every image")
    parser.add_argument(
        "--workers", type=int, default=1, help="processes (default 1); the files do not depend on it"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _contact_sheet(cases: list[Case], out: Path) -> None:
    """One picture of the first images, captioned with organ and lesion, for a person to look at."""
    tiles = []
    for case in cases:
        lesion = case.extra["examination"]["lesion"]
        for i, image in enumerate(case.images):
            what = lesion["kind"] if lesion and i in case.valid_images else "-"
            tiles.append((out / image, f"{case.organ} {what}"))
    tiles = tiles[: SHEET_COLUMNS * SHEET_ROWS]
    rows = -(-len(tiles) // SHEET_COLUMNS)
    sheet = Image.fromarray(np.full((rows * (CELL + 16), SHEET_COLUMNS * (CELL + 4), 3), 40, np.uint8))
    pen = ImageDraw.Draw(sheet)
    for k, (path, caption) in enumerate(tiles):
        x, y = k % SHEET_COLUMNS * (CELL + 4), k // SHEET_COLUMNS * (CELL + 16)
        sheet.paste(Image.open(path).convert("RGB"), (x, y + 14))
        pen.text((x + 2, y + 1), caption, fill=(230, 230, 230))
    sheet.save(out / "contact_sheet.png")


if __name__ == "__main__":
    sys.exit(main())

"""`python -m simulator --cases N --seed S --task report OUT`: draw examinations and write them as cases."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from imaging.case import Case
from imaging.files import load_frames
from simulator.cases import (
    CALIPERS,
    FORMATS,
    TASKS,
    Order,
    OrderError,
    write_examinations,
    write_metadata,
)
from simulator.examination import ORGANS

SHEET_COLUMNS, SHEET_ROWS, CELL = 8, 6, 224


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    try:
        return _write(_order(args), args)
    except OrderError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        why = error.strerror or error
        print(f"{args.out} cannot be written ({why}): choose another OUT", file=sys.stderr)
    return 2


def _write(order: Order, args: argparse.Namespace) -> int:
    cases: list[Case] = []
    sheet: list[Case] = []
    examinations = write_examinations(order, args.cases, args.out, args.workers)  # refuses before a bar shows
    progress = tqdm(total=args.cases, unit="case", disable=args.quiet)
    try:
        for made in examinations:
            progress.update()
            cases += made if args.datasets else []
            if sum(len(case.images) for case in sheet) < SHEET_COLUMNS * SHEET_ROWS:
                sheet.append(made[0])
    finally:
        progress.close()
    _contact_sheet(sheet, args.out)
    print(f"{args.cases} examinations in {args.out / 'cases.jsonl'}")
    if args.datasets:
        write_metadata(args.out, cases)
        print(f'for Hugging Face datasets: load_dataset("imagefolder", data_dir="{args.out}")')
    print(f"to look at: {args.out / 'contact_sheet.png'}")
    return 0


def _order(args: argparse.Namespace) -> Order:
    """The order that the arguments describe; raises OrderError.

    `--task report OUT`: the last word after --task is OUT when none stood elsewhere and it is no task.
    """
    if args.out is None and len(args.task) > 1 and args.task[-1] not in TASKS:
        args.out = Path(args.task.pop())
    if args.out is None:
        raise OrderError("no folder OUT is named to write cases.jsonl and images/ into")
    if unknown := [task for task in args.task if task not in TASKS]:
        raise OrderError(f"no task is called {unknown[0]!r}; choose from {', '.join(TASKS)}")
    if min(args.cases, args.workers, args.rows) < 1 or args.seed < 0:
        raise OrderError("--cases, --workers and --rows must be 1 or more, --seed 0 or more")
    if args.out.exists() and not args.out.is_dir():
        raise OrderError(f"{args.out} is a file: choose another OUT")
    if args.frames is not None and "cine" not in args.task:
        raise OrderError("--frames is the length of a cine: add --task cine or leave out --frames")
    if args.datasets and args.format != "png":
        raise OrderError("--datasets needs --format png: Hugging Face datasets do not read DICOM")
    return Order(
        seed=args.seed,
        tasks=tuple(args.task),
        organ=args.organ,
        language=args.language,
        rows=args.rows,
        labels=args.labels,
        **({} if args.frames is None else {"frames": args.frames}),
        calipers=args.calipers,
        caliper_values=args.caliper_values,
        format=args.format,
        patient_names=args.patient_names,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m simulator", description=__doc__)
    add = parser.add_argument
    add("out", type=Path, nargs="?", metavar="OUT", help="folder to write cases.jsonl and images/ into")
    add("--cases", type=int, required=True, help="number of examinations")
    add("--seed", type=int, default=0, help="same seed, same files (default 0)")
    add(
        "--task",
        nargs="+",
        default=["report"],
        help=f"what the cases are for: {', '.join(TASKS)} (default report); report, diagnosis and vqa "
        "can be ordered together, "
        "and so can quality and compare",
    )
    add(
        "--organ",
        help="only this organ (default: all that the task knows, evenly): "
        f"{', '.join(ORGANS)}; tasks differ, and refuse another by naming theirs. quality and compare know "
        "the paper's two views, and with all every organ's",
    )
    add("--language", choices=("zh", "en", "both"), default="both", help="of the texts (default both)")
    add("--rows", type=int, default=1, help="rows an examination gets for each task (default 1)")
    add("--labels", action="store_true", help="also write the label map of every image")
    add("--frames", type=int, help="frames of a cine (default 16; PNG at most 64, DICOM 256)")
    add("--calipers", choices=CALIPERS, default="none", help="on images with a measurement (default none)")
    add("--caliper-values", action="store_true", help="write the calipers' millimetres into a corner")
    add("--format", choices=FORMATS, default="png", help="of the images (default png); a cine is one DICOM")
    add(
        "--patient-names",
        action="store_true",
        help="invent a patient: the name burned into a banner above every image, PNG too, and in the DICOM "
        "header; to test de-identification",
    )
    add("--datasets", action="store_true", help="make OUT a folder that Hugging Face datasets open")
    add("--workers", type=int, default=1, help="processes (default 1); the files do not depend on it")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def _contact_sheet(cases: list[Case], out: Path) -> None:
    """One picture of the first images, each captioned, for a person to look at."""
    tiles = [tile for case in cases for tile in _tiles(case, out)][: SHEET_COLUMNS * SHEET_ROWS]
    rows = -(-len(tiles) // SHEET_COLUMNS)
    sheet = Image.fromarray(np.full((rows * (CELL + 16), SHEET_COLUMNS * (CELL + 4), 3), 40, np.uint8))
    pen = ImageDraw.Draw(sheet)
    for k, (pixels, caption) in enumerate(tiles):
        x, y = k % SHEET_COLUMNS * (CELL + 4), k // SHEET_COLUMNS * (CELL + 16)
        sheet.paste(Image.fromarray(pixels).crop((0, 0, CELL, CELL)), (x, y + 14))
        pen.text((x + 2, y + 1), caption[: CELL // 6], fill=(230, 230, 230))
    sheet.save(out / "contact_sheet.png", compress_level=1)


def _tiles(case: Case, out: Path) -> Iterator[tuple[np.ndarray, str]]:
    """Pixels and caption of each frame: organ, and the lesion's kind, the planes or the level."""
    lesion = (case.extra.get("examination") or {}).get("lesion")
    valid = case.extra.get("valid_frames", case.valid_images)
    frames = load_frames([out / image for image in case.images], max_frames=10_000, cut_to_sector=False)
    for i, frame in enumerate(frames):
        shown = lesion["kind"] if lesion and i in valid else ", ".join(case.plane) or case.level or "-"
        yield frame.pixels, f"{case.organ or ''} {shown}"


if __name__ == "__main__":
    sys.exit(main())

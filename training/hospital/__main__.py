"""`python -m training.hospital IMAGES REPORTS OUT --key FILE`: a hospital's export becomes cases, without the
patients.

IMAGES is a folder of PNG, JPEG or DICOM files, nested at will; REPORTS a CSV or JSONL of findings,
impression, site, patient, study and image names. OUT gets images/, named/ and unnamed/ (is the site named
in the question) with train, val and test each, skipped.csv (left out), unchecked.csv (kept, but nobody could
tell whether a name is burned in: look at each), and journal.jsonl, by which the same command goes on after a
crash. Nothing that is printed or written names a patient or a file.

Such a CSV (the headings may be Chinese, too; see rules.yaml):

    patient_id,study_id,site,findings,impression,images
    P1,S1,thyroid,"A 12 mm hypoechoic nodule in the left lobe.","Nodule, TI-RADS 3.",a.png;b.dcm
    P2,S2,肝脏,肝内未见占位。,肝脏未见异常。,S2/1.dcm；S2/2.dcm
"""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from training.hospital.export import SHARES, SIDES, Export, Journal, Pseudonyms, convert
from training.hospital.rows import FIELDS, ExportError, read_rows
from training.hospital.texts import RULES

SHORTEST_KEY = 16  # bytes


def read_key(path: Path, out: Path) -> bytes:
    """The secret key; a new one is made where there is no file. Raises ExportError for a key that is too
    short or would lie among what is shared."""
    if path.resolve().is_relative_to(out.resolve()):
        raise ExportError(f"{path} lies in {out}: keep the key apart from what is shared")
    if not path.exists():
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "w") as opened:
            opened.write(secrets.token_hex(32) + "\n")
        print(f"a new key is in {path}: keep it secret, and keep it for the next export")
    key = path.read_bytes().strip()
    if len(key) < SHORTEST_KEY:
        raise ExportError(f"{path} is shorter than {SHORTEST_KEY} bytes: delete it, and a key will be made")
    return key


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    warnings.simplefilter("ignore")  # libraries quote odd header values, and they may be a name
    try:
        return _run(args)
    except ExportError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(
            f"{error.strerror}: {error.filename if _named_by_user(error, args) else 'a file'}",
            file=sys.stderr,
        )
    return 2


def _run(args: argparse.Namespace) -> int:
    if not args.images.is_dir():
        raise ExportError(f"{args.images} is not a folder of images")
    if len(args.split) != 3 or min(args.split) < 0 or sum(args.split) <= 0:
        raise ExportError("--split needs three shares, 0 or more, of train, val and test")
    if args.max_frames < 1:
        raise ExportError("--max-frames must be 1 or more")
    columns = _named_columns(args.column)
    journal_path = args.out / "journal.jsonl"
    if args.out.exists() and not (
        args.out.is_dir() and (journal_path.exists() or not any(args.out.iterdir()))
    ):
        raise ExportError(f"{args.out} holds something else: choose another OUT")
    rows = read_rows(args.reports, columns)
    pseudonyms = Pseudonyms(read_key(args.key, args.out))
    args.out.mkdir(parents=True, exist_ok=True)
    export = Export(
        args.images.resolve(), args.out.resolve(), pseudonyms, args.split, args.keep_whole, args.max_frames
    )
    data = hashlib.sha256(args.reports.read_bytes()).hexdigest()
    settings = {"split": list(args.split), "keep_whole": args.keep_whole, "max_frames": args.max_frames}
    settings |= {"columns": dict(sorted(columns.items())), "export": pseudonyms.of("export", data)}
    settings |= {"rules": hashlib.sha256(RULES.read_bytes()).hexdigest()[:16]}
    counts = convert(export, rows, Journal(journal_path, settings), quiet=args.quiet)
    sides = ", ".join(f"{counts[side]:,} {side}" for side in SIDES)
    print(f"{counts['studies']:,} studies, {counts['patients']:,} patients: {sides} cases in {args.out}")
    print(f"{counts['skipped']:,} things were left out, see {args.out / 'skipped.csv'}")
    if counts["unchecked"]:
        listed = args.out / "unchecked.csv"
        print(f"{counts['unchecked']:,} images were kept, but not checked: look at each, see {listed}")
    print("read a sample of texts and images before anybody else sees them: not every name can be found")
    return 0


def _named_columns(pairs: Sequence[str]) -> dict[str, str]:
    columns = {}
    for pair in pairs:
        key, equals, heading = pair.partition("=")
        if key not in FIELDS or not equals or not heading:
            raise ExportError(f"--column {pair}: write one of {', '.join(FIELDS)}, then = and the heading")
        columns[key] = heading
    return columns


def _named_by_user(error: OSError, args: argparse.Namespace) -> bool:
    """True for a path that the person has typed; the names of images may be patients' names."""
    return error.filename is not None and Path(str(error.filename)) in (args.reports, args.key, args.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.hospital",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder of PNG, JPEG or DICOM files")
    parser.add_argument("reports", type=Path, metavar="REPORTS", help="CSV or JSONL, one report a row")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for images and cases")
    parser.add_argument(
        "--key",
        type=Path,
        required=True,
        help="file with the secret key of the hashes; made if it is not there",
    )
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="FIELD=HEADING",
        help=f"what a column is called, FIELD one of {', '.join(FIELDS)}; common names are known",
    )
    parser.add_argument(
        "--split", type=float, nargs=3, default=SHARES, metavar=SIDES, help="shares (default 0.8 0.1 0.1)"
    )
    parser.add_argument("--max-frames", type=int, default=16, help="of a cine, evenly spaced (default 16)")
    parser.add_argument(
        "--keep-whole",
        action="store_true",
        help="keep screens of which no scan sector was found, with what may be burned into them",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


if __name__ == "__main__":
    sys.exit(main())

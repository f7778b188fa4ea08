"""`python -m eval predict | score | compare | formats`: from a test set to a table.

Exit codes: 0, all is done; 1, done, but cases are missing, failed or stand alone (they are named); 2,
nothing was done because of the command line or of a file, for which one sentence says what to change.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from eval.normalization import STEPS
from eval.pairs import PairError
from eval.profiles import PROFILES
from eval.scoring import MISSING, Options
from eval.tokenizers import NAMES as TOKENIZERS
from models.errors import ModelError

DONE, INCOMPLETE, REFUSED = 0, 1, 2
ENDINGS = {".md": "md", ".json": "json", ".csv": "csv", ".tex": "latex"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    args = _parser().parse_args(arguments)
    try:
        return args.run(args)
    except (PairError, ModelError, ValueError, OSError, ImportError) as error:
        print(f"python -m eval {args.command}: {_sentence(error)}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("\nstopped; what was written is kept", file=sys.stderr)
        return INCOMPLETE


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _predict(args: argparse.Namespace) -> int:
    from assistants.base import Settings
    from eval.prediction import predict

    settings = Settings(
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        max_pixels=args.max_pixels or None,
        seed=args.seed,
    )
    summary = predict(
        args.cases,
        args.assistant,
        args.weights,
        args.output,
        batch_size=args.batch_size,
        settings=settings,
        device=args.device,
        dtype=args.dtype,
        limit=args.limit,
        tell_organ=args.tell_organ,
        split=args.split,
        images=args.images,
    )
    print(summary, file=sys.stderr)
    return INCOMPLETE if summary.failed else DONE


def _score(args: argparse.Namespace) -> int:
    from eval.papers import paper_table
    from eval.scoring import score_pairs
    from eval.table import render

    if args.paper and not args.group_by:
        args.group_by = paper_table(args.paper).group_by
    options = _options(args)
    results, complete = [], True
    for path in args.predictions:
        pairs, notes = _read(args, path)
        result = score_pairs(pairs, options, system=Path(path).stem, inputs=_hashes(path, args.references))
        complete &= not notes and not result.missing
        for line in (*notes, *result.warnings):
            print(f"warning: {Path(path).name}: {line}", file=sys.stderr)
        results.append(result)
    _write(
        args.output,
        render(results, _format(args), layout=args.layout, paper=args.paper, decimals=args.decimals),
    )
    if args.per_case:
        rows = results[0].cases
        _write(
            args.per_case,
            "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows),
        )
    if args.picture:
        from eval.picture import draw

        draw(results, args.picture, columns=_listed(args.columns) or None)
    return DONE if complete else INCOMPLETE


def _compare(args: argparse.Namespace) -> int:
    from eval.comparison import compare, render

    options = _options(args)
    first, second = (_read(args, path) for path in (args.first, args.second))
    names = (Path(args.first).stem, Path(args.second).stem)
    if names[0] == names[1]:
        names = (args.first, args.second)
    comparison = compare(first[0], second[0], options, names=names, trials=args.trials)
    for line in (*first[1], *second[1], *comparison.warnings):
        print(f"warning: {line}", file=sys.stderr)
    _write(args.output, render(comparison, _format(args)))
    return DONE if comparison.complete and not (first[1] or second[1]) else INCOMPLETE


def _formats(args: argparse.Namespace) -> int:
    from eval.formats import describe

    for path in args.files:
        print(describe(path, args.input_format))
    return DONE


def _read(args: argparse.Namespace, path: str) -> tuple[list, list[str]]:
    """The pairs of a file, and a sentence for all that does not match between it and its references."""
    from eval.formats import read_predictions

    read = read_predictions(path, args.references, args.input_format, clean=args.clean)
    from eval.rows import some

    lines = list(read.notes)
    if read.missing:
        lines.append(f"{len(read.missing)} references have no prediction: {some(read.missing)}.")
    if read.extra:
        lines.append(f"{len(read.extra)} predictions have no reference and are left out: {some(read.extra)}.")
    return read.pairs, lines


def _options(args: argparse.Namespace) -> Options:
    return Options(
        profiles=_listed(args.profile),
        group_by=args.group_by,
        tokenize=args.tokenize,
        user_dictionary=args.user_dictionary,
        normalize=_listed(args.normalize),
        lower=args.lower,
        missing=getattr(args, "missing", "wrong"),
        resamples=args.bootstrap,
        seed=args.seed,
        cluster=args.cluster,
        iou=tuple(args.iou),
        bertscore=_scorer(args) if args.bertscore else None,
        per_case=bool(getattr(args, "per_case", None)),
        sections=_listed(args.sections),
    )


def _scorer(args: argparse.Namespace) -> Any:
    from eval.metrics.bertscore import open_scorer

    return open_scorer(
        args.bertscore,
        layer=args.layer,
        idf=args.idf,
        rescale=not args.no_rescale,
        language=args.bertscore_language,
        long=args.long,
        baseline=args.baseline,
        device=args.device,
    )


def _listed(words: Iterable[str]) -> tuple[str, ...]:
    """`a b,c` as given on the command line -> (a, b, c)."""
    return tuple(part for word in words for part in word.split(",") if part)


def _format(args: argparse.Namespace) -> str:
    ending = Path(args.output).suffix.lower() if args.output else ""
    return args.format or ENDINGS.get(ending, "md")


def _write(path: str | None, text: str) -> None:
    """To a file that stays as it was until the new one is complete, or to the screen."""
    if path is None:
        print(text, end="")
        return
    target = Path(path)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        mark = b"\xef\xbb\xbf" if target.suffix.lower() == ".csv" else b""  # Excel reads Chinese only with it
        unfinished.write_bytes(mark + text.encode("utf-8", "replace"))
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def _hashes(*paths: str | None) -> dict[str, str]:
    """File name -> sha256, for the receipt."""
    return {Path(path).name: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths if path}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m eval", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, add, run in (
        ("predict", _predict_flags, _predict),
        ("score", _score_flags, _score),
        ("compare", _compare_flags, _compare),
        ("formats", _formats_flags, _formats),
    ):
        command = commands.add_parser(name, help=add.__doc__, description=add.__doc__)
        command.set_defaults(run=run)
        add(command)
    return parser


def _predict_flags(parser: argparse.ArgumentParser) -> None:
    """ask an assistant every case of a test set; a run that was stopped goes on where it was"""
    parser.add_argument("--assistant", required=True, help="echovlm …")
    parser.add_argument("--weights", help="folder or Hugging Face id (default: the demo weights)")
    parser.add_argument("--cases", required=True, help="JSONL of cases, or a SLAKE or OpenI test set")
    parser.add_argument("--split", default="test", help="of a set that has several (default test)")
    parser.add_argument("--images", metavar="FOLDER", help="where a set keeps its images, if not beside it")
    parser.add_argument("--output", required=True, help="JSONL of predictions; gone on with if it is there")
    parser.add_argument("--batch-size", type=int, default=1, help="cases asked together (default 1)")
    parser.add_argument("--limit", type=int, help="only the first N cases")
    parser.add_argument(
        "--tell-organ", action="store_true", help="give the case's organ away to the assistant"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument(
        "--max-pixels", type=int, default=392 * 392, help="per image; 0 keeps the checkpoint's own"
    )
    parser.add_argument("--seed", type=int, help="of sampling, where the temperature is above 0")


def _score_flags(parser: argparse.ArgumentParser) -> None:
    """score one or several files of predictions and print the tables"""
    parser.add_argument("predictions", nargs="+", help="files of predictions, one a system")
    _reading_flags(parser)
    _scoring_flags(parser)
    parser.add_argument(
        "--missing", choices=MISSING, default="wrong", help="what a case without prediction is"
    )
    parser.add_argument("--per-case", metavar="FILE", help="write every case's scores as JSONL (one system)")
    parser.add_argument("--layout", choices=("groups", "systems"), default="groups")
    parser.add_argument(
        "--paper", help="put a paper's published figures beside ours: echovlm-2 … (marked other images)"
    )
    parser.add_argument("--decimals", type=int, default=2)
    parser.add_argument(
        "--picture", metavar="FILE.png", help="draw the first table as bars with their intervals"
    )
    parser.add_argument(
        "--columns", nargs="+", default=[], metavar="NAME", help="of the picture (default: all)"
    )
    parser.add_argument(
        "--format", choices=("md", "json", "csv", "latex"), help="default: by --output's ending, else md"
    )
    parser.add_argument("--output", metavar="FILE", help="default: the screen")


def _compare_flags(parser: argparse.ArgumentParser) -> None:
    """test whether the second of two systems differs from the first on the same cases"""
    parser.add_argument("first")
    parser.add_argument("second")
    _reading_flags(parser)
    _scoring_flags(parser)
    parser.add_argument("--trials", type=int, default=10_000, help="of approximate randomisation")
    parser.add_argument("--format", choices=("md", "json"))
    parser.add_argument("--output", metavar="FILE")


def _formats_flags(parser: argparse.ArgumentParser) -> None:
    """say what files are recognised as, and show the first row as it would be scored"""
    parser.add_argument("files", nargs="+")
    parser.add_argument("--input-format", default="auto")


def _reading_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--references", metavar="FILE", help="where the references are, joined by id")
    parser.add_argument(
        "--input-format", default="auto", help="auto, suite, llava, swift, llamafactory, vlmevalkit, lmms"
    )
    parser.add_argument(
        "--clean", action="store_true", help="strip <think>…</think> and special tokens first"
    )


def _scoring_flags(parser: argparse.ArgumentParser) -> None:
    names = ", ".join([*PROFILES, "all"])
    parser.add_argument(
        "--profile", nargs="+", default=["echovlm"], metavar="NAME", help=f"{names} (default echovlm)"
    )
    parser.add_argument(
        "--sections",
        nargs="+",
        default=[],
        metavar="NAME",
        help="only these tables (default: all that apply)",
    )
    parser.add_argument("--group-by", metavar="KEY", help="organ, task, language, meta.vendor …")
    parser.add_argument(
        "--normalize", nargs="+", default=[], metavar="STEP", help=f"any of {','.join(STEPS)} (default none)"
    )
    parser.add_argument("--lower", action="store_true", help="lower-case both sides")
    parser.add_argument("--tokenize", choices=TOKENIZERS, default="jieba")
    parser.add_argument("--user-dictionary", metavar="FILE", help="for jieba; its hash stands in the receipt")
    parser.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="resamples; 0 for no intervals"
    )
    parser.add_argument("--seed", type=int, default=12345)
    parser.add_argument("--cluster", metavar="KEY", help="resample whole patients: --cluster patient")
    parser.add_argument("--iou", type=float, nargs="+", default=[0.5, 0.3])
    group = parser.add_argument_group("BERTScore (needs a model)")
    group.add_argument(
        "--bertscore", metavar="MODEL", help="bert-base-chinese, roberta-large, an id or a folder"
    )
    group.add_argument("--layer", type=int, help="default 8 and 17 for the two named models")
    group.add_argument("--idf", action="store_true")
    group.add_argument(
        "--no-rescale", action="store_true", help="raw values (default: rescaled with the baseline)"
    )
    group.add_argument(
        "--baseline", metavar="FILE", help="LAYER,P,R,F of a model that bert-score ships none for"
    )
    group.add_argument("--bertscore-language", default="zh", help="whose baseline is taken (default zh)")
    group.add_argument(
        "--long", choices=("window", "refuse"), default="window", help="texts longer than the model reads"
    )
    group.add_argument("--device", default="auto")


if __name__ == "__main__":
    sys.exit(main())

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.normalization import STEPS
from eval.pairs import Pair, PairError
from eval.profiles import PROFILES
from eval.scoring import MISSING, SECTIONS, Options
from eval.tokenizers import NAMES as TOKENIZERS
from models.errors import ModelError

if TYPE_CHECKING:
    from assistants.base import Assistant
    from eval.formats import Read
    from eval.result import Result

DONE, INCOMPLETE, REFUSED = 0, 1, 2
BATCHES = {"qbench": 16}  # cases asked together, of others 1: Ultrasound-QBench, section III.B b
PICTURES = (".png", ".jpg", ".svg", ".pdf")
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
    from eval.prediction import predict

    named = {"max_new_tokens": args.max_new_tokens, "temperature": args.temperature, "seed": args.seed}
    changes = {name: value for name, value in named.items() if value is not None}
    if args.max_pixels is not None:
        changes["max_pixels"] = args.max_pixels or None
    summary = predict(
        args.cases,
        _assistant(args),
        args.weights,
        args.output,
        batch_size=args.batch_size or BATCHES.get(args.assistant, 1),
        changes=changes,
        device=args.device,
        dtype=args.dtype,
        limit=args.limit,
        tell_organ=args.tell_organ,
        split=args.split,
        images=args.images,
        prompt=args.prompt,
        comparisons=args.comparisons,
    )
    print(summary, file=sys.stderr)
    return INCOMPLETE if summary.failed else DONE


def _assistant(args: argparse.Namespace) -> str | Assistant:
    """The assistant's name, or the rater opened with its strategy."""
    if args.strategy is None:
        return args.assistant
    if args.assistant != "qbench":
        raise PairError("--strategy is a choice of the assistant qbench alone")
    from assistants import qbench

    return qbench.open(args.weights, device=args.device, dtype=args.dtype, strategy=args.strategy)


def _score(args: argparse.Namespace) -> int:
    from eval.metrics.grades import confusion
    from eval.papers import paper_table
    from eval.table import render

    _check_targets(args, args.predictions)
    if args.heat_map and not args.paper:
        raise PairError("--heat-map draws a paper's table: name it, --paper qbench-1")
    if args.cut_points and not Path(args.cut_points).is_file():
        raise PairError(
            f"--cut-points {args.cut_points}: there is no such file; --save-cut-points writes one"
        )
    if args.per_case and len(args.predictions) > 1:
        raise PairError("--per-case takes one file of predictions; score the systems one by one")
    paper = paper_table(args.paper) if args.paper else None
    if paper and not args.group_by:
        args.group_by = paper.group_by
    options = _options(args)
    results, complete, confusions = [], True, {}
    for path in args.predictions:
        read = _read(args, path)
        pairs = _of_task(read.pairs, paper.task, path) if paper else read.pairs
        with _named(path):
            scored = list(_scored(args, path, pairs, options))
        scored = [replace(result, warnings=(*read.notes, *result.warnings)) for result in scored]
        complete &= all(result.complete for result in scored) and not read.extra
        _warn(path, dict.fromkeys(warning for result in scored for warning in result.warnings))
        results += scored
        if args.confusion:
            confusions[path if Path(path).stem in confusions else Path(path).stem] = confusion(pairs)
    _write(
        args.output,
        render(results, _format(args), layout=args.layout, paper=args.paper, decimals=args.decimals),
    )
    if args.per_case:
        rows = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in results[0].cases)
        _write(args.per_case, "".join(f"{row}\n" for row in rows))
    if args.picture:
        from eval.picture import draw

        draw(results, args.picture, columns=args.columns or None)
    if args.confusion:
        from eval.grade_picture import draw_grades

        draw_grades(confusions, args.confusion)
    if args.heat_map:
        from eval.heat_map import draw_table

        draw_table(results, paper, args.heat_map)
    return DONE if complete else INCOMPLETE


def _scored(args: argparse.Namespace, path: str, pairs: Sequence[Pair], options: Options) -> Iterator[Result]:
    """The result of a file; of a rater's answers one with the set's own clusters, and with --cut-points one
    with those, named."""
    from eval import rater
    from eval.scoring import score_pairs

    name, inputs = Path(path).stem, _hashes(path, args.references)
    if not rater.is_rated(pairs):
        if args.cut_points or args.save_cut_points:
            raise PairError(f"{Path(path).name} holds no ratings, which cut points are for")
        yield score_pairs(pairs, options, system=name, inputs=inputs)
        return
    options = replace(
        options, group_by=options.group_by or rater.SETTING, cluster=options.cluster or rater.IMAGE
    )
    if args.save_cut_points:
        found = (*rater.fitted(pairs).values(), *rater.pooled(pairs))
        rater.add_cut_points(found, Path(args.save_cut_points))
    failures = rater.failures(pairs)
    others = [rater.load(Path(args.cut_points))] if args.cut_points else []
    for cut_points in (None, *others):
        apart = rater.by_setting(pairs, cut_points)
        system = name if cut_points is None else rater.named_after_cuts(name, apart)
        result = rater.with_cuts_noted(score_pairs(apart, options, system=system, inputs=inputs), apart)
        yield replace(result, warnings=(*failures, *result.warnings))


def _compare(args: argparse.Namespace) -> int:
    from eval.comparison import compare, render

    paths = (args.first, args.second)
    _check_targets(args, paths)
    options = _options(args)
    reads = [_read(args, path) for path in paths]
    names = (Path(args.first).stem, Path(args.second).stem)
    if names[0] == names[1]:
        names = paths
    comparison = compare(reads[0].pairs, reads[1].pairs, options, names=names, trials=args.trials)
    notes = [f"{name}: {note}" for name, read in zip(names, reads, strict=True) for note in read.notes]
    comparison = replace(comparison, notes=(*notes, *comparison.notes))
    for line in (*comparison.notes, *comparison.warnings):
        print(f"warning: {line}", file=sys.stderr)
    _write(args.output, render(comparison, _format(args)))
    return DONE if comparison.complete and not any(read.extra for read in reads) else INCOMPLETE


def _formats(args: argparse.Namespace) -> int:
    from eval.formats import describe

    for path in args.files:
        print(describe(path, args.input_format))
    return DONE


def _read(args: argparse.Namespace, path: str) -> Read:
    from eval.formats import read_predictions

    return read_predictions(path, args.references, args.input_format, clean=args.clean)


def _of_task(pairs: Sequence[Pair], task: str | None, path: str) -> Sequence[Pair]:
    """The pairs of a paper's task, where the cases say what they are."""
    if task is None or not any("task" in pair.values for pair in pairs):
        return pairs
    kept = [pair for pair in pairs if pair.group("task") == task]
    if not kept:
        raise PairError(
            f"{Path(path).name} has no case of the task {task!r}, which this paper's table is about"
        )
    return kept


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Errors about what a file holds begin with its name."""
    try:
        yield
    except PairError as error:
        name = Path(path).name
        raise PairError(str(error) if str(error).startswith(name) else f"{name}: {error}") from None


def _warn(path: str, lines: Iterable[str]) -> None:
    for line in lines:
        print(f"warning: {Path(path).name}: {line}".encode("utf-8", "replace").decode(), file=sys.stderr)


def _check_targets(args: argparse.Namespace, inputs: Sequence[str]) -> None:
    """Before any work: outputs can be written, and none of them is an input."""
    read = [Path(path) for path in (*inputs, args.references, args.user_dictionary) if path]
    for flag in ("output", "per_case", "picture", "confusion", "heat_map", "save_cut_points"):
        target = getattr(args, flag, None)
        if target is None:
            continue
        if Path(target).is_dir():
            raise PairError(f"--{flag.replace('_', '-')} {target} is a folder; name a file")
        ending = Path(target).suffix.lower()
        if flag in ("picture", "confusion", "heat_map") and ending not in ("", *PICTURES):
            raise PairError(
                f"--{flag.replace('_', '-')} {target}: a picture ends in {', '.join(PICTURES)}, or in nothing"
            )
        if Path(target).exists() and any(path.exists() and path.samefile(target) for path in read):
            raise PairError(
                f"--{flag.replace('_', '-')} {target} is an input and would be lost; choose another"
            )
        Path(target).parent.mkdir(parents=True, exist_ok=True)


def _options(args: argparse.Namespace) -> Options:
    return Options(
        profiles=args.profile,
        group_by=args.group_by,
        tokenize=args.tokenize,
        user_dictionary=args.user_dictionary,
        normalize=args.normalize,
        lower=args.lower,
        missing=getattr(args, "missing", "wrong"),
        resamples=args.bootstrap,
        seed=args.seed,
        cluster=args.cluster,
        iou=args.iou,
        matching=args.matching,
        per_structure=args.per_structure,
        bertscore=_scorer(args) if args.bertscore else None,
        per_case=bool(getattr(args, "per_case", None)),
        sections=args.sections,
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


def _names(text: str) -> tuple[str, ...]:
    """`a,b` as given on the command line -> (a, b)."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _thresholds(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in _names(text))


def _temperature(text: str) -> float:
    if not 0 <= float(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return float(text)


def _at_least(least: int) -> Callable[[str], int]:
    """A whole number of at least `least`."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    return number


def _format(args: argparse.Namespace) -> str:
    ending = Path(args.output).suffix.lower() if args.output else ""
    return args.format or ENDINGS.get(ending, "md")


def _write(path: str | None, text: str) -> None:
    """To a file that stays as it was until the new one is complete, or to the screen."""
    if path is None:
        print(text.encode("utf-8", "replace").decode(), end="")
        return
    target = Path(path).resolve()
    mark = b"\xef\xbb\xbf" if target.suffix.lower() == ".csv" else b""  # Excel reads Chinese only with it
    content = mark + text.encode("utf-8", "replace")
    if target.exists() and not target.is_file():  # a pipe or a device is written to, not replaced
        target.write_bytes(content)
        return
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def _hashes(*paths: str | None) -> dict[str, str]:
    """File -> sha256, for the receipt; by its name alone where that tells the files apart."""
    files = [path for path in paths if path and Path(path).is_file()]
    short = len({Path(path).name for path in files}) == len(files)
    return {
        Path(path).name if short else path: hashlib.sha256(Path(path).read_bytes()).hexdigest()
        for path in files
    }


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
    parser.add_argument(
        "--cases",
        required=True,
        help="JSONL of cases, a SLAKE or OpenI test set, or images with levels (CSV or a folder a level)",
    )
    parser.add_argument("--split", default="test", help="of a set that has several (default test)")
    parser.add_argument("--images", metavar="FOLDER", help="where a set keeps its images, if not beside it")
    parser.add_argument("--output", required=True, help="JSONL of predictions; gone on with if it is there")
    parser.add_argument(
        "--batch-size", type=_at_least(1), help="cases asked together (default 1; of qbench 16, as its paper)"
    )
    parser.add_argument("--limit", type=_at_least(1), help="only the first N cases")
    parser.add_argument(
        "--tell-organ", action="store_true", help="give the case's organ away to the assistant"
    )
    parser.add_argument(
        "--prompt",
        help="said in place of every question; qbench: basic, contextual, diagnostic, quantitative",
    )
    parser.add_argument(
        "--strategy", choices=("softmax", "raw", "both"), help="of the assistant qbench (default softmax)"
    )
    parser.add_argument(
        "--comparisons",
        type=_at_least(0),
        default=0,
        metavar="N",
        help="of a set with quality levels, also compare N pairs of images one level apart",
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    parser.add_argument(
        "--max-new-tokens", type=_at_least(1), help="default: what the assistant writes on the page"
    )
    parser.add_argument("--temperature", type=_temperature, help="0 is greedy (default)")
    parser.add_argument(
        "--max-pixels", type=int, help="per image; default: as on the page; 0 keeps the checkpoint's own"
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
    parser.add_argument("--decimals", type=_at_least(0), default=2)
    parser.add_argument(
        "--picture", metavar="FILE.png", help="draw the first table as bars with their intervals"
    )
    parser.add_argument(
        "--columns", type=_names, default=(), metavar="NAME,…", help="of the picture (default: all)"
    )
    parser.add_argument(
        "--confusion", metavar="FILE.png", help="draw which grades of image scores are taken for which"
    )
    parser.add_argument(
        "--heat-map", metavar="FILE.png", help="draw --paper's table with its figures as colours"
    )
    parser.add_argument(
        "--save-cut-points", metavar="FILE", help="of a rater: keep the cuts between its clusters"
    )
    parser.add_argument(
        "--cut-points", metavar="FILE", help="of a rater: place scores by another set's cuts as well"
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
    parser.add_argument("--trials", type=_at_least(1), default=10_000, help="of approximate randomisation")
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
        "--profile", type=_names, default=("echovlm",), metavar="NAME,…", help=f"{names} (default echovlm)"
    )
    parser.add_argument(
        "--sections",
        type=_names,
        default=(),
        metavar="NAME,…",
        help=f"only these tables (default: all that apply): a profile, {', '.join(SECTIONS)}",
    )
    parser.add_argument("--group-by", metavar="KEY", help="organ, task, language, meta.vendor …")
    parser.add_argument(
        "--normalize",
        type=_names,
        default=(),
        metavar="STEP,…",
        help=f"any of {','.join(STEPS)} (default none)",
    )
    parser.add_argument("--lower", action="store_true", help="lower-case both sides")
    parser.add_argument("--tokenize", choices=TOKENIZERS, default="jieba")
    parser.add_argument("--user-dictionary", metavar="FILE", help="for jieba; its hash stands in the receipt")
    parser.add_argument(
        "--bootstrap", type=_at_least(0), default=1000, metavar="N", help="resamples; 0 for no intervals"
    )
    parser.add_argument("--seed", type=_at_least(0), default=12345)
    parser.add_argument("--cluster", metavar="KEY", help="resample whole patients: --cluster patient")
    parser.add_argument("--iou", type=_thresholds, default=(0.5, 0.3), help="of boxes (default 0.5,0.3)")
    parser.add_argument("--matching", choices=("greedy", "hungarian"), default="greedy", help="of boxes")
    parser.add_argument("--per-structure", action="store_true", help="columns of boxes for each structure")
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
        "--long",
        choices=("window", "refuse", "cut"),
        default="window",
        help="texts longer than the model reads",
    )
    group.add_argument("--device", default="auto")


if __name__ == "__main__":
    sys.exit(main())

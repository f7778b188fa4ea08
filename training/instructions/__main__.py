"""`python -m training.instructions generate | review | apply`: cases with reports become questions and
answers, a person reads a sample, and what was refused is left out."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from imaging.case import Case, CaseError, read_cases, write_cases
from training.instructions.generate import SITES, TemplateError, instances, reports_of
from training.instructions.redundancy import redundant
from training.instructions.review import (
    SHARE,
    ReviewError,
    refused_templates,
    template_of,
    without_templates,
    write_review,
)

WITHIN = ("all", "examination", "none")
WORTH_A_PROCESS = 5_000  # instances; fewer are judged before a second process has begun; chosen
ONE_SIDED = 20  # a yes/no template with at least as many answers, all alike, is pointed out; chosen


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    try:
        return args.verb(args)
    except (CaseError, ReviewError, TemplateError, FileExistsError, ValueError) as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
    return 2


def _generate(args: argparse.Namespace) -> int:
    _must_not_exist(args.out)
    if args.per_case is not None and args.per_case < 1:
        raise ValueError("--per-case must be 1 or more")
    reports = reports_of(read_cases(args.cases))
    if not reports:
        raise ValueError(
            f"{args.cases} holds no report: cases need the task report or diagnosis, an answer and a language"
        )
    asked = tqdm(reports, unit="report", disable=args.quiet)
    made = list(instances(asked, seed=args.seed, site=args.site, most=args.per_case))
    if args.within == "none":
        kept, reasons = made, Counter()
    else:
        kept, reasons = _not_redundant(made, args.within, args.quiet)
    write_cases(args.out, kept)
    print(f"{len(made):,} instances of {len(reports):,} reports; {len(kept):,} kept in {args.out}")
    if reasons:
        print(f"left out: {reasons['rouge_l']:,} by ROUGE-L, {reasons['simhash']:,} by SimHash")
    _print_templates(made, kept)
    return 0


def _not_redundant(made: Sequence[Case], within: str, quiet: bool) -> tuple[list[Case], Counter]:
    groups: dict[str, list[Case]] = {}
    for case in made:
        groups.setdefault("" if within == "all" else case.extra["examination_id"], []).append(case)
    kept, reasons = [], Counter()
    bar = tqdm(total=len(made), unit="instance", disable=quiet)
    for cases in groups.values():
        texts = [f"{case.question}\n{case.answer}" for case in cases]
        workers = min(os.cpu_count() or 1, len(texts) // WORTH_A_PROCESS)
        why = redundant(texts, _counted(bar, len(texts)), workers=workers)
        kept += [case for case, reason in zip(cases, why, strict=True) if reason is None]
        reasons.update(reason for reason in why if reason)
    bar.close()
    return kept, reasons


def _counted(bar: tqdm, count: int):
    for i in range(count):
        yield i
        bar.update()


def _print_templates(made: Sequence[Case], kept: Sequence[Case]) -> None:
    """How many instances each template gave, and the closed ones whose answers are all alike."""
    before, after = (Counter(map(template_of, cases)) for cases in (made, kept))
    first_words: dict[str, Counter] = {}
    for case in kept:
        if case.answer_type == "closed":
            word = case.answer.replace("。", ".").split(".")[0]
            first_words.setdefault(template_of(case), Counter())[word] += 1
    for template in sorted(before):
        print(f"  {template:32} {before[template]:8,} made {after[template]:8,} kept")
    for template, words in sorted(first_words.items()):
        if len(words) == 1 and words.total() >= ONE_SIDED:
            print(f"note: every answer of {template} is {next(iter(words))!r}: it teaches nothing but that")


def _review(args: argparse.Namespace) -> int:
    cases = read_cases(args.instructions)
    if not cases:
        raise ValueError(f"{args.instructions} is empty: there is nothing to review")
    batches = write_review(cases, args.out, seed=args.seed, share=args.share)
    print(f"batches to read in {args.out / 'review.md'}: {len(batches)}")
    print(f"write accepted or refused into {args.out / 'review.jsonl'}, then run: apply")
    return 0


def _apply(args: argparse.Namespace) -> int:
    _must_not_exist(args.out)
    cases = read_cases(args.instructions)
    refused = refused_templates(args.verdicts, cases)
    kept = without_templates(cases, list(refused))
    write_cases(args.out, kept)
    for template, note in refused.items():
        print(f"refused: {template}" + (f" ({note})" if note else ""))
    print(f"{len(cases) - len(kept):,} instances dropped, {len(kept):,} kept in {args.out}")
    return 0


def _must_not_exist(out: Path) -> None:
    if out.exists():
        raise FileExistsError(f"{out} is there already: choose another OUT")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"{out.absolute().parent} is not a folder: make it first")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.instructions", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="generate|review|apply")
    generate = verbs.add_parser("generate", help="make instances and leave redundant ones out")
    generate.add_argument("cases", type=Path, metavar="CASES.jsonl", help="cases with reports")
    generate.add_argument("out", type=Path, metavar="OUT.jsonl")
    generate.add_argument("--site", choices=SITES, default="both", help="is the site named in the question")
    generate.add_argument("--per-case", type=int, metavar="N", help="at most N instances an examination")
    generate.add_argument(
        "--within",
        choices=WITHIN,
        default="all",
        help="what may be redundant to what: all, as the paper has it (default); one examination; nothing",
    )
    generate.add_argument("--seed", type=int, default=0, help="same seed, same instances (default 0)")
    generate.add_argument("--quiet", action="store_true", help="no progress bar")
    generate.set_defaults(verb=_generate)
    review = verbs.add_parser("review", help="write a sample for a person to read")
    review.add_argument("instructions", type=Path, metavar="INSTRUCTIONS.jsonl")
    review.add_argument("out", type=Path, metavar="FOLDER", help="for review.md and review.jsonl")
    review.add_argument("--share", type=float, default=SHARE, help="of the batches (default 0.05)")
    review.add_argument("--seed", type=int, default=0)
    review.set_defaults(verb=_review)
    apply = verbs.add_parser("apply", help="leave out the templates whose batches were refused")
    apply.add_argument("instructions", type=Path, metavar="INSTRUCTIONS.jsonl")
    apply.add_argument("verdicts", type=Path, metavar="review.jsonl")
    apply.add_argument("out", type=Path, metavar="OUT.jsonl")
    apply.set_defaults(verb=_apply)
    return parser


if __name__ == "__main__":
    sys.exit(main())

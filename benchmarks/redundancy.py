"""`python -m benchmarks.redundancy`: how long it takes to find the redundant among 100,000 instances.

Three kinds of instances: question and answer of the instruction templates on simulated reports (what the
pipeline makes: most say what others said), whole simulated reports, and long Chinese reports of shuffled
clauses, of which few are redundant and all share their characters (the index's bad case). Printed are
seconds, CPU seconds of all processes, memory of the largest, and what was kept; on the first 2,000 the result
is compared with all pairs.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count, islice

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from benchmarks.eval_metrics import report as clauses
from simulator import language
from simulator.population import sample_examination
from training.instructions.generate import Report, instances, split_report
from training.instructions.redundancy import HAMMING, ROUGE_L, redundant, simhash, tokens

CHECKED = 2000


def reports() -> Iterator[Report]:
    """Simulated reports without images, in both languages by turns, without end."""
    for number in count():
        tongue = ("zh", "en")[number % 2]
        examination = sample_examination(np.random.default_rng([1, number]))
        text = language.report(examination, tongue, np.random.default_rng([2, number]))
        findings, impression = split_report(text, tongue)
        yield Report(f"r{number}", (), tongue, findings, impression, examination.organ)


def template_instances(wanted: int) -> list[str]:
    """Question and answer of every template that applies, examination after examination."""
    return [f"{case.question}\n{case.answer}" for case in islice(instances(reports()), wanted)]


def whole_reports(wanted: int) -> list[str]:
    return [f"{report.findings}\n{report.impression}" for report in islice(reports(), wanted)]


def shuffled_clauses(wanted: int) -> list[str]:
    chance = random.Random(0)
    return ["，".join(clauses(chance)) + "。" for _ in range(wanted)]


KINDS: dict[str, Callable[[int], list[str]]] = {
    "templates": template_instances,
    "reports": whole_reports,
    "clauses": shuffled_clauses,
}


def all_pairs(texts: list[str]) -> list[bool]:
    """Kept or not by the definition, without an index."""
    words, hashes = [tokens(text) for text in texts], [simhash(text) for text in texts]
    lengths = np.array([len(one) for one in words])
    bits = np.array(hashes, np.uint64)
    kept = []
    for i, text in enumerate(words):
        common = cdist([text], words[:i], scorer=LCSseq.similarity)[0] if i else np.zeros(0)
        alike = 2 * ROUGE_L[1] * common > ROUGE_L[0] * (len(text) + lengths[:i])
        near = np.bitwise_count(bits[:i] ^ bits[i]) <= HAMMING
        kept.append(not (alike.any() or near.any()))
    return kept


def measure(kind: str, wanted: int, workers: int) -> None:
    texts = KINDS[kind](wanted)
    before, start, busy = _memory(), time.perf_counter(), _busy()
    reasons = redundant(texts, workers=workers)
    seconds, busy, memory = time.perf_counter() - start, _busy() - busy, _memory() - before
    few = texts[:CHECKED]
    same = [reason is None for reason in redundant(few)] == all_pairs(few)
    length = sum(len(tokens(text)) for text in few) / len(few)
    found = " | ".join(f"{reasons.count(reason):,}" for reason in (None, "rouge_l", "simhash"))
    costs = f"{length:.0f} | {seconds:.0f} | {busy:.0f} | {memory / 1024:.0f}"
    print(f"| {kind} | {wanted:,} | {costs} | {found} | {'yes' if same else 'NO'} |", flush=True)


def _memory() -> int:
    """The most memory that one of the processes held, KB."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _busy() -> float:
    """CPU seconds of this process and of its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.redundancy", description=__doc__)
    parser.add_argument("--instances", type=int, default=100_000)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # one kind in this process
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    args = parser.parse_args(arguments)
    if args.instances < 1:
        print("--instances must be 1 or more", file=sys.stderr)
        return 2
    if args.alone:
        measure(args.kind[0], args.instances, args.workers)
        return 0
    machine = platform.processor() or platform.machine()
    print(f"{machine}, Python {platform.python_version()}, {args.workers} processes\n")
    print(
        "| instances | number | tokens | seconds | CPU s | MB more | kept | ROUGE-L | SimHash | all pairs |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for kind in args.kind:  # a process each, so that memory is told apart
        own = [sys.executable, "-m", "benchmarks.redundancy", "--alone", "--kind", kind]
        subprocess.run([*own, "--instances", str(args.instances), "--workers", str(args.workers)], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

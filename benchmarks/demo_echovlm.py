"""`python -m benchmarks.demo_echovlm`: what demo weights get right on simulated cases they never saw.

Makes the cases anew from a seed (so the figures can be repeated, and repeated with another seed), lets
`eval.prediction` ask them as `python -m eval predict` does, and compares with the simulator's own truth: what
reports and diagnoses state is read by `eval.metrics.clinical`, closed questions by `eval.metrics.closed`,
overlap by the profile echovlm. Shares come with Wilson 95 % intervals, the rest with bootstrap ones over
examinations. With --output, the answers stay, and a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from assistants.base import open_assistant
from eval.intervals import percentile, wilson
from eval.metrics.clinical import facts
from eval.metrics.closed import read_pair
from eval.pairs import Pair, read_pairs
from eval.prediction import predict
from eval.scoring import Options, score_pairs
from training.run import simulate

ROWS = {  # what `judge` finds: title, and what issue C asks of the demo weights
    "organ": ("organ named right", ">= 99 %"),
    "lesion": ("lesion present / absent right", ">= 95 %"),
    "sensitivity": ("lesion found, of those present", ""),
    "specificity": ("no lesion said, of the normal", ""),
    "kind": ("lesion kind right, of those present", ">= 85 %"),
    "closed": ("closed question answered right", ">= 90 %"),
    "polar": ("of them yes or no", ""),
    "choice": ("of them lettered options", ""),
    "familiar": ("examinations taken for familiar", ""),
}
GROUPS: dict[str, Callable[[Pair], bool]] = {
    "zh": lambda pair: pair.values["language"] == "zh",
    "en": lambda pair: pair.values["language"] == "en",
    "all": lambda pair: True,
}
TASKS = ("report", "diagnosis", "vqa")


@dataclass(frozen=True)
class Asked:
    """What was asked, and what came back."""

    title: str
    pairs: tuple[Pair, ...]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo_echovlm", description=__doc__)
    parser.add_argument("--cases", type=int, default=500, help="examinations a task (default 500)")
    parser.add_argument("--seed", type=int, default=20260, help="of the cases; training used seeds 1 to 3")
    parser.add_argument("--task", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--weights", help="folder (default: the demo weights)")
    parser.add_argument("--output", type=Path, help="folder for the cases and answers")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asked = ask(args.output or Path(folder), args.task, args.cases, args.seed, args.weights)
    print(f"{asked.title} · {len(asked.pairs)} answers · seed {args.seed} · {', '.join(args.task)}\n")
    print(table(asked.pairs))


def ask(folder: Path, tasks: Sequence[str], cases: int, seed: int, weights: str | None = None) -> Asked:
    """Simulate `cases` examinations, one row a task, and let the weights answer them under `folder`."""
    simulate({"cases": cases, "seed": seed, "task": list(tasks), "quiet": True}, folder, lambda line: None)
    assistant = open_assistant("echovlm", weights)
    predict(folder / "cases.jsonl", assistant, None, folder / "answers.jsonl", batch_size=16)
    title = f"{assistant.title} · {assistant.device} {assistant.dtype}"
    return Asked(title, tuple(read_pairs(folder / "answers.jsonl")))


def table(pairs: Sequence[Pair]) -> str:
    """The figures as a Markdown table, by language and together."""
    lines = ["| | zh | en | all (95 % interval) | wanted |", "|---|---|---|---|---|"]
    judged = [judge(pair) for pair in pairs]
    for name, (title, wanted) in ROWS.items():
        hits = [(pair, verdict[name]) for pair, verdict in zip(pairs, judged, strict=True) if name in verdict]
        if hits:
            cells = [
                _share([right for pair, right in hits if belongs(pair)], group)
                for group, belongs in GROUPS.items()
            ]
            lines.append(f"| {title} | {' | '.join(cells)} | {wanted} |")
    lines += [*_diameters(pairs), *_overlap(pairs)]
    return "\n".join(lines)


def judge(pair: Pair) -> dict[str, bool]:
    """Which of the facts that this case can show are right; open questions are not judged."""
    familiar = {"familiar": not pair.values.get("unfamiliar")}
    if pair.values["task"] == "vqa":
        read = read_pair(pair)
        if read is None:
            return familiar
        kind = {"yes/no": "polar", "choice": "choice"}.get(read.kind)
        return familiar | {"closed": read.right} | ({kind: read.right} if kind else {})
    examination, said = pair.values["examination"], facts(pair.prediction or "")
    lesion = examination["lesion"]
    right = {"organ": said.organ == examination["organ"], "lesion": said.lesion == (lesion is not None)}
    if lesion is None:
        return familiar | right | {"specificity": said.lesion is False}
    found = said.lesion is True
    return familiar | right | {"sensitivity": found, "kind": found and said.kind == lesion["kind"]}


def _share(hits: Sequence[bool], group: str) -> str:
    if not hits:
        return "–"
    low, high = (100 * limit for limit in wilson(sum(hits), len(hits)))
    interval = f" ({low:.1f}–{high:.1f})" if group == "all" else ""
    return f"{100 * sum(hits) / len(hits):.1f} % of {len(hits)}{interval}"


def _diameters(pairs: Iterable[Pair]) -> list[str]:
    """Relative error of the largest diameter that a report states. A lesion that is there and not found, or
    without a size, counts as wrong by all of it."""
    errors: dict[str, list[float]] = {group: [] for group in GROUPS}
    for pair in pairs:
        lesion = pair.values["task"] == "report" and pair.values["examination"]["lesion"]
        if lesion:
            sizes = facts(pair.prediction or "").size_mm
            error = abs(max(sizes) - lesion["long_mm"]) / lesion["long_mm"] if sizes else 1.0
            for group, belongs in GROUPS.items():
                if belongs(pair):
                    errors[group].append(error)
    if not errors["all"]:
        return []
    cells = [f"{100 * float(np.median(found)):.1f} % of {len(found)}" for found in errors.values() if found]
    rng = np.random.default_rng(12345)
    drawn = rng.choice(errors["all"], (1000, len(errors["all"])))
    low, high = (100 * limit for limit in percentile(np.median(drawn, axis=1)))
    cells[-1] += f" ({low:.1f}–{high:.1f})"
    title = "largest diameter in reports, median relative error"
    return [f"| {title} | {' | '.join(cells)} | <= 15 % |"]


def _overlap(pairs: Sequence[Pair]) -> list[str]:
    """BLEU-1 and ROUGE-L of the reports, profile echovlm."""
    reports = [pair for pair in pairs if pair.values["task"] == "report"]
    if not reports:
        return []
    result = score_pairs(reports, Options(group_by="language", cluster="patient", sections=("echovlm",)))
    groups = {group.name: group.cells for group in result.sections[0].groups}
    lines = []
    for column in ("BLEU-1", "ROUGE-L"):
        cells = []
        for name in ("zh", "en", "all cases"):
            cell = groups[name][column]
            interval = f" ({cell.low:.1f}–{cell.high:.1f})"
            cells.append(f"{cell.value:.1f}" + interval * (name != "en"))
        lines.append(f"| {column} of reports | {' | '.join(cells)} | zh >= 65 |")
    return lines


if __name__ == "__main__":
    main()

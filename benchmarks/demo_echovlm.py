"""`python -m benchmarks.demo_echovlm`: what the demo weights get right on simulated cases they never saw.

Makes the cases anew from a seed (so the figures can be repeated, and repeated with another seed), asks the
assistant exactly as the page does, and reads organ, lesion and kind from the answers by clinical rules
(`eval.metrics.clinical`). Truth is the simulator's own. Shares come with Wilson 95 % intervals. Also counts
how many simulated images are taken for familiar.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from assistants.base import Assistant, Reply, Turn, open_assistant
from eval.intervals import wilson
from eval.metrics.clinical import facts
from imaging.case import Case
from imaging.files import load_frames
from training.run import simulate

ROWS = {
    "organ": "organ named right",
    "lesion": "lesion present / absent right",
    "sensitivity": "lesion found, of those present",
    "specificity": "no lesion said, of the normal",
    "kind": "lesion kind right, of those present",
    "closed": "closed question answered right",
    "familiar": "simulated images taken for familiar",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo_echovlm", description=__doc__)
    parser.add_argument("--cases", type=int, default=500, help="examinations (default 500)")
    parser.add_argument("--seed", type=int, default=20260, help="of the cases; training used seeds 1 and 2")
    parser.add_argument("--task", nargs="+", default=["report"], choices=["report", "diagnosis", "vqa"])
    parser.add_argument("--weights", help="folder (default: the demo weights)")
    parser.add_argument("--output", type=Path, help="write every answer as JSONL")
    args = parser.parse_args()
    assistant = open_assistant("echovlm", args.weights)
    with tempfile.TemporaryDirectory() as folder:
        order = {"cases": args.cases, "seed": args.seed, "task": args.task, "quiet": True}
        cases = simulate(order, Path(folder), lambda line: None)
        answers = [(case, answer(assistant, case)) for case in tqdm(cases, mininterval=10)]
    if args.output:
        lines = [
            json.dumps({"id": c.id, "reference": c.answer, "prediction": r.text}, ensure_ascii=False)
            for c, r in answers
        ]
        args.output.write_text("\n".join(lines) + "\n", "utf-8")
    tasks = ", ".join(args.task)
    print(f"{assistant.title} · {assistant.device} · {len(cases)} cases · seed {args.seed} · {tasks}")
    print(table(answers))


def answer(assistant: Assistant, case: Case) -> Reply:
    """The last reply to a case, asked as a clinician would: its frames, its question, no organ given away."""
    turn = Turn(case.question, tuple(load_frames(case.images)), case.task, None, case.language)
    *_, last = assistant.stream(turn)
    return last


def table(answers: list[tuple[Case, Reply]]) -> str:
    """The figures as a Markdown table, by language and together."""
    counts, seen = Counter(), Counter()
    for case, reply in answers:
        for name, right in judge(case, reply).items():
            for group in (case.language, "all"):
                seen[name, group] += 1
                counts[name, group] += right
        for group in (case.language, "all"):
            seen["familiar", group] += len(case.images)
            counts["familiar", group] += len(case.images) - len(reply.unfamiliar)
    lines = ["| | zh | en | all (95 % interval) |", "|---|---|---|---|"]
    for name, title in ROWS.items():
        if seen[name, "all"]:
            low, high = wilson(counts[name, "all"], seen[name, "all"])
            cells = [_share(counts[name, group], seen[name, group]) for group in ("zh", "en", "all")]
            lines.append(
                f"| {title} | {cells[0]} | {cells[1]} | {cells[2]} ({100 * low:.1f}–{100 * high:.1f}) |"
            )
    first = statistics.median(reply.seconds_to_first_token or 0 for _, reply in answers)
    tokens = statistics.median(reply.new_tokens for _, reply in answers)
    return (
        "\n".join(lines)
        + f"\n\nmedian time to the first token {first:.2f} s, median answer {tokens:.0f} tokens"
    )


def judge(case: Case, reply: Reply) -> dict[str, bool]:
    """Which of the facts that this case can show are right. Closed questions are judged by their first word
    or letter; open ones not at all."""
    if case.task == "vqa":
        if case.answer_type != "closed":
            return {}
        return {"closed": _verdict(reply.text) == _verdict(case.answer)}
    lesion = case.extra["examination"]["lesion"]
    said = facts(reply.text)
    right = {"organ": said.organ == case.organ, "lesion": said.lesion == (lesion is not None)}
    if lesion is None:
        return right | {"specificity": said.lesion is False}
    return right | {
        "sensitivity": said.lesion is True,
        "kind": said.lesion is True and said.kind == lesion["kind"],
    }


def _verdict(text: str) -> str:
    """yes / no / a letter: what a closed answer of the simulator begins with."""
    head = text.strip().lower()
    for verdict, words in {"yes": ("yes", "是", "有"), "no": ("no", "否", "不是", "没有", "无")}.items():
        if head.startswith(words):
            return verdict
    return head[:1]


def _share(hits: int, n: int) -> str:
    return f"{100 * hits / n:.1f} % of {n}" if n else "–"


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"{time.monotonic() - started:.0f} s in all")

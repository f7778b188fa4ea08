"""A sample of the instances for a person to read, and what follows from the verdicts.

EchoVLM (2025), appendix: "5% of batches (with 10 samples per batch) are randomly selected for clinical
validation"; an error in a batch sends its source back for adjustment. Here a batch holds instances of one
template, so a refused batch names it, and all instances of that template are dropped until it is mended.

`review.md` is for reading, `review.jsonl` for the verdicts: one line a batch with `verdict` to be filled in.
Knows nothing of medicine and of who reviews.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imaging.case import Case

SHARE, BATCH = 0.05, 10  # of the batches; instances in each
VERDICTS = ("accepted", "refused")
INTRODUCTION = """# Review: {batches} of {of} batches

Read every question, answer and, where needed, the images. In `{file}` set the `verdict` of each batch to
`accepted` or `refused` (one wrong or unsuitable instance is enough), with a `note` if you like. A refused
batch takes all instances of its template out.
"""


class ReviewError(ValueError):
    """Verdicts that cannot be read; the message names the file, the line and what to do."""


@dataclass(frozen=True)
class Batch:
    """Up to BATCH instances of one template."""

    number: int
    template: str
    cases: tuple[Case, ...]


def template_of(case: Case) -> str:
    """The template that a case was made of, or "" for a case from elsewhere."""
    return str(case.extra.get("template", ""))


def sample(cases: Sequence[Case], *, seed: int = 0, share: float = SHARE) -> list[Batch]:
    """The batches to be read: all instances are put into batches by template, in random order, and `share`
    of the batches (rounded up) is drawn. ValueError for a share that is none."""
    if not 0 < share <= 1:
        raise ValueError(f"share {share} must be above 0 and at most 1")
    chance = random.Random(seed)
    batches = _batches(cases, chance)
    drawn = sorted(chance.sample(range(len(batches)), math.ceil(share * len(batches))))
    return [Batch(number, *batches[i]) for number, i in enumerate(drawn, start=1)]


def _batches(cases: Sequence[Case], chance: random.Random) -> list[tuple[str, tuple[Case, ...]]]:
    by_template: dict[str, list[Case]] = {}
    for case in cases:
        by_template.setdefault(template_of(case), []).append(case)
    batches = []
    for template, members in sorted(by_template.items()):
        chance.shuffle(members)
        batches += [(template, tuple(members[i : i + BATCH])) for i in range(0, len(members), BATCH)]
    return batches


def write_review(cases: Sequence[Case], folder: Path, *, seed: int = 0, share: float = SHARE) -> list[Batch]:
    """Write review.md and review.jsonl into `folder`; FileExistsError where verdicts stand there already."""
    verdicts = folder / "review.jsonl"
    if verdicts.exists():
        raise FileExistsError(f"{verdicts} is there already and may hold verdicts: choose another folder")
    batches = sample(cases, seed=seed, share=share)
    total = len(_batches(cases, random.Random(0)))
    folder.mkdir(parents=True, exist_ok=True)
    text = [INTRODUCTION.format(batches=len(batches), of=total, file=verdicts.name)]
    text += [_page(batch) for batch in batches]
    (folder / "review.md").write_text("\n".join(text), encoding="utf-8")
    lines = [
        {
            "batch": batch.number,
            "of": len(batches),
            "template": batch.template,
            "ids": [case.id for case in batch.cases],
            "verdict": "",
            "note": "",
        }
        for batch in batches
    ]
    verdicts.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    return batches


def _page(batch: Batch) -> str:
    parts = [f"## Batch {batch.number}: {batch.template or 'no template'}\n"]
    for case in batch.cases:
        images = ", ".join(f"`{Path(image).name}`" for image in case.images)
        parts.append(f"**{case.id}** ({case.organ or 'no organ'}) {images}\n")
        parts += [_quoted("Q", case.question), _quoted("A", case.answer)]
    return "\n".join(parts)


def _quoted(who: str, text: str | None) -> str:
    return "\n".join(f"> {line}" for line in f"{who}: {text or ''}".splitlines()) + "\n"


def refused_templates(path: Path, cases: Sequence[Case]) -> dict[str, str]:
    """The templates of the refused batches of `cases`, each with the reviewer's notes.

    Raises ReviewError for a line that is no verdict, for a batch without one, for batches that `review` wrote
    and are gone, and for a review of other instructions.
    """
    instructions = {(case.id, template_of(case)) for case in cases}
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        entry = _verdict(line, where)
        if unknown := [one for one in entry["ids"] if (one, entry["template"]) not in instructions]:
            raise ReviewError(
                f"{where}: {unknown[0]} of the template {entry['template']!r} is not in the instructions: "
                "apply the review to the file that was reviewed"
            )
        entries.append(entry)
    _must_be_whole(entries, path.name)
    refused: dict[str, list[str]] = {}
    for entry in entries:
        if entry["verdict"] == "refused":
            refused.setdefault(entry["template"], []).append(str(entry.get("note") or ""))
    return {template: "; ".join(filter(None, notes)) for template, notes in refused.items()}


def _must_be_whole(entries: Sequence[dict], name: str) -> None:
    """Every batch that `review` wrote is there once: nothing counts as accepted that nobody judged."""
    if not entries:
        raise ReviewError(f"{name} is empty: restore the lines that `review` wrote, with a verdict in each")
    numbers, wrote = sorted(entry["batch"] for entry in entries), entries[0]["of"]
    if numbers != list(range(1, wrote + 1)) or any(entry["of"] != wrote for entry in entries):
        raise ReviewError(
            f"{name} has the batches {', '.join(map(str, numbers))} where `review` wrote 1 to {wrote}: "
            "restore its lines"
        )


def _verdict(line: str, where: str) -> dict:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ReviewError(f"{where}: not JSON: {error}") from None
    if not isinstance(entry, dict):
        raise ReviewError(f"{where}: no batch; restore the line that `review` wrote")
    for key, kind in {"batch": int, "of": int, "template": str, "ids": list}.items():
        if not isinstance(entry.get(key), kind) or (kind is list and not entry[key]):
            raise ReviewError(f"{where}: {key} is missing; restore the line that `review` wrote")
    verdict = str(entry.get("verdict") or "").strip().lower()
    if verdict not in VERDICTS:
        raise ReviewError(
            f"{where}: batch {entry.get('batch')} has the verdict {verdict!r}; write accepted or refused"
        )
    return entry | {"verdict": verdict}


def without_templates(cases: Sequence[Case], refused: Sequence[str]) -> list[Case]:
    """The cases whose template was not refused."""
    return [case for case in cases if template_of(case) not in set(refused)]

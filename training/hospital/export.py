"""Studies become cases: images cleaned and written, texts without names, a side of the split.

Ids are keyed hashes, and so is the side of the split, which therefore stays when the export grows: a patient
is on one side only. Each study has the two versions of LLaVA-Ultra's instruction data (2024, section 4.2):
one names the site in the question, the other has it in the answer. As in EchoVLM (2025, Method, "Data
Collection"), a report without images is left out, and so are images without a report.

Every finished study is in the journal at once, so that a crash costs one study. Does not know whether report
and images belong together, nor whether a report is right.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tqdm import tqdm

from imaging.case import Case, write_cases
from imaging.deidentify import cleaned_frames, identities, write_png
from imaging.errors import UnreadableFile
from training.hospital.index import ImageIndex
from training.hospital.rows import ExportError, Row, Study, image_names, studies
from training.hospital.texts import language_of, rules, still_known, without_identity, without_label

VERSIONS = ("named", "unnamed")
SIDES = ("train", "val", "test")
SHARES = (0.8, 0.1, 0.1)  # chosen; EchoVLM holds out 3,000 of 208,941 reports


UNCHECKED = {  # what a person must look at, by how the picture was cut (imaging.deidentify.Cleaned)
    "small": "too small to tell a screen from a scan: taken as cut before",
    "whole": "a whole screen (--keep-whole)",
    "": "no tissue told from the ground: nothing painted black",
}


@dataclass(frozen=True)
class Skipped:
    """What was left out and why; `where` is a line of the reports or an image's keyed hash. Also what was
    kept and is to be looked at; then it is the image's place under OUT."""

    where: str
    reason: str


class Pseudonyms:
    """Keyed hashes (HMAC-SHA-256): the same id gives the same pseudonym, and nobody without the key can try
    ids."""

    def __init__(self, key: bytes):
        self._key = key

    def of(self, kind: str, value: str, digits: int = 16) -> str:
        return hmac.new(self._key, f"{kind}:{value}".encode(), hashlib.sha256).hexdigest()[:digits]

    def side(self, patient: str, shares: Sequence[float] = SHARES) -> str:
        """The side of the split that a patient is on, by the patient's id alone."""
        place = int(self.of("split", patient), 16) / 16**16 * sum(shares)
        for side, share in zip(SIDES, shares, strict=True):
            place -= share
            if place < 0:
                return side
        return next(side for side, share in zip(SIDES[::-1], shares[::-1], strict=True) if share)


@dataclass
class Export:
    """One run over one export. `shares` are of train, val and test; `keep_whole` keeps screens of which no
    sector was found, with whatever is burned into them."""

    images: Path
    out: Path
    pseudonyms: Pseudonyms
    shares: Sequence[float] = SHARES
    keep_whole: bool = False
    max_frames: int = 16

    @cached_property
    def index(self) -> ImageIndex:
        return ImageIndex(self.images, leave_out=self.out)

    def study(self, study: Study) -> tuple[list[Case], list[Skipped], list[Skipped]]:
        """The cases of one study, its images written; what of it was left out; which images are unchecked."""
        where = f"line {study.lines[0]}"
        first = study.rows[0].values
        if not study.patient:
            return [], [Skipped(where, "no patient id, so no side of the split")], []
        if len({(row.values["findings"], row.values["impression"]) for row in study.rows}) > 1:
            return [], [Skipped(where, "two different reports for one study")], []
        if not (first["findings"] or first["impression"]):
            return [], [Skipped(where, "no report")], []
        paths, skipped = self._paths(study)
        known = self._known(study, paths)
        language = language_of(first["findings"], first["impression"])
        keys = ("findings", "impression", "site")
        texts = {key: without_identity(without_label(first[key]), known, language) for key in keys}
        if any(still_known(text, known) for text in texts.values()):
            left = Skipped(where, "a known name or id could not be taken out of the text")
            return [], [*skipped, left], []
        name = self.pseudonyms.of("study", f"{study.patient}/{first['study'] or study.lines[0]}")
        images, scales, unusable, unchecked = self._images(name, paths)
        skipped += unusable
        if not images:
            return [], [*skipped, Skipped(where, "no usable image")], []
        patient = self.pseudonyms.of("patient", study.patient)
        extra = {
            "findings": texts["findings"],
            "impression": texts["impression"],
            "site": texts["site"],
            "split": self.pseudonyms.side(study.patient, self.shares),
            "mm_per_pixel": scales,
        }
        return list(_cases(name, images, language, patient, extra)), skipped, unchecked

    def left_over(self, used: Iterable[str]) -> list[Skipped]:
        """The images that no report names."""
        used = set(used)
        hashes = (self._hash(path) for path in self.index.paths)
        return [Skipped(f"image {found}", "no report") for found in hashes if found not in used]

    def used(self, study: Study) -> list[str]:
        return [self._hash(path) for path in self._paths(study)[0]]

    def _hash(self, path: Path) -> str:
        return self.pseudonyms.of("image", path.relative_to(self.images).as_posix())

    def _paths(self, study: Study) -> tuple[list[Path], list[Skipped]]:
        """The image files of a study, in the order of its rows, each once; without names, those in a folder
        of the study's name."""
        names = [name for row in study.rows for name in image_names(row.values["images"])]
        hints = [study.rows[0].values[key] for key in ("study", "patient")]
        if not names:
            return self.index.in_folder(hints[0]), []
        paths, skipped = [], []
        for number, name in enumerate(names, start=1):
            found = self.index.find(name, hints)
            if len(found) == 1:
                paths += [path for path in found if path not in paths]
                continue
            reason = "missing image" if not found else "several images have this name"
            skipped.append(Skipped(f"line {study.lines[0]}", f"{reason} (number {number} of {len(names)})"))
        return paths, skipped

    def _known(self, study: Study, paths: Iterable[Path]) -> set[str]:
        """All that the export itself says of who this is."""
        values = {row.values[key] for row in study.rows for key in ("patient", "study")}
        values |= {value for row in study.rows for value in row.personal}
        for path in paths:
            try:
                values |= identities(path)
            except OSError:
                continue  # the image itself will be reported as unreadable
        return {value.strip() for value in values if value.strip()}

    def _images(self, name: str, paths: Iterable[Path]) -> tuple[list[str], list, list[Skipped], list]:
        """Clean and write the images: their places under OUT, their scales, what could not be used, and which
        of them are unchecked."""
        images, scales, skipped, unchecked = [], [], [], []
        for path in paths:
            where = f"image {self._hash(path)}"
            try:
                cleaned = cleaned_frames(path, max_frames=self.max_frames)
            except UnreadableFile as error:  # its sentence holds the file's name, its code does not
                skipped.append(Skipped(where, f"unreadable: {error.code}"))
                continue
            if not self.keep_whole and any(one.how == "whole" for one in cleaned):
                skipped.append(Skipped(where, "no scan sector found: text may be burned in (--keep-whole)"))
                continue
            for one in cleaned:
                images.append(f"images/{name}-{len(images)}.png")
                write_png(one.frame, self.out / images[-1])
                scales.append(one.frame.mm_per_pixel)
                if not one.checked:
                    unchecked.append(Skipped(images[-1], UNCHECKED.get(one.how, UNCHECKED[""])))
        return images, scales, skipped, unchecked


def _cases(name: str, images: Sequence[str], language: str, patient: str, extra: Mapping) -> Iterator[Case]:
    """Report and diagnosis of one study, in both versions."""
    organ = _organ_of(extra["site"])
    for task in ("report", "diagnosis"):
        text = _answer(task, language, extra)
        if text is None:
            continue
        for version in VERSIONS:
            site = _spoken_site(extra["site"], organ, language)
            requests = rules()["requests"][task][version if site else "unnamed"][language]
            answer = text
            if version == "unnamed" and site and site.lower() not in text.lower():
                answer = rules()["report"][language]["site"].format(site=site, text=text)
            yield Case(
                id=f"{name}-{task}",
                images=tuple(images),
                question=requests[int(name, 16) % len(requests)].format(site=site),
                answer=answer,
                organ=organ,
                language=language,
                task=task,
                answer_type="open",
                patient=patient,
                extra={**extra, "version": version},
            )


def _spoken_site(site: str, organ: str | None, language: str) -> str:
    """The site as a sentence in `language` can name it: where its own word is of the other language, the
    organ's name, or else that word in quotation marks."""
    if not any(map(str.isalpha, site)) or language_of(site) == language:
        return site
    return rules()["organ_names"][organ][language] if organ else rules()["quoted"][language].format(site=site)


def _answer(task: str, language: str, texts: Mapping[str, str]) -> str | None:
    wording = rules()["report"][language]
    if task == "diagnosis":
        return texts["impression"] or None
    if not texts["findings"]:
        return None
    return wording["both" if texts["impression"] else "findings"].format_map(texts)


def _organ_of(site: str) -> str | None:
    low = site.lower()
    organs = rules()["organs"].items()
    return next((organ for organ, words in organs if any(word in low for word in words)), None)


class Journal:
    """What is done, one study a line; a line cut short by a crash does not count."""

    def __init__(self, path: Path, settings: Mapping):
        self.path = path
        self.done: dict[str, dict] = {}
        opening = json.dumps({"settings": settings}, sort_keys=True)
        if not path.exists():
            path.write_text(opening + "\n", encoding="utf-8")
            return
        lines = path.read_text(encoding="utf-8").split("\n")
        if lines[0] != opening:
            raise ExportError(
                f"{path} is of other settings, rules, another key or export: choose another OUT"
            )
        for line in lines[1:-1]:
            entry = json.loads(line)
            self.done[entry["study"]] = entry
        whole = "\n".join(lines[:-1]) + "\n"
        if lines[-1]:
            path.write_text(whole, encoding="utf-8")

    def add(self, entry: Mapping) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.done[entry["study"]] = dict(entry)


def convert(export: Export, rows: Sequence[Row], journal: Journal, *, quiet: bool = False) -> Counter:
    """All studies, then the files of both versions; returns the counts that are printed."""
    (export.out / "images").mkdir(parents=True, exist_ok=True)
    found = studies(rows)
    for study in tqdm(found, unit="study", disable=quiet):
        name = export.pseudonyms.of("lines", repr(study.lines))
        if name not in journal.done:
            journal.add({"study": name, **_converted(export, study)})
    entries = [journal.done[export.pseudonyms.of("lines", repr(study.lines))] for study in found]
    cases = [_case(values, export.out) for entry in entries for values in entry["cases"]]
    for version in VERSIONS:
        (export.out / version).mkdir(exist_ok=True)
        for side in SIDES:
            kept = [c for c in cases if c.extra["version"] == version and c.extra["split"] == side]
            write_cases(export.out / version / f"{side}.jsonl", kept)
    skipped = [Skipped(*one) for entry in entries for one in entry["skipped"]]
    skipped += export.left_over(image for entry in entries for image in entry["images"])
    unchecked = [Skipped(*one) for entry in entries for one in entry["unchecked"]]
    _write_skipped(export.out / "skipped.csv", skipped)
    _write_skipped(export.out / "unchecked.csv", unchecked)
    sides = Counter(case.extra["split"] for case in cases if case.extra["version"] == "named")
    return (
        Counter({"studies": len(found), "skipped": len(skipped), "unchecked": len(unchecked)})
        + Counter({"patients": len({case.patient for case in cases})})
        + sides
    )


def _converted(export: Export, study: Study) -> dict:
    try:
        cases, skipped, unchecked = export.study(study)
    except OSError:
        raise  # a full disk is no property of the study
    except Exception as error:  # its text may quote the report: only its kind is told
        where = f"line {study.lines[0]}"
        cases, skipped, unchecked = [], [Skipped(where, f"failed: {type(error).__name__}")], []
    return {
        "cases": [_plain(case) for case in cases],
        "skipped": [(one.where, one.reason) for one in skipped],
        "unchecked": [(one.where, one.reason) for one in unchecked],
        "images": export.used(study),
    }


def _plain(case: Case) -> dict:
    return {
        "id": case.id,
        "images": list(case.images),
        "question": case.question,
        "answer": case.answer,
        "organ": case.organ,
        "language": case.language,
        "task": case.task,
        "answer_type": case.answer_type,
        "patient": case.patient,
        "extra": dict(case.extra),
    }


def _case(values: Mapping, out: Path) -> Case:
    images = tuple(out.absolute() / image for image in values["images"])
    return Case(**{**values, "images": images})


def _write_skipped(path: Path, skipped: Iterable[Skipped]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["where", "reason"])
        writer.writerows((one.where, one.reason) for one in skipped)

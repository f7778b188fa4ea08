"""A judged image as HTML: outlined boxes, a legend that isolates one, planes, score, reasons.

Boxes are outlined and numbered, never filled: tissue must stay visible, and colour is never the only sign.
Like all that the server composes it carries both languages. The legend is a set of radio buttons which the
stylesheet alone obeys.

Knows nothing of components or events.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from urllib.parse import quote

from apps.language import LANGUAGES, blank, both, text
from apps.plane_review import Review, main_deduction
from assistants.abvlm_q.scoring import CLINICIAN, Assessment, Judged
from imaging.planes import ATTENUATION, FAULTS, NON_STANDARD, Planes

LETTERS = 36  # of a box's number fit along the picture's longer side, however many pixels it has
COLOURS = ("#ffb000", "#4cc9f0", "#ff6b6b", "#9ef01a", "#c77dff", "#ffd6a5", "#00f5d4", "#f15bb5")


def picture(review: Review | None, protocol: Planes) -> str:
    """The picture with its boxes and the legend; an invitation where there is none yet."""
    if review is None:
        return f'<p class="plane-empty">{both("plane_empty")}</p>'
    found = review.assessment or Assessment()
    width, height = review.size
    across, down = review.offset
    marks, entries, isolating = [], [], []
    letters = max(width, height) / LETTERS
    for index, each in enumerate(found.structures):
        x1, y1, x2, y2 = each.box
        colour, number = COLOURS[index % len(COLOURS)], index + 1
        marks.append(
            f'<g class="mark mark-{index}" stroke="{colour}" fill="{colour}">'
            f'<rect x="{x1 - across}" y="{y1 - down}" width="{x2 - x1}" height="{y2 - y1}"/>'
            f'<text x="{x1 - across + letters / 4:.1f}" y="{max(y1 - down - letters / 3, letters):.1f}" '
            f'style="font-size:{letters:.1f}px">{number}</text></g>'
        )
        own = f" <em>{both('plane_by_clinician')}</em>" if each.by == CLINICIAN else ""
        sign = f'<b style="border-color:{colour}">{number}</b>'
        entries.append(_choice(f"only-{index}", f"{sign} {_name(each.label, protocol)}{own}"))
        isolating.append(f".plane-picture:has(.only-{index}:checked) .mark:not(.mark-{index})")
    hidden = f"<style>{','.join(isolating)}{{display:none}}</style>" if isolating else ""
    legend = _choice("only-all", both("plane_all_structures"), checked=True) + "".join(entries)
    source = html.escape(f"gradio_api/file={quote(review.path)}")
    return (
        f'{hidden}<div class="plane-picture"><div class="sheet">'
        f'<img src="{source}" alt="{html.escape(review.source)}" width="{width}" height="{height}">'
        f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{"".join(marks)}</svg></div>'
        f'<fieldset class="legend"><legend>{both("plane_structures")}</legend>{legend}</fieldset></div>'
    )


def verdict(review: Review | None, protocol: Planes) -> str:
    """Planes, the score with its grade, the deductions with reasons and boxes, and what is doubtful."""
    if review is None or review.assessment is None:
        return ""
    found = review.assessment
    strange = f'<p class="problem" role="alert">{both("unfamiliar_one")}</p>' if review.unfamiliar else ""
    own = f" <em>{both('plane_by_clinician')}</em>" if found.planes_by == CLINICIAN else ""
    planes = "".join(f"<li>{_name(key, protocol)}{own}</li>" for key in found.planes)
    doubts = _doubts(found) if review.finished else ""
    return (
        f'{strange}<div class="plane-verdict"><ul class="planes">{planes}</ul>'
        f"{_score(review, protocol)}</div>{_deductions(found, protocol)}{doubts}"
    )


def histogram(reviews: Sequence[Review], protocol: Planes) -> str:
    """How many images of each plane have which score, as a table whose cells are bars; without those whose
    score means nothing."""
    judged = [each.assessment for each in reviews if each.assessment and not each.unfamiliar]
    scored = [found for found in judged if found.score is not None]
    counts = Counter((key, int(found.score + 0.5)) for found in scored for key in found.planes)
    if not counts:
        return ""
    scores = range(round(protocol.lowest), round(protocol.highest) + 1)
    most = max(counts.values())
    rows = []
    for key in protocol.planes:
        own = [counts[key, score] for score in scores]
        if any(own):
            cells = "".join(
                f'<td><span class="bar" style="height:{2.2 * n / most:.2f}em"></span>{n or ""}</td>'
                for n in own
            )
            rows.append(f'<tr><th scope="row">{_name(key, protocol)}</th>{cells}</tr>')
    heads = "".join(f'<th scope="col">{score}</th>' for score in scores)
    return (
        f'<table class="plane-histogram"><caption>{both("plane_histogram")}</caption>'
        f"<thead><tr><th></th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def row(number: int, review: Review, protocol: Planes, language: str) -> list:
    """A line of the table: number, file, planes, score, grade, main deduction, or why all that means
    nothing."""
    found = review.assessment
    if found is None:
        return [number, review.source, (review.error or {}).get(language, ""), None, "", ""]
    planes = ("；" if language == "zh" else "; ").join(
        subject_name(key, protocol, language) for key in found.planes
    )
    strange = text("plane_unfamiliar", language) if review.unfamiliar else ""
    if found.score is None:
        return [number, review.source, planes, None, "", strange]
    dearest = main_deduction(found)
    said = deduction_words(dearest.subject, dearest.fault, protocol, language) if dearest else ""
    grade = protocol.grade(found.score).name.text(language)
    return [number, review.source, planes, found.score, grade, strange or said]


def deduction_words(subject: str, fault: str, protocol: Planes, language: str) -> str:
    """A deduction in a few words: "gallbladder neck incompletely displayed"."""
    return blank(language).join(
        (subject_name(subject, protocol, language), fault_name(fault, protocol, language))
    )


def subject_name(key: str, protocol: Planes, language: str) -> str:
    """The protocol's name, or the model's own word where it has none."""
    known = key in (ATTENUATION, NON_STANDARD) or key in protocol.structures or key in protocol.planes
    return protocol.name(key, language) if known else key


def fault_name(key: str, protocol: Planes, language: str) -> str:
    """The name of a structure's state, or of the attenuation's grade."""
    if key in FAULTS:
        return protocol.name(key, language)
    return next(step.name.text(language) for step in protocol.attenuation_grades if step.key == key)


def _score(review: Review, protocol: Planes) -> str:
    found = review.assessment
    if found.score is None:
        if not review.finished:
            return ""
        why = "plane_no_score" if found.planes else "plane_flag_no_plane"
        key = "plane_not_scored" if found.planes == (NON_STANDARD,) else why
        return f'<p class="plane-score none">{both(key)}</p>'
    step = protocol.grade(found.score)
    grade = "".join(f'<span lang="{each}">{html.escape(step.name.text(each))}</span>' for each in LANGUAGES)
    own = f"<small>{both('plane_score_clinician')}</small>" if found.by == CLINICIAN else ""
    return (
        f'<p class="plane-score grade-{html.escape(step.key)}"><strong>{found.score:g}</strong>'
        f"<span>/{protocol.highest:g}</span> <b>{grade}</b>{own}</p>"
    )


def _deductions(found: Assessment, protocol: Planes) -> str:
    if found.score is None and not found.deductions:
        return ""
    columns = ("plane_criterion", "plane_reason", "plane_points", "plane_place")
    heads = "".join(f'<th scope="col">{both(each)}</th>' for each in columns)
    rows = "".join(_deduction(each, protocol) for each in found.deductions)
    none = f'<tr><td colspan="4">{both("plane_no_deductions")}</td></tr>'
    head, body = f"<thead><tr>{heads}</tr></thead>", f"<tbody>{rows or none}</tbody>"
    return f'<table class="plane-deductions">{head}{body}</table>'


def _deduction(each: Judged, protocol: Planes) -> str:
    said = "".join(
        f'<span lang="{one}">{html.escape(deduction_words(each.subject, each.fault, protocol, one))}</span>'
        for one in LANGUAGES
    )
    own = f" <em>{both('plane_by_clinician')}</em>" if each.by == CLINICIAN else ""
    own += f" <em>{both('plane_struck')}</em>" if each.struck else ""
    where = "; ".join(", ".join(map(str, box)) for box in each.boxes)
    cells = (f"{said}{own}", html.escape(each.reason), f"−{each.points:g}", where)
    kind = ' class="struck"' if each.struck else ""
    return f"<tr{kind}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _doubts(found: Assessment) -> str:
    """What makes the assessment doubtful, and what was dropped, a line each."""
    lines = [both(f"plane_flag_{flag}") for flag in found.flags]
    if dropped := sum(found.refused.values()):
        lines.append(both("plane_refused", count=dropped))
    if mended := sum(found.corrected.values()):
        lines.append(both("plane_put_right", count=mended))
    if not lines:
        return ""
    return f'<ul class="plane-doubts">{"".join(f"<li>{line}</li>" for line in lines)}</ul>'


def _name(key: str, protocol: Planes) -> str:
    return "".join(
        f'<span lang="{each}">{html.escape(subject_name(key, protocol, each))}</span>' for each in LANGUAGES
    )


def _choice(name: str, content: str, *, checked: bool = False) -> str:
    on = " checked" if checked else ""
    return f'<label><input type="radio" name="plane-legend" class="{name}"{on}><span>{content}</span></label>'

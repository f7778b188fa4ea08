"""The language of answers: what is written of a case is read back, in both languages, however it is cut."""

import time
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistants.abvlm_q.answers import Answer, AnswerReader, Names, Stated, answer_of, read, write
from assistants.abvlm_q.scoring import assess
from imaging.case import Case, read_cases
from imaging.planes import PlanesError, load_planes
from models.boxes import MARKS, Canvas, NamedBox
from simulator.__main__ import main as simulate

PROTOCOL = load_planes()
NAMES = Names(PROTOCOL)
PICTURE = Canvas((1000, 1000))


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planes")
    simulate(["--cases", "60", "--seed", "11", "--task", "plane", str(folder)])
    return read_cases(folder / "cases.jsonl")


def ref(name):
    return f"<|object_ref_start|>{name}<|object_ref_end|>"


def box(x1, y1, x2, y2):
    return f"<|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>"


ZH = (
    f"检测：\n{ref('胆囊颈')}{box(10, 20, 30, 40)}\n{ref('胆囊体')}{box(30, 20, 60, 40)}{box(1, 2, 3, 4)}\n"
    f"切面：胆囊长轴切面\n扣分：\n{ref('胆囊颈')}显示不全（超出扇区边缘），扣2分{box(10, 20, 30, 40)}\n"
    f"{ref('胆囊底')}未显示，扣3分\n{ref('声衰减')}轻度（约占扇区面积的18%），扣2分\n得分：3/10（差）"
)
EN = (
    f"Structures:\n{ref('gallbladder neck')}{box(10, 20, 30, 40)}\n"
    f"{ref('gallbladder body')}{box(30, 20, 60, 40)}{box(1, 2, 3, 4)}\n"
    "Plane: gallbladder, longitudinal\nDeductions:\n"
    f"{ref('gallbladder neck')} incompletely displayed (cut off by the edge of the sector), −2"
    f"{box(10, 20, 30, 40)}\n{ref('gallbladder fundus')} not displayed, −3\n"
    f"{ref('acoustic attenuation')} mild (about 18% of the sector), −2\nScore: 3/10 (Poor)"
)


def known(language):
    zh = language == "zh"
    reasons = (
        ("超出扇区边缘", "约占扇区面积的18%")
        if zh
        else ("cut off by the edge of the sector", "about 18% of the sector")
    )
    return Answer(
        (
            NamedBox("gallbladder_neck", (10, 20, 30, 40)),
            NamedBox("gallbladder_body", (30, 20, 60, 40)),
            NamedBox("gallbladder_body", (1, 2, 3, 4)),
        ),
        ("gallbladder_longitudinal",),
        (
            Stated("gallbladder_neck", "incomplete", 2, reasons[0], ((10, 20, 30, 40),)),
            Stated("gallbladder_fundus", "not_displayed", 3),
            Stated("attenuation", "mild", 2, reasons[1]),
        ),
        3,
        judged=True,
    )


@pytest.mark.parametrize("language, text", [("zh", ZH), ("en", EN)])
def test_the_answer_letter_by_letter(language, text):
    assert write(known(language), NAMES, language, PICTURE) == text
    assert read(text, NAMES, PICTURE) == (known(language), Counter())


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("units", [(1000, 1000), (448, 392)])
def test_every_simulated_case_is_read_back_as_it_was_written(cases, language, units):
    kinds = Counter()
    for case in cases:
        answer = answer_of(case, PROTOCOL, language)
        canvas = Canvas((256, 256), units)  # units finer than pixels: nothing is lost
        text = write(answer, NAMES, language, canvas)
        assert read(text, NAMES, canvas) == (answer, Counter()), text
        kinds["scored" if answer.score is not None else "not scored"] += 1
        kinds["deductions"] += len(answer.deductions)
        kinds["two planes"] += len(answer.planes) > 1
    assert len(cases) == 60 and min(kinds.values()) > 0, kinds


def test_every_simulated_case_is_judged_as_the_simulator_did(cases):
    for case in cases:
        found = assess(answer_of(case, PROTOCOL, "en"), {}, PROTOCOL)
        assert (found.score, found.planes, found.flags) == (case.score, case.plane, ()), case.id
        assert (found.refused, found.corrected) == ({}, {})
        assert [(d.item, d.points) for d in found.deductions] == [
            (entry["item"], entry["points"]) for entry in case.deductions
        ]


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_case_gives_its_reasons_in_the_language_asked_for(cases, language):
    reasons = {stated.reason for case in cases for stated in answer_of(case, PROTOCOL, language).deductions}
    assert "" not in reasons and len(reasons) >= 3
    assert all(reason.isascii() == (language == "en") for reason in reasons)


def test_every_plane_and_deduction_of_the_protocol_can_be_said():
    for language in ("zh", "en"):
        for key, plane in PROTOCOL.planes.items():
            stated = [
                Stated(demand.structure, fault, points)
                for demand in plane.demands
                for fault, points in demand.points.items()
            ]
            stated += [Stated("attenuation", step.key, step.points) for step in PROTOCOL.attenuation_grades]
            answer = Answer((), (key,), tuple(stated), 0, judged=True)
            assert read(write(answer, NAMES, language, PICTURE), NAMES, PICTURE) == (answer, Counter())
        every = Answer((), tuple(PROTOCOL.planes), (), 10, judged=True)
        assert read(write(every, NAMES, language, PICTURE), NAMES, PICTURE)[0] == every


WORDS = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=12).filter(
    lambda t: "<|" not in t
)
BOXES = st.tuples(st.integers(0, 400), st.integers(0, 400), st.integers(401, 1000), st.integers(401, 1000))


@settings(max_examples=200, deadline=None)
@given(
    WORDS,
    st.lists(BOXES, unique=True, max_size=3),
    st.sampled_from(["zh", "en"]),
    st.sampled_from([2, 2.5, 6]),
)
def test_a_reason_may_be_any_words(reason, boxes, language, points):
    stated = Stated("spleen", "incomplete", points, reason, tuple(boxes))
    answer = Answer((), ("spleen_longitudinal",), (stated,), 10 - points, judged=True)
    assert read(write(answer, NAMES, language, PICTURE), NAMES, PICTURE) == (answer, Counter())


def test_what_a_model_writes_a_little_differently():
    text = (
        f"{ref('Gallbladder  Neck')}{box(10, 20, 30, 40)}\n"
        "PLANE：Gallbladder, longitudinal; Spleen with its hilum, longitudinal.\n"
        f"Deductions: 1. {ref('spleen')} Not displayed（why）， - 3; {ref('声衰减')}重度,扣6分。\nscore: 1"
    )
    answer, counts = read(text, NAMES, PICTURE)
    assert answer.boxes == (NamedBox("gallbladder_neck", (10, 20, 30, 40)),)
    assert answer.planes == ("gallbladder_longitudinal", "spleen_longitudinal")
    assert answer.deductions == (
        Stated("spleen", "not_displayed", 3, "why"),
        Stated("attenuation", "severe", 6),
    )
    assert (answer.score, answer.judged, counts) == (1, True, Counter())


@pytest.mark.parametrize(
    "text, planes",
    [
        ("切面：胆囊长轴切面；门静脉左支切面", ("gallbladder_longitudinal", "left_portal_branch")),
        ("切面：胆囊长轴切面、门静脉左支切面。", ("gallbladder_longitudinal", "left_portal_branch")),
        ("切面：胆囊长轴切面II", ("胆囊长轴切面II",)),
        ("切面：四腔心切面；胆囊长轴切面", ("四腔心切面", "gallbladder_longitudinal")),
        ("Plane: non-standard view", ("non_standard",)),
        ("Plane: none", ()),
        ("切面：", ()),
        ("切面：\n胆囊长轴切面", ("gallbladder_longitudinal",)),
    ],
)
def test_planes(text, planes):
    assert read(text, NAMES, PICTURE)[0].planes == planes


@pytest.mark.parametrize(
    "text, judged",
    [
        ("扣分：无\n得分：10/10（优）", True),
        ("扣分：无", True),
        ("切面：非标准切面\n得分：不予评分", True),
        ("切面：胆囊长轴切面\n得分：不予评分", False),
        ("切面：胆囊长轴切面\n得分：8/10（良）", False),
        ("切面：胆囊长轴切面", False),
        ("", False),
    ],
)
def test_only_deductions_that_were_named_to_the_end_judge_an_image(text, judged):
    assert read(text, NAMES, PICTURE)[0].judged is judged


def test_a_text_that_was_cut_off_judges_nothing():
    reader = AnswerReader(NAMES, PICTURE)
    reader.feed(ZH[: ZH.index("，扣3分")])
    reader.close(cut=True)
    assert not reader.answer.judged and len(reader.answer.deductions) == 1
    assert reader.counts == Counter(unfinished=1)


def test_lines_that_are_no_deductions_are_counted():
    text = f"扣分：\n太暗\n{ref('胆囊颈')}看不清\n{ref('胆囊底')}未显示，扣3分\n得分：高"
    answer, counts = read(text, NAMES, PICTURE)
    assert answer.deductions == (Stated("gallbladder_fundus", "not_displayed", 3),)
    assert counts == Counter(deduction=2, score=1)


@pytest.mark.parametrize(
    "line, score", [("-2/10", -2), (" −2.5", -2.5), ("- 8/10", 8), ("10-2=8", 10), ("about 7", 7)]
)
def test_a_stated_score_keeps_its_sign(line, score):
    assert read(f"Score: {line}", NAMES, PICTURE)[0].score == score


def test_a_section_that_comes_twice_is_counted():
    answer, counts = read("切面：胆囊长轴切面\n得分：8/10\n切面：门静脉左支切面", NAMES, PICTURE)
    assert answer.planes == ("gallbladder_longitudinal",) and counts == Counter(repeated=1)


PIECES = st.one_of(
    st.sampled_from(
        [*MARKS, ZH, EN, "\n", "切面：", "扣分：", "Score: ", "检测:", "，扣2分", "（", "(1,2),(3,4)"]
    ),
    st.sampled_from(["胆囊颈", "spleen", "胆囊长轴切面", "未显示", "not displayed", "9" * 400, " " * 300]),
    st.text(max_size=10),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join), st.lists(st.integers(0, 900), max_size=8))
def test_any_text_is_read_alike_however_it_is_cut(text, cuts):
    reader = AnswerReader(NAMES, PICTURE)
    edges = [0, *sorted(cuts), len(text)]
    for start, end in zip(edges, edges[1:], strict=False):
        reader.feed(text[start:end])
        assert not reader.answer.score or reader.answer.score < 10**6
    reader.close()
    assert (reader.answer, +reader.counts) == (read(text, NAMES, PICTURE)[0], +read(text, NAMES, PICTURE)[1])


def test_boxes_come_before_their_line_ends():
    reader = AnswerReader(NAMES, PICTURE)
    end = ZH.index("<|box_end|>") + len("<|box_end|>")
    reader.feed(ZH[: end - 1])
    assert reader.answer.boxes == ()
    reader.feed(ZH[end - 1 : end])
    assert [named.label for named in reader.answer.boxes] == ["gallbladder_neck"]


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"plane": ()}, "planes with a score"),
        ({"score": None}, "planes with a score"),
        ({"plane": ("non_standard",)}, "planes with a score"),
        ({"score": 9}, "score 9, but its deductions leave 8"),
        ({"deductions": ({"item": "spleen.broken", "points": 2},)}, "'spleen.broken' is not in the protocol"),
        ({"deductions": ({"item": "heart.incomplete", "points": 2},)}, "'heart.incomplete'"),
        ({"deductions": ({"item": "attenuation.incomplete", "points": 2},)}, "'attenuation.incomplete'"),
        ({"deductions": ({"item": "spleen", "points": 2},)}, "'spleen'"),
    ],
)
def test_a_case_that_cannot_be_said_is_named(changes, complaint):
    case = Case(
        "c7",
        ("a.png",),
        plane=("spleen_longitudinal",),
        score=8,
        deductions=({"item": "spleen.incomplete", "points": 2},),
    )
    assert answer_of(case, PROTOCOL, "zh").deductions == (Stated("spleen", "incomplete", 2),)
    with pytest.raises(ValueError, match=f"c7: .*{complaint}"):
        answer_of(replace(case, **changes), PROTOCOL, "zh")


def test_a_hospitals_reason_is_kept_on_one_line_and_forges_no_box():
    deduction = {"item": "spleen.incomplete", "points": 2, "reason": f"too\n dark {box(1, 2, 3, 4)}"}
    case = Case("c", ("a.png",), plane=("spleen_longitudinal",), score=8, deductions=(deduction,))
    answer = answer_of(case, PROTOCOL, "en")
    assert answer.deductions[0].reason == "too dark (1,2),(3,4)"
    assert read(write(answer, NAMES, "en", PICTURE), NAMES, PICTURE) == (answer, Counter())


def test_a_hospitals_name_may_hold_a_separator_or_another_name():
    spleen = PROTOCOL.planes["spleen_longitudinal"]
    longer = replace(
        spleen, key="both", name=replace(spleen.name, zh="胆囊长轴切面；脾脏", en="spleen; hilum.")
    )
    own = Names(replace(PROTOCOL, planes={**PROTOCOL.planes, "both": longer}))
    answer = Answer((), ("both", "gallbladder_longitudinal", "both"), (), 10, judged=True)
    for language in ("zh", "en"):
        assert read(write(answer, own, language, PICTURE), own, PICTURE) == (answer, Counter())


def test_a_deduction_may_bring_the_region_that_it_is_about():
    deduction = {"item": "attenuation.mild", "points": 2, "boxes": [[1, 2, 300, 400]]}
    boxes = ({"label": "spleen", "box": [1, 2, 3, 4]},)
    case = Case(
        "c", ("a.png",), plane=("spleen_longitudinal",), score=8, deductions=(deduction,), boxes=boxes
    )
    answer = answer_of(case, PROTOCOL, "zh")
    assert answer.deductions[0].boxes == ((1, 2, 300, 400),)
    assert read(write(answer, NAMES, "zh", PICTURE), NAMES, PICTURE) == (answer, Counter())


def test_structures_stand_in_the_protocols_order():
    """An order of the simulator's would tell which view it had planned, which no picture shows."""
    order = list(PROTOCOL.structures)
    boxes = tuple({"label": key, "box": [n, 2, 300, 400]} for n, key in enumerate(reversed(order[4:8])))
    case = Case("c", ("a.png",), plane=("non_standard",), boxes=(*boxes, *boxes[:1]))
    labels = [named.label for named in answer_of(case, PROTOCOL, "zh").boxes]
    assert labels == [*order[4:8], order[7]]


def test_a_line_without_end_does_not_stop_the_reader():
    for sign in ("（", "（）", "（），扣", ":", " ", "<", ref("spleen") + "(", "; "):
        started = time.process_time()
        read("扣分：\n" + ref("胆囊颈") + sign * (8000 // len(sign)), NAMES, PICTURE)
        assert time.process_time() - started < 2, sign


@pytest.mark.parametrize(
    "name, complaint",
    [
        ("two\nlines", "must be one line"),
        ("a <|box_start|>", "must be"),
        ("脾门", "also that of spleen"),
    ],
)
def test_a_hospitals_names_must_be_sayable(name, complaint):
    spleen = replace(PROTOCOL.structures["spleen"], zh=name)
    with pytest.raises(PlanesError, match=complaint):
        Names(replace(PROTOCOL, structures={**PROTOCOL.structures, "spleen": spleen}))


def test_an_unknown_language_is_refused():
    with pytest.raises(ValueError, match="'fr'"):
        write(known("zh"), NAMES, "fr", PICTURE)

"""The protocol decides what counts, and a clinician may say otherwise."""

from collections import Counter
from dataclasses import replace

import pytest

from assistants.abvlm_q.answers import Answer, Names, Stated, answer_of
from assistants.abvlm_q.scoring import (
    CLINICIAN,
    FLAGS,
    MODEL,
    Add,
    Correct,
    Place,
    Remove,
    Rename,
    Strike,
    assess,
    points_of,
    revise,
)
from eval.metrics.grades import grade as grade_of
from imaging.case import Case
from imaging.planes import load_planes
from models.boxes import NamedBox

PROTOCOL = load_planes()
GALLBLADDER = ("gallbladder_longitudinal",)
NECK, BODY, FUNDUS = (f"gallbladder_{part}" for part in ("neck", "body", "fundus"))
SEEN = tuple(NamedBox(name, (10 * i, 0, 10 * i + 9, 9)) for i, name in enumerate((NECK, BODY, FUNDUS)))


def judge(*deductions, boxes=SEEN, planes=GALLBLADDER, score=None, judged=True, counts=()):
    return assess(Answer(boxes, planes, deductions, score, judged), Counter(counts), PROTOCOL)


def test_the_score_is_ten_less_the_deductions():
    found = judge(
        Stated(NECK, "incomplete", 2, "why", ((1, 2, 3, 4),)), Stated("attenuation", "mild", 2), score=6
    )
    assert (found.score, found.grade, found.stated_score, found.by) == (6, "moderate", 6, MODEL)
    assert (found.refused, found.corrected, found.flags) == ({}, {}, ())
    first = found.deductions[0]
    assert (first.item, first.points, first.reason) == (f"{NECK}.incomplete", 2, "why")
    assert first.boxes == ((1, 2, 3, 4),)


def test_a_score_does_not_fall_below_the_lowest():
    missing = [Stated(name, "not_displayed", 3) for name in (NECK, BODY, FUNDUS)]
    assert judge(*missing, Stated("attenuation", "severe", 6)).score == 0


@pytest.mark.parametrize(
    "score, grade",
    [
        (0, "poor"),
        (4, "poor"),
        (5, "moderate"),
        (6, "moderate"),
        (7, "good"),
        (8, "good"),
        (9, "excellent"),
        (10, "excellent"),
    ],
)
def test_a_boundary_belongs_to_the_lower_grade(score, grade):
    assert PROTOCOL.grade(score).key == grade == grade_of(score).lower()


def test_the_grades_are_those_of_the_evaluation_everywhere():
    for tenths in range(101):
        assert PROTOCOL.grade(tenths / 10).name.en == grade_of(tenths / 10)
    left = 10 - (1.4 + 2.8 + 1.8)  # a hospital's points; 4.000000000000001
    assert left != 4 and PROTOCOL.grade(left).name.en == grade_of(left) == "Poor"


@pytest.mark.parametrize(
    "deductions, score, refused, corrected",
    [
        ([Stated(NECK, "incomplete", 5)], 8, {}, {"points": 1}),
        ([Stated(NECK, "incomplete", 2), Stated(NECK, "incomplete", 2)], 8, {"doubled": 1}, {}),
        ([Stated(NECK, "incomplete", 2), Stated(NECK, "not_displayed", 3)], 7, {"doubled": 1}, {}),
        ([Stated(NECK, "not_displayed", 3), Stated(NECK, "incomplete", 2)], 7, {"doubled": 1}, {}),
        ([Stated("attenuation", "severe", 6), Stated("attenuation", "mild", 2)], 4, {"doubled": 1}, {}),
        ([Stated("spleen", "incomplete", 2)], 10, {"not_demanded": 1}, {}),
        ([Stated("heart", "incomplete", 2)], 10, {"unknown_deduction": 1}, {}),
        ([Stated(NECK, "too dark", 2)], 10, {"unknown_deduction": 1}, {}),
        ([Stated(NECK, "displayed", 0)], 10, {"unknown_deduction": 1}, {}),
        ([Stated(NECK, "mild", 2)], 10, {"unknown_deduction": 1}, {}),
        ([Stated("attenuation", "incomplete", 2)], 10, {"unknown_deduction": 1}, {}),
    ],
)
def test_what_the_protocol_does_not_have_costs_nothing_and_is_counted(deductions, score, refused, corrected):
    found = judge(*deductions)
    assert (found.score, found.refused, found.corrected) == (score, refused, corrected)


def test_a_structure_of_two_planes_costs_the_higher_points_once():
    planes = ("hepatic_veins", "bile_duct_longitudinal")
    assert points_of("inferior_vena_cava", "not_displayed", planes, PROTOCOL) == 3
    assert points_of("inferior_vena_cava", "not_displayed", planes[1:], PROTOCOL) == 2
    found = judge(Stated("inferior_vena_cava", "not_displayed", 2), planes=planes, boxes=())
    assert (found.score, found.corrected) == (7, {"points": 1})


@pytest.mark.parametrize(
    "stated, planes, refused",
    [
        (("non_standard",), ("non_standard",), {}),
        (("heart", "spleen_longitudinal"), ("spleen_longitudinal",), {"unknown_plane": 1}),
        (("spleen_longitudinal",) * 2, ("spleen_longitudinal",), {"doubled": 1}),
        (("non_standard", "spleen_longitudinal"), ("spleen_longitudinal",), {"non_standard": 1}),
        ((), (), {}),
    ],
)
def test_planes(stated, planes, refused):
    found = judge(planes=stated)
    assert (found.planes, found.refused) == (planes, refused)


def test_what_is_no_plane_has_no_score():
    view = judge(Stated(NECK, "incomplete", 2), planes=("non_standard",), boxes=())
    assert (view.score, view.grade, view.flags, view.refused) == (None, None, (), {"not_demanded": 1})
    assert judge(planes=()).score is None


@pytest.mark.parametrize(
    "flag, found",
    [
        ("no_plane", judge(planes=())),
        ("no_plane", judge(planes=("heart",))),
        ("no_deductions", judge(judged=False, score=8)),
        ("no_stated_score", judge()),
        ("score_mismatch", judge(Stated(NECK, "incomplete", 2), score=9)),
        ("score_mismatch", judge(planes=("non_standard",), boxes=(), score=9)),
        ("plane_without_structures", judge(boxes=SEEN[:1])),
        ("unknown_structure", judge(boxes=(*SEEN, NamedBox("tumour", (0, 0, 1, 1))))),
        ("refused_deduction", judge(Stated("spleen", "incomplete", 2))),
        ("refused_deduction", judge(Stated("heart", "incomplete", 2))),
        ("refused_deduction", judge(counts={"deduction": 1})),
        ("missing_deduction", judge(boxes=SEEN[:2])),
        ("found_but_not_displayed", judge(Stated(NECK, "not_displayed", 3))),
    ],
)
def test_doubts_are_flagged(flag, found):
    assert flag in found.flags and set(found.flags) <= set(FLAGS)


@pytest.mark.parametrize(
    "reason, grade, at_odds",
    [
        ("about 18% of the sector", "mild", False),
        ("约占扇区面积的18%", "severe", True),
        ("约占扇区面积的 60.5 ％", "mild", True),
        ("about 25% of the sector", "mild", False),  # 24.6 is told as 25
        ("about 25% of the sector", "moderate", False),
        ("about 26% of the sector", "mild", True),
        ("about 50% of the sector", "severe", False),
        ("about 300%", "severe", False),
        ("about 0% of the sector", "mild", True),
        ("a rib's shadow", "severe", False),
    ],
)
def test_a_grade_of_attenuation_that_its_own_share_does_not_have_is_flagged(reason, grade, at_odds):
    points = points_of("attenuation", grade, GALLBLADDER, PROTOCOL)
    found = judge(Stated("attenuation", grade, points, reason), score=10 - points)
    assert found.flags == (("share_mismatch",) if at_odds else ())
    assert revise(found, Strike(f"attenuation.{grade}"), PROTOCOL).flags == ()


def test_an_answer_without_its_deductions_has_no_score_whatever_it_says():
    found = judge(Stated(NECK, "incomplete", 2), judged=False, score=8)
    assert found.score is None and set(found.flags) == {"no_deductions", "score_mismatch"}


def test_counts_of_the_reader_are_told_apart():
    found = judge(counts={"malformed": 2, "reversed": 1, "clipped": 3, "unfinished": 0})
    assert (found.refused, found.corrected) == ({"malformed": 2}, {"clipped": 3, "reversed": 1})


# --- a clinician's changes -------------------------------------------------------------------------------

BEFORE = judge(Stated(NECK, "incomplete", 2, "why"), Stated("attenuation", "moderate", 4), score=4)


def test_a_struck_deduction_stays_visible_and_costs_nothing():
    after = revise(BEFORE, Strike("attenuation.moderate"), PROTOCOL)
    assert (BEFORE.score, BEFORE.by) == (4, MODEL)  # nothing is changed in place
    assert (after.score, after.grade, after.by) == (8, "good", CLINICIAN)
    assert [(each.item, each.struck) for each in after.deductions] == [
        (f"{NECK}.incomplete", False),
        ("attenuation.moderate", True),
    ]
    assert after.stated_score == 4


def test_an_added_deduction_has_the_protocols_points_and_the_clinicians_mark():
    after = revise(BEFORE, Add(FUNDUS, "not_displayed", "behind gas", ((1, 2, 3, 4),)), PROTOCOL)
    assert (after.score, after.by) == (1, CLINICIAN)
    new = after.deductions[-1]
    assert (new.item, new.points, new.by, new.reason) == (
        f"{FUNDUS}.not_displayed",
        3,
        CLINICIAN,
        "behind gas",
    )


def test_an_added_deduction_takes_the_place_of_the_models_for_the_same_subject():
    after = revise(BEFORE, Add("attenuation", "mild"), PROTOCOL)
    assert after.score == 6 and [each.struck for each in after.deductions] == [False, True, False]


def test_a_clinician_may_think_again():
    added = revise(BEFORE, Add(FUNDUS, "incomplete"), PROTOCOL)
    again = revise(added, Strike(f"{FUNDUS}.incomplete"), PROTOCOL)
    assert again.deductions == BEFORE.deductions and again.score == BEFORE.score and again.by == CLINICIAN
    struck = revise(BEFORE, Strike(f"{NECK}.incomplete"), PROTOCOL)
    back = revise(struck, Add(NECK, "incomplete"), PROTOCOL)
    assert back.score == BEFORE.score and [each.by for each in back.deductions] == [MODEL, MODEL, CLINICIAN]
    assert revise(back, Strike(f"{NECK}.incomplete"), PROTOCOL).score == struck.score


def test_a_corrected_box_is_the_clinicians_and_costs_nothing():
    after = revise(BEFORE, Correct(1, (5, 6, 7, 8)), PROTOCOL)
    assert (after.structures[1].label, after.structures[1].box) == (BODY, (5, 6, 7, 8))
    assert [each.by for each in after.structures] == [MODEL, CLINICIAN, MODEL]
    assert (after.score, after.by) == (BEFORE.score, CLINICIAN)
    assert revise(BEFORE, Correct(0, (5, 6, 7, 8), "spleen"), PROTOCOL).structures[0].label == "spleen"


@pytest.mark.parametrize(
    "change, complaint",
    [
        (Strike("spleen.incomplete"), "no deduction 'spleen.incomplete'"),
        (Add("spleen", "incomplete"), "no deduction spleen.incomplete on these planes"),
        (Add(NECK, "mild"), "no deduction"),
        (Add("attenuation", "incomplete"), "no deduction"),
        (Correct(3, (1, 2, 3, 4)), "no box 3 among 3"),
        (Correct(-1, (1, 2, 3, 4)), "no box -1"),
        (Correct(0, (3, 2, 1, 4)), "not x1, y1, x2, y2"),
        (Correct(0, (1, 2, 3, 4), "heart"), "'heart' is not one of"),
        (Remove(3), "no box 3 among 3"),
        (Remove(-1), "no box -1"),
        (Place("heart", (1, 2, 3, 4)), "'heart' is not one of"),
        (Place(NECK, (3, 2, 1, 4)), "not x1, y1, x2, y2"),
        (Rename(()), "must be one or more"),
        (Rename(GALLBLADDER * 2), "each once"),
        (Rename(("heart",)), "not the protocol's"),
        (Rename(("non_standard", *GALLBLADDER)), "is not alone"),
    ],
)
def test_a_change_that_cannot_be_is_refused(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        revise(BEFORE, change, PROTOCOL)


def test_a_deduction_points_to_where_its_structure_is_now():
    region = SEEN[0].box
    before = judge(Stated(NECK, "incomplete", 2, "why", (region,)), Stated(BODY, "incomplete", 2))
    moved = revise(before, Correct(0, (5, 6, 7, 8)), PROTOCOL)
    assert [each.boxes for each in moved.deductions] == [((5, 6, 7, 8),), ()]
    another = revise(before, Correct(0, region, FUNDUS), PROTOCOL)
    assert another.deductions[0].boxes == ()


def test_a_structure_that_was_missed_gets_its_box_and_the_doubt_goes():
    missed = judge(boxes=SEEN[:2], score=10)
    after = revise(missed, Place(FUNDUS, (20, 0, 29, 9)), PROTOCOL)
    assert [(each.label, each.by) for each in after.structures[1:]] == [(BODY, MODEL), (FUNDUS, CLINICIAN)]
    assert missed.flags == ("missing_deduction",) and after.flags == ()
    assert (after.score, after.by) == (missed.score, CLINICIAN)


def counted(found):
    return [(each.item, each.points, each.by) for each in found.deductions if not each.struck]


def test_a_structure_without_its_box_is_not_displayed_and_the_score_follows():
    after = revise(BEFORE, Remove(0), PROTOCOL)
    assert [each.label for each in after.structures] == [BODY, FUNDUS]
    assert counted(after) == [
        ("attenuation.moderate", 4, MODEL),
        (f"{NECK}.not_displayed", 3, CLINICIAN),  # in the place of "incomplete"
    ]
    assert (after.score, after.grade, after.by) == (3, "poor", CLINICIAN)
    assert "missing_deduction" not in after.flags
    back = revise(after, Place(NECK, SEEN[0].box), PROTOCOL)
    assert after.withdrawn == back.withdrawn == BEFORE.structures[:1]
    assert counted(back) == [("attenuation.moderate", 4, MODEL)] and back.score == 6
    renamed = revise(BEFORE, Correct(0, SEEN[0].box, "spleen"), PROTOCOL)
    assert counted(renamed) == counted(after) and renamed.score == 3


def test_a_box_that_was_one_of_two_or_of_nothing_demanded_costs_nothing():
    twice = judge(
        Stated(NECK, "incomplete", 2, "", (SEEN[0].box, (0, 20, 9, 29))),
        boxes=(*SEEN, NamedBox(NECK, (0, 20, 9, 29)), NamedBox("spleen", (50, 50, 60, 60))),
    )
    after = revise(revise(twice, Remove(4), PROTOCOL), Remove(3), PROTOCOL)
    assert after.structures == BEFORE.structures and (after.score, after.by) == (8, CLINICIAN)
    assert after.deductions[0].boxes == (SEEN[0].box,)
    moved = revise(twice, Correct(0, (5, 6, 7, 8)), PROTOCOL)
    assert moved.deductions[0].boxes == ((5, 6, 7, 8), (0, 20, 9, 29))
    assert moved.withdrawn == BEFORE.structures[:1], "where the model had put it"
    view = revise(judge(planes=("non_standard",)), Remove(0), PROTOCOL)
    assert (len(view.structures), view.score, view.deductions, view.by) == (2, None, (), CLINICIAN)


def test_a_structure_that_gets_its_box_is_no_longer_deducted_as_not_displayed():
    missed = judge(Stated(FUNDUS, "not_displayed", 3), boxes=SEEN[:2], score=7)
    after = revise(missed, Place(FUNDUS, (20, 0, 29, 9)), PROTOCOL)
    assert (after.score, after.flags) == (10, ()) and after.deductions[0].struck
    away = revise(after, Remove(2), PROTOCOL)
    assert away.withdrawn == (), "a clinician's own box leaves nothing"
    assert counted(away) == [(f"{FUNDUS}.not_displayed", 3, CLINICIAN)] and away.score == 7


def test_planes_that_were_changed_by_mistake_and_back_cost_what_they_cost():
    struck = revise(BEFORE, Strike("attenuation.moderate"), PROTOCOL)
    for planes in (("spleen_longitudinal",), ("non_standard",)):
        there = revise(struck, Rename(planes), PROTOCOL)
        assert revise(there, Rename(planes), PROTOCOL).deductions == there.deductions
        back = revise(there, Rename(GALLBLADDER), PROTOCOL)
        assert back.deductions == struck.deductions  # what a person struck stays struck
        assert back.score == struck.score == 8


def test_other_planes_cost_what_they_cost_and_drop_what_they_do_not_demand():
    added = revise(BEFORE, Add(FUNDUS, "incomplete"), PROTOCOL)
    after = revise(added, Rename(("bile_duct_longitudinal",)), PROTOCOL)
    assert (after.planes, after.planes_by, after.by) == (("bile_duct_longitudinal",), CLINICIAN, CLINICIAN)
    assert [(each.item, each.struck) for each in after.deductions] == [
        (f"{NECK}.incomplete", True),
        ("attenuation.moderate", False),
    ]
    assert after.score == 6 and {"plane_without_structures", "missing_deduction"} <= set(after.flags)
    both = judge(Stated("inferior_vena_cava", "not_displayed", 2), planes=("bile_duct_longitudinal",))
    dearer = revise(both, Rename(("hepatic_veins",)), PROTOCOL)
    assert (both.score, dearer.score, dearer.deductions[0].points) == (8, 7, 3)


def test_a_view_may_lose_its_score_by_a_clinician_and_get_one():
    view = revise(BEFORE, Rename(("non_standard",)), PROTOCOL)
    assert (view.score, view.grade, view.by) == (None, None, CLINICIAN)
    assert all(each.struck for each in view.deductions)
    back = revise(judge(planes=("non_standard",)), Rename(GALLBLADDER), PROTOCOL)
    assert (back.score, back.flags) == (10, ("not_judged",))  # nobody looked for its faults
    unfinished = judge(planes=(), judged=False)
    assert set(unfinished.flags) == {"no_plane", "no_deductions"}
    still = revise(unfinished, Rename(GALLBLADDER), PROTOCOL)
    assert still.score is None and still.flags == ("no_deductions",)  # nobody has named its deductions


def test_nothing_is_deducted_from_what_is_not_scored():
    with pytest.raises(ValueError, match="no standard plane"):
        revise(judge(planes=("non_standard",), boxes=()), Add(NECK, "incomplete"), PROTOCOL)
    unfinished = judge(Stated(NECK, "incomplete", 2), judged=False)
    with pytest.raises(ValueError, match="not judged to the end"):
        revise(unfinished, Strike(f"{NECK}.incomplete"), PROTOCOL)


def test_a_doubt_that_a_clinician_settles_is_gone_and_the_models_own_sum_stays_wrong():
    missed = judge(boxes=SEEN[:2], score=9)
    assert set(missed.flags) == {"score_mismatch", "missing_deduction"}
    assert revise(missed, Add(FUNDUS, "not_displayed"), PROTOCOL).flags == ("score_mismatch",)
    at_odds = judge(Stated(NECK, "not_displayed", 3), score=7)
    assert at_odds.flags == ("found_but_not_displayed",)
    assert revise(at_odds, Strike(f"{NECK}.not_displayed"), PROTOCOL).flags == ()
    strange = judge(boxes=(*SEEN[:2], NamedBox("tumour", (0, 0, 9, 9))), score=10)
    named = revise(strange, Correct(2, (0, 0, 9, 9), FUNDUS), PROTOCOL)
    assert "unknown_structure" in strange.flags and named.flags == ()


def test_a_hospitals_own_points_count():
    plane = PROTOCOL.planes[GALLBLADDER[0]]
    demands = tuple(replace(each, points={"not_displayed": 5, "incomplete": 0.5}) for each in plane.demands)
    own = replace(PROTOCOL, planes={**PROTOCOL.planes, plane.key: replace(plane, demands=demands)})
    answer = Answer(SEEN, GALLBLADDER, (Stated(NECK, "incomplete", 2),), 8, True)
    found = assess(answer, {}, own)
    assert (found.score, found.grade, found.corrected) == (9.5, "excellent", {"points": 1})
    assert "score_mismatch" in found.flags
    assert Names(own).planes == Names(PROTOCOL).planes


def test_a_case_judged_is_the_case_itself():
    deductions = ({"item": f"{NECK}.incomplete", "points": 2}, {"item": "attenuation.mild", "points": 2})
    boxes = tuple({"label": named.label, "box": list(named.box)} for named in SEEN)
    case = Case("c", ("a.png",), plane=GALLBLADDER, score=6, deductions=deductions, boxes=boxes)
    found = assess(answer_of(case, PROTOCOL, "zh"), {}, PROTOCOL)
    assert (found.score, found.planes, found.flags) == (6, GALLBLADDER, ())
    assert [each.item for each in found.deductions] == [each["item"] for each in deductions]

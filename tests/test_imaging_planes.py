"""The protocol of standard planes: its rules as tables, and what a hospital's own file is refused for."""

from __future__ import annotations

import pytest

from eval.metrics import grades as eval_grades
from imaging.planes import PUBLISHED, STATES, PlanesError, load_planes


def test_the_published_protocol_has_eleven_planes_and_marks_what_is_the_papers():
    protocol = load_planes()
    assert len(protocol.planes) == 11
    papers = {plane.key for plane in protocol.planes.values() if plane.name.source == "paper"}
    assert papers == {
        "left_portal_branch",
        "hepatic_veins",
        "gallbladder_longitudinal",
        "right_liver_kidney",
    }
    for plane in protocol.planes.values():
        assert 2 <= len(plane.demands) <= 4 and set(plane.needs) <= set(plane.structures)
        for demand in plane.demands:
            assert demand.points["not_displayed"] > demand.points["incomplete"] > 0
    used = {name for plane in protocol.planes.values() for name in plane.structures}
    assert used == set(protocol.structures)


def test_a_structure_is_the_papers_only_where_its_text_names_it():
    """It names these; beside them only "hepatic veins" and "the left branch of the portal vein" in all."""
    papers = {key for key, name in load_planes().structures.items() if name.source == "paper"}
    assert papers == {
        "gallbladder_neck",
        "gallbladder_body",
        "gallbladder_fundus",
        "inferior_vena_cava",
        "right_lobe_of_liver",
        "right_kidney_lower_pole",
    }


def test_everything_has_a_name_in_both_languages():
    protocol = load_planes()
    keys = [*protocol.planes, *protocol.structures, *protocol.states, "attenuation", "non_standard"]
    for key in keys:
        assert any("一" <= letter <= "鿿" for letter in protocol.name(key, "zh"))
        assert protocol.name(key, "en").isascii()
    for language in ("zh", "en"):
        assert len({protocol.name(key, language) for key in keys}) == len(keys)
    with pytest.raises(KeyError):
        protocol.name("appendix", "en")


@pytest.mark.parametrize(
    ("share", "state"),
    [(0, "not_displayed"), (0.119, "not_displayed"), (0.12, "incomplete"), (0.849, "incomplete")]
    + [(0.85, "displayed"), (1, "displayed")],
)
def test_a_share_of_the_area_is_a_state(share, state):
    assert load_planes().state(share) == state


@pytest.mark.parametrize(
    ("share", "points"),
    [(0, 0), (0.01, 0), (0.02, 2), (0.2499, 2), (0.25, 4), (0.5, 4), (0.5001, 6), (1, 6)],
)
def test_attenuation_costs_by_its_share_of_the_sector(share, points):
    step = load_planes().attenuation_grade(share)
    assert (step.points if step else 0) == points


@pytest.mark.parametrize("score", [0, 2, 4, 4.5, 5, 6, 6.1, 7, 8, 9, 10])
def test_grades_are_those_of_the_evaluation(score):
    table = eval_grades.GRADES
    rank = sum(score > last for last in eval_grades.BOUNDARIES)
    assert load_planes().grade(score).name.en == table[rank]


def test_a_score_outside_the_scale_has_no_grade():
    with pytest.raises(ValueError, match="10.5 is not from 0 to 10"):
        load_planes().grade(10.5)


FULL = {name: "displayed" for name in ("gallbladder_neck", "gallbladder_body", "gallbladder_fundus")}


@pytest.mark.parametrize(
    ("states", "attenuation", "items", "score"),
    [
        (FULL, 0.0, [], 10),
        (FULL | {"gallbladder_neck": "not_displayed"}, 0.0, ["gallbladder_neck.not_displayed"], 7),
        (FULL | {"gallbladder_fundus": "incomplete"}, 0.0, ["gallbladder_fundus.incomplete"], 8),
        (FULL, 0.3, ["attenuation.moderate"], 6),
        (
            {"gallbladder_neck": "incomplete", "gallbladder_body": "incomplete"},
            0.6,
            [
                "gallbladder_neck.incomplete",
                "gallbladder_body.incomplete",
                "gallbladder_fundus.not_displayed",
                "attenuation.severe",
            ],
            0,
        ),
    ],
)
def test_the_papers_rules_for_the_gallbladder(states, attenuation, items, score):
    protocol = load_planes()
    planes = protocol.shown(states)
    assert planes == ("gallbladder_longitudinal",)
    deductions = protocol.deductions(planes, states, attenuation)
    assert [deduction.item for deduction in deductions] == items
    assert protocol.score(deductions) == score


def test_planes_that_share_structures_are_both_named_and_a_fault_is_counted_once():
    protocol = load_planes()
    names = ("right_lobe_of_liver", "right_renal_sinus", "right_kidney_upper_pole", "right_kidney_lower_pole")
    states = dict.fromkeys(names, "displayed") | {"right_kidney_lower_pole": "incomplete"}
    planes = protocol.shown(states)
    assert planes == ("right_liver_kidney", "right_kidney_longitudinal")
    assert [(d.item, d.points) for d in protocol.deductions(planes, states, 0)] == [
        ("right_kidney_lower_pole.incomplete", 2)
    ]
    assert protocol.shown(states | {"right_renal_sinus": "not_displayed"}) == ("right_liver_kidney",)
    assert set(protocol.key_structures(planes)) == set(names)


def test_a_view_without_what_a_plane_needs_is_not_standard_and_not_scored():
    protocol = load_planes()
    states = {"gallbladder_neck": "displayed", "gallbladder_fundus": "displayed"}
    assert protocol.shown(states) == ("non_standard",) == protocol.shown({})
    assert protocol.deductions(("non_standard",), states, 0.9) == ()


def test_a_hospital_may_replace_the_file(tmp_path):
    own = tmp_path / "own.yaml"
    text = PUBLISHED.read_text(encoding="utf-8")
    own.write_text(text.replace("gallbladder_neck: {not_displayed: 3", "gallbladder_neck: {not_displayed: 5"))
    states = FULL | {"gallbladder_neck": "not_displayed"}
    protocol = load_planes(own)
    assert protocol.score(protocol.deductions(("gallbladder_longitudinal",), states, 0)) == 5
    assert set(protocol.states) == set(STATES)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("score: {highest: 10,", "score: {highest: ten,", r"highest 'ten' is not a number"),
        ("highest: 10, lowest: 0, source: paper", "highest: 10, lowest: 0", "score lacks source"),
        (
            "en: Poor, source: paper",
            "en: Poor, source: hearsay",
            "source 'hearsay' is not one of paper, ours",
        ),
        ("key: excellent, upto: 10", "key: excellent, upto: 9", "last of grades must have upto: 10"),
        (
            "key: moderate, upto: 6, zh: 中",
            "key: moderate, upto: 3, zh: 中",
            "upto '3' is not a number from 4",
        ),
        ("below: 0.25, points: 2", "below: 0.25, points: -2", "points '-2' is not a number from 0 to 10"),
        ("needs: [gallbladder_body]", "needs: [spleen]", "needs 'spleen' is not one of gallbladder_neck"),
        ("needs: [spleen]", "needs: []", "needs must be a list"),
        ("upto: 0.5, points: 4", "upto: 0.5, points: 1", "points 1 are fewer than the 2 of less"),
        (
            "abdominal_aorta: {not_displayed: 3, incomplete: 2",
            "abdominal_aorta: {not_displayed: 1, incomplete: 2",
            "abdominal_aorta: not_displayed costs 1, less than incomplete, 2",
        ),
        ("en: Moderate, source", "en: Poor, source", "the name 'Poor' is also another's"),
        ("at_least: 1", "at_least: 7", "at_least '7' is not a number from 1 to 2"),
        ("      spleen: {not", "      milt: {not", "milt is not in the list of structures"),
        ("zh: 胆囊底,", "", "gallbladder_fundus lacks zh"),
        ("zh: 胆囊底,", "zh: '',", "zh must be a text that is not empty"),
        ("zh: 胆囊底,", 'zh: "胆囊\\n底",', "must be one line"),
        ("en: spleen,", "en: spleen <|box_start|>,", "without the signs <|"),
        ("incomplete: {below: 0.85", "incomplete: {under: 0.85", "incomplete lacks below"),
        ("non_standard: {zh", "non_standard: {fr: x, zh", "unknown key fr"),
        ("  gallbladder_body: {zh", "  gallbladder_neck: {zh", "gallbladder_neck is there twice"),
        ("  spleen_longitudinal:", "  spleen:", "spleen names something else already"),
        ("  spleen: {zh", "  attenuation: {zh", "attenuation names something else already"),
        ("key: mild, below", "key: incomplete, below", "key 'incomplete' is another's"),
        ("key: mild, below", "key: mild.1, below", "holds a dot"),
        ("key: good", "key: poor", "key 'poor' is another's"),
        ("zh: 脾门", "zh: 脾脏", "the name '脾脏' is also another's"),
        ("en: splenic hilum", "en: Acoustic  attenuation", "is also another's"),
        ("zh: 左肾长轴切面", "zh: 右肾长轴切面", "the name '右肾长轴切面' is also another's"),
        ("{zh: 非标准切面", "{zh: 右肾长轴切面", "the name '右肾长轴切面' is also another's"),
        ("zh: 显示不全", "zh: 未显示", "the name '未显示' is also another's"),
        ("zh: 中度", "zh: 轻度", "the name '轻度' is also another's"),
        ("score: {highest: 10, lowest: 0, source: paper}", "score: 10", "score must hold keys"),
        ("at_least: 1", "at_least: 1.5", "at_least '1.5' is not a whole number"),
        ("grades:\n  - {key: poor", "grades:\n  - [key: poor", "not YAML"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_line_and_key(tmp_path, old, new, problem):
    text = PUBLISHED.read_text(encoding="utf-8")
    assert old in text
    bad = tmp_path / "own.yaml"
    bad.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(PlanesError, match=problem) as caught:
        load_planes(bad)
    line = int(str(caught.value).split("own.yaml line ")[1].split(":")[0])
    first = text[: text.index(old)].count("\n") + 1
    assert first - 12 <= line <= first + 3


def test_an_empty_file_and_one_that_is_no_text_are_refused(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(PlanesError, match="empty.yaml line 1: the file is empty"):
        load_planes(tmp_path / "empty.yaml")
    (tmp_path / "image.yaml").write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(PlanesError, match="image.yaml: not a YAML text"):
        load_planes(tmp_path / "image.yaml")


def test_a_file_without_planes_is_refused(tmp_path):
    text = PUBLISHED.read_text("utf-8")
    start, end = text.index("\nplanes:"), text.index("\nnon_standard:")
    (tmp_path / "own.yaml").write_text(f"{text[:start]}\nplanes: {{}}{text[end:]}", "utf-8")
    with pytest.raises(PlanesError, match=r"own.yaml line \d+: planes is empty"):
        load_planes(tmp_path / "own.yaml")

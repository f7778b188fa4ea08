"""training.instructions: reports answer what templates ask, and nothing that they do not state."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from imaging.case import Case, read_cases, write_cases
from simulator import language
from simulator.examination import ORGANS
from simulator.population import sample_examination
from training.instructions import generate, review
from training.instructions.__main__ import main
from training.instructions.generate import (
    Report,
    TemplateError,
    ask,
    gives_site_away,
    instances,
    reports_of,
    split_report,
    stated,
    templates,
)


def zh(findings, impression="", organ="thyroid"):
    return Report("r", ("a.png",), "zh", findings, impression, organ)


def en(findings, impression="", organ="thyroid"):
    return Report("r", ("a.png",), "en", findings, impression, organ)


@pytest.mark.parametrize(
    "fact, report, expected",
    [
        ("lesion", zh("左叶见一低回声结节，边界清晰。"), "yes"),
        ("lesion", zh("双叶未见明显结节或占位性病变。"), "no"),
        ("lesion", zh("右叶未见结节。左叶见一低回声结节。"), "yes"),
        ("lesion", zh("左肾下极探及一无回声区。", organ="kidney"), "yes"),
        ("lesion", zh("右肾见一无回声，大小约2cm。", organ="kidney"), "yes"),
        ("lesion", zh("结节术后，腺体回声均匀。"), None),
        ("lesion", zh("结节可能？"), None),
        ("lesion", zh("腺体回声均匀。"), None),
        ("lesion", en("A hypoechoic nodule was observed. No cyst was seen."), "yes"),
        ("lesion", en("No focal lesion, mass or nodule was observed."), "no"),
        ("lesion", en("The previous nodule was removed. The lobe was homogeneous."), None),
        ("lesion", en("A nodule cannot be excluded."), None),
        ("well_defined", zh("左叶见一结节，边界清晰。"), "yes"),
        ("well_defined", zh("左叶见一结节，边界不清。"), "no"),
        ("well_defined", zh("左叶见一结节，边界欠清晰。"), "no"),
        ("well_defined", zh("腺体边缘光整。左叶见一结节。"), None),
        ("well_defined", zh("左叶见一结节，边界清晰。右叶见一结节，边界不清。"), None),
        ("well_defined", en("A nodule was seen. It was oval, with ill-defined margins."), "no"),
        ("well_defined", en("The gland had smooth margins. A nodule was seen in the lobe."), None),
        ("microcalcification", zh("左叶见一结节，内未见点状强回声。"), "no"),
        ("microcalcification", zh("左叶见一结节，内见点状强回声。"), "yes"),
        ("microcalcification", en("A nodule was seen. It had no shadowing and microcalcifications."), None),
        ("microcalcification", en("A nodule with clear margins and no microcalcifications was seen."), "no"),
        ("blood_flow", zh("左叶见一结节。CDFI：其内见少许血流信号。"), "yes"),
        ("blood_flow", zh("左叶见一结节，内未见血流信号。"), "no"),
        ("blood_flow", zh("左叶见一结节，血流信号不明显。"), "no"),
        ("posterior_shadow", zh("肝内见一光团，后方伴声影。", organ="liver"), "yes"),
        ("lymph_nodes", zh("双侧颈部未见肿大淋巴结。"), "no"),
        ("lymph_nodes", en("No abnormally enlarged lymph nodes were found."), "no"),
        ("bile_ducts_dilated", zh("肝内外胆管未见扩张。", organ="liver"), "no"),
        ("bile_ducts_dilated", en("The bile ducts were not dilated.", organ="liver"), "no"),
        ("hydronephrosis", zh("左肾盂积水。", organ="kidney"), "yes"),
        ("hydronephrosis", en("There was no hydronephrosis.", organ="kidney"), "no"),
        ("thrombus", zh("左心房内径增大，腔内未见血栓回声。", organ="heart"), "no"),
        ("mitral_regurgitation", zh("二尖瓣开放正常，CDFI可探及收缩期轻微反流。", organ="heart"), None),
        ("echogenicity", zh("左叶见低回声结节。右叶见高回声结节。"), None),
        ("echogenicity", en("An isoechoic nodule was seen."), "isoechoic"),
        # what is doubted, past, or another organ's
        ("lesion", zh("左肾结石？", organ="kidney"), None),
        ("lesion", zh("双肾未见占位。左肾结石？", organ="kidney"), None),
        ("stone", zh("左肾见一结石。右肾结石？", organ="kidney"), "yes"),
        ("stone", en("No renal stones. A ureteric stone?", organ="kidney"), None),
        ("well_defined", en("The previous nodule had ill-defined margins."), None),
        ("well_defined", en("A nodule was seen. The previous nodule had ill-defined margins."), None),
        ("well_defined", en("A nodule was seen. A possible nodule with ill-defined margins."), None),
        ("lesion", zh("肝内未见占位，胆囊内见结石，后方声影", organ="liver"), None),
        ("posterior_shadow", zh("肝内未见占位，胆囊内见结石，后方声影", organ="liver"), None),
        (
            "lesion",
            en("No lesion in the liver, stone in the gallbladder with shadowing.", organ="liver"),
            None,
        ),
        (
            "lesion",
            en("No lesion was seen. The gallbladder was large. It held a stone.", organ="liver"),
            None,
        ),
        ("lesion", zh("肝内见一囊肿。胆囊内见结石，后方声影。", organ="liver"), "yes"),
        ("posterior_shadow", zh("肝内见一囊肿。胆囊内见结石，后方声影。", organ="liver"), None),
        ("posterior_shadow", zh("肝内见一结节，后方声影，胆囊壁光滑。", organ="liver"), "yes"),
        ("stone", zh("左肾见结石。膀胱内未见结石。", organ="kidney"), "yes"),
        ("stone", zh("双肾未见结石。膀胱内见结石。", organ="kidney"), None),
    ],
)
def test_what_a_report_states(fact, report, expected):
    assert stated(fact, report) == expected


@pytest.mark.parametrize(
    "name, report, expected",
    [
        ("lesion_size", zh("左叶见一低回声结节，大小约12mm×8mm。"), "病灶大小约12mm×8mm。"),
        ("lesion_size", zh("左叶大小约50mm×20mm，见一低回声结节。"), None),
        ("lesion_size", zh("见一结节，大小约12mm×8mm。另见一结节，大小约5mm×4mm。"), None),
        ("lesion_size", en("A nodule measuring 12 mm × 8 mm was seen."), "The lesion measures 12 mm × 8 mm."),
        ("thyroid_category", zh("", "左叶结节，TI-RADS 4a类。"), "TI-RADS 4a类。"),
        ("thyroid_category", zh("", "左叶TI-RADS 3类，右叶TI-RADS 4类。"), None),
        ("thyroid_category", zh("", "TI-RADS 3类或4类。"), None),
        ("thyroid_category", zh("", "TI-RADS 3-4类。"), None),
        ("thyroid_category", zh("", "TI-RADS 3类，4a类。"), None),
        ("thyroid_category", zh("", "TI-RADS 4类？"), None),
        ("thyroid_category", zh("", "TI-RADS 3类，随访。"), "TI-RADS 3类。"),
        ("thyroid_category", en("", "TI-RADS 3 or TI-RADS 4."), None),
        ("thyroid_category", en("", "Possibly TI-RADS 4."), None),
        ("thyroid_category", en("", "Nodule, TI-RADS 5 (highly suspicious)."), "TI-RADS 5."),
        ("lesion_size", en("A nodule measuring 12 mm × 8 mm or 13 mm × 9 mm was seen."), None),
        ("lesion_size", zh("肝内见一囊肿。胆囊内见结石，大小约5mm×4mm。", organ="liver"), None),
        ("lesion_description", zh("见一结节。右叶结节？"), "见一结节。右叶结节？"),
        ("breast_category", en("", "Nodule, BI-RADS 4A.", "breast"), "BI-RADS 4A."),
        ("breast_category", zh("", "结节，BI-RADS 3类。"), None),  # a thyroid
        ("heart_ejection", zh("左心室收缩功能: EF 70%, SV55ml", organ="heart"), "左心室射血分数为70%。"),
        ("impression", zh("所见", "左叶结节。"), "左叶结节。"),
        ("impression", zh("所见"), None),
        ("report", zh("所见。", "结节。"), "超声所见：所见。\n超声提示：结节。"),
        ("advice", en("Normal.", "Cyst. Follow-up in a year."), "Follow-up in a year."),
    ],
)
def test_what_a_template_answers(name, report, expected):
    case = ask(name, report)
    assert (case and case.answer) == expected


def test_a_yes_or_no_comes_with_the_sentence_that_says_so_or_alone():
    report = zh("左叶见一低回声结节，边界清晰。")
    answers = {ask("lesion", replace(report, name=f"r{i}")).answer for i in range(20)}
    assert answers == {"是", "是。左叶见一低回声结节，边界清晰。"}
    for i in range(20):
        case = ask("lesion", replace(report, name=f"r{i}"))
        assert case.question.endswith("只回答是或否。") == (case.answer == "是")


def test_the_option_that_is_right_is_the_report_s():
    for i in range(20):
        case = ask("echogenicity", replace(en("An isoechoic nodule was seen."), name=f"r{i}"))
        letter = case.answer[0]
        assert case.answer == f"{letter}. isoechoic" and f"\n{letter}. isoechoic" in case.question
        assert case.question.count("\n") == 4


def simulated(count):
    for number in range(count):
        examination = sample_examination(np.random.default_rng([9, number]))
        for tongue in ("zh", "en"):
            text = language.report(examination, tongue, np.random.default_rng([8, number]))
            parts = split_report(text, tongue)
            yield examination, Report(f"r{number}{tongue}", ("a.png",), tongue, *parts, examination.organ)


def truth(examination):
    lesion = examination.lesion
    if lesion is None:
        return {"lesion": "no"}
    said = {"lesion": "yes", "well_defined": "yes" if lesion.margin == "circumscribed" else "no"}
    said["microcalcification"] = "yes" if lesion.microcalcification else "no"
    said["posterior_shadow"] = "yes" if lesion.posterior == "shadow" else "no"
    said["echogenicity"] = lesion.kind
    if lesion.vascularity:
        said["blood_flow"] = "no" if lesion.vascularity == "none" else "yes"
    return said


def test_no_answer_contradicts_the_simulator_s_truth():
    asked = Counter()
    for examination, report in simulated(150):
        for fact, true in truth(examination).items():
            found = stated(fact, report)
            asked[fact, found is not None] += 1
            assert found in (None, true), (fact, report)
    assert asked["lesion", False] == 0
    for fact in ("well_defined", "posterior_shadow", "echogenicity"):
        assert asked[fact, True] > asked[fact, False]


def test_every_organ_has_open_and_closed_questions_in_both_languages():
    made = Counter()
    for _, report in simulated(60):
        for case in instances([report]):
            made[case.organ, case.language, case.answer_type] += 1
    assert {
        (o, tongue, kind) for o in ORGANS for tongue in ("zh", "en") for kind in ("open", "closed")
    } == set(made)


def test_unnamed_questions_do_not_give_the_site_away_and_named_ones_do():
    for _, report in simulated(40):
        assert not [c for c in instances([report], site="unnamed") if gives_site_away(c.question, c.language)]
        named = list(instances([report], site="named"))
        assert named and all(gives_site_away(case.question, case.language) for case in named)


def test_a_question_for_one_organ_gives_that_organ_away():
    for name, template in templates().items():
        for tongue in ("zh", "en"):
            for question in template[tongue]:
                assert gives_site_away(question, tongue) == (len(template["organs"]) == 1), (name, question)


def test_the_wording_depends_on_seed_and_report_alone():
    reports = [report for _, report in simulated(6)]
    whole = {case.id: case for case in instances(reports, seed=3)}
    for report in reversed(reports):
        for case in instances([report], seed=3):
            assert case == whole[case.id]
    other = {case.id: case for case in instances(reports, seed=4)}
    assert whole.keys() == other.keys() and whole != other
    assert max(Counter(c.extra["examination_id"] for c in instances(reports, most=4)).values()) == 4


def test_reports_are_gathered_from_report_and_diagnosis():
    def case(name, task, answer, **more):
        return Case(name, ("a.png",), task=task, answer=answer, language="zh", organ="liver", **more)

    (report,) = reports_of([case("1", "diagnosis", "囊肿。"), case("2", "report", "超声所见：见一囊肿。")])
    assert (report.findings, report.impression, report.name) == ("见一囊肿。", "囊肿。", "1")
    (report,) = reports_of([case("1", "report", "x", extra={"findings": "见", "impression": "示"})])
    assert (report.findings, report.impression) == ("见", "示")
    assert reports_of([case("1", "vqa", "是"), case("2", "report", None)]) == []


@pytest.mark.parametrize(
    "text, tongue, expected",
    [
        ("超声所见：甲。\n超声提示：乙。", "zh", ("甲。", "乙。")),
        ("检查所见:甲\n乙\n诊断：丙", "zh", ("甲\n乙", "丙")),
        ("FINDINGS: a.\nImpression: b.", "en", ("a.", "b.")),
        ("No heading here: it is all findings.", "en", ("No heading here: it is all findings.", "")),
    ],
)
def test_split_report(text, tongue, expected):
    assert split_report(text, tongue) == expected


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"answer": {"fact": "nothing"}}, "'nothing' is not one of the facts"),
        ({"answer": {}}, "answer needs exactly one of"),
        ({"organs": ["spleen"]}, "organs ['spleen']"),
        ({"zh": []}, "no questions in zh"),
        ({"answer_type": "both"}, "answer_type must be open or closed"),
        ({"needs": {"x": "yes"}}, "'x' is not one of the facts"),
    ],
)
def test_a_template_that_cannot_be_used_is_named(changes, complaint):
    template = templates()["lesion"] | changes
    with pytest.raises(TemplateError) as caught:
        generate._check(generate._data(), "lesion", template, "templates.yaml")
    assert complaint in str(caught.value) and "templates.yaml: template lesion" in str(caught.value)


# ---- review -----------------------------------------------------------------------------------------------


def made(count, per_template=100):
    return [
        Case(str(i), ("a.png",), question=f"q{i}", answer="a", extra={"template": f"t{i // per_template}"})
        for i in range(count)
    ]


def test_a_twentieth_of_the_batches_of_ten_is_drawn():
    cases = made(1000)
    batches = review.sample(cases, seed=1)
    assert len(batches) == 5 and all(len(batch.cases) == 10 for batch in batches)
    assert all({review.template_of(case) for case in batch.cases} == {batch.template} for batch in batches)
    assert review.sample(cases, seed=1) == batches != review.sample(cases, seed=2)
    assert len(review.sample(made(11), seed=0)) == 1
    assert len({case.id for batch in review.sample(cases, share=1.0) for case in batch.cases}) == 1000


@pytest.fixture
def reviewed(tmp_path):
    cases = made(400, 200)
    write_cases(tmp_path / "all.jsonl", cases)
    assert main(["review", str(tmp_path / "all.jsonl"), str(tmp_path / "r"), "--share", "0.5"]) == 0
    return tmp_path


def verdicts(folder, decide):
    path = folder / "r/review.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["verdict"] = decide(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def apply(folder):
    return main(["apply", *(str(folder / name) for name in ("all.jsonl", "r/review.jsonl", "kept.jsonl"))])


def test_a_refused_batch_takes_its_template_out(reviewed, capsys):
    text = (reviewed / "r/review.md").read_text()
    lines = [json.loads(line) for line in (reviewed / "r/review.jsonl").read_text().splitlines()]
    assert len(lines) == 20 and text.count("## Batch") == 20 and text.count("> Q: ") == 200
    verdicts(reviewed, lambda line: "refused" if line["template"] == "t1" else "Accepted")
    assert apply(reviewed) == 0
    assert {case.extra["template"] for case in read_cases(reviewed / "kept.jsonl")} == {"t0"}
    assert len(read_cases(reviewed / "kept.jsonl")) == 200
    assert "refused: t1" in capsys.readouterr().out


@pytest.mark.parametrize("verdict", ["", "maybe", None])
def test_a_batch_without_a_verdict_is_asked_for(reviewed, capsys, verdict):
    verdicts(reviewed, lambda line: verdict if line["batch"] == 3 else "accepted")
    assert apply(reviewed) == 2
    said = capsys.readouterr().err
    assert "review.jsonl line 3: batch 3" in said and "write accepted or refused" in said
    assert not (reviewed / "kept.jsonl").exists()


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda lines: [], "review.jsonl is empty"),
        (lambda lines: lines[:-1], "where `review` wrote 1 to 20"),
        (lambda lines: lines[:3] + lines[4:], "where `review` wrote 1 to 20"),
        (lambda lines: lines[:-1] + lines[:1], "where `review` wrote 1 to 20"),
        (lambda lines: [lines[0] | {"template": "t7"}, *lines[1:]], "of the template 't7' is not in the"),
        (lambda lines: [lines[0] | {"ids": ["elsewhere"]}, *lines[1:]], "line 1: elsewhere of the template"),
        (lambda lines: [lines[0] | {"ids": []}, *lines[1:]], "line 1: ids is missing"),
        (lambda lines: [{k: v for k, v in line.items() if k != "of"} for line in lines], "of is missing"),
    ],
)
def test_an_empty_a_cut_and_a_foreign_review_accept_nothing(reviewed, capsys, change, complaint):
    verdicts(reviewed, lambda line: "accepted")
    path = reviewed / "r/review.jsonl"
    lines = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert apply(reviewed) == 2
    said = capsys.readouterr().err
    assert complaint in said and said.count("\n") == 1
    assert not (reviewed / "kept.jsonl").exists()


def test_verdicts_are_not_written_over(reviewed, capsys):
    assert main(["review", str(reviewed / "all.jsonl"), str(reviewed / "r")]) == 2
    assert "may hold verdicts" in capsys.readouterr().err


# ---- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path):
    cases = []
    for examination, report in simulated(12):
        answer = f"超声所见：{report.findings}\n超声提示：{report.impression}"
        if report.language == "en":
            answer = f"Findings: {report.findings}\nImpression: {report.impression}"
        more = dict(language=report.language, organ=examination.organ, patient=report.name)
        cases.append(Case(report.name, (f"{report.name}.png",), answer=answer, task="report", **more))
    write_cases(tmp_path / "cases.jsonl", cases)
    return tmp_path


def test_generate_leaves_the_redundant_out(source, capsys):
    counts = {}
    for within in ("none", "examination", "all"):
        out = source / f"{within}.jsonl"
        assert main(["generate", str(source / "cases.jsonl"), str(out), "--within", within, "--quiet"]) == 0
        counts[within] = len(read_cases(out))
    assert counts["none"] > counts["examination"] > counts["all"] > 0
    said = capsys.readouterr().out
    assert "by ROUGE-L" in said and "lesion/zh" in said
    case = read_cases(source / "all.jsonl")[0]
    assert case.patient and case.extra["template"] and case.images[0].parent == source


def test_a_template_with_one_answer_only_is_pointed_out(tmp_path, capsys):
    texts = [f"左叶见一结节，大小约{i}mm×3mm，纵横比大于1。" for i in range(30)]
    cases = [
        Case(str(i), (f"{i}.png",), answer=text, task="report", language="zh", organ="thyroid")
        for i, text in enumerate(texts)
    ]
    write_cases(tmp_path / "cases.jsonl", cases)
    out = tmp_path / "out.jsonl"
    assert main(["generate", str(tmp_path / "cases.jsonl"), str(out), "--within", "none", "--quiet"]) == 0
    assert "note: every answer of taller_than_wide/zh is '是'" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["generate", "{}/no.jsonl", "{}/out.jsonl"], "no.jsonl: No such file"),
        (["generate", "{}/cases.jsonl", "{}/cases.jsonl"], "is there already"),
        (["generate", "{}/cases.jsonl", "{}/no/out.jsonl"], "is not a folder"),
        (["generate", "{}/cases.jsonl", "{}/out.jsonl", "--per-case", "0"], "--per-case must be 1 or more"),
        (["generate", "{}/vqa.jsonl", "{}/out.jsonl"], "the task report or diagnosis"),
        (["review", "{}/empty.jsonl", "{}/r"], "nothing to review"),
        (["review", "{}/cases.jsonl", "{}/r", "--share", "2"], "share 2.0 must be above 0 and at most 1\n"),
    ],
)
def test_bad_input_is_one_sentence(source, capsys, arguments, complaint):
    write_cases(source / "vqa.jsonl", [Case("1", ("a.png",), task="vqa", answer="x", language="en")])
    write_cases(source / "empty.jsonl", [])
    assert main([word.format(source) for word in arguments]) == 2
    said = capsys.readouterr().err
    assert complaint in said and said.count("\n") == 1

"""The simulator's texts against the examinations they are made from, over every value of the schema.

The examinations here are sampled evenly over all enumerations, also in combinations that no patient shows.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from eval.metrics.clinical import facts
from simulator import examination as schema
from simulator.examination import Examination, Lesion, View
from simulator.language import LANGUAGES, _wording, diagnosis, questions, report, request
from simulator.population import sample_examination
from simulator.readings import birads_category, read_lesion, rules, tirads_level

MEASURE_MM = {"intima_media": (0.5, 1.4), "lumen": (5, 8), "length": (85, 125), "width": (38, 60)}
BOTH = pytest.mark.parametrize("language", LANGUAGES)
YES_NO = {"zh": ("是", "否"), "en": ("Yes", "No")}
# Absence is said in these words; a text about a normal examination may name a lesion only behind one of them.
DENIALS = {"zh": ("未见",), "en": ("no ", "free of")}
LESION_WORDS = {
    "zh": (
        "结节",
        "占位",
        "病变",
        "病灶",
        "包块",
        "团块",
        "斑块",
        "结石",
        "血栓",
        "钙化",
        "囊",
        "声影",
        "强回声",
    ),
    "en": (
        "nodule",
        "lesion",
        "mass",
        "plaque",
        "stone",
        "thrombus",
        "cyst",
        "calcification",
        "shadow",
        "focus",
    ),
}
KIND_WORDS = {
    "zh": ("无回声", "低回声", "等回声", "高回声", "混合回声"),
    "en": ("anechoic", "hypoechoic", "isoechoic", "hyperechoic", "mixed"),
}


def sample(rng: np.random.Generator, organ: str, with_lesion: bool | None = None) -> Examination:
    pick = lambda values: values[int(rng.integers(len(values)))]  # noqa: E731
    lesion = None
    if rng.random() < 0.7 if with_lesion is None else with_lesion:
        long_mm = float(rng.uniform(3, 45))
        lesion = Lesion(
            kind=pick(schema.KINDS),
            shape=pick(schema.SHAPES),
            margin=pick(schema.MARGINS),
            long_mm=long_mm,
            short_mm=long_mm * float(rng.uniform(0.4, 1)),
            place=pick(schema.PLACES[organ]),
            posterior=pick(schema.POSTERIORS),
            microcalcification=bool(rng.random() < 0.5),
            vascularity=pick((None, *schema.VASCULARITIES)),
        )
    return Examination(
        organ=organ,
        side=pick(("left", "right")) if organ in schema.SIDED else None,
        background=pick(schema.BACKGROUNDS),
        measures={n: float(rng.uniform(*MEASURE_MM.get(n, (2, 70)))) for n in schema.MEASURES[organ]},
        lesion=lesion,
        views=(View("any", 60.0, lesion is not None, doppler=bool(rng.random() < 0.5)),),
    )


def examinations(count: int, seed: int, with_lesion: bool | None = None) -> list[Examination]:
    """`count` of every organ."""
    rng = np.random.default_rng(seed)
    return [sample(rng, organ, with_lesion) for organ in schema.ORGANS for _ in range(count)]


def side_of(exam: Examination) -> str | None:
    ovary = exam.lesion is not None and exam.lesion.place.endswith("ovary")
    return exam.lesion.place.split("_")[0] if ovary else exam.side


def millimetres(value: float) -> int:
    return int(value + 0.5)


@BOTH
def test_a_rule_finds_every_fact_in_report_and_diagnosis(language):
    rng = np.random.default_rng(1)
    for exam in examinations(60, seed=0):
        lesion = exam.lesion
        true = (exam.organ, lesion is not None, lesion and lesion.kind, side_of(exam))
        for write in (report, diagnosis):
            text = write(exam, language, rng)
            said = facts(text)
            assert (said.organ, said.lesion, said.kind, said.side) == true, text
            if lesion is not None and write is report:
                assert said.size_mm == (millimetres(lesion.long_mm), millimetres(lesion.short_mm)), text


@BOTH
def test_every_number_comes_from_the_examination(language):
    rng = np.random.default_rng(2)
    for exam in examinations(40, seed=1):
        lengths = [*exam.measures.values()] + (
            [exam.lesion.long_mm, exam.lesion.short_mm] if exam.lesion else []
        )
        allowed = {str(millimetres(v)) for v in lengths} | {f"{millimetres(v) / 10:.1f}" for v in lengths}
        allowed |= {f"{exam.measures[name]:.1f}" for name in rules()["one_decimal"] if name in exam.measures}
        text = report(exam, language, rng) + diagnosis(exam, language, rng)
        assert set(re.findall(r"\d+(?:\.\d+)?", text)) <= allowed | stated_by_rule(exam), text


def stated_by_rule(exam: Examination) -> set[str]:
    """Numbers that are no measurement: risk category, clock position, "aspect ratio above 1"."""
    if exam.lesion is None:
        return {"1"} if exam.organ == "breast" else set()
    reading = read_lesion(exam)
    clock = {exam.lesion.place.split("_")[0]} if exam.organ == "breast" else set()
    aspect = {"1"} if exam.lesion.shape == "taller_than_wide" else set()
    return clock | aspect | {str(level) for level in (reading.tirads, reading.birads) if level}


@BOTH
def test_the_report_gives_every_measure_of_the_organ(language):
    rng = np.random.default_rng(3)
    for exam in examinations(15, seed=2):
        text = report(exam, language, rng)
        for name, value in exam.measures.items():
            whole = millimetres(value)
            forms = [f"{value:.1f}"] if name in rules()["one_decimal"] else [str(whole), f"{whole / 10:.1f}"]
            assert any(re.search(rf"(?<![\d.]){re.escape(form)}(?![\d.]\d)", text) for form in forms), (
                name,
                text,
            )


@BOTH
def test_normal_texts_name_lesions_only_to_deny_them(language):
    rng = np.random.default_rng(4)
    for exam in examinations(40, seed=3, with_lesion=False):
        for text in (report(exam, language, rng), diagnosis(exam, language, rng)):
            assert not any(word in text.lower() for word in KIND_WORDS[language]), text
            for part in re.split(r"[，。：\n]" if language == "zh" else r"[.\n]", text.lower()):
                for word in LESION_WORDS[language]:
                    before, found, _ = part.partition(word)
                    assert not found or any(denial in before for denial in DENIALS[language]), (word, text)


def test_turning_not_seen_into_seen_turns_the_fact():
    rng = np.random.default_rng(5)
    for exam in examinations(10, seed=4, with_lesion=False):
        for text in (report(exam, "zh", rng), diagnosis(exam, "zh", rng)):
            assert facts(text).lesion is False
            assert facts(text.replace("未见", "可见")).lesion is True, text
    for exam in examinations(10, seed=5, with_lesion=True):
        quiet = replace(exam, lesion=replace(exam.lesion, vascularity=None))
        findings = report(quiet, "zh", rng).split("\n")[0]
        assert facts(findings).lesion is True
        assert facts(re.sub("(可见|见|探及)一", "未见", findings)).lesion is False, findings


@BOTH
def test_same_generator_same_text_and_many_wordings(language):
    for exam in examinations(1, seed=6):
        write = lambda seed, exam=exam: (  # noqa: E731
            report(exam, language, np.random.default_rng(seed)),
            diagnosis(exam, language, np.random.default_rng(seed)),
            questions(exam, language, np.random.default_rng(seed)),
        )
        assert write(7) == write(7)
        assert len({write(seed)[0] for seed in range(40)}) >= 12


@BOTH
def test_texts_are_well_formed(language):
    rng = np.random.default_rng(8)
    for exam in examinations(25, seed=7):
        asked = questions(exam, language, rng)
        texts = [report(exam, language, rng), diagnosis(exam, language, rng)]
        texts += [part for question in asked for part in (question.question, question.answer)]
        for text in texts:
            assert not re.search(r"[{}_]|None|  |，。|，，|。。|\.\.| [,.;]|\( ", text), text
            text = re.sub(r"^[A-D]\. ", "", text, flags=re.M)
            if language == "en":
                assert not re.search(r"\b[Aa] [aeio]|\b[Aa]n [^aeio]|[^\x00-×]", text), text
                assert re.match(r"[A-Z]", text) and not re.search(r"[.?!] [a-z]", text), text
            else:
                assert not re.search(r"[,;?]| [^A-Z\d]", text.replace(". ", "")), text


@BOTH
def test_lengths_stay_those_of_a_short_report(language):
    rng = np.random.default_rng(9)
    size = len if language == "zh" else lambda text: len(text.split())
    low, high, longest = (60, 140, 185) if language == "zh" else (45, 90, 100)
    sizes = [size(report(exam, language, rng)) for exam in examinations(60, seed=8)]
    assert np.mean([low <= n <= high for n in sizes]) > 0.75
    assert max(sizes) <= longest


@BOTH
def test_vocabulary_stays_small(language):
    """A tokenizer of about 3,000 pieces has to hold both languages."""
    rng = np.random.default_rng(10)
    words: set[str] = set()
    for exam in examinations(60, seed=9):
        texts = [report(exam, language, rng), diagnosis(exam, language, rng)]
        texts += [f"{q.question} {q.answer}" for q in questions(exam, language, rng)]
        words |= set(re.findall(r"[一-鿿]" if language == "zh" else r"[a-z-]+", " ".join(texts).lower()))
    assert len(words) < 400


@BOTH
def test_closed_answers_agree_with_the_examination(language):
    rng = np.random.default_rng(11)
    yes, no = YES_NO[language]
    says_yes: dict[str, list[bool]] = {}
    for exam in examinations(40, seed=10):
        asked = {question.about: question for question in questions(exam, language, rng)}
        assert len(asked) >= 8
        lesion = exam.lesion
        expected = {
            "lesion": lesion is not None,
            "normal": lesion is None,
            "margin_check": lesion is not None and lesion.margin == "circumscribed",
            "microcalcification": lesion is not None and lesion.microcalcification,
            "cystic_check": lesion is not None and lesion.kind == "anechoic",
        }
        for about, question in asked.items():
            if question.answer_type == "closed":
                assert re.fullmatch(rf"({yes}|{no}|[ABCD])([，,.].*)?", question.answer), question
                says_yes.setdefault(about, []).append(question.answer.startswith(yes))
            if about in expected:
                assert question.answer.startswith(yes if expected[about] else no), (exam, question)
        assert ("side" in asked) == (exam.organ in schema.SIDED)
        assert ("risk" in asked) == (exam.organ in ("thyroid", "breast"))
    for about in ("lesion", "normal", "kind_check", "side_check", "margin_check"):
        assert 0.15 < np.mean(says_yes[about]) < 0.85, about


@BOTH
def test_checks_of_kind_and_side_are_true(language):
    """What the question names is compared with what the report says, word for word."""
    rng = np.random.default_rng(12)
    words = _wording(language)
    for exam in examinations(40, seed=11):
        asked = {question.about: question for question in questions(exam, language, rng)}
        positive = YES_NO[language][0]
        named = facts(asked["kind_check"].question)
        is_kind = exam.lesion is not None and named.kind == exam.lesion.kind
        assert asked["kind_check"].answer.startswith(positive) == is_kind, asked["kind_check"]
        if exam.side:
            side = words["words"]["side"][exam.side]
            other = words["words"]["side"]["left" if exam.side == "right" else "right"]
            question = asked["side_check"]
            assert question.answer.startswith(positive) == (side in question.question), question
            assert side in asked["side"].answer and other not in asked["side"].answer


@BOTH
def test_multiple_choice_has_four_options_and_one_true_letter(language):
    rng = np.random.default_rng(13)
    letters = []
    for exam in examinations(40, seed=12):
        for question in (q for q in questions(exam, language, rng) if q.about.startswith("choose")):
            options = dict(re.findall(r"^([ABCD])\. (.+)$", question.question, re.M))
            assert list(options) == list("ABCD") and len(set(options.values())) == 4
            letter, chosen = question.answer[0], options[question.answer[0]]
            letters.append(letter)
            assert question.answer.lower() in (letter.lower(), f"{letter}. {chosen}".lower())
            if question.about == "choose_organ":
                assert chosen == _wording(language)["words"]["organ"][exam.organ]
            elif exam.lesion is None:
                assert facts(chosen).lesion is False
            else:
                assert facts(chosen).kind == exam.lesion.kind, question
    assert min(letters.count(letter) for letter in "ABCD") > len(letters) / 8


@BOTH
def test_questions_about_a_lesion_that_is_not_there_get_an_honest_answer(language):
    rng = np.random.default_rng(14)
    about_the_organ = {
        "organ",
        "side",
        "side_check",
        "measure",
        "choose_organ",
        "normal",
        "lesion",
        "choose_kind",
    }
    for exam in examinations(10, seed=13, with_lesion=False):
        for question in questions(exam, language, rng):
            one_word = len(question.answer) <= 3
            if question.about not in about_the_organ and "choose" not in question.about and not one_word:
                assert facts(question.answer).lesion is False, question


@BOTH
def test_no_doppler_no_word_of_blood_flow(language):
    word = "CDFI" if language == "zh" else "Doppler"
    rng = np.random.default_rng(15)
    for exam in examinations(10, seed=14, with_lesion=True):
        assert (word in report(exam, language, rng)) == (exam.lesion.vascularity is not None)
        unknown = replace(exam, lesion=replace(exam.lesion, vascularity=None))
        answer = next(q for q in questions(unknown, language, rng) if q.about == "vascularity").answer
        assert ("没有多普勒图像" if language == "zh" else "no Doppler image") in answer


@BOTH
def test_requests_vary_and_name_the_organ_only_when_told(language):
    rng = np.random.default_rng(16)
    for task, organ in product(("report", "diagnosis"), (None, *schema.ORGANS)):
        asked = {request(task, language, rng, organ) for _ in range(200)}
        assert len(asked) >= 6
        assert {facts(text).organ for text in asked} == {organ}, asked
    with pytest.raises(ValueError, match="poem"):
        request("poem", language, rng)
    with pytest.raises(ValueError, match="spleen"):
        request("report", language, rng, "spleen")


def test_no_intima_media_of_a_normal_artery_is_thickened():
    """From 1.0 mm it is called thickened; no text says so, so none may be as thick, nor rounded to it."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        exam = sample_examination(rng, "vessel")
        assert exam.measures["intima_media"] < 1.0
        thick = re.search(
            r"(?:内中膜厚度?约?|intima-media thickness (?:of |was )?)([\d.]+)", report(exam, "zh", rng)
        )
        assert float(thick[1]) < 1.0


def test_an_unknown_language_is_refused():
    with pytest.raises(ValueError, match="'fr'"):
        report(examinations(1, seed=0)[0], "fr", np.random.default_rng(0))


def test_both_wordings_have_the_same_entries():
    shapes = [keys_of(_wording(language)) for language in LANGUAGES]
    assert shapes[0] == shapes[1], shapes[0] ^ shapes[1]


def keys_of(node: object, path: str = "") -> set[str]:
    if not isinstance(node, dict):
        return {path}
    free = {"lesion", "list"}  # which kinds have a phrase of their own is the language's affair
    return set().union(*(keys_of(value, f"{path}/{key}") for key, value in node.items() if key not in free))


@BOTH
def test_every_rule_of_reading_has_its_words(language):
    words = _wording(language)
    for organ, table in rules()["readings"].items():
        for rule in table:
            assert rule["reading"] in words["readings"], (organ, rule)
            assert organ in ("thyroid", "breast") or rule["advice"] in words["advice"], (organ, rule)
        assert organ == "breast" or table[-1]["when"] == {} or organ == "vessel"
    places = [(organ, place) for organ in schema.ORGANS for place in schema.PLACES[organ]]
    features = product(schema.KINDS, schema.SHAPES, schema.MARGINS, schema.POSTERIORS, (False, True))
    for (kind, shape, margin, posterior, micro), (organ, place) in product(
        features, places[:3] + places[-14:]
    ):
        lesion = Lesion(kind, shape, margin, 12, 8, place, posterior, micro)
        reading = read_lesion(Examination(organ, None, "homogeneous", {}, lesion))
        assert reading.advice in words["advice"] and reading.name in words["readings"]


TIRADS = {
    ("anechoic", "oval", "circumscribed", False): 1,
    ("mixed", "oval", "circumscribed", False): 3,  # 1 + 2: mixed cystic and solid, hypoechoic solid part
    ("mixed", "oval", "circumscribed", True): 4,
    ("isoechoic", "oval", "circumscribed", False): 3,
    ("hypoechoic", "oval", "indistinct", False): 4,
    ("hypoechoic", "irregular", "spiculated", False): 4,  # 4 + 2: irregular and spiculated count once
    ("hypoechoic", "taller_than_wide", "circumscribed", False): 5,
    ("hypoechoic", "oval", "circumscribed", True): 5,
    ("calcified", "oval", "circumscribed", False): 4,
}
BIRADS = {
    ("anechoic", "oval", "circumscribed", "enhancement", False): 2,
    ("anechoic", "oval", "indistinct", "enhancement", False): 3,
    ("hypoechoic", "oval", "circumscribed", "none", False): 3,
    ("hypoechoic", "irregular", "circumscribed", "none", False): 4,
    ("hypoechoic", "irregular", "spiculated", "shadow", False): 5,
    ("hypoechoic", "taller_than_wide", "spiculated", "none", False): 5,
    ("hyperechoic", "oval", "circumscribed", "none", False): 2,
    ("mixed", "oval", "circumscribed", "none", False): 4,
    ("calcified", "oval", "circumscribed", "shadow", False): 2,  # its own shadow is not suspicious
}


def test_risk_categories_follow_the_lexica():
    for (kind, shape, margin, micro), level in TIRADS.items():
        assert tirads_level(Lesion(kind, shape, margin, 12, 8, "upper", "none", micro)) == level, (
            kind,
            shape,
        )
    for (kind, shape, margin, posterior, micro), category in BIRADS.items():
        lesion = Lesion(kind, shape, margin, 12, 8, "3_oclock", posterior, micro)
        assert birads_category(lesion) == category, (kind, shape, margin)


def test_thyroid_advice_follows_the_size_thresholds():
    table = {("hypoechoic", 9): "none", ("hypoechoic", 12): "follow_up", ("hypoechoic", 15): "needle_biopsy"}
    table |= {("isoechoic", 14): "none", ("isoechoic", 24): "follow_up", ("isoechoic", 25): "needle_biopsy"}
    for (kind, long_mm), advice in table.items():
        lesion = Lesion(kind, "oval", "circumscribed", long_mm, 5, "upper")
        assert read_lesion(Examination("thyroid", "left", "homogeneous", {}, lesion)).advice == advice, kind


def test_readings_follow_the_parameters():
    table = {
        ("liver", "left_lobe", "anechoic", "circumscribed", "enhancement"): "simple_cyst",
        ("liver", "left_lobe", "hyperechoic", "circumscribed", "none"): "haemangioma",
        ("kidney", "middle", "anechoic", "circumscribed", "enhancement"): "simple_cyst",
        ("kidney", "middle", "hyperechoic", "indistinct", "none"): "angiomyolipoma",
        ("kidney", "middle", "calcified", "circumscribed", "shadow"): "stone",
        ("gynaecology", "fundus", "hypoechoic", "circumscribed", "none"): "fibroid",
        ("gynaecology", "left_ovary", "anechoic", "circumscribed", "none"): "simple_cyst",
        ("gynaecology", "right_ovary", "hyperechoic", "circumscribed", "none"): "dermoid",
        ("vessel", "near_wall", "mixed", "circumscribed", "none"): "mixed_plaque",
        ("heart", "left_ventricle", "isoechoic", "circumscribed", "none"): "thrombus",
    }
    for (organ, place, kind, margin, posterior), name in table.items():
        lesion = Lesion(kind, "oval", margin, 20, 15, place, posterior)
        assert read_lesion(Examination(organ, None, "homogeneous", {}, lesion)).name == name, (organ, kind)

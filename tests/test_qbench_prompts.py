"""Three tasks, five prompts, two languages; the wording is data."""

import pytest

from assistants.qbench import prompts
from simulator.quality import rules

EVERY = [
    probe
    for language in prompts.LANGUAGES
    for organ in (None, *prompts.organs())
    for probe in (
        *(prompts.qualitative(name, language, organ) for name in prompts.QUALITATIVE),
        *prompts.quantitative(language),
        prompts.comparative(3, language),
    )
]


def test_every_prompt_is_said_in_both_languages_with_nothing_left_open():
    for probe in EVERY:
        assert "{" not in probe.question + probe.answer + probe.one_word
        chinese = any("\u4e00" <= sign <= "\u9fff" for sign in probe.question + probe.answer)
        assert chinese == (probe.language == "zh")
        assert not probe.answer[-1].isspace()  # a space belongs to the word behind it


def test_prompts_and_indicators_are_the_paper_s():
    assert prompts.PROMPTS == ("basic", "contextual", "diagnostic", "quantitative", "comparative")
    expected = ("clarity", "contrast", "noise", "detail_resolution", "uniformity", "artefacts", "overall")
    assert prompts.indicators() == expected
    names = [probe.name for probe in prompts.quantitative("en")]
    assert names == [f"quantitative:{name}" for name in expected]
    assert prompts.weights() == {"high": 10, "medium": 5, "low": 0}


def test_context_is_in_the_second_and_criteria_in_the_third():
    basic, contextual, diagnostic = (
        prompts.qualitative(name, "en", "heart").question for name in prompts.QUALITATIVE
    )
    assert "four-chamber" not in basic and "four-chamber" in contextual and "Criteria" not in contextual
    assert "four-chamber" in diagnostic and "endocardium" in diagnostic
    start = "Rate the quality of this ultrasound image"
    assert all(probe.question.startswith(start) for probe in prompts.quantitative("en"))
    assert all(question.startswith(start) for question in (basic, contextual, diagnostic))


def test_images_go_before_words_and_the_answer_is_begun():
    probe = prompts.comparative(2, "zh")
    user, assistant = probe.messages()
    assert [part["type"] for part in user["content"]] == ["image", "image", "text"]
    assert assistant["content"] == [{"type": "text", "text": probe.answer}]
    assert prompts.choices(probe) == {"1": (("1",), ()), "2": (("2",), ())}


def test_what_training_teaches_is_what_is_read():
    assert prompts.full_answer(prompts.qualitative("basic", "en"), "low").endswith("this image is low")
    assert prompts.full_answer(prompts.comparative(3, "en"), "3").endswith("quality is image 3")
    assert prompts.full_answer(prompts.qualitative("basic", "zh"), "medium").endswith("质量是：“中")


def test_the_criteria_are_the_rule_that_simulated_images_are_labelled_by():
    for view in rules()["views"].values():
        for language in prompts.LANGUAGES:
            criteria = prompts.wording()["views"][view["organ"]][language]["criteria"]
            assert criteria == view[language]["criteria"]
            assert criteria in prompts.qualitative("diagnostic", language, view["organ"]).question


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: prompts.qualitative("rough", "en"),
        lambda: prompts.qualitative("basic", "de"),
        lambda: prompts.qualitative("basic", "en", "spleen"),
        lambda: prompts.quantitative("de"),
        lambda: prompts.comparative(1, "en"),
        lambda: prompts.comparative(10, "en"),
        lambda: prompts.full_answer(prompts.qualitative("basic", "en"), "fair"),
        lambda: prompts.full_answer(prompts.comparative(2, "en"), "3"),
    ],
)
def test_unknown_names_are_refused(wrong):
    with pytest.raises(ValueError, match="is not one of|takes 2 to 9"):
        wrong()


def test_the_fingerprint_changes_with_all_that_is_asked_and_answered(monkeypatch):
    probes = [prompts.qualitative(name, language, organ) for name in prompts.QUALITATIVE[1:]
              for language in prompts.LANGUAGES for organ in (None, "vessel")]  # fmt: skip
    probes += [prompts.own_question("Good?", "en"), prompts.own_question("Bad?", "en")]
    probes += [*prompts.quantitative("en"), prompts.comparative(2, "en"), prompts.comparative(3, "en")]
    found = [probe.fingerprint for probe in probes]
    assert len(set(found)) == len(probes) and found == [probe.fingerprint for probe in probes]
    basic = prompts.qualitative("basic", "en")
    assert basic.fingerprint == prompts.qualitative("basic", "en", "vessel").fingerprint  # the same words
    before = basic.fingerprint
    monkeypatch.setattr(prompts, "weights", lambda: {"high": 9.0, "medium": 5.0, "low": 0.0})
    assert basic.fingerprint != before

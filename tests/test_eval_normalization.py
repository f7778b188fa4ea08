"""What each step rewrites, and that nothing is rewritten unless asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.normalization import STEPS, normalizer, signature
from eval.pairs import Pair
from eval.scoring import Options, score_pairs

TABLE = [
    ("nfkc", "大小约１１．７ｃｍ，①", "大小约11.7cm,1"),
    ("punct", "回声均匀，未见占位。（建议“随访”）", '回声均匀,未见占位.(建议"随访")'),
    ("punct", "见 3–5 枚…", "见 3-5 枚..."),
    ("space", "肝脏  正常 。\n 胆囊\u3000正常", "肝脏正常。胆囊正常"),
    ("space", "the left  lobe , normal", "the left lobe,normal"),
    ("units", "大小约11.7×5.9cm", "大小约117mm×59mm"),
    ("units", "大小约11.7cm×5.9cm", "大小约117mm×59mm"),
    ("units", "大小约 11.7 cm x 5.9 cm", "大小约 117mm×59mm"),
    ("units", "117mm*59mm", "117mm×59mm"),
    ("units", "约2.35厘米，厚 3 毫米", "约23.5mm，厚 3mm"),
    ("units", "流速60cm/s，面积3cm²，BI-RADS 4", "流速60cm/s，面积3cm²，BI-RADS 4"),
    ("units", "0.5cm", "5mm"),
    ("units", "100mm 10cm", "100mm 100mm"),
]


@pytest.mark.parametrize(("step", "text", "rewritten"), TABLE)
def test_table(step, text, rewritten):
    assert normalizer([step])(text) == rewritten


@given(st.text())
def test_nothing_is_rewritten_unless_asked_for(text):
    assert normalizer()(text) == text
    assert signature() == "norm:none|case:mixed"


@given(st.text(), st.lists(st.sampled_from(list(STEPS))))
def test_rewriting_twice_changes_nothing_more(text, steps):
    rewrite = normalizer(steps, lower=True)
    assert rewrite(rewrite(text)) == rewrite(text)


@pytest.mark.parametrize(
    "written", ["１１．７ｃｍ×５．９ｃｍ", "11.7×5.9cm", "11.7 cm x 5.9 cm", "117mm×59mm", "117毫米*59毫米"]
)
def test_four_spellings_of_one_size_become_one(written):
    pair = Pair("x", f"大小约{written}。", ("大小约11.7cm×5.9cm。",))
    options = {"resamples": 0, "sections": ("echovlm",)}
    plain = score_pairs([pair], Options(**options))
    assert plain.value("echovlm", "BLEU-1") < 100
    everything = score_pairs([pair], Options(normalize=("nfkc", "space", "units", "punct"), **options))
    assert everything.value("echovlm", "BLEU-1") == 100
    assert "norm:nfkc+punct+space+units|case:mixed" in everything.sections[0].columns[0].receipt


def test_unknown_steps_are_refused():
    with pytest.raises(ValueError, match="no normalisation is called 'stem'"):
        normalizer(["stem"])

"""Tokens equal to the packages' own, and signatures that say what was done."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import tokenizers
from eval.tokenizers import UserDictionaryError, jieba_spaced, tokenizer

MIXED = "甲状腺左叶低回声结节，。11.7×5.9cm BI-RADS4A类%+#&._-AT&TcC++ \n\t\x1c\x85"
MIXED += "\u3000①½😀\u200bµ𠮷㐀々〇⺀１２ｃ臟éÀβ０ひカ한–—…“”'"
texts = st.one_of(st.text(st.sampled_from(MIXED), max_size=40), st.text(max_size=30))


@settings(max_examples=400, deadline=None)
@given(texts)
def test_jieba_gives_the_packages_tokens(text):
    import jieba

    whole = jieba.lcut(text)
    assert tokenizer("jieba")[0](text) == [token for token in whole if token.strip()]
    assert jieba_spaced(text) == [token for token in whole if token.strip(" ")]
    assert "".join(whole) == text


@settings(max_examples=100, deadline=None)
@given(texts)
def test_without_the_fast_package_the_tokens_are_the_same(text):
    fast = tokenizer("jieba")[0](text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizers, "_rjieba", lambda: None)
        assert tokenizer("jieba")[0](text) == fast


@settings(max_examples=300, deadline=None)
@given(texts)
def test_sacrebleu_tokenizers_give_the_packages_tokens(text):
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    from sacrebleu.tokenizers.tokenizer_char import TokenizerChar
    from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

    for name, package in (("13a", Tokenizer13a()), ("zh", TokenizerZh()), ("char", TokenizerChar())):
        assert tokenizer(name)[0](text) == package(text.rstrip()).split()


def test_every_code_point_is_chinese_for_zh_exactly_where_sacrebleu_says_so():
    from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

    cut, package = tokenizer("zh")[0], TokenizerZh()
    for code in [*range(0xA0, 0xD800), *range(0xE000, 0x10000), 0x1F600, 0x20000, 0x2F800]:
        assert cut(f"a{chr(code)}b") == package(f"a{chr(code)}b").split(), hex(code)


def test_signatures():
    assert [tokenizer(name)[1] for name in tokenizers.NAMES] == [
        "jieba-0.42.1-hmm",
        "char",
        "zh",
        "13a",
        "ws",
    ]


def test_a_user_dictionary_is_used_and_signed_and_leaves_no_trace(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("一低回声结节 100000 n\n", "utf-8")
    cut, signature = tokenizer("jieba", words)
    assert cut("可见一低回声结节") == ["可见", "一低回声结节"]
    assert signature.startswith("jieba-0.42.1-hmm-dict:") and len(signature.split(":")[1]) == 8
    assert tokenizer("jieba")[0]("可见一低回声结节") == ["可见", "一低", "回声", "结节"]
    words.write_text("一低回声结节 100001 n\n", "utf-8")
    assert tokenizer("jieba", words)[1] != signature


def test_what_cannot_be_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no tokenizer is called 'words'"):
        tokenizer("words")
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserDictionaryError, match="format"):
        tokenizer("jieba", bad)
    with pytest.raises(ValueError, match="belongs to the tokenizer jieba"):
        tokenizer("char", bad)

"""Which tokens stand for a level, on tokenizers built here that set the traps of published ones."""

import math

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from assistants.qbench import levels, prompts
from assistants.qbench.levels import SEQUENCE, TOKEN, UnstablePrefix, find

EN, ZH = "The quality of this image is", "这幅图像的质量是"
LEVEL_WORDS = {"en": prompts.level_words("en"), "zh": prompts.level_words("zh")}


def byte_level(words, regex=True):
    """Byte-level BPE without a start token, as Qwen2's; exactly `words` become one token, the first ones
    before the later."""
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocabulary = {sign: i for i, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for word in words:
        signs = spell.pre_tokenize_str(word)[0][0]
        for end in range(2, len(signs) + 1):
            if (signs[: end - 1], signs[end - 1]) not in merges:
                merges.append((signs[: end - 1], signs[end - 1]))
            vocabulary.setdefault(signs[:end], len(vocabulary))
    bpe = Tokenizer(models.BPE(vocabulary, merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bpe)


def sentencepiece_like(words):
    """BPE with a start token, ▁ for a space and before the text, and bytes for signs outside, as LLaMA's."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for value in range(256):
        vocabulary[f"<0x{value:02X}>"] = len(vocabulary)
    merges = []
    for sign in sorted(set("".join(words)) | set(EN.replace(" ", "▁")) | set("0123456789▁")):
        vocabulary.setdefault(sign, len(vocabulary))
    for word in words:
        for end in range(2, len(word) + 1):
            if (word[: end - 1], word[end - 1]) not in merges:
                merges.append((word[: end - 1], word[end - 1]))
            vocabulary.setdefault(word[:end], len(vocabulary))
    bpe = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")
    start = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast.backend_tokenizer.post_processor = start
    return fast


QWEN = byte_level(
    ["高质量", "中", "低", " high", " medium", " low", "high", "medium", "low", " good", " High", " po"]
)
LLAMA = sentencepiece_like(["▁high", "▁medium", "▁low", "▁High", "▁Low", "高", "中", "▁good"])


def tokenise(tokenizer):
    return lambda text: tokenizer(text)["input_ids"]


def one(tokenizer, text):
    """The id of a text that is one token of the tokenizer, without a start token."""
    (token,) = tokenizer(text, add_special_tokens=False)["input_ids"]
    return token


# --- the traps: what others do goes wrong with these tokenizers ----------------------------------------


def test_a_fixed_index_behind_a_start_token_fails_where_there_is_none():
    with pytest.raises(IndexError):
        QWEN("high")["input_ids"][1]
    assert QWEN(" poor")["input_ids"][1] == one(QWEN, "o")  # po·o·r: a part of the word, and no error


def test_a_fixed_index_is_the_same_sign_for_every_chinese_word():
    second = {LLAMA(word)["input_ids"][1] for word in ("高", "中", "低")}
    assert second == {LLAMA.convert_tokens_to_ids("▁")}


def test_a_word_alone_has_another_id_than_behind_its_prefix():
    forms = find(tokenise(QWEN), EN, LEVEL_WORDS["en"]).forms
    assert (one(QWEN, " high"),) in forms["high"] and (one(QWEN, "high"),) not in forms["high"]


# --- the path of one token -----------------------------------------------------------------------------


def test_each_level_has_a_token_and_synonyms_join_it():
    found = find(tokenise(QWEN), EN, LEVEL_WORDS["en"])
    assert (found.path, found.stem) == (TOKEN, 0)
    assert found.forms == {
        "high": ((one(QWEN, " high"),), (one(QWEN, " good"),), (one(QWEN, " High"),)),
        "medium": ((one(QWEN, " medium"),),),
        "low": ((one(QWEN, " low"),),),
    }
    assert "'poor' is 3 tokens: left out" in found.reasons


def test_merged_chinese_tokens_are_added_to_the_plain_sign():
    merged = byte_level(["高", "中", "低", "高质量", "中等"])
    found = find(tokenise(merged), ZH, LEVEL_WORDS["zh"])
    assert found.path == TOKEN
    assert set(found.forms["high"]) == {(one(merged, "高"),), (one(merged, "高质量"),)}
    assert set(found.forms["medium"]) == {(one(merged, "中"),), (one(merged, "中等"),)}
    assert found.forms["low"] == ((one(merged, "低"),),)  # 低质量 begins with 低 and is counted with it
    assert not any("质量" in reason for reason in found.reasons)


def test_a_lone_space_before_every_number_is_no_difference():
    found = find(tokenise(LLAMA), "The best is image", prompts.numbers(2, "en"))
    space = LLAMA.convert_tokens_to_ids("▁")
    digits = [LLAMA.convert_tokens_to_ids(digit) for digit in "12"]
    assert (found.path, found.stem) == (TOKEN, 1)
    assert found.forms == {"1": ((space, digits[0]),), "2": ((space, digits[1]),)}


def test_sentencepiece_words_behind_text_have_one_sign_in_front():
    found = find(tokenise(LLAMA), EN, LEVEL_WORDS["en"])
    assert found.path == TOKEN and found.forms["medium"] == ((LLAMA.convert_tokens_to_ids("▁medium"),),)
    assert any("Medium" in reason for reason in found.reasons)  # ▁·M·e·d·i·u·m here, two tokens in LLaMA


# --- the path of whole words ---------------------------------------------------------------------------


def test_a_sign_cut_into_bytes_is_compared_as_a_whole():
    found = find(tokenise(LLAMA), ZH, LEVEL_WORDS["zh"])
    assert found.path == SEQUENCE
    assert found.forms["high"] == ((LLAMA.convert_tokens_to_ids("高"),),)
    cut = [LLAMA.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "低".encode()]
    assert found.forms["low"] == (tuple(cut),)
    assert "'低' is 3 tokens: words are compared as a whole" in found.reasons
    assert any("synonyms are not counted" in reason for reason in found.reasons)


def test_levels_that_begin_alike_are_no_single_tokens():
    alike = byte_level(["高"])
    found = find(tokenise(alike), "", {"a": (("中",), ()), "b": (("丮",), ())})  # E4 B8 AD and E4 B8 AE
    assert found.stem == 2 and found.path == TOKEN  # told apart by the last byte alone


def test_a_prefix_that_changes_is_refused():
    grown = byte_level(["是高"])
    with pytest.raises(UnstablePrefix, match="高"):
        find(tokenise(grown), ZH, LEVEL_WORDS["zh"])


def test_a_prefix_that_changes_into_more_tokens_is_refused_as_well():
    ids = {"is": (1, 2), "is high": (1, 7, 8, 9), "is low": (1, 2, 5)}
    with pytest.raises(UnstablePrefix, match="high"):
        find(ids.__getitem__, "is", {"high": ((" high",), ()), "low": ((" low",), ())})


def test_a_synonym_that_changes_the_prefix_is_left_out():
    grown = byte_level(["高", "中", "低", "是优"])
    found = find(tokenise(grown), ZH, LEVEL_WORDS["zh"])
    assert found.path == TOKEN and "'优' changes the tokens before it: left out" in found.reasons


def test_a_token_of_two_levels_speaks_for_neither():
    words = {"high": ((" high",), (" good",)), "low": ((" low",), (" good", " high"))}
    found = find(tokenise(QWEN), EN, words)
    assert found.forms == {"high": ((one(QWEN, " high"),),), "low": ((one(QWEN, " low"),),)}


def test_levels_with_the_same_tokens_are_refused():
    with pytest.raises(ValueError, match="told apart"):
        find(tokenise(QWEN), EN, {"high": ((" high",), ()), "low": ((" high",), ())})


# --- from log-probabilities to probabilities -----------------------------------------------------------

LN = math.log


@pytest.mark.parametrize(
    ("tokens", "logarithms", "shares", "mass"),
    [
        # forms are added in probability space: (0.2 + 0.1) : 0.1
        (
            levels.LevelTokens(TOKEN, {"high": ((1,), (2,)), "low": ((3,),)}, 0, ()),
            [[LN(0.2)], [LN(0.1)], [LN(0.1)]],
            {"high": 0.75, "low": 0.25},
            0.4,
        ),
        # what all share (the stem) cancels, but not in the mass: 0.5 * (0.6 + 0.2)
        (
            levels.LevelTokens(TOKEN, {"high": ((9, 1),), "low": ((9, 2),)}, 1, ()),
            [[LN(0.5), LN(0.6)], [LN(0.5), LN(0.2)]],
            {"high": 0.75, "low": 0.25},
            0.4,
        ),
        # length-normalised: sqrt(0.04 * 1) = 0.2 against 0.6; the mass is of the words themselves
        (
            levels.LevelTokens(SEQUENCE, {"high": ((1,),), "low": ((2, 3),)}, 0, ()),
            [[LN(0.6)], [LN(0.04), LN(1.0)]],
            {"high": 0.75, "low": 0.25},
            0.64,
        ),
        # two forms of a level count as one: their mean
        (
            levels.LevelTokens(SEQUENCE, {"high": ((1,), (4,)), "low": ((2,),)}, 0, ()),
            [[LN(0.5)], [LN(0.1)], [LN(0.1)]],
            {"high": 0.75, "low": 0.25},
            0.7,
        ),
    ],
)
def test_probabilities_by_hand(tokens, logarithms, shares, mass):
    found, open_mass = tokens.read(logarithms)
    assert found == pytest.approx(shares) and open_mass == pytest.approx(mass)


def test_levels_far_below_everything_still_add_up_to_one():
    tokens = levels.LevelTokens(TOKEN, {"high": ((1,),), "low": ((2,),)}, 0, ())
    found, mass = tokens.read([[-1000.0], [-1000.0 - LN(3)]])
    assert found == pytest.approx({"high": 0.75, "low": 0.25}) and mass == 0

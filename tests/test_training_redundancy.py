"""training.instructions.redundancy: the definition in small numbers, and the index against all pairs."""

import random
from hashlib import md5

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from training.instructions import redundancy
from training.instructions.redundancy import HAMMING, enough, redundant, rouge_l, simhash, tokens

WORDS = "nodule hypoechoic with margins clear oval liver lobe left right no flow seen mass of the in".split()
CLAUSES = "甲状腺左叶 见低回声结节 大小约12mm 边界清晰 形态规则 内见血流 后方声影 未见钙化 峡部厚3mm".split()


@pytest.mark.parametrize(
    "text, expected",
    [
        ("左叶见 Nodule", ["左", "叶", "见", "nodule"]),
        ("BI-RADS 4A类，1.2×0.8cm。", ["bi", "rads", "4", "a", "类", "1.2", "0.8", "cm"]),
        ("ＣＤＦＩ：血流", ["cdfi", "血", "流"]),
        ("No, it's 12 mm!", ["no", "it", "s", "12", "mm"]),
        ("……", []),
    ],
)
def test_tokens(text, expected):
    assert tokens(text) == expected


@pytest.mark.parametrize(
    "first, second, expected",
    [
        ("a b c d", "a b c d", 1.0),
        ("a b c d", "d c b a", 0.25),
        ("a b c d", "a c", 2 / 3),
        ("a", "b", 0.0),
        ("", "", 1.0),
        ("", "a", 0.0),
    ],
)
def test_rouge_l(first, second, expected):
    assert rouge_l(first.split(), second.split()) == pytest.approx(expected)


def longest_common(first, second):
    """The textbook table."""
    row = [0] * (len(second) + 1)
    for a in first:
        diagonal = 0
        for j, b in enumerate(second, start=1):
            diagonal, row[j] = row[j], diagonal + 1 if a == b else max(row[j], row[j - 1])
    return row[-1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_rouge_l_is_the_longest_common_subsequence(first, second):
    total = len(first) + len(second)
    assert rouge_l(first, second) == (2 * longest_common(first, second) / total if total else 1.0)


def plain_simhash(text):
    letters = "".join(letter for letter in text.lower() if letter.isalnum())
    sums = [0] * 64
    for i in range(max(1, len(letters) - 3)):
        value = int.from_bytes(md5(letters[i : i + 4].encode()).digest()[-8:], "big")
        for bit in range(64):
            sums[bit] += 1 if value >> bit & 1 else -1
    return sum(1 << bit for bit in range(64) if sums[bit] > 0)


@pytest.mark.parametrize(
    "text", ["abc", "How large is the lesion? 12 mm", "左叶见一低回声结节，大小约12mm", ""]
)
def test_simhash_is_the_sign_of_the_sum(text):
    assert simhash(text) == plain_simhash(text)


def test_the_paper_s_thresholds():
    assert (redundancy.ROUGE_L, HAMMING) == ((7, 10), 3)


def test_at_the_threshold_is_kept_and_above_it_is_dropped():
    base = list("abcdefghij")
    seven = base[:7] + ["x", "y", "z"]  # 2 · 7 / 20 = 0.7
    eight = base[:8] + ["u", "v"]
    assert rouge_l(base, seven) == 0.7
    assert redundant([" ".join(base), " ".join(seven)]) == [None, None]
    assert redundant([" ".join(base), " ".join(eight)]) == [None, "rouge_l"]


def test_what_was_dropped_counts_as_prior_too():
    a = list("abcdefghij")
    b = a[:8] + ["p", "q"]
    c = a[:6] + ["r", "s", "p", "q"]
    assert rouge_l(a, b) > 0.7 and rouge_l(b, c) > 0.7 and rouge_l(a, c) <= 0.7
    assert redundant([" ".join(words) for words in (a, b, c)]) == [None, "rouge_l", "rouge_l"]
    assert redundant([" ".join(words) for words in (a, c, b)]) == [None, None, "rouge_l"]
    assert redundant([" ".join(words) for words in (b, a, c)]) == [None, "rouge_l", "rouge_l"]


def test_the_same_text_in_another_order_is_found_by_its_simhash():
    first, second = (long_text(random.Random(seed)) for seed in (0, 1))
    assert redundant([f"{first} {second}", f"{second} {first}"]) == [None, "simhash"]


@pytest.mark.parametrize("length", range(1, 120))
def test_the_prefix_is_long_enough_for_every_partner(length):
    partners = [n for n in range(1, 400) if enough(length + n) <= min(length, n)]
    shared = min(enough(length + n) for n in partners)
    assert redundancy._prefix_length(length) == length - shared + 1


def test_hashes_are_found_within_three_bits_and_not_beyond():
    chance = random.Random(0)
    for _ in range(300):
        bits = chance.getrandbits(64)
        index = redundancy._SimHashIndex()
        index.add(bits)
        for flips in range(6):
            other = bits
            for position in chance.sample(range(64), flips):
                other ^= 1 << position
            assert index.holds_near(other) == (flips <= HAMMING)


def long_text(chance):
    return " ".join("".join(chance.choices("abcdefghijkl", k=8)) for _ in range(60))


def variants(count, seed):
    """Texts around the threshold: new ones, and old ones with words changed, left out or turned round."""
    chance = random.Random(seed)
    texts = []
    for _ in range(count):
        if texts and chance.random() < 0.5:
            words = chance.choice(texts)[:]
            for _ in range(chance.randrange(1, 1 + len(words) // 2)):
                at = chance.randrange(len(words))
                words[at : at + chance.randrange(2)] = [chance.choice(WORDS + CLAUSES)]
        elif chance.random() < 0.05:
            halves = [long_text(chance), long_text(chance)]
            texts += [halves, halves[::-1]]
            continue
        else:
            pool = chance.choice((WORDS, CLAUSES, WORDS + CLAUSES))
            words = [
                chance.choice(pool) + chance.choice(("", "", str(chance.randrange(99)))) for _ in range(12)
            ]
        texts.append(words[:40])
    return [" ".join(words) for words in texts[:count]]


def all_pairs(texts):
    """The definition, without an index."""
    words, hashes = [tokens(text) for text in texts], np.array([simhash(text) for text in texts], np.uint64)
    lengths = np.array([len(one) for one in words])
    common = cdist(words, words, scorer=LCSseq.similarity, dtype=np.int32)
    alike = 20 * common > 7 * (lengths[:, None] + lengths[None])
    near = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= HAMMING
    return [
        "rouge_l" if alike[i, :i].any() else "simhash" if near[i, :i].any() else None
        for i in range(len(texts))
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_index_gives_what_all_pairs_give(seed):
    texts = variants(2000, seed)
    expected = all_pairs(texts)
    assert redundant(texts) == expected
    assert redundant(texts, workers=2) == expected
    assert {None, "rouge_l", "simhash"} == set(expected)
    assert 200 < expected.count(None) < 1900


def test_progress_is_told_of_every_text():
    seen = []

    def told():
        for i in range(3):
            seen.append(i)
            yield i

    assert redundant(["a b c", "d e f", "a b c"], told()) == [None, None, "rouge_l"]
    assert seen == [0, 1, 2]
    assert redundant([]) == []
    assert redundant(["", "?!", "a"]) == [None, "rouge_l", None]

"""From what stands at the score to ratings and comparisons, by hand."""

from itertools import product

import pytest

from assistants.qbench import rating
from assistants.qbench.clustering import fit
from assistants.qbench.prompts import LEVELS
from assistants.qbench.reading import Reading


def reading(high, medium, low, **more):
    return Reading("token", {"high": high, "medium": medium, "low": low}, 0.9, **more)


@pytest.mark.parametrize(
    ("shares", "score", "level"),
    [
        ((1, 0, 0), 10, "high"), ((0, 1, 0), 5, "medium"), ((0, 0, 1), 0, "low"),
        ((0.5, 0.3, 0.2), 6.5, "high"), ((0.4, 0.2, 0.4), 5, "low"), ((0.4, 0.4, 0.2), 6, "medium"),
    ],
)  # fmt: skip
def test_a_score_is_the_weighted_sum_and_the_level_the_likeliest(shares, score, level):
    found = rating.rate("basic", reading(*shares), "en")
    assert found.score == pytest.approx(score) and found.level == level
    assert (found.level_by, found.borderline, found.open_mass) == ("argmax", None, 0.9)


def test_cuts_of_a_population_go_before_the_likeliest_level():
    cuts = fit([6.1, 7, 8], "three", model="m", prompt="basic", wording="w", language="en")
    found = rating.rate("basic", reading(0.5, 0.3, 0.2), "en", cuts)
    assert (found.level, found.level_by, found.borderline) == ("low", "clusters", True)
    assert found.cuts_of == "three"


@pytest.mark.parametrize(
    ("text", "language", "level"),
    [
        ("high quality.", "en", "high"), (" Medium", "en", "medium"), ("LOW, with noise", "en", "low"),
        ("The quality of this image is poor.", "en", "low"),
        ("good. In terms of noise it is low", "en", "high"),
        ("", "en", None), ("I cannot tell", "en", None), ("between low and medium", "en", None),
        ("not high", "en", None), ("isn't very good", "en", None), ("cannot be called high", "en", None),
        ("never high", "en", None), ("no noise; high", "en", "high"),
        ("highly echogenic", "en", None),
        ("low-level echoes", "en", None), ("fairly blurred", "en", None),
        ("below average", "en", None), ("lower than average", "en", None),
        ("high-quality", "en", "high"), ("This is a high-quality image.", "en", "high"),
        ("Good question! The quality is low.", "en", "low"), ("Good.", "en", "high"),
        ("The image is clear, with low noise.", "en", None), ("The noise level is low", "en", None),
        ("low noise, high quality", "en", "high"),
        ("好的，这幅图像质量低", "zh", "low"), ("好的。质量为低。", "zh", "low"), ("好。", "zh", "high"),
        ("优良", "zh", None), ("中高", "zh", None), ("图像清晰，噪声低。", "zh", None),
        ("噪声较低，质量高", "zh", "high"), ("质量为低", "zh", "low"),
        ("高质量", "zh", "high"), ("高", "zh", "high"), ("中等质量。", "zh", "medium"),
        ("中", "zh", "medium"),
        ("低。", "zh", "low"), ("差", "zh", "low"), ("低回声结节", "zh", None),
        ("高回声，边界清", "zh", None),
        ("不太高", "zh", None), ("不是很高", "zh", None), ("非常高", "zh", "high"),
        ("不高", "zh", None), ("低或中等", "zh", None), ("低质量或中等质量", "zh", None),
        ("图像清晰", "zh", None), ("这幅图像的质量是优", "zh", "high"),
    ],
)  # fmt: skip
def test_the_raw_strategy_reads_one_level_or_none(text, language, level):
    assert rating.parse_level(text, language) == level


def test_a_written_word_is_a_level_without_a_score():
    found = rating.rate("basic", Reading("text", text="low quality"), "en")
    assert (found.level, found.level_by, found.score, found.probabilities) == ("low", "word", None, None)
    assert rating.rate("basic", Reading("text", text="a heart"), "en").level is None


@pytest.mark.parametrize(
    ("text", "number"),
    [("2", 2), ("图1。", 1), ("3", None), ("0", None), ("1 or 2", None), ("none", None), ("12", None)],
)
def test_the_number_of_an_image(text, number):
    assert rating.parse_number(text, 2) == number


def by_counting(images):
    """Every combination of levels of every image, ties shared."""
    chances = [0.0] * len(images)
    for levels in product(LEVELS, repeat=len(images)):
        weight = 1.0
        for image, level in zip(images, levels, strict=True):
            weight *= image[level]
        best = min(map(LEVELS.index, levels))
        winners = [i for i, level in enumerate(levels) if LEVELS.index(level) == best]
        for i in winners:
            chances[i] += weight / len(winners)
    return chances


@pytest.mark.parametrize("count", [2, 3, 4])
def test_best_by_levels_is_what_counting_all_combinations_gives(count):
    images = [
        dict(zip(LEVELS, shares, strict=True))
        for shares in [(0.5, 0.3, 0.2), (0.1, 0.8, 0.1), (0.5, 0.3, 0.2), (0.05, 0.15, 0.8)][:count]
    ]
    found = rating.best_by_levels(images)
    assert found == pytest.approx(by_counting(images)) and sum(found) == pytest.approx(1)
    assert rating.best_by_levels([images[0]] * count) == pytest.approx([1 / count] * count)


def said(*shares):
    return Reading("token", {str(i): share for i, share in enumerate(shares, start=1)}, 1.0)


def test_a_liking_for_a_place_cancels_out():
    assert rating.orders(2) == [(0, 1), (1, 0)]
    places = sorted(zip(*rating.orders(3), strict=True))
    assert all(sorted(place) == [0, 1, 2] for place in places)
    assert rating.best_by_question([said(0.9, 0.1)] * 2, 2) == pytest.approx((0.5, 0.5))
    assert rating.best_by_question([said(0.6, 0.1, 0.3)] * 3, 3) == pytest.approx([1 / 3] * 3)
    assert rating.best_by_question([said(0.9, 0.1), said(0.4, 0.6)], 2) == pytest.approx((0.75, 0.25))


def test_written_answers_vote_and_unreadable_ones_do_not():
    votes = [Reading("text", text="1"), Reading("text", text="2")]
    assert rating.best_by_question(votes, 2) == (1.0, 0.0)
    assert rating.best_by_question([votes[0], Reading("text", text="?")], 2) == (1.0, 0.0)
    assert rating.best_by_question([Reading("text", text="?")] * 2, 2) is None


def test_a_comparison_is_the_mean_of_both_opinions():
    ratings = [rating.rate("basic", reading(*shares), "en") for shares in ((0, 1, 0), (1, 0, 0))]
    found = rating.compare(ratings, (0.6, 0.4))
    assert found.by_levels == (0.0, 1.0) and found.probabilities == pytest.approx((0.3, 0.7))
    assert found.ranking == (1, 0)
    assert rating.compare(ratings, None).probabilities == (0.0, 1.0)


def test_behind_the_best_images_stand_by_their_scores():
    """Sharp levels leave the others hardly a chance to be best, and a question its noise."""
    shares = ((0, 0.1, 0.9), (0, 0.9, 0.1), (1, 0, 0), (0, 1, 0))
    ratings = [rating.rate("basic", reading(*each), "en") for each in shares]
    found = rating.compare(ratings, (0.02, 0.01, 0.97, 0.0))
    assert found.probabilities[0] > found.probabilities[1]
    assert found.ranking == (2, 3, 1, 0)


def test_words_alone_can_be_compared():
    ratings = [
        rating.rate("basic", Reading("text", text=text), "en") for text in ("low", "medium", "?", "fair")
    ]
    assert rating.compare(ratings, None).probabilities == (0, 0.5, 0, 0.5)
    assert rating.compare(ratings, None).ranking == (1, 3, 0, 2)
    assert rating.compare(ratings[2:3] * 2, None).probabilities == (0.5, 0.5)

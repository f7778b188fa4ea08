"""Groups of near-identical frames: two to eight, one to three valid as the label map says, small lesions
among them, and findings beside every row."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.cases import Order, examination_name
from simulator.cine import VALID_SHARE
from simulator.group import FRAMES, MOST_VALID, SMALL_PX, make
from simulator.tissue import LESION

ORDER = Order(seed=3, tasks=("group",), rows=3)


@pytest.fixture(scope="module")
def groups() -> list:
    return [make(ORDER, number) for number in range(24)]


def test_two_to_eight_frames_of_which_one_to_three_are_valid(groups):
    for group in groups:
        valid = group.rows[0]["valid_images"]
        areas = np.array([(picture.labels == LESION).sum() for picture in group.pictures])
        assert FRAMES[0] <= len(group.pictures) <= FRAMES[1]
        assert 1 <= len(valid) <= MOST_VALID and len(valid) < len(group.pictures)
        assert valid == [i for i, area in enumerate(areas) if area >= VALID_SHARE * areas.max()]
        for row in group.rows:
            assert row["valid_share"] == VALID_SHARE and max(row["cross_section"]) == 1
            assert row["cross_section"] == pytest.approx(areas / areas.max(), abs=1e-3)
    counts = {len(group.pictures) for group in groups}
    assert min(counts) == 2 and max(counts) == 8


@pytest.mark.parametrize("number", [522, 661, 6814])  # four of four, four of six, three of three, once
def test_a_group_in_which_too_many_frames_turn_out_valid_is_drawn_anew(number):
    group = make(Order(seed=11, tasks=("group",), rows=1), number)
    assert 1 <= len(group.rows[0]["valid_images"]) <= min(MOST_VALID, len(group.pictures) - 1)


def test_a_quarter_has_a_small_lesion_and_its_size_in_the_text(groups):
    small = [group for group in groups if group.rows[0]["lesion_px"] <= SMALL_PX[1] + 0.5]
    assert 2 <= len(small) <= 12
    for group in small:
        row, labels = group.rows[0], group.pictures[group.rows[0]["valid_images"][0]].labels
        rows, columns = np.nonzero(labels == LESION)
        assert max(np.ptp(rows), np.ptp(columns)) + 1 <= SMALL_PX[1] + 3
        lesion = row["examination"]["lesion"]
        assert lesion["short_mm"] <= lesion["long_mm"]


def test_rows_name_the_site_or_not_and_carry_findings(groups):
    for group in groups:
        named, unnamed, asked = group.rows
        assert (named["site_named"], unnamed["site_named"]) == (True, False)
        assert named["task"] == unnamed["task"] == "diagnosis" and asked["task"] == "vqa"
        for row in group.rows:
            assert row["findings"] and row["answer"] not in row["findings"].split("\n")
            assert "Findings:" not in row["findings"] and "超声所见" not in row["findings"]


def test_the_same_order_draws_the_same_group(groups):
    again = make(ORDER, 5)
    assert again.rows == groups[5].rows and again.name == examination_name(ORDER, 5)
    assert all(
        np.array_equal(one.pixels, other.pixels)
        for one, other in zip(again.pictures, groups[5].pictures, strict=True)
    )

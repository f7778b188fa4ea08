"""The Quality page in a real Chromium, on the committed demo weights: rating, Stop, CSV, comparing."""

import csv
import re
from pathlib import Path

import pages
import pytest
from test_browser import CHROMIUM, PATIENCE, Visitor, browser, pytestmark  # noqa: F401

from apps.echovlm import examples
from apps.opening import Opening


@pytest.fixture(scope="module")
def server():
    """The rater on what it opens without being told: EchoVLM's demo weights, which never learned to rate."""
    opening = Opening("qbench", device="cpu")
    with pages.served(opening) as (address, page):
        yield address, page


class Rating(Visitor):
    """A visitor of the Quality page."""

    def open(self):
        self.page.goto(self.address)
        self.page.wait_for_selector("#quality-start")
        self.page.wait_for_function("window.ultrasoundLanguage")

    def add(self, task, files):
        self.page.locator(f"#{task}-files input[type=file]").first.set_input_files(
            [str(file) for file in files]
        )
        self.page.wait_for_function(
            f"document.querySelectorAll('#{task}-files tbody tr, #{task}-files .file').length >= {len(files)}"
        )

    def says(self, task, words):
        self.page.wait_for_function(
            f"document.querySelector('#{task}-status').innerText.match({words})", timeout=PATIENCE
        )

    def rows(self):
        """Numbers of the rows that the table shows."""
        cells = self.page.locator("#quality-table [role=gridcell]")
        return {text.strip() for text in cells.all_inner_texts() if text.strip()}


@pytest.fixture
def visit(browser, server):  # noqa: F811
    visitors = []

    def come(locale="en-US"):
        visitors.append(Rating(browser, server[0], locale))
        return visitors[-1]

    yield come
    for visitor in visitors:
        assert visitor.complaints == []
        assert all(url.startswith((server[0], "data:", "blob:")) for url in visitor.requests)
        visitor.context.close()


def pictures():
    return [file for example in examples() for file in example.files][:2]


def test_images_are_rated_and_saved(visit, tmp_path):
    visitor = visit()
    (tmp_path / "letter.png").write_text("Dear colleague")
    visitor.add("quality", [*pictures(), tmp_path / "letter.png"])
    visitor.page.locator("#quality-start").click()
    visitor.says("quality", "/Images rated: 2/")
    assert "could not be read: 1" in visitor.page.locator("#quality-status").inner_text()
    assert {"1", "2", "3"} <= visitor.rows()
    bars = visitor.page.locator("#quality-bars")
    assert bars.locator(".bar .fill").evaluate_all("all => all.map(one => one.className)") == [
        "fill low", "fill medium", "fill high"
    ]  # fmt: skip
    figures = [int(text.rstrip("%")) for text in bars.locator(".bar .figure").all_inner_texts()]
    assert sum(figures) == pytest.approx(100, abs=1)
    assert bars.locator("img").evaluate("one => one.complete && one.naturalWidth > 0")
    with visitor.page.expect_download() as download:
        visitor.page.locator("#quality-csv").click()
    assert download.value.suggested_filename == "quality.csv"
    saved = list(csv.DictReader(Path(download.value.path()).read_text("utf-8-sig").splitlines()))
    assert [row["image"] for row in saved][-1] == "letter.png" and saved[-1]["problem"]
    assert round(100 * float(saved[0]["low"])) == figures[0]


def test_stop_keeps_what_was_rated_and_the_page_lives_on(visit, tmp_path):
    visitor = visit()
    visitor.add("quality", [pages.write_png(tmp_path, f"{n}.png", n) for n in range(40)])
    visitor.page.locator("#quality-start").click()
    visitor.says("quality", "/of 40 files/")
    visitor.page.locator("#quality-stop").click()
    visitor.says("quality", "/Stopped/")
    kept = int(re.search(r"of (\d+) images", visitor.page.locator("#quality-status").inner_text())[1])
    assert 0 < kept < 40 and visitor.rows()
    visitor.page.wait_for_function("!document.querySelector('#quality-csv').disabled")
    visitor.page.wait_for_function("!document.querySelector('#quality-start').disabled")


def test_two_images_are_compared_under_a_slider_in_chinese(visit):
    visitor = visit("zh-CN")
    visitor.page.get_by_role("tab", name="比较").click()
    visitor.add("compare", pictures())
    visitor.page.locator("#compare-start").click()
    visitor.page.locator("#compare-verdict .verdict").wait_for()
    assert re.search(r"质量最好，概率 \d+%", visitor.page.locator("#compare-verdict").inner_text())
    visitor.page.locator("#compare-slider img").first.wait_for()
    assert visitor.page.locator("#compare-slider img").count() == 2
    visitor.says("compare", "/比较完成/")

"""The Quality page in a real Chromium, on the committed demo weights: rating, Stop, CSV, comparing."""

import csv
import re
from pathlib import Path

import pages
import pytest
import tiny
from PIL import Image
from test_browser import CHROMIUM, PATIENCE, Visitor, browser, pytestmark  # noqa: F401

from apps.echovlm import examples
from apps.opening import Opening


@pytest.fixture(scope="module")
def server():
    """The rater on its demo weights."""
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

    def heads(self, table):
        return self.page.locator(f"#{table} [role=columnheader]").all_inner_texts()

    def switch_language(self, table, head):
        self.page.locator("#switch-language").click()
        self.page.wait_for_function(f"document.querySelector('#{table}').innerText.includes('{head}')")

    def has_row(self, number):
        """Wait for it: the table is drawn after the status."""
        cells = self.page.locator("#quality-table [role=gridcell]")
        cells.filter(has_text=re.compile(rf"^\s*{number}\s*$")).first.wait_for()


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
    visitor.has_row(3)
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
    assert 0 < kept < 40
    visitor.has_row(1)
    visitor.page.wait_for_function("!document.querySelector('#quality-csv').disabled")
    visitor.page.wait_for_function("!document.querySelector('#quality-start').disabled")
    visitor.switch_language("quality-table", "评分")  # the prompts' language stays, so that it goes on
    visitor.page.locator("#quality-start").click()
    visitor.says("quality", "/先前已完成|已完成/")
    visitor.page.locator("#quality-stop").click()
    visitor.says("quality", "/已停止/")
    again = int(re.search(r"保留 (\d+) 幅", visitor.page.locator("#quality-status").inner_text())[1])
    assert again >= kept and "提示词为英文" in visitor.page.locator("#quality-status").inner_text()


def test_a_folder_is_rated_and_the_table_follows_the_pages_language(visit, tmp_path):
    visitor = visit()
    for number in range(2):
        pages.write_png(tmp_path, f"{number}.png", number)
    with visitor.page.expect_file_chooser() as chooser:
        visitor.page.locator("#quality-folder").click()
    chooser.value.set_files(str(tmp_path))
    visitor.page.wait_for_function("document.querySelectorAll('#quality-files tr.file').length == 2")
    visitor.page.locator("#quality-start").click()
    visitor.says("quality", "/Images rated: 2/")
    visitor.page.locator("#quality-table [role=gridcell]").first.wait_for()
    assert visitor.heads("quality-table")[:3] == ["No.", "Image", "Level"]
    visitor.switch_language("quality-table", "等级")
    assert visitor.heads("quality-table")[:3] == ["序号", "图像", "等级"]
    assert visitor.page.locator("#quality-bars .doubt").inner_text().startswith("⚠️ 与训练图像不同")


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


def test_the_slider_shows_whole_images_and_nothing_stale_outlives_an_error(visit, tmp_path):
    visitor = visit()
    visitor.page.get_by_role("tab", name="Compare").click()
    for number in range(2):
        Image.fromarray(tiny.frame(900, 700, seed=number).pixels).save(tmp_path / f"{number}.png")
    visitor.add("compare", sorted(tmp_path.iterdir()))
    visitor.page.locator("#compare-start").click()
    visitor.says("compare", "/Compared/")
    visitor.page.wait_for_function("document.querySelectorAll('#compare-slider img').length == 2")
    visitor.page.wait_for_function(
        "[...document.querySelectorAll('#compare-slider img')].every((one) => one.naturalWidth)"
    )
    gaps = visitor.page.evaluate(
        """() => [...document.querySelectorAll('#compare-slider img')].flatMap((image) => {
          const inner = image.getBoundingClientRect();
          const outer = image.closest('#compare-slider').getBoundingClientRect();
          return [inner.top - outer.top, outer.bottom - inner.bottom, inner.height - 100];
        })"""
    )
    assert min(gaps) >= 0
    visitor.page.locator("#compare-files button[aria-label='Remove this file']").first.click()
    visitor.page.wait_for_function("document.querySelectorAll('#compare-files tr.file').length == 1")
    visitor.page.locator("#compare-start").click()
    visitor.says("compare", "/two images or more/")
    visitor.page.wait_for_function("!document.querySelector('#compare-verdict').innerText.trim()")
    visitor.page.locator("#compare-slider").wait_for(state="hidden")
    visitor.page.locator("#compare-ranking").wait_for(state="hidden")


def test_a_phone_shows_every_choice_with_its_label(visit):
    visitor = visit()
    visitor.page.set_viewport_size({"width": 390, "height": 844})
    labels = visitor.page.locator(".quality-page .choices [data-testid=block-info]")
    assert min(box["width"] for box in (one.bounding_box() for one in labels.all())) > 20
    last = visitor.page.locator("#quality-prompt label").last.bounding_box()
    assert last["x"] + last["width"] <= 390 - 12


def test_on_a_phone_the_name_stays_while_a_row_is_moved(visit):
    visitor = visit()
    visitor.page.set_viewport_size({"width": 390, "height": 844})
    visitor.add("quality", pictures())
    visitor.page.locator("#quality-start").click()
    visitor.says("quality", "/Images rated: 2/")
    visitor.has_row(2)
    cells = visitor.page.locator("#quality-table [role=gridcell]")
    cells.filter(has_text=re.compile(r"^\s*(yes|no)\s*$")).first.scroll_into_view_if_needed()  # borderline
    name = cells.filter(has_text=Path(pictures()[0]).name).first.bounding_box()
    assert 0 <= name["x"] and name["x"] + name["width"] <= 390

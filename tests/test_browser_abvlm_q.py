"""The Planes page as a person sees it, in a real Chromium."""

from __future__ import annotations

import pages
import pytest
from test_apps_abvlm_q import FOUND, Told, ready, served
from test_browser import CHROMIUM, Visitor, browser, pytestmark  # noqa: F401

from apps.language import text
from assistants.abvlm_q.assistant import PlaneReply


class Clinician(Visitor):
    """A visitor of the Planes page."""

    def open(self):
        self.page.goto(self.address)
        self.page.wait_for_selector("#plane-file input[type=file]", state="attached")
        self.page.wait_for_function("window.ultrasoundLanguage")

    def judge(self, path):
        self.page.locator("#plane-file input[type=file]").set_input_files(path)
        self.page.wait_for_selector("#plane-verdict .plane-score")

    @property
    def score(self):
        return self.page.locator("#plane-verdict .plane-score strong").inner_text()

    def choose(self, dropdown, nth=0):
        self.page.locator(f"#{dropdown} input").click()
        self.page.get_by_role("option").nth(nth).click()


@pytest.fixture(scope="module")
def server():
    begun = PlaneReply("…", boxes=FOUND.boxes[:1])
    with served(ready(Told(begun, FOUND))) as (address, _):
        yield address


@pytest.fixture
def visit(browser, server):  # noqa: F811
    visitors = []

    def come(locale="en-US"):
        visitors.append(Clinician(browser, server, locale))
        return visitors[-1]

    yield come
    for visitor in visitors:
        visitor.context.close()


def test_one_image_is_judged_corrected_and_stays_the_visitors_own(visit, tmp_path):
    visitor, other = visit(), visit("zh-CN")
    visitor.judge(pages.write_png(tmp_path))
    page = visitor.page
    assert visitor.score == "8"
    marks = page.locator("#plane-picture .mark")
    assert [marks.nth(n).is_visible() for n in range(2)] == [True, True]
    page.locator("#plane-picture .legend .only-1").check()
    assert [marks.nth(n).is_visible() for n in range(2)] == [False, True]
    page.wait_for_function("document.querySelector('#plane-picture img').naturalWidth == 128")
    page.locator("#plane-correct button").first.click()
    visitor.choose("plane-struck")
    page.locator("#plane-strike").click()
    page.wait_for_function("document.querySelector('#plane-verdict strong').innerText == '10'")
    assert page.locator("#plane-verdict tr.struck").is_visible()
    visitor.choose("plane-added")
    page.locator("#plane-add").click()
    page.wait_for_function("document.querySelector('#plane-verdict strong').innerText != '10'")
    assert text("plane_by_clinician", "en") in page.locator("#plane-verdict").inner_text()
    visitor.choose("plane-boxed", 1)
    page.wait_for_function("document.querySelector('#plane-x1 input').value == '20'")
    page.locator("#plane-x1 input").fill("25")
    page.locator("#plane-box").click()
    page.wait_for_selector("#plane-picture rect[x='25']", state="attached")
    page.locator("#plane-new-box").click()
    page.wait_for_function("document.querySelector('#plane-status').innerText.includes('choose')")
    visitor.choose("plane-named", 0)
    page.locator("#plane-x1 input").fill("26")
    for edge, value in (("y1", 30), ("x2", 60), ("y2", 70)):
        page.locator(f"#plane-{edge} input").fill(str(value))
    page.locator("#plane-new-box").click()
    page.wait_for_selector("#plane-picture .mark-2", state="attached")
    visitor.choose("plane-planes", 0)
    page.locator("#plane-rename").click()
    page.wait_for_function("document.querySelectorAll('#plane-verdict .planes li').length == 2")
    assert other.page.locator("#plane-picture img").count() == 0
    assert not visitor.complaints


def test_the_page_changes_its_language_with_what_is_open(visit, tmp_path):
    visitor = visit("zh-CN")
    visitor.judge(pages.write_png(tmp_path))
    page = visitor.page
    assert "脾脏长轴切面" in page.locator("#plane-verdict").inner_text()
    page.locator("#switch-language").click()
    page.wait_for_function("document.querySelector('#plane-verdict').innerText.includes('spleen with')")
    assert visitor.score == "8"
    page.locator("#plane-correct button").first.click()
    page.wait_for_timeout(500)
    visitor.page.locator("#plane-struck input").click()
    assert "spleen" in page.get_by_role("option").first.inner_text()


def test_a_folder_becomes_a_table_and_a_row_opens(visit, tmp_path):
    visitor = visit()
    page = visitor.page
    page.get_by_role("tab", name="Folder").click()
    folder = tmp_path / "folder"
    folder.mkdir()
    for n in range(3):
        pages.write_png(folder, f"{n}.png", n)
    page.locator("#plane-files input[type=file]").set_input_files(str(folder))
    page.wait_for_function("document.querySelector('#plane-files').innerText.split('.png').length == 4")
    page.locator("#plane-run").click()
    page.wait_for_function("document.querySelector('#plane-progress').innerText.includes('3 of 3')")
    assert page.locator("#plane-histogram table").is_visible()
    with page.expect_download() as download:
        page.locator("#plane-csv").click()
    assert download.value.suggested_filename == "planes.csv"
    page.locator("#plane-table >> text=2.png >> visible=true").first.click()
    page.wait_for_function("document.querySelector('#plane-status').innerText.includes('2.png')")
    assert page.locator("#plane-picture img").is_visible() and visitor.score == "8"
    assert not visitor.complaints

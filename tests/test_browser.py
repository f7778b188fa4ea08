"""The page as a person sees it, in a real Chromium."""

import os
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pages
import pytest
import tiny

from apps import privacy
from apps.opening import Opening

sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright here: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no browser here: apt-get install chromium fonts-noto-cjk runs these checks"
)
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-dev-shm-usage --disable-sync "
    "--disable-background-networking --disable-component-update"
).split()
PATIENCE = 60_000  # milliseconds; a machine may be busy


@pytest.fixture(scope="module")
def opening(tmp_path_factory):
    """Tiny weights, their tokens slowed so that there is time to press a button."""
    opening = Opening("echovlm", str(tiny.save(tmp_path_factory.mktemp("weights"))), device="cpu")
    opening._open()
    assistant = opening.assistant
    assistant.watched = tiny.Watched(assistant.backbone.model, slow=0.0)
    assistant._writer._model = assistant.watched
    return opening


@pytest.fixture(scope="module")
def server(opening):
    with pages.served(opening) as (address, page):
        yield address, page


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=QUIET)
        yield browser
        browser.close()


class Visitor:
    """One person at one browser, with everything their browser asked for."""

    def __init__(self, browser, address, locale="en-US", **options):
        self.context = browser.new_context(locale=locale, viewport={"width": 1280, "height": 900}, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.requests = []
        self.complaints = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.address = address
        self.open()

    def open(self):
        self.page.goto(self.address)
        self.page.wait_for_selector("#report-box textarea")
        self.page.wait_for_function("window.ultrasoundLanguage")

    @property
    def box(self):
        return self.page.locator("#report-box textarea")

    @property
    def answers(self):
        return self.page.locator("#report-chat [data-testid=bot]")

    @property
    def status(self):
        return self.page.locator("#report-status")

    def attach(self, *files):
        already = self.page.locator("#report-box .thumbnail-item").count()
        self.page.locator("#report-box input[type=file]").first.set_input_files(list(files))
        self.page.wait_for_function(
            f"document.querySelectorAll('#report-box .thumbnail-item').length == {already + len(files)}"
        )

    def send(self, words=""):
        self.box.fill(words)
        self.box.press("Enter")

    def wait_until_done(self, answers=1):
        self.page.wait_for_function(
            f"document.querySelectorAll('#report-chat [data-testid=bot]').length >= {answers}"
        )
        self.page.wait_for_selector("#report-box [data-testid=submit-button]")
        self.page.wait_for_function(
            "document.querySelector('#report-status').innerText.match(/token|Stopped|停止/)"
        )

    def wait_until(self, condition):
        for _ in range(PATIENCE // 50):
            if condition():
                return
            self.page.wait_for_timeout(50)
        raise AssertionError("it never came true")

    def press(self, name, nth=-1):
        self.page.locator("#report-chat").get_by_role("button", name=name).nth(nth).click()


@pytest.fixture
def visit(browser, server):
    visitors = []

    def come(locale="en-US", **options):
        visitors.append(Visitor(browser, server[0], locale, **options))
        return visitors[-1]

    yield come
    for visitor in visitors:
        assert visitor.complaints == []
        visitor.context.close()


@pytest.fixture
def files(tmp_path):
    return [
        pages.write_png(tmp_path, "a.png", 1),
        pages.write_png(tmp_path, "b.png", 2),
        pages.write_dicom(tmp_path, "IM_0001", frames=2),
    ]


def test_images_and_a_dicom_are_shown_and_answered(visit, files):
    visitor = visit()
    visitor.attach(*files)
    visitor.send()
    visitor.wait_until_done()
    shown = visitor.page.locator("#report-chat .user-row img")
    assert shown.count() == 4  # two pictures, two frames
    assert shown.evaluate_all("images => images.every(image => image.complete && image.naturalWidth > 0)")
    assert shown.evaluate_all("images => images.map(image => image.alt)") == [
        f"Image {n}" for n in (1, 2, 3, 4)
    ]
    assert "Please write a report" in visitor.page.locator("#report-chat .user-row").last.inner_text()
    assert visitor.answers.last.inner_text().strip()
    assert re.search(r"First word after [\d.]+ s", visitor.status.inner_text())
    assert visitor.page.locator("#report-box .thumbnail-item").count() == 0


def test_follow_ups_keep_the_images_in_view(visit, files, opening, monkeypatch):
    asked = []
    real = opening.assistant.stream
    monkeypatch.setattr(
        opening.assistant,
        "stream",
        lambda turn, history, s: (asked.append((turn, history)), real(turn, history, s))[1],
    )
    visitor = visit()
    visitor.attach(*files[:2])
    visitor.send("Which organ?")
    visitor.wait_until_done(1)
    visitor.send("And where?")
    visitor.wait_until_done(2)
    turn, history = asked[-1]
    assert turn.text == "And where?" and turn.frames == ()
    assert len(history[0].frames) == 2 and history[0].text.startswith("Which organ?")


def test_stop_ends_generation_and_the_page_lives_on(visit, files, opening, monkeypatch):
    watched = opening.assistant.watched
    monkeypatch.setattr(watched, "_slow", 0.25)  # two minutes for the whole answer: nobody waits that long
    visitor = visit()
    visitor.attach(files[0])
    visitor.send("Go on for ever")
    visitor.answers.first.wait_for()
    visitor.page.locator("#report-box .stop-button").click()
    visitor.page.get_by_text("Stopped.").wait_for()
    visitor.page.wait_for_function("document.querySelector('#report-box [data-testid=submit-button]')")
    visitor.wait_until(lambda: not watched.running)
    assert visitor.answers.first.inner_text().strip()  # what was written stays
    monkeypatch.setattr(watched, "_slow", 0.0)
    visitor.send("Once more")
    visitor.wait_until_done(2)


def test_retry_edit_and_undo(visit, files, opening):
    watched = opening.assistant.watched
    visitor = visit()
    visitor.attach(files[0])
    visitor.send("How large is it?")
    visitor.wait_until_done()
    first = visitor.answers.last.inner_text()
    written = watched.steps
    visitor.press("Retry")
    visitor.wait_until(lambda: watched.steps > written and not watched.running)
    visitor.wait_until(lambda: visitor.answers.last.inner_text() == first)  # greedy
    visitor.press("Edit")
    field = visitor.page.locator("#report-chat textarea").last
    field.fill("How small is it?")
    visitor.press("Submit")
    visitor.page.locator("#report-chat .user-row", has_text="How small is it?").wait_for()
    visitor.wait_until_done()
    assert visitor.page.locator("#report-chat .user-row img").count() == 1
    visitor.press("Undo")
    visitor.page.wait_for_function("document.querySelectorAll('#report-chat .message-row').length == 0")
    visitor.page.wait_for_function(
        "document.querySelector('#report-box textarea').value == 'How small is it?'"
    )
    visitor.page.locator("#report-box .thumbnail-item").wait_for()
    visitor.box.press("Enter")
    visitor.wait_until_done()


def test_a_bad_file_loses_nothing(visit, files, tmp_path):
    letter = tmp_path / "letter.png"
    letter.write_text("Dear colleague")
    visitor = visit("zh-CN")
    visitor.attach(files[0], str(letter))
    visitor.send("多大？")
    alert = visitor.page.locator("#report-status [role=alert]")
    alert.wait_for()
    assert "letter.png" in alert.inner_text() and "不是可读取的图像" in alert.inner_text()
    assert visitor.box.input_value() == "多大？"
    assert visitor.page.locator("#report-box .thumbnail-item").count() == 2
    visitor.page.locator("#report-box .delete-button").nth(1).click()
    visitor.box.press("Enter")
    visitor.wait_until_done()


@pytest.mark.parametrize(
    ("locale", "language", "task"),
    [
        ("en-US", "en", "Diagnosis"),
        ("zh-CN", "zh-CN", "诊断"),
        ("zh-HK", "zh-CN", "诊断"),
        ("zh", "zh-CN", "诊断"),
    ],
)
def test_the_page_speaks_the_browsers_language(visit, locale, language, task):
    visitor = visit(locale)
    visitor.page.locator("#report-task").get_by_text(task).wait_for()
    assert visitor.page.evaluate("document.documentElement.lang") == language


def test_the_switch_keeps_the_conversation_and_is_remembered(visit, files):
    visitor = visit()
    visitor.attach(files[0])
    visitor.send()
    visitor.wait_until_done()
    before = visitor.answers.last.inner_text()
    visitor.page.locator("#switch-language").click()
    visitor.page.locator("#report-task").get_by_text("诊断").wait_for()
    assert visitor.answers.last.inner_text() == before
    assert visitor.page.locator("h1").inner_text() == "超声助手"
    assert visitor.page.locator("#report-language input[value=zh]").is_checked()
    tabs = visitor.page.locator("#tabs > * button[role=tab]").all_inner_texts()
    assert len(tabs) > 1 and not [tab for tab in tabs if tab.isascii()]  # those never opened as well
    visitor.send("多大？")
    visitor.wait_until_done(2)
    assert "首字" in visitor.status.inner_text()
    visitor.open()
    visitor.page.locator("#report-task").get_by_text("诊断").wait_for()
    visitor.page.locator("#switch-language").click()
    visitor.page.locator("#report-task").get_by_text("Diagnosis").wait_for()


def test_two_browsers_never_see_each_others_images_or_words(visit, files):
    one, other = visit(), visit("zh-CN")
    one.attach(files[0])
    other.attach(files[1])
    one.send("WORDS OF ONE")
    other.send("另一人的话")
    one.wait_until_done()
    other.wait_until_done()
    assert "另一人的话" not in one.page.content()
    assert "WORDS OF ONE" not in other.page.content()
    images = [
        set(visitor.page.eval_on_selector_all(".user-row img", "i => i.map(x => x.src)"))
        for visitor in (one, other)
    ]
    assert len(images[0]) == len(images[1]) == 1 and not images[0] & images[1]
    late = visit()
    assert late.page.locator(".message-row").count() == 0


def test_a_reload_starts_afresh_and_works(visit, files):
    visitor = visit()
    visitor.attach(files[0])
    visitor.send()
    visitor.wait_until_done()
    visitor.open()
    assert visitor.page.locator(".message-row").count() == 0
    visitor.attach(files[1])
    visitor.send()
    visitor.wait_until_done()


def test_no_request_leaves_the_machine_and_nothing_can_be_shared(visit, files, server):
    visitor = visit()
    visitor.attach(*files)
    visitor.send()
    visitor.wait_until_done()
    hosts = {
        urlsplit(url).hostname for url in visitor.requests if urlsplit(url).scheme in ("http", "https", "ws")
    }
    assert hosts == {urlsplit(server[0]).hostname}
    share = visitor.page.locator("button[aria-label=Share], button[aria-label=分享]")
    assert not any(share.nth(n).is_visible() for n in range(share.count()))
    kept = visitor.page.evaluate("JSON.stringify(localStorage) + JSON.stringify(sessionStorage)")
    assert "Please write" not in kept and "frame" not in kept


def test_images_of_a_conversation_are_deleted_in_time(visit, files, server):
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    visitor = visit()
    visitor.attach(*files)
    visitor.send()
    visitor.wait_until_done()
    assert list(folder.rglob("frame.png"))
    privacy.delete_older(folder, -1)
    visitor.send("And now?")
    visitor.page.locator("#report-status [role=alert]", has_text="deleted after an hour").wait_for()
    assert visitor.page.locator("#report-box [data-testid=submit-button]").count() == 1


def test_the_page_says_what_it_is(visit):
    visitor = visit()
    assert visitor.page.locator("h1:visible").count() == 1
    strip = visitor.page.locator("#notices").inner_text()
    assert "Research use only" in strip and "仅供研究" in strip
    visitor.page.locator("#badges .ready").wait_for()
    assert re.search(r"EchoVLM · .+ · CPU", visitor.page.locator("#badges").inner_text())


def test_unfamiliar_images_carry_a_notice_above_the_answer(visit, files, opening, monkeypatch):
    class Doubt:
        def unfamiliar(self, model, pixel_values, image_grid_thw):
            return [False, True]

    monkeypatch.setattr(opening.assistant, "_familiarity", Doubt())
    visitor = visit()
    visitor.attach(*files[:2])
    visitor.send()
    visitor.wait_until_done(2)
    assert "Image 2 is unlike" in visitor.answers.first.inner_text()
    assert "means nothing" not in visitor.answers.nth(1).inner_text()


def test_keyboard_alone_is_enough(visit, files):
    visitor = visit()
    visitor.page.locator("#report-task input[value=diagnosis]").focus()
    visitor.page.keyboard.press("Space")
    assert visitor.page.locator("#report-task input[value=diagnosis]").is_checked()
    visitor.attach(files[0])
    visitor.box.focus()
    visitor.page.keyboard.press("Enter")
    visitor.wait_until_done()
    assert "Please give the diagnosis" in visitor.page.locator(".user-row").last.inner_text()


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_files_may_be_dropped_and_pasted_anywhere(visit, event):
    visitor = visit()
    visitor.page.evaluate(
        """async (event) => {
            const canvas = document.createElement("canvas");
            canvas.width = canvas.height = 64;
            const blob = await new Promise((done) => canvas.toBlob(done));
            const data = new DataTransfer();
            data.items.add(new File([blob], "scan.png", { type: "image/png" }));
            const options = { bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data };
            const Kind = event === "drop" ? DragEvent : ClipboardEvent;
            document.querySelector("#header").dispatchEvent(new Kind(event, options));
        }""",
        event,
    )
    visitor.page.locator("#report-box .thumbnail-item").wait_for()
    visitor.send()
    visitor.wait_until_done()
    assert visitor.page.locator("#report-chat .user-row img").count() == 1

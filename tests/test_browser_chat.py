"""The Chat page in a real Chromium: the step that shows the frames, a click on another one, and whether the
frame with the lesion is found."""

import threading
from itertools import count

import pages
import pytest
from PIL import Image
from test_browser import CHROMIUM, PATIENCE, Visitor, browser, pytestmark  # noqa: F401

from apps.opening import Opening
from apps.page import compose, launch_options
from assistants.selection import SelectionReply
from simulator.cases import Order
from simulator.group import make

FRAMES = 5
SMALL_PX = 16  # long axis; what is smaller is counted over many cases (benchmarks/llava_ultra_selection.py)


@pytest.fixture(scope="module")
def server():
    """EchoVLM's committed demo weights, with the choice by attention in front."""
    opening = Opening("echovlm", device="cpu")
    with pages.served(opening) as (address, page):
        yield address, page


@pytest.fixture
def visitor(browser, server):  # noqa: F811
    visitor = Visitor(browser, server[0])
    visitor.page.get_by_role("tab", name="Chat").click()
    visitor.page.wait_for_selector("#chat-box textarea")
    yield visitor
    assert visitor.complaints == []
    visitor.context.close()


def ask(visitor, files, words):
    page = visitor.page
    page.locator("#chat-box input[type=file]").first.set_input_files(files)
    page.wait_for_function(f"document.querySelectorAll('#chat-box .thumbnail-item').length == {len(files)}")
    page.locator("#chat-box textarea").fill(words)
    page.locator("#chat-box textarea").press("Enter")
    wait_until_done(visitor)


def wait_until_done(visitor):
    visitor.page.wait_for_function("document.querySelector('#chat-status').innerText.match(/token/)")
    visitor.page.wait_for_selector("#chat-box [data-testid=submit-button]")


def frames_of(visitor):
    return visitor.page.locator("#chat-chat .frames .frame")


def test_the_step_shows_the_frames_and_a_click_answers_from_another(visitor, tmp_path):
    files = [pages.write_png(tmp_path, f"{seed}.png", seed) for seed in range(FRAMES)]
    ask(visitor, files, "Is there a nodule?")
    title = visitor.page.locator("#chat-chat").get_by_text(f"Looked at {FRAMES} frames, used frame")
    title.wait_for()
    assert not frames_of(visitor).first.is_visible()  # folded until somebody wants to see it
    title.click()
    frames_of(visitor).first.wait_for()
    assert frames_of(visitor).count() == FRAMES
    pictures = visitor.page.locator("#chat-chat .frames img")
    visitor.wait_until(
        lambda: pictures.evaluate_all("all => all.every(one => one.complete && one.naturalWidth > 0)")
    )
    used = visitor.page.locator("#chat-chat .frames .frame.kept b").inner_text()
    assert title.inner_text().strip().endswith(f"used frame {used}")
    assert "this case only" in visitor.page.locator("#chat-chat .why").inner_text()
    other = next(number for number in range(1, FRAMES + 1) if number != int(used))
    frames_of(visitor).nth(other - 1).click()
    changed = visitor.page.locator("#chat-chat").get_by_text(f"used frame {other}")
    changed.wait_for()
    wait_until_done(visitor)
    changed.click()  # the new step is folded, too
    assert visitor.page.locator("#chat-chat .frames .frame.kept b").text_content() == str(other)
    assert visitor.page.locator("#chat-chat .user-row img").count() == FRAMES


class Held(pages.Fixed):
    """An assistant that begins to answer and goes on when it is let."""

    def __init__(self, *replies):
        super().__init__(*replies)
        self.go_on = threading.Event()

    def stream(self, turn, history=(), settings=None):
        for reply in super().stream(turn, history, settings):
            yield reply
            self.go_on.wait(60)


@pytest.fixture(scope="module")
def held():
    """The address of a page whose assistant stops after its first words, and that assistant."""
    selection = {"frames": 12, "kept": [1], "scores": [1 / 12] * 12, "how": "attention", "redundant": []}
    told = {"seconds_to_first_token": 0.1, "selection": selection}
    done = SelectionReply("A cyst.", finished=True, stopped_by="end", new_tokens=3, **told)
    assistant = Held(SelectionReply("A", **told), done)
    with pages.served(pages.ready(assistant)) as (address, _):
        yield address, assistant


@pytest.fixture
def reader(browser, held):  # noqa: F811
    held[1].go_on.set()
    visitor = Visitor(browser, held[0])
    visitor.page.get_by_role("tab", name="Chat").click()
    visitor.page.wait_for_selector("#chat-box textarea")
    yield visitor
    held[1].go_on.set()
    assert visitor.complaints == []
    visitor.context.close()


DIMMED_OR_FRAMED = """image => {
  const around = [];
  for (let each = image; !each.matches(".message"); each = each.parentElement) around.push(each);
  const looks = (each) => getComputedStyle(each);
  const framed = (each) => each.matches(".thought-group") && looks(each).borderTopStyle !== "none";
  return around.filter((each) => looks(each).opacity < 1 || framed(each)).map((each) => each.className);
}"""


def many(folder):
    return [pages.write_png(folder, f"{seed}.png", seed) for seed in range(12)]


def test_enter_waits_while_an_answer_is_written(reader, held, tmp_path):
    held[1].go_on.clear()
    held[1].asked.clear()
    page, box = reader.page, reader.page.locator("#chat-box textarea")
    page.locator("#chat-box input[type=file]").first.set_input_files(many(tmp_path)[:1])
    page.wait_for_selector("#chat-box .thumbnail-item")
    box.fill("A lesion?")
    box.press("Enter")
    page.wait_for_function("document.querySelector('#chat-status').innerText.match(/Writing/)")
    box.fill("And now?")
    box.press("Enter")
    page.wait_for_timeout(500)
    held[1].go_on.set()
    wait_until_done(reader)
    assert box.input_value() == "And now?" and len(held[1].asked) == 1
    assert page.locator("#chat-chat [data-testid=bot]").last.inner_text() == "A cyst."
    box.press("Enter")
    reader.wait_until(lambda: len(held[1].asked) == 2)


def test_what_goes_wrong_stays_in_sight_beside_a_long_conversation(reader, tmp_path):
    files = many(tmp_path)
    ask(reader, files, "A lesion?")
    page = reader.page
    files = [*files, *files, *files][:33]
    page.locator("#chat-box input[type=file]").first.set_input_files(files)
    page.wait_for_function("document.querySelectorAll('#chat-box .thumbnail-item').length == 33")
    page.locator("#chat-box textarea").fill("And now? " * 60)
    page.locator("#chat-box textarea").press("Enter")
    problem = page.locator("#chat-status .problem")
    problem.wait_for()
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")
    place = problem.bounding_box()
    assert place["y"] + place["height"] < 900
    assert page.locator("#chat-chat").bounding_box()["height"] >= 240


def test_a_step_is_one_box_with_its_images_in_full_light_and_no_markup_to_copy(reader, tmp_path):
    ask(reader, many(tmp_path), "A lesion?")
    reader.page.locator("#chat-chat").get_by_text("used frame 2").click()
    frames_of(reader).first.wait_for()
    image = frames_of(reader).first.locator("img")
    undimmed = f"image => ({DIMMED_OR_FRAMED})(image).length === 0"  # the step fades in while it unfolds
    reader.page.wait_for_function(undimmed, arg=image.element_handle())
    buttons = reader.page.locator("#chat-chat .message-row:has(.frames) + .message-buttons button:visible")
    assert buttons.count() == 0


# --- the trained score --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_demo_weights():
    """LLaVA-Ultra's demo weights as the Chat tab's first choice, EchoVLM's beside them."""
    openings = {name: Opening(name, device="cpu") for name in ("echovlm", "llava_ultra")}
    page = compose(openings)
    _, address, _ = page.launch(prevent_thread_lock=True, **launch_options())
    try:
        for opening in openings.values():
            opening.start()
            opening.wait(60)
            opening.require()
        yield address
    finally:
        page.close(verbose=False)


def a_lesion_in_one_of_five_frames(folder):
    """Files of a simulated sweep, and the number (from 1) of the only one that shows the lesion. It is not
    the first, which a score that knows nothing would choose."""
    for number in count():
        group = make(Order(seed=20262, tasks=("group",)), number)
        areas = group.rows[0]["cross_section"]
        largest = areas.index(max(areas))
        empty = [i for i, area in enumerate(areas) if area == 0][: FRAMES - 1]
        kept = sorted([*empty, largest])
        if len(kept) == FRAMES and largest > kept[0] and group.rows[0]["lesion_px"] > SMALL_PX:
            break
    files = [str(folder / f"{i}.png") for i in range(FRAMES)]
    for file, i in zip(files, kept, strict=True):
        Image.fromarray(group.pictures[i].pixels).save(file)
    return files, kept.index(largest) + 1


def test_the_frame_with_the_lesion_is_the_marked_one(browser, with_demo_weights, tmp_path):  # noqa: F811
    files, right = a_lesion_in_one_of_five_frames(tmp_path)
    visitor = Visitor(browser, with_demo_weights)
    visitor.page.get_by_role("tab", name="Chat").click()
    visitor.page.wait_for_selector("#chat-box textarea")
    ask(visitor, files, "Please give the diagnosis based on these ultrasound images.")
    chat = visitor.page.locator("#chat-chat")
    title = chat.get_by_text(f"Looked at {FRAMES} frames, used frame")
    assert title.inner_text().strip().endswith(f"used frame {right}")  # named
    title.click()
    frames_of(visitor).first.wait_for()
    assert visitor.page.locator("#chat-chat .frames .frame.kept b").all_inner_texts() == [
        str(right)
    ]  # marked
    assert "trained score" in visitor.page.locator("#chat-chat .why").inner_text()
    assert len(chat.locator("[data-testid=bot]").last.inner_text().strip()) > 10  # and answered from
    assert visitor.complaints == []
    visitor.context.close()

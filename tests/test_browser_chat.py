"""The Chat page in a real Chromium: the step that shows the frames, a click on another one, and whether the
frame with the lesion is found."""

from itertools import count
from pathlib import Path

import pages
import pytest
from PIL import Image
from test_browser import CHROMIUM, PATIENCE, Visitor, browser, pytestmark  # noqa: F401

from apps.opening import Opening
from apps.page import compose, launch_options
from simulator.cases import Order
from simulator.group import make

FRAMES = 5
DEMO = Path(__file__).parents[1] / "weights/demo/llava_ultra"
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


@pytest.mark.skipif(
    not DEMO.is_dir(), reason="waits for weights/demo/llava_ultra: only they know what a lesion looks like"
)
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

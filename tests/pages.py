"""A running page on tiny weights, for the tests that ask it as a program or as a browser would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dicoms
import numpy as np
import tiny
from PIL import Image

from apps.privacy import prepare_environment

prepare_environment()  # before gradio is imported, as app.py does

from apps.opening import Opening  # noqa: E402
from apps.page import Page, compose, launch_options  # noqa: E402
from assistants.echovlm import prompts  # noqa: E402


@contextmanager
def served(opening: Opening) -> Iterator[tuple[str, Page]]:
    """The page's address, while it runs in this process. Weights are opened if they are not yet."""
    page = compose({opening.name: opening})
    _, address, _ = page.launch(prevent_thread_lock=True, **launch_options())
    if not opening.done:
        opening.start()
        opening.wait(60)
    try:
        yield address, page
    finally:
        page.close(verbose=False)


def write_png(folder: Path, name: str = "scan.png", seed: int = 0) -> str:
    path = folder / name
    Image.fromarray(tiny.frame(96, 128, seed=seed).pixels).save(path, "PNG")
    return str(path)


def write_dicom(folder: Path, name: str = "IM_0001", frames: int = 1) -> str:
    """An ultrasound DICOM without an ending, a still or a cine."""
    pixels = np.random.default_rng(7).integers(0, 256, (frames, 96, 128), dtype=np.uint8)
    path = folder / name
    dicoms.dataset(pixels).save_as(path, enforce_file_format=True)
    return str(path)


class Fixed:
    """An assistant that says what it is told to; with an exception, up to there."""

    name, title, demo, device = "echovlm", "EchoVLM · demo weights", True, "cpu"

    def __init__(self, *replies):
        self.replies = replies
        self.asked = []

    def request(self, turn):
        return prompts.request(turn)

    def stream(self, turn, history=(), settings=None):
        self.asked.append((turn, list(history)))
        for reply in self.replies:
            if isinstance(reply, Exception):
                raise reply
            yield reply


def ready(assistant):
    opening = Opening("echovlm")
    opening.assistant = assistant
    opening._done.set()
    return opening

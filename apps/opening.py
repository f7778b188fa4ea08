"""An assistant whose weights load while the page is already there.

Opening a model takes from a second to minutes; the page must not wait for it. Knows nothing of
components or layout.
"""

from __future__ import annotations

import html
import logging
from threading import Event, Thread

from apps.language import LANGUAGES, both, text
from assistants.base import Assistant, open_assistant
from models.errors import ModelError

log = logging.getLogger(__name__)


class NotOpened(RuntimeError):
    """The weights could not be loaded. `message` gives the true cause."""

    def __init__(self, cause: Exception):
        super().__init__(_why(cause, "en"))
        self.cause = cause

    def message(self, language: str) -> str:
        return text("load_failed", language, cause=_why(self.cause, language))


class Opening:
    """One assistant on its way. `assistant` is None until it is `done`, and stays None when it failed."""

    def __init__(
        self,
        name: str,
        weights: str | None = None,
        *,
        device: str = "auto",
        quantize: str | None = None,
        planes: str | None = None,
    ):
        """`planes` is the file of a hospital's own protocol, for abvlm_q alone."""
        self.name = name
        self.weights = weights
        self.assistant: Assistant | None = None
        self.error: Exception | None = None
        self._options = {"device": device, "quantize": quantize, "planes": planes}
        self._done = Event()

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def start(self) -> None:
        Thread(target=self._open, name=f"open {self.name}", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds`; whether it is done."""
        return self._done.wait(seconds)

    def _open(self) -> None:
        try:
            self.assistant = open_assistant(self.name, self.weights, **self._options)
        except Exception as error:  # whatever it is, the page shows it as the cause
            expected = isinstance(error, ModelError)  # its sentence says all there is to say
            log.error(
                "could not open %s with weights %s: %s",
                self.name,
                self.weights or "demo",
                error,
                exc_info=not expected,
            )
            self.error = error
        self._done.set()

    def require(self) -> Assistant:
        """The assistant, once `done`; NotOpened when there is none."""
        if self.error is not None:
            raise NotOpened(self.error)
        return self.assistant

    def failure_notice(self) -> str:
        """Why there is none, as HTML in both languages."""
        why = NotOpened(self.error)
        told = "".join(f'<span lang="{each}">{html.escape(why.message(each))}</span>' for each in LANGUAGES)
        return f'<p class="problem" role="alert">{told}</p>'

    def badge(self) -> str:
        """Model, weights and device as HTML in both languages, for the page's header."""
        if self.error is not None:
            return _badge("failed", both("badge_failed"))
        if self.assistant is None:
            return _badge("loading", both("badge_loading"))
        parts = [html.escape(part) for part in self.assistant.title.split(" · ")]
        if self.assistant.demo:
            parts = [both("badge_demo") if part == "demo weights" else part for part in parts]
        return _badge("ready", " · ".join([*parts, self.assistant.device.upper()]))


def _why(cause: Exception, language: str) -> str:
    """What an exception says to a person: its own text in `language`, or its type and message."""
    if hasattr(cause, "message"):
        return cause.message(language)
    return f"{type(cause).__name__}: {cause}"


def _badge(state: str, content: str) -> str:
    return f'<span class="badge {state}" role="status"><span>{content}</span></span>'

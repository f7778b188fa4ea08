"""What can go wrong between a request and its answer, in both languages, so that a page can show it as is."""

from __future__ import annotations


class ModelError(RuntimeError):
    """A failure a person can act on. `str(error)` is the English text; `message("zh")` the Chinese one."""

    def __init__(self, en: str, zh: str):
        super().__init__(en)
        self.texts = {"en": en, "zh": zh}

    def message(self, language: str) -> str:
        """The text in `language`, "zh" or "en"."""
        return self.texts[language]


class ContextOverflow(ModelError):
    """The prompt leaves no room for an answer."""


class OutOfMemory(ModelError):
    """The device ran out of memory; the model is still loaded and can be asked again with less."""


class DeviceUnavailable(ModelError):
    """The machine has not got what was asked for: a GPU, or the package for quantised weights."""


class UnusableImage(ModelError):
    """An image was read but cannot be cut into patches."""

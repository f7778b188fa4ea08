"""What every assistant of the suite is: a question with frames goes in, a growing reply comes out.

The contract between the pages, the evaluation and the four systems. An assistant holds weights and never a
conversation: the history comes with each call, so two users can never see each other's text or images.

Knows nothing of browsers, files, prompts or any one system's architecture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Protocol

from imaging.frame import Frame

NAMES = ("echovlm", "llava_ultra", "qbench", "abvlm_q")
DEMO_MARK = "demo.json"  # training leaves it in every folder that learned from simulated images alone
_DEMO = Path(__file__).parents[1] / "weights" / "demo"
_OPENING = Lock()


@dataclass(frozen=True)
class Turn:
    """What a person asks: free text, the frames that come with it, and what the answer should be.

    `task` is "report", "diagnosis", "vqa" (a question) or "plane" (AbVLM-Q's one); `organ` is one of the
    assistant's organs or None to let the model say; `language` is "zh" or "en", the language of the answer.
    An empty `text` stands for the task's standard request. `chosen` holds the frames that a person wants the
    answer from, as indices into all frames in view, oldest first; empty leaves the choice to the assistant.
    """

    text: str = ""
    frames: tuple[Frame, ...] = ()
    task: str = "vqa"
    organ: str | None = None
    language: str = "en"
    chosen: tuple[int, ...] = ()


@dataclass(frozen=True)
class Reply:
    """The answer so far. Each Reply of a stream replaces the one before; the last has `finished` set.

    `unfamiliar` holds the indices (into all frames in view, oldest first) of images unlike anything the demo
    weights were trained on: the text then means nothing, and the page must say so. Always empty for published
    weights. `stopped_by` is "end" (the model finished) or "length" (the token budget ran out).
    """

    text: str
    finished: bool = False
    stopped_by: str | None = None
    unfamiliar: tuple[int, ...] = ()
    prompt_tokens: int = 0
    new_tokens: int = 0
    seconds_to_first_token: float | None = None


@dataclass(frozen=True)
class Settings:
    """How to generate. Greedy by default, as EchoVLM's paper evaluates ("Implementation Details").

    `max_pixels` is the budget per image, 392 x 392 as in EchoVLM's Table 8; None keeps the checkpoint's own.
    `keep` is how many of the frames in view the language model may read, the assistant choosing which; None
    leaves it to the assistant (LLaVA-Ultra's weights say a number, the others read all).
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    max_pixels: int | None = 392 * 392
    seed: int | None = None
    keep: int | None = None


class Assistant(Protocol):
    """`stream` may be closed at any time: generation then stops within one token and the device is free.

    An exception in the generating thread reaches the caller of `stream` as that exception.
    """

    name: str
    title: str  # "EchoVLM · demo weights", for the page's badge
    demo: bool  # True when these are the small weights trained on simulated images
    device: str
    dtype: str  # "bfloat16", or "bfloat16 4bit" when quantised: answers depend on it
    settings: Settings  # what holds where a caller names none
    folders: tuple[Path, ...]  # where all lies that its answers come from: weights, tokenizer, template

    def request(self, turn: Turn) -> str:
        """The words the model will read for `turn`, standard wording included: what a page should show."""
        ...

    def stream(
        self, turn: Turn, history: Sequence[Turn | Reply] = (), settings: Settings | None = None
    ) -> Iterator[Reply]: ...

    def answer(self, turns: Sequence[Turn], settings: Settings | None = None) -> list[Reply]:
        """The last reply to each of several turns, as `stream` gives it, all written at once.

        The turns share no history. One that cannot be answered fails the whole call with its own error.
        """
        ...


def demo_weights(name: str) -> Path | None:
    """The folder of an assistant's demo weights, whole or an adapter; None where this copy has none."""
    folder = _DEMO / name
    found = any((folder / file).is_file() for file in ("config.json", "adapter_config.json"))
    return folder if found else None


def require_demo_weights(name: str) -> Path:
    """`demo_weights`, or a `models.checkpoint.CheckpointError` that says how to make them."""
    if folder := demo_weights(name):
        return folder
    from models.checkpoint import CheckpointError  # brings torch with it, which this contract does not need

    command = f"python -m training training/recipes/demo_{name}.yaml --publish"
    raise CheckpointError(
        f"This copy has no demo weights in weights/demo/{name}. Make them: {command}; "
        f"or name others: --weights {name}=PATH_OR_ID",
        f"本副本的 weights/demo/{name} 中没有演示权重。可用以下命令生成：{command}；"
        f"或用 --weights {name}=路径或编号 指定其他权重。",
    )


def open_assistant(
    name: str,
    weights: str | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    planes: str | Path | None = None,
) -> Assistant:
    """Open one of the suite's assistants.

    `weights` is None (the demo weights of this repository), a local folder, or a Hugging Face id with an
    optional `@revision`. `device` is "auto", "cpu", "cuda", "cuda:1" …; `dtype` is "auto", "float32",
    "bfloat16" or "float16"; `quantize` is None, "8bit" or "4bit" (needs a GPU and bitsandbytes). `planes` is
    the file of a hospital's own protocol, for abvlm_q alone.

    One is imported and opened at a time, whatever the threads: while it makes a model, transformers changes
    settings of the whole process, such as the default dtype, and two at once spoil each other; imported for
    the first time by two at once, it lacks names.

    Raises ValueError for an unknown name or for `planes` with another assistant, PlanesError or OSError for a
    protocol that cannot be used, and `models.checkpoint.CheckpointError` for weights that do not fit.
    """
    if name not in NAMES:
        raise ValueError(f"no assistant is called {name!r}; choose one of {', '.join(NAMES)}")
    own = {} if planes is None else {"planes": planes}
    if own and name != "abvlm_q":
        raise ValueError(f"the assistant {name!r} knows no planes; leave them out")
    with _OPENING:
        package = _package(name)
        return package.open(weights, device=device, dtype=dtype, quantize=quantize, **own)


def _package(name: str) -> ModuleType:
    try:
        return import_module(f"assistants.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"assistants.{name}":
            raise
        raise ValueError(f"the assistant {name!r} is not part of this version of the suite") from error

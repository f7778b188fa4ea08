"""Ask a model behind an OpenAI-compatible chat service, and get its first word's probabilities where it gives
them.

`POST {address}/chat/completions` with images as PNG data URLs; `logprobs` and `top_logprobs` as OpenAI, vLLM,
SGLang and llama.cpp name them. A service that refuses these two is asked again without, once and for all.

The key comes from the environment alone and travels only by https, or to this machine. Nothing is logged, and
no error quotes what was sent. Knows nothing of levels or prompts.
"""

from __future__ import annotations

import base64
import io
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from PIL import Image

from imaging.frame import Frame
from models.errors import ModelError

KEY_VARIABLE = "OPENAI_API_KEY"
MOST_ALTERNATIVES = 20  # the most `top_logprobs` that OpenAI and vLLM give
_LOCAL = ("localhost", "127.0.0.1", "::1")
_REFUSES = (400, 404, 415, 422, 501)  # what services answer to a field they do not know


class EndpointError(ModelError):
    """The service cannot be reached, refuses, or answers in another language than chat completions."""


@dataclass(frozen=True)
class Said:
    """An answer; `first` maps alternatives for its first token to their natural log-probabilities, None where
    the service gives none."""

    text: str
    first: Mapping[str, float] | None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry images and key to another place than the one that was named."""

    def redirect_request(self, *_):
        return None


class Endpoint:
    """One model of one service. `address` is the part before /chat/completions, "http://127.0.0.1:8000/v1"."""

    def __init__(self, address: str, model: str, *, timeout: float = 120.0):
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or not model:
            raise ValueError(
                f"write a service as http(s)://host/v1#model, not {parts.scheme}://… or without model"
            )
        self.address, self.model, self.timeout = address.rstrip("/"), model, timeout
        self.gives_probabilities: bool | None = None  # not known before the first answer
        self._may_send_key = parts.scheme == "https" or parts.hostname in _LOCAL
        self._opener = urllib.request.build_opener(_NoRedirect)

    @classmethod
    def named(cls, name: str) -> Endpoint:
        """From "http://host/v1#model"; ValueError for anything else."""
        address, _, model = name.partition("#")
        return cls(address, model)

    def ask(self, question: str, frames: Sequence[Frame] = (), *, max_new_tokens: int = 12) -> Said:
        """One question about images, greedy. EndpointError with a sentence for the person who asked."""
        pictures = [{"type": "image_url", "image_url": {"url": _data_url(frame)}} for frame in frames]
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": [*pictures, {"type": "text", "text": question}]}],
            "temperature": 0,
            "max_tokens": max_new_tokens,
        }
        wants = {"logprobs": True, "top_logprobs": MOST_ALTERNATIVES}
        if self.gives_probabilities is not False:
            try:
                return self._said(self._post(body | wants))
            except urllib.error.HTTPError as error:
                if error.code not in _REFUSES:
                    raise self._failure(f"status {error.code}") from None
        try:
            said = self._said(self._post(body))
        except urllib.error.HTTPError as error:
            raise self._failure(f"status {error.code}") from None
        self.gives_probabilities = False
        return said

    def _post(self, body: Mapping) -> Mapping:
        headers = {"Content-Type": "application/json"}
        if self._may_send_key and os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {os.environ[KEY_VARIABLE]}"
        url = f"{self.address}/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.timeout) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError:
            raise
        except (OSError, ValueError) as error:
            raise self._failure(type(error).__name__) from None

    def _said(self, answer: Mapping) -> Said:
        try:
            choice = answer["choices"][0]
            text = choice["message"]["content"] or ""
        except (KeyError, IndexError, TypeError):
            raise self._failure("an answer without choices") from None
        first = None
        tokens = (choice.get("logprobs") or {}).get("content") or []
        if tokens:
            # One text can stand for several tokens of the vocabulary; the likeliest is listed first.
            first = {
                entry["token"]: entry["logprob"] for entry in reversed(tokens[0].get("top_logprobs") or [])
            }
        self.gives_probabilities = bool(first)
        return Said(text, first or None)

    def _failure(self, reason: str) -> EndpointError:
        host = urlsplit(self.address).netloc
        return EndpointError(
            f"The model service {host} did not answer ({reason}). Check its address, the model's name and "
            f"the key in {KEY_VARIABLE}.",
            f"模型服务 {host} 未能回答（{reason}）。"
            f"请检查地址、模型名称以及环境变量 {KEY_VARIABLE} 中的密钥。",
        )


def is_endpoint(weights: str | None) -> bool:
    """Whether a `weights` argument names a service rather than a folder or an id."""
    return weights is not None and weights.startswith(("http://", "https://"))


def foreign_host(weights: str | None) -> str | None:
    """The host of a service elsewhere, which is sent the images; None where they stay on this machine."""
    host = urlsplit(weights).hostname if is_endpoint(weights) else None
    return None if host in _LOCAL else host


def _data_url(frame: Frame) -> str:
    stream = io.BytesIO()
    Image.fromarray(frame.pixels).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")

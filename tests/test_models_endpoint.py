"""A chat service of this test answers on this machine; what it is sent and what is made of its answers."""

import base64
import io
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import tiny
from PIL import Image

from models.endpoint import Endpoint, EndpointError, is_endpoint

ANSWER = {
    "choices": [
        {
            "message": {"content": "High"},
            "logprobs": {
                "content": [
                    {
                        "token": "High",
                        "logprob": -0.1,
                        "top_logprobs": [
                            {"token": "High", "logprob": -0.1},
                            {"token": " low", "logprob": -3.0},
                        ],
                    }
                ]
            },
        }
    ]
}


class Service:
    """`answer` is the body, or a function from the request to (status, body)."""

    def __init__(self):
        self.asked, self.headers, self.answer = [], [], ANSWER
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append((self.path, body))
                outer.headers.append(dict(self.headers))
                status, answer = outer.answer(body) if callable(outer.answer) else (200, outer.answer)
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                self.end_headers()
                self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    running = Service()
    yield running
    running.close()


def test_a_question_and_its_images_arrive(service, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-this-test")
    frame = tiny.frame(20, 30)
    said = Endpoint.named(f"{service.address}#some/model").ask("How good?", [frame])
    ((path, body),) = service.asked
    assert path == "/v1/chat/completions" and body["model"] == "some/model"
    assert body["temperature"] == 0 and body["logprobs"] is True
    picture, words = body["messages"][0]["content"]
    assert words == {"type": "text", "text": "How good?"}
    kind, _, data = picture["image_url"]["url"].partition(",")
    assert kind == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), frame.pixels)
    assert service.headers[0]["Authorization"] == "Bearer secret-of-this-test"
    assert said.text == "High" and said.first == {"High": -0.1, " low": -3.0}


def test_a_service_without_log_probabilities_is_asked_again_once(service):
    def refuses(body):
        if "logprobs" in body:
            return 400, {"error": "unknown field logprobs"}
        return 200, {"choices": [{"message": {"content": "low"}}]}

    service.answer = refuses
    endpoint = Endpoint(service.address, "m")
    assert [endpoint.ask("?").text for _ in range(2)] == ["low", "low"]
    assert ["logprobs" in body for _, body in service.asked] == [True, False, False]
    assert endpoint.ask("?").first is None


def test_a_service_that_gives_none_unasked_is_believed(service):
    service.answer = {"choices": [{"message": {"content": "low"}, "logprobs": None}]}
    endpoint = Endpoint(service.address, "m")
    assert endpoint.ask("?").first is None and endpoint.gives_probabilities is False


@pytest.mark.parametrize(
    "answer",
    [
        lambda body: (500, {}),
        lambda body: (401, {}),
        lambda body: (302, {}),
        lambda body: (200, b"<html>"),
        lambda body: (200, {"choices": []}),
        lambda body: (200, []),
        lambda body: (400, {"echo": body}),
    ],
)
def test_failures_are_one_sentence_that_quotes_nothing(service, answer, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-this-test")
    service.answer = answer
    with caplog.at_level(logging.DEBUG), pytest.raises(EndpointError) as refused:
        Endpoint(service.address, "m").ask("a private question", [tiny.frame()])
    told = str(refused.value) + refused.value.message("zh") + caplog.text
    assert "127.0.0.1" in told
    for secret in ("private", "base64", "secret-of-this-test"):
        assert secret not in told


def test_a_redirect_is_not_followed(service):
    service.answer = lambda body: (302, {})
    with pytest.raises(EndpointError, match="status 302"):
        Endpoint(service.address, "m").ask("?")


def test_nobody_there(service):
    gone = Endpoint(service.address.replace(str(service.server.server_port), "9"), "m", timeout=2)
    with pytest.raises(EndpointError, match="did not answer"):
        gone.ask("?")


def test_a_key_does_not_travel_in_the_clear():
    assert not Endpoint("http://example.org/v1", "m")._may_send_key
    assert Endpoint("https://example.org/v1", "m")._may_send_key


@pytest.mark.parametrize(
    "name", ["ftp://host/v1#m", "http://host/v1", "http://host/v1#", "http:///v1#m", "http://u:p@h/v1#m"]
)
def test_badly_named_services(name):
    with pytest.raises(ValueError, match="http"):
        Endpoint.named(name)


def test_what_is_a_service():
    assert is_endpoint("http://127.0.0.1:8000/v1#m") and is_endpoint("https://h/v1#m")
    assert not any(map(is_endpoint, (None, "weights/demo", "owner/name@main")))

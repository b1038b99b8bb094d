"""A model behind a server: what is asked of it, what is made of its answers, and what happens when it fails."""

from __future__ import annotations

import base64
import io
import json
import math
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmalign import endpoint
from mmalign.backbones import Job
from mmalign.media.noise import Noise
from mmalign.records import InputError, user_message

Reply = Callable[[dict[str, Any]], tuple[int, Any]]


class Server:
    """Answers by ``reply`` and remembers what it was asked."""

    def __init__(self) -> None:
        self.reply: Reply = lambda body: (200, said("A cat."))
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(body)
                outer.keys.append(self.headers.get("Authorization"))
                status, answer = outer.reply(body)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.name = f"http://127.0.0.1:{self.http.server_port}/v1#tiny"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(endpoint, "PATIENCE", (0.0, 0.0))
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


def said(text: str) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}}]}


def weighed(**probabilities: float) -> dict[str, Any]:
    top = [{"token": token.replace("_", " "), "logprob": math.log(p)} for token, p in probabilities.items()]
    return written({**top[0], "top_logprobs": top})


def written(token: dict[str, Any]) -> dict[str, Any]:
    """An answer whose first token is ``token``."""
    return {"choices": [{"message": {"content": "A"}, "logprobs": {"content": [token]}}]}


def picture() -> Image.Image:
    return Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))


def job(text: str = "What is here?", **more: Any) -> Job:
    return Job([user_message(text, images=1)], (picture(),), **more)


def test_what_is_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(endpoint.KEY, "secret")
    writer = endpoint.load_writer(server.name)
    assert writer.generate([job(seed=2**40 + 7)], max_new_tokens=9, temperature=0.5, top_p=0.9) == ["A cat."]
    [body] = server.asked
    assert body["model"] == "tiny" and body["max_tokens"] == 9 and body["temperature"] == 0.5 and body["top_p"] == 0.9
    assert body["seed"] == (2**40 + 7) % 2**31 and server.keys == ["Bearer secret"]
    image, text = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is here?"}
    data = base64.b64decode(image["image_url"]["url"].removeprefix("data:image/png;base64,"))
    assert (np.asarray(Image.open(io.BytesIO(data))) == np.asarray(picture())).all(), "pixels arrive as they are"
    assert "continue_final_message" not in body
    assert writer.fingerprint() == server.name


def test_answers_come_in_the_order_of_the_jobs(server: Server) -> None:
    server.reply = lambda body: (200, said(body["messages"][0]["content"][1]["text"]))
    jobs = [job(f"q{number}") for number in range(20)]
    assert endpoint.load_writer(server.name).generate(jobs, max_new_tokens=5, batch_size=4) == [
        f"q{number}" for number in range(20)
    ]
    assert endpoint.load_writer(server.name).generate([], max_new_tokens=5) == []


def test_an_answer_that_is_begun_is_continued(server: Server) -> None:
    endpoint.load_writer(server.name).generate([job(prefix="There is")], max_new_tokens=5)
    [body] = server.asked
    assert body["messages"][-1] == {"role": "assistant", "content": [{"type": "text", "text": "There is"}]}
    assert body["continue_final_message"] is True and body["add_generation_prompt"] is False


def test_stop_is_asked_of_ever_longer_beginnings(server: Server) -> None:
    server.reply = lambda body: (200, said(" a cat. And a dog."))
    [text] = endpoint.load_writer(server.name).generate(
        [job()], max_new_tokens=50, stop=lambda text: text.endswith(". ")
    )
    assert text == " a cat. "


def test_choice(server: Server) -> None:
    server.reply = lambda body: (200, weighed(A=0.3, _A=0.3, B=0.2, C=0.1))
    [shares] = endpoint.load_writer(server.name).choose([job()], ["A", "B"])
    assert shares == pytest.approx([0.75, 0.25]), "tokens that spell the same answer count together"
    assert server.asked[0]["logprobs"] is True and server.asked[0]["max_tokens"] == 1
    server.reply = lambda body: (200, written({"token": "B", "logprob": math.log(0.25), **likeliest(A=0.5, C=0.1)}))
    [shares] = endpoint.load_writer(server.name).choose([job()], ["A", "B"])
    assert shares == pytest.approx([2 / 3, 1 / 3]), "what was written counts, where it is not among the likeliest"


def likeliest(**probabilities: float) -> dict[str, Any]:
    return {"top_logprobs": [{"token": token, "logprob": math.log(p)} for token, p in probabilities.items()]}


@pytest.mark.parametrize("token", [
    {"token": "<think>", "logprob": 0.0, **likeliest(**{"<think>": 1.0})},
    {"token": "C", "logprob": -0.1, "top_logprobs": []},
    {"token": "A", "logprob": -9999.0, **likeliest(C=0.9)},
], ids=["thinks", "nothing_else_told", "no_mass"])  # fmt: skip
def test_a_choice_of_none_of_the_answers_is_none(server: Server, token: dict[str, Any]) -> None:
    replies = iter([written(token), weighed(A=0.6, B=0.2)])
    server.reply = lambda body: (200, next(replies))
    none, sure = endpoint.load_writer(server.name).choose([job()] * 2, ["A", "B"], batch_size=1)
    assert np.isnan(none).all() and sure == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize("answer", [
    said("A"), written({"token": "A", "logprob": -0.1}), written({"token": "A", "logprob": -0.1, "top_logprobs": None}),
])  # fmt: skip
def test_a_server_without_token_probabilities(server: Server, answer: dict[str, Any]) -> None:
    server.reply = lambda body: (200, answer)
    with pytest.raises(InputError, match="gives no token probabilities"):
        endpoint.load_writer(server.name).choose([job()], ["A", "B"])


@pytest.mark.parametrize("answer", [
    [], {"choices": []}, {"choices": None}, {"choices": [None]}, {"choices": [{}]}, {"choices": [{"message": None}]},
    {"choices": [{"message": {"content": [{"type": "text", "text": "A cat."}]}}]}, {"choices": [{"message": []}]},
])  # fmt: skip
def test_answers_of_another_form(server: Server, answer: Any) -> None:
    server.reply = lambda body: (200, answer)
    with pytest.raises(InputError, match="gave no choice that can be read"):
        endpoint.load_writer(server.name).generate([job()], max_new_tokens=5)


@pytest.mark.parametrize("token", [
    None, {"token": "A", "top_logprobs": [{"token": "A", "logprob": None}]}, {"token": None, "top_logprobs": [None]},
    {"top_logprobs": []}, {"token": "A", "top_logprobs": [{"token": "A", "logprob": 1e9}]},
])  # fmt: skip
def test_probabilities_of_another_form(server: Server, token: Any) -> None:
    server.reply = lambda body: (200, written(token))
    with pytest.raises(InputError, match="gave no choice that can be read"):
        endpoint.load_writer(server.name).choose([job()], ["A", "B"])


def test_nothing_said_is_an_empty_text(server: Server) -> None:
    server.reply = lambda body: (200, {"choices": [{"message": {"role": "assistant", "content": None}}]})
    assert endpoint.load_writer(server.name).generate([job()], max_new_tokens=5) == [""]


@pytest.mark.parametrize(
    "address", ["http://[bad/v1", "http://localhost:port/v1", "http://localhost/\u00fc/v1", "http://a b/v1"]
)
def test_an_address_that_is_none(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "PATIENCE", (60.0,))
    with pytest.raises(InputError, match="is no address that can be asked") as caught:
        endpoint.load_writer(f"{address}#tiny").generate([job()], max_new_tokens=5)
    assert caught.value.file == address


@pytest.mark.parametrize("key", ["secret\n", "s\u00e9cret"])
def test_a_key_that_no_header_can_have(server: Server, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv(endpoint.KEY, key)
    with pytest.raises(InputError, match="no header may have") as caught:
        endpoint.load_writer(server.name).generate([job()], max_new_tokens=5)
    assert caught.value.field == endpoint.KEY and "cret" not in str(caught.value) and not server.asked


def test_a_busy_server_is_asked_again(server: Server) -> None:
    answers = iter([(503, b"busy"), (429, b"slowly"), (200, said("At last."))])
    server.reply = lambda body: next(answers)
    assert endpoint.load_writer(server.name).generate([job()], max_new_tokens=5) == ["At last."]


@pytest.mark.parametrize("status, answer, problem", [
    (400, b"no such model", "refused .400.*no such model"),
    (503, b"busy", "refused .503"),
    (200, b"<html>", "no JSON"),
    (200, {"object": "error"}, "gave no choice"),
])  # fmt: skip
def test_failures_are_told_in_one_line(server: Server, status: int, answer: Any, problem: str) -> None:
    server.reply = lambda body: (status, answer)
    with pytest.raises(InputError, match=problem) as caught:
        endpoint.load_writer(server.name).generate([job()], max_new_tokens=5)
    assert str(caught.value).startswith("http://127.0.0.1")
    assert len(server.asked) == (3 if status == 503 else 1), "only what may pass is tried again"


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "PATIENCE", ())
    with pytest.raises(InputError, match="cannot be reached"):
        endpoint.load_writer("http://127.0.0.1:9/v1#tiny").generate([job()], max_new_tokens=5)


def test_what_a_server_cannot_do(server: Server) -> None:
    writer = endpoint.load_writer(server.name)
    for hidden in (job(keep=np.ones(4, dtype=bool)), job(noise=Noise(500, seed=0))):
        with pytest.raises(InputError, match="only before a model that is loaded here"):
            writer.generate([hidden], max_new_tokens=5)
    with pytest.raises(InputError, match="1 video placeholders in the prompt, but 0 videos"):
        writer.generate([Job([user_message("What?", videos=1)])], max_new_tokens=5)
    with pytest.raises(InputError, match="URL#MODEL"):
        endpoint.load_writer("http://127.0.0.1:8000/v1")
    with pytest.raises(InputError, match="a server brings its own"):
        endpoint.load_writer(server.name, adapter="runs/dpo")

"""Models that another server answers for: a scripted one, over real sockets."""

import asyncio
import gzip
import json
import re
import socket
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi import Response as HttpResponse
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, StreamingResponse
from openai.types.responses import Response
from starlette.testclient import TestClient

from potstill.errors import ConfigError
from serve.api.app import create_app
from serve.backends.config import UpstreamConfig
from serve.backends.protocol import Caller
from serve.backends.upstream import UpstreamBackend
from serve.errors import (
    InvalidRequestError,
    QueueFullError,
    RateLimitError,
    RequestTimeoutError,
)
from serve.keys import Key, KeyEntry, Reservation
from serve.metrics import Metrics
from serve.rate_limits import Bucket
from serve.wire.chat import ChatRequest
from serve.wire.completions import CompletionRequest
from serve.wire.embeddings import EmbeddingRequest
from tests.fixtures.server_sent import events
from tests.fixtures.waiting import PATIENCE_SECONDS, eventually

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7,
         "prompt_tokens_details": None}  # fmt: skip
QUESTION = {"messages": [{"role": "user", "content": "Hi"}]}
HEAD = {"id": "1", "created": 1, "system_fingerprint": "fp_there"}
REFUSALS = {
    "refuses": (400, {"message": "top_p is wrong", "param": "top_p", "code": None}, {}),
    "overflows": (400, {"message": "too long", "code": "context_length_exceeded"}, {}),
    "overflows in vLLM": (400, {"message": "too long", "param": "input_tokens", "code": 400}, {}),
    "unable": (404, {}, {}),
    "locked": (401, {"message": "wrong key"}, {}),
    "crowded": (429, {"message": "full"}, {"Retry-After": "7"}),
    "ill": (500, {"message": "a secret of the server"}, {}),
    "starting": (503, {"message": "loading"}, {}),
    "wordy": (400, {"message": {"a": "b" * 9999}, "param": "p" * 9999, "code": {}}, {}),
    "talkative": (400, {"message": "no such model for Bearer sk-there", "param": "sk-there"}, {}),
    "patient": (429, {}, {"Retry-After": "9" * 5000}),
}


def choice(text: str | None = None, finish_reason: str | None = None) -> dict:
    delta = {"role": "assistant"} if text is None else {"content": text}
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


LONG_TOOLS = [{"type": "function", "function": {"name": "f", "description": "word " * 400}}]
ANSWER = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
SHAPES = {
    "not an object": [],
    "choices that are a text": {"choices": "abc"},
    "choices that are numbers": {"choices": [1, 2]},
    "a choice without a message": {"choices": [{"index": 0}]},
    "content that is an object": {"choices": [ANSWER | {"message": {"content": {"a": 1}}}]},
    "a call without a function": {"choices": [ANSWER | {"message": {"tool_calls": [{"id": "1"}]}}]},
    "an index that is an object": {"choices": [ANSWER | {"index": {}}]},
    "a log-probability that is a text": {
        "choices": [ANSWER | {"logprobs": {"content": [{"logprob": "x"}]}}]
    },
    "tokens that are a text": {"choices": [ANSWER], "usage": {"total_tokens": "many"}},
    "tokens beyond all numbers": {"choices": [ANSWER], "usage": {"total_tokens": 1e999}},
    "negative tokens": {"choices": [ANSWER], "usage": {"total_tokens": -(10**9)}},
    "a lone surrogate": {"choices": [ANSWER | {"message": {"content": "\ud800"}}]},
    "a number that JSON lacks": {"choices": [ANSWER], "extra": float("nan")},
    "a reason that is a text": {"choices": [ANSWER | {"finish_reason": "words of a user"}]},
}
"""Answers that are none."""
BAD_PIECES = {
    "choices that are numbers": {"choices": [1, 2]},
    "an index that is an object": {"choices": [{"index": {}, "delta": {"content": "a"}}]},
    "a call of a million": {
        "choices": [{"delta": {"tool_calls": [{"index": 10**6, "function": {"name": "f"}}]}}]
    },
    "a call that is a text": {"choices": [{"delta": {"tool_calls": ["f"]}}]},
    "a reason that is long": {"choices": [{"delta": {}, "finish_reason": "stop" * 1000}]},
    "tokens that are a text": {"choices": [], "usage": {"total_tokens": "many"}},
}
"""Pieces of streams that are none."""
CALL = {"function": {"name": "f", "arguments": "{}"}}
PIECES = {name: [piece] for name, piece in BAD_PIECES.items()} | {
    "terse": [
        {"choices": [{"delta": {"tool_calls": [call]}, "logprobs": {"tokens": []}}]}
        for call in ({"id": "1"}, CALL)
    ]
}
"""What a stream begins with."""
FLOODS = {
    "unending line": f"data: {'x' * (1 << 20)}",
    "small parts": f'data: {{"choices": [{"{}, " * 2000}{{}}]}}\n\n',
    "empty lines": "\n" * 2000,
}
"""The same, without a shape."""


class Listening:
    """An application on a port of its own, in a thread."""

    def __init__(self, app: FastAPI) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen()  # Connections before the thread has started wait.
        self.address = self._socket.getsockname()
        self.base_url = f"http://127.0.0.1:{self.address[1]}/v1"
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


def _refusal(model: str) -> HttpResponse | None:
    status, error, headers = REFUSALS.get(model, (0, {}, {}))
    return JSONResponse({"error": error}, status, headers) if status else None


def _hostile(body: dict) -> HttpResponse | None:
    model = body["model"]
    if model == "deep":
        return HttpResponse("[" * 100_000, media_type="application/json")
    if model == "encoded":
        return JSONResponse(
            {"choices": [ANSWER], "padding": "a" * 50_000 + "-" + "a" * 50_000},
            media_type="application/json; charset=punycode",
        )
    if model in SHAPES and not body.get("stream"):
        return HttpResponse(json.dumps(SHAPES[model]), media_type="application/json")
    return None


class Upstream(Listening):
    """A server with one model for each way to answer; it remembers what it was asked."""

    def __init__(self) -> None:
        self.text = "lo."
        self.asked: list[dict] = []
        self.keys: list[str | None] = []
        self.hung_up = threading.Event()
        app = FastAPI()
        app.post("/v1/chat/completions")(self.chat)
        app.post("/v1/completions")(self.complete)
        app.post("/v1/embeddings")(self.embed)
        super().__init__(app)

    async def chat(self, http: Request) -> HttpResponse:
        body = await self._note(http)
        if (answered := _refusal(body["model"]) or _hostile(body)) is not None:
            return answered
        if body["model"] == "recovers" and len(self.asked) < 3:
            return JSONResponse({"error": {"message": "not yet"}}, 503)
        if body["model"] == "babbles":
            return PlainTextResponse("<html>")
        if body["model"] == "hums":
            return JSONResponse({"choices": []})
        if body["model"] == "moved":
            return RedirectResponse("/v1/completions", 307)
        if body["model"] == "compressed":
            return HttpResponse(gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"})
        if body["model"] == "mute":
            while not await http.is_disconnected():
                await asyncio.sleep(0.02)
            self.hung_up.set()
        if body.get("stream"):
            return StreamingResponse(self._events(body), media_type="text/event-stream")
        message = {"role": "assistant", "content": f"Hel{self.text}", "reasoning": "kept"}
        message["tool_calls"] = None
        answer = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse(HEAD | {"model": body["model"], "choices": [answer], "usage": USAGE})

    async def complete(self, http: Request) -> HttpResponse:
        body = await self._note(http)
        answer = {"index": 0, "text": "Hello.", "finish_reason": "stop"}
        return JSONResponse(HEAD | {"model": body["model"], "choices": [answer], "usage": USAGE})

    async def embed(self, http: Request) -> HttpResponse:
        body = await self._note(http)
        if body["model"] == "mute":
            await asyncio.sleep(1)
        return JSONResponse({"model": body["model"], "data": [], "usage": {"total_tokens": 3}})

    async def _events(self, body: dict) -> AsyncIterator[str]:
        def event(value: dict) -> str:
            return f"data: {json.dumps(HEAD | {'model': body['model'], 'usage': None} | value)}\n\n"

        try:
            for piece in PIECES.get(body["model"], ()):
                yield event(piece)
            yield FLOODS.get(body["model"], "")
            yield event({"choices": [choice()]})
            yield event({"choices": [choice("Hel")]})
            if body["model"] == "endless":
                await asyncio.sleep(60)
            if body["model"] == "breaks":
                yield event({"error": {"message": "a secret of the server"}})
            if body["model"] != "stops":
                yield event({"choices": [choice(self.text, "stop")]})
                yield event({"choices": [], "usage": USAGE})
            yield "data: [DONE]\n\n"
        finally:
            if body["model"] == "endless":
                self.hung_up.set()

    async def _note(self, http: Request) -> dict:
        body = await http.json()
        self.asked.append(body)
        self.keys.append(http.headers.get("authorization"))
        return body


@pytest.fixture(scope="module")
def shared_upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


@pytest.fixture
def upstream(shared_upstream: Upstream) -> Upstream:
    shared_upstream.asked.clear()
    shared_upstream.keys.clear()
    return shared_upstream


@pytest.fixture
def client_of(upstream: Upstream):
    """A client of a server that sends `mine` on to a model of the upstream."""
    clients = []

    def make(model: str, **config: object) -> TestClient:
        settings = {"base_url": upstream.base_url, "model": model, "max_retries": 0} | config
        backend = UpstreamBackend("mine", UpstreamConfig(**settings), Metrics())
        client = TestClient(create_app({"mine": backend}))
        clients.append(client)
        return client.__enter__()

    yield make
    for client in clients:
        client.__exit__(None, None, None)


def ask(client: TestClient, **more: object):
    return client.post("/v1/chat/completions", json={"model": "mine"} | QUESTION | more)


def test_a_chat_is_forwarded_and_answered_under_the_name_here(client_of, upstream):
    # Other servers refuse the options of a stream in a request for a whole answer.
    options = {"stream_options": {"include_usage": True}}
    answer = ask(client_of("theirs"), temperature=0.5, top_k=3, seed=1, **options).json()
    assert answer["model"] == "mine"
    assert answer["choices"][0]["message"]["content"] == "Hello."
    assert answer["choices"][0]["message"]["reasoning"] == "kept"
    assert answer["usage"] == USAGE
    expected = {"model": "theirs", "temperature": 0.5, "top_k": 3, "seed": 1}
    assert upstream.asked == [QUESTION | expected]


def test_a_stream_is_forwarded_with_usage_only_if_requested(client_of, upstream):
    client = client_of("theirs")
    plain = events(ask(client, stream=True))
    told = events(ask(client, stream=True, stream_options={"include_usage": True}))
    assert {one["model"] for one in plain + told} == {"mine"}
    text = [one["choices"][0]["delta"].get("content") for one in plain]
    assert text == [None, "Hel", "lo."]
    assert not any("usage" in one for one in plain)
    assert [one["usage"] for one in told] == [None, None, None, USAGE]
    assert all(body["stream_options"] == {"include_usage": True} for body in upstream.asked)


def test_text_and_embeddings_are_forwarded_too(client_of, upstream):
    client = client_of("theirs")
    body = {"model": "mine", "prompt": [1, 2], "max_tokens": -1}
    completion = client.post("/v1/completions", json=body).json()
    assert (completion["model"], completion["choices"][0]["text"]) == ("mine", "Hello.")
    assert upstream.asked[0] == {"model": "theirs", "prompt": [1, 2]}
    body = {"model": "mine", "input": ["a"], "dimensions": 2}
    assert client.post("/v1/embeddings", json=body).json()["model"] == "mine"
    assert upstream.asked[1] == {"model": "theirs", "input": ["a"], "dimensions": 2}


def test_a_key_is_sent_from_its_variable_without_openais_headers(client_of, upstream, monkeypatch):
    monkeypatch.setenv("UPSTREAM_KEY", "a-secret")
    monkeypatch.setenv("OPENAI_API_KEY", "for-openai-only")
    ask(client_of("theirs", api_key_variable="UPSTREAM_KEY"))
    ask(client_of("theirs"))
    assert upstream.keys == ["Bearer a-secret", "Bearer none"]
    monkeypatch.delenv("UPSTREAM_KEY")
    with pytest.raises(ConfigError, match="UPSTREAM_KEY"):
        client_of("theirs", api_key_variable="UPSTREAM_KEY")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("refuses", 400, "invalid_value"),
        ("overflows", 400, "context_length_exceeded"),
        ("overflows in vLLM", 400, "context_length_exceeded"),
        ("unable", 400, "unsupported_parameter"),
        ("locked", 502, "upstream_failed"),
        ("crowded", 429, "queue_full"),
        ("ill", 502, "upstream_failed"),
        ("starting", 503, "unavailable"),
    ],
)
def test_a_refusal_is_passed_on_in_openais_shape(client_of, model, status, code, stream):
    response = ask(client_of(model), stream=stream)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert "secret" not in response.text
    if model == "refuses":
        assert (error["message"], error["param"]) == ("top_p is wrong", "top_p")
    if model == "crowded":
        assert response.headers["retry-after"] == "7"


@pytest.mark.parametrize("model", ["babbles", "hums", "moved", "compressed"])
def test_invalid_answers_are_not_forwarded(client_of, upstream, model):
    assert ask(client_of(model)).status_code == 502
    assert len(upstream.asked) == 1


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_an_answer_of_another_shape_is_the_upstreams_failure(client_of, path):
    body = QUESTION | {"model": "mine", "input": "Hi", "max_tokens": 5}
    for model in [*SHAPES, "deep"]:
        response = client_of(model).post(path, json=body)
        assert (model, response.status_code) == (model, 502)
    for model in BAD_PIECES:
        text = client_of(model).post(path, json=body | {"stream": True}).text
        assert "model's server cannot be used" in text, model
        assert "internal error" not in text, model


@pytest.mark.parametrize("model", FLOODS)
def test_only_so_many_parts_of_an_answer_are_read(client_of, monkeypatch, model):
    for name in ("MAX_CONTAINERS", "MAX_LINES"):
        monkeypatch.setattr(f"serve.backends.bounded_answers.{name}", 1000)
    response = ask(client_of(model, max_answer_bytes=1 << 19), stream=True)
    *_, last = events(response)
    assert (last["error"]["code"], len(response.content) < 2000) == ("upstream_failed", True)


def test_what_a_refusal_says_is_bounded(client_of):
    error = ask(client_of("wordy")).json()["error"]
    assert (len(error["param"]), "refuses" in error["message"]) == (1000, True)
    response = ask(client_of("patient"))
    assert (response.status_code, response.headers["retry-after"]) == (429, "9999")


def test_a_refusal_that_quotes_the_key_does_not_reach_a_client(client_of, monkeypatch):
    monkeypatch.setenv("THEIR_KEY", "sk-there")
    response = ask(client_of("talkative", api_key_variable="THEIR_KEY"))
    assert response.status_code == 400
    assert "no such model" in response.text
    assert "sk-there" not in response.text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_a_call_may_lack_what_is_clear_without_it(client_of, path):
    body = QUESTION | {"model": "mine", "input": "Hi", "max_tokens": 5, "stream": True}
    text = client_of("terse").post(path, json=body).text
    assert not re.search("internal error|cannot be used", text)
    assert ('"f"' in text) == (path != "/v1/messages")


def test_an_answer_has_an_id_of_its_own(client_of):
    client = client_of("theirs")
    whole = [ask(client).json()["id"] for _ in range(2)]
    streams = [{one["id"] for one in events(ask(client, stream=True))} for _ in range(2)]
    assert all(len(ids) == 1 for ids in streams)
    assert len({*whole, *streams[0], *streams[1]}) == 4


def test_a_template_cannot_be_given_in_its_variables(client_of, upstream):
    given = {"chat_template_kwargs": {"enable_thinking": False, "chat_template": "{{ evil }}"}}
    error = ask(client_of("theirs"), **given).json()["error"]
    assert (error["param"], upstream.asked) == ("chat_template", [])


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_without_end_is_refused(client_of, upstream, name):
    assert ask(client_of("theirs"), n=128, **{name: 10**4299}).status_code == 400
    assert upstream.asked == []


def test_only_so_much_of_an_answer_is_read(client_of, upstream):
    client = client_of("theirs", max_answer_bytes=1024, max_retries=2)
    upstream.text = "lo" * 1024
    whole, (*_, last) = ask(client), events(ask(client, stream=True))
    upstream.text = "lo."
    assert whole.status_code == 502
    assert "too long" in whole.json()["error"]["message"]
    assert last["error"]["code"] == "upstream_failed"
    assert len(upstream.asked) == 2


def test_an_upstream_does_not_choose_how_its_answer_is_decoded(client_of):
    assert ask(client_of("encoded")).json()["choices"][0]["message"]["content"] == "Hi"


def test_unknown_parameters_are_forwarded_only_if_they_are_named(client_of, upstream):
    given = {"chat_template": "{{ evil }}", "user": "bob", "min_tokens": 3, "top_k": 1}
    ask(client_of("theirs"), **given)
    ask(client_of("theirs", parameters=["min_tokens"]), **given)
    head = QUESTION | {"model": "theirs", "top_k": 1}
    assert upstream.asked == [head, head | {"min_tokens": 3}]


def test_a_response_can_be_made_of_null_fields(client_of):
    client, body = client_of("theirs"), {"model": "mine", "input": "Hi"}
    whole = Response.model_validate(client.post("/v1/responses", json=body).json())
    assert (whole.output_text, whole.usage.input_tokens) == ("Hello.", 5)
    lines = client.post("/v1/responses", json=body | {"stream": True}).text.splitlines()
    *_, last = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    streamed = Response.model_validate(json.loads(last)["response"])
    assert (streamed.output_text, streamed.usage) == (whole.output_text, whole.usage)


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_requests_to_a_failing_upstream_are_retried(client_of, upstream, stream):
    response = ask(client_of("recovers", max_retries=2), stream=stream)
    assert response.status_code == 200
    assert len(upstream.asked) == 3


@pytest.mark.parametrize("model", ["breaks", "stops"])
def test_a_broken_stream_ends_with_an_error_and_is_not_retried(client_of, upstream, model):
    *_, last = events(ask(client_of(model, max_retries=2), stream=True))
    assert last["error"]["code"] == "upstream_failed"
    assert "secret" not in json.dumps(last)
    assert len(upstream.asked) == 1


def test_an_upstream_that_does_not_answer_times_out(client_of, upstream):
    *_, last = events(ask(client_of("endless", read_timeout_seconds=0.2), stream=True))
    assert last["error"]["code"] == "timeout"
    assert upstream.hung_up.wait(PATIENCE_SECONDS)


def test_an_unavailable_upstream_leaves_the_server_ready(client_of):
    client = client_of("theirs", base_url="http://127.0.0.1:1/v1")
    response = ask(client)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")
    assert client.get("/readyz").status_code == 200
    assert client.get("/v1/models/mine").json()["owned_by"] == "upstream"


def test_images_are_refused_so_that_no_url_is_fetched(client_of, upstream):
    part = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}
    messages = [{"role": "user", "content": [part]}]
    assert ask(client_of("theirs"), messages=messages).status_code == 400
    assert upstream.asked == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_disconnect_before_the_answer_is_forwarded(upstream, stream):
    config = UpstreamConfig(base_url=upstream.base_url, model="mute")
    near = Listening(create_app({"mine": UpstreamBackend("mine", config, Metrics())}))
    upstream.hung_up.clear()
    body = json.dumps({"model": "mine", "stream": stream} | QUESTION)
    headers = f"Host: near\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with socket.create_connection(near.address) as connection:
        connection.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\n{headers}\r\n\r\n{body}".encode()
        )
        assert eventually(lambda: bool(upstream.asked))
    assert upstream.hung_up.wait(PATIENCE_SECONDS)
    near.close()


def test_keys_take_turns_at_an_upstream(upstream):
    config = UpstreamConfig(base_url=upstream.base_url, model="mute", max_parallel=4)
    request = ChatRequest.model_validate(QUESTION)

    async def ask_all() -> None:
        backend = UpstreamBackend("mine", config, Metrics(), max_queue=8, has_owners=True)
        greedy = [asyncio.create_task(backend.chat(request, Caller("greedy"))) for _ in range(20)]
        await asyncio.sleep(0)
        refused = [one for one in greedy if one.done() and one.exception()]
        begun = [one for one in greedy if one.done() and not one.exception()]
        assert (len(refused), len(begun)) == (14, 3)
        assert all(isinstance(one.exception(), QueueFullError) for one in refused)
        modest = await asyncio.wait_for(backend.chat(request, Caller("modest")), PATIENCE_SECONDS)
        modest.cancel()
        many = ChatRequest.model_validate(QUESTION | {"n": 4})
        with pytest.raises(InvalidRequestError, match="too many choices"):
            await backend.chat(many, Caller("modest"))
        begun[0].result().cancel()
        await asyncio.sleep(0)
        waiting = [one for one in greedy if not one.done()]
        assert len(waiting) == 2
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for one in greedy:
            if not one.cancelled() and not one.exception():
                one.result().cancel()
        everything = [await backend.chat(request, Caller("modest")) for _ in range(3)]
        assert len(everything) == 3
        await backend.stop()

    asyncio.run(ask_all())


def test_each_prompt_of_a_request_takes_a_place(upstream):
    config = UpstreamConfig(base_url=upstream.base_url, model="mute", max_parallel=8)
    request = CompletionRequest(prompt=["Hi"] * 3, n=2, max_tokens=10)
    reserved = []

    def reserve(num_tokens: int) -> Reservation:
        reserved.append(num_tokens)
        return Reservation()

    async def ask_both() -> None:
        backend = UpstreamBackend("mine", config, Metrics(), max_queue=8, has_owners=True)
        caller = Caller("greedy", reserve=reserve)
        reply = await backend.complete_text(request, caller)
        with pytest.raises(QueueFullError):
            await backend.complete_text(request, caller)
        reply.cancel()
        await backend.stop()

    asyncio.run(ask_both())
    assert reserved[0] >= 60


@pytest.mark.parametrize("given", [{"stream": True}, {"stream": True, "tools": LONG_TOOLS}, {}])
def test_what_an_upstream_may_have_read_is_paid(upstream, given):
    key = Key("poor", KeyEntry(sha256="0" * 64, tokens_per_day=5000))
    config = UpstreamConfig(base_url=upstream.base_url, model="mute", max_retries=0)
    hasty = config.model_copy(update={"read_timeout_seconds": 0.2})
    text = "word " * (10 if "tools" in given else 400)
    chat = ChatRequest.model_validate(
        {"messages": [{"role": "user", "content": text}], "max_tokens": 100} | given
    )

    def ask(backend: UpstreamBackend) -> Coroutine:
        caller = Caller("poor", reserve=key.reserve)
        if not given:
            return backend.embed(EmbeddingRequest(input=text), caller)
        return backend.chat(chat, caller)

    async def leave() -> None:
        backend = UpstreamBackend("mine", config, Metrics())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(backend), 0.3)
        assert 4000 < key.daily_tokens.allowance.remaining < 4600
        backend = UpstreamBackend("mine", hasty, Metrics())
        with pytest.raises(RequestTimeoutError):
            await ask(backend)
        await backend.stop()

    asyncio.run(leave())
    assert 3000 < key.daily_tokens.allowance.remaining < 4200


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_paid_though_its_usage_does_not_come(upstream, monkeypatch, stream):
    key = Key("poor", KeyEntry(sha256="0" * 64, tokens_per_day=10_000))
    monkeypatch.setattr(upstream, "text", "word " * 1200)
    monkeypatch.setitem(USAGE, "total_tokens", 0)
    monkeypatch.setitem(USAGE, "prompt_tokens", 0)
    monkeypatch.setitem(USAGE, "completion_tokens", 0)
    config = UpstreamConfig(base_url=upstream.base_url, model="theirs")
    request = ChatRequest.model_validate(QUESTION | {"stream": stream, "max_tokens": 2000})

    async def listen() -> None:
        backend = UpstreamBackend("mine", config, Metrics())
        reply = await backend.chat(request, Caller("poor", reserve=key.reserve))
        if stream:
            pieces = reply.chunks()
            while "word" not in str(await anext(pieces)):
                pass
            reply.cancel()
            await pieces.aclose()
        else:
            await reply.complete()
        await backend.stop()

    asyncio.run(listen())
    assert 8000 < key.daily_tokens.allowance.remaining < 8600


def test_an_upstream_cannot_lock_a_key():
    bucket = Bucket(1000, now=lambda: 0.0)
    bucket.take(100)
    Reservation((bucket,), 100).settle(2**31 - 1)
    assert bucket.seconds_until(1) < 61


def test_a_request_without_a_limit_takes_its_most_tokens(upstream):
    key = Key("poor", KeyEntry(sha256="0" * 64, tokens_per_minute=5000))
    config = UpstreamConfig(base_url=upstream.base_url, model="mute")
    request = ChatRequest.model_validate(QUESTION)

    async def ask_twice() -> None:
        backend = UpstreamBackend("mine", config, Metrics())
        await backend.chat(request, Caller(reserve=key.reserve))
        with pytest.raises(RateLimitError):
            await backend.chat(request, Caller(reserve=key.reserve))
        await backend.stop()

    asyncio.run(ask_twice())


def test_disconnects_and_tokens_are_forwarded(upstream):
    bucket = Bucket(1000, now=lambda: 0.0)

    def reserve(num_tokens: int) -> Reservation:
        bucket.take(num_tokens)
        return Reservation((bucket,), num_tokens)

    config = UpstreamConfig(base_url=upstream.base_url, model="endless")
    upstream.hung_up.clear()

    async def listen() -> None:
        backend = UpstreamBackend("mine", config, Metrics())
        long = [{"role": "user", "content": "word " * 400}]
        request = ChatRequest.model_validate({"messages": long, "stream": True})
        reply = await backend.chat(request, Caller(reserve=reserve))
        chunks = reply.chunks()
        assert [(await anext(chunks))["model"] for _ in range(2)] == ["mine", "mine"]
        reply.cancel()
        await chunks.aclose()
        assert await asyncio.to_thread(upstream.hung_up.wait, PATIENCE_SECONDS)
        await backend.stop()

    asyncio.run(listen())
    # The prompt is paid for, too, although no usage has come.
    assert 450 < bucket.allowance.remaining < 500

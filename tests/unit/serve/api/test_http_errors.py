"""What is refused, with which status, in OpenAI's shape; and no body that breaks anything."""

import asyncio
import copy
import hashlib
import json
import logging
import os
import tracemalloc
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from serve.api.app import AppLimits
from serve.api.json_body import check_json
from serve.api.middleware import Count, ReadBody
from serve.api.request_log import PrivateRecords
from serve.engine.model import GgufModel
from serve.errors import InvalidRequestError
from serve.keys import Key, KeyEntry, Keyring
from serve.wire.chat import ChatRequest
from serve.wire.completions import CompletionRequest
from serve.wire.embeddings import EmbeddingRequest
from serve.wire.llama import (
    DetokenizeRequest,
    LlamaCompletionRequest,
    TemplateRequest,
    TokenizeRequest,
)
from serve.wire.messages import MessagePrompt, MessageRequest
from serve.wire.responses import ResponseRequest
from tests.fixtures.waiting import eventually
from tests.unit.serve.conftest import CONTEXT_TOKENS, MAX_PARALLEL, MAX_QUEUE

MESSAGES = [{"role": "user", "content": "Hi"}]
CHAT, MESSAGE = "/v1/chat/completions", "/v1/messages"
LONG = "word " * CONTEXT_TOKENS
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}
KEY = Key("a", KeyEntry(sha256=hashlib.sha256(b"secret").hexdigest()))


def error_of(response, status: int) -> dict:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) - {"n_prompt_tokens", "n_ctx"} == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(
    ("method", "path", "content", "kind", "status"),
    [
        ("POST", CHAT, b"{not json", "application/json", 400),
        ("POST", CHAT, b"", "application/json", 400),
        ("POST", CHAT, b"null", "application/json", 400),
        ("POST", CHAT, b"[{}]", "application/json", 400),
        ("POST", CHAT, b'{"model": "\\ud800", "messages": []}', "application/json", 400),
        ("POST", CHAT, b"[" * 100_000, "application/json", 400),
        ("POST", CHAT, b'{"seed": ' + b"9" * 10_000 + b"}", "application/json", 400),
        ("POST", CHAT, b"{}", "text/plain", 415),
        ("POST", CHAT, b"a=1", "application/x-www-form-urlencoded", 415),
        ("POST", "/nowhere", b"{}", "application/json", 404),
        ("GET", CHAT, b"", "application/json", 405),
        ("GET", "/v1/models/nobody", b"", "application/json", 404),
    ],
)
def test_every_failure_has_openais_shape(client, method, path, content, kind, status):
    response = client.request(method, path, content=content, headers={"Content-Type": kind})
    assert error_of(response, status)["type"] == "invalid_request_error"
    assert response.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("more", "code", "param"),
    [
        ({"model": "nobody"}, "model_not_found", "model"),
        ({"model": None}, "invalid_value", "model"),
        ({"messages": [{"role": "user", "content": "word " * CONTEXT_TOKENS}]},
         "context_length_exceeded", "messages"),
        ({"max_tokens": CONTEXT_TOKENS}, "context_length_exceeded", "messages"),
        ({"n": 100}, "invalid_value", "n"),
        ({"n": 128, "logprobs": True, "top_logprobs": 20}, "invalid_value", "top_logprobs"),
        ({"logit_bias": {"999999": 1}}, "invalid_value", "logit_bias"),
        ({"grammar": "root ::= this is (not valid GBNF"}, "invalid_value", "grammar"),
        ({"grammar": 'root ::= "q"', "logit_bias": [["q", False]]}, "invalid_value", "logit_bias"),
        ({"json_schema": {"type": "hiccup"}}, "invalid_value", "json_schema"),
        ({"response_format": {"type": "json_object", "schema": {"type": 123}}},
         "invalid_value", "response_format.schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 123}}}},
         "invalid_value", "response_format.json_schema.schema"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, IMAGE]}]},
         "unsupported_parameter", "messages[0].content[1]"),
        ({"chat_template_kwargs": {"messages": []}}, "invalid_value", "messages"),
        ({"modalities": ["audio"]}, "unsupported_parameter", "modalities"),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_answered_gets_code_and_parameter(client, more, code, param):
    response = client.post(CHAT, json={"model": "a", "messages": MESSAGES, **more})
    error = error_of(response, 404 if code == "model_not_found" else 400)
    assert error["code"] == code
    assert param is None or error["param"] == param


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/v1/responses", {"input": [*MESSAGES, {"role": "user", "content": [
            {"type": "input_text", "text": "Hi"}, {"type": "input_image", "image_url": "x"}]}]},
         "input[1].content[1]"),
        ("/v1/responses", {"input": [{"type": "computer_call"}]}, "input[0]"),
        ("/v1/responses", {"input": LONG}, "input"),
        ("/v1/responses", {"input": "Hi", "text": {"format": {
            "type": "json_schema", "name": "s", "schema": {"type": 123}}}}, "text.format.schema"),
        ("/v1/responses", {"input": "Hi", "tool_choice": "required", "tools": [
            {"type": "function", "name": "f", "parameters": {"properties": 5}}]},
         "tools[0].parameters"),
        ("/v1/responses", {"input": "Hi", "tools": [{"type": "web_search"}]}, "tools[0]"),
        ("/v1/completions", {"prompt": LONG}, "prompt"),
        ("/v1/embeddings", {"input": LONG}, "input"),
        (MESSAGE, {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
         "messages[0].content[0]"),
        (MESSAGE, {"messages": [{"role": "user", "content": LONG}]}, "messages"),
        (MESSAGE, {"messages": MESSAGES, "tool_choice": {"type": "any"}, "tools": [
            {"name": "f", "input_schema": {"properties": 5}}]}, "tools[0].input_schema"),
        (MESSAGE, {"messages": MESSAGES, "tools": [{"name": "bash", "type": "bash_20250124"}]},
         "tools[0]"),
        (MESSAGE, {"messages": MESSAGES, "output_config": {"format": {
            "type": "json_schema", "schema": {"type": 123}}}}, "output_config.format.schema"),
        (MESSAGE, {"messages": MESSAGES, "mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        (MESSAGE, {"messages": MESSAGES, "max_tokens": CONTEXT_TOKENS}, "messages"),
        (MESSAGE, {"messages": MESSAGES, "max_tokens": 0}, "max_tokens"),
        (f"{MESSAGE}/count_tokens", {"messages": [{"role": "user"}]}, "messages[0].content"),
    ],
)  # fmt: skip
def test_an_error_names_the_place_in_its_own_body(client, path, body, place):
    limit = {"max_tokens": 1} if path == MESSAGE else {}
    response = client.post(path, json={"model": "a", **limit, **body})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    if path.startswith(MESSAGE):
        assert response.json()["type"] == "error"
        assert error.keys() == {"type", "message"}
        assert error["message"].startswith(f"{place}: ")
    else:
        assert error["param"] == place


def test_failures_of_anthropics_routes_have_its_shape(make_app):
    closed = TestClient(make_app(keyring=Keyring([KEY]), limits=AppLimits(max_body_bytes=200)))
    keyed = {"x-api-key": "secret"}
    for path, headers, more, status, kind in (
        (MESSAGE, {}, {}, 401, "authentication_error"),
        (MESSAGE, {"Authorization": "Bearer wrong", **keyed}, {}, 401, "authentication_error"),
        (MESSAGE, keyed, {"model": "x" * 200}, 413, "request_too_large"),
        (MESSAGE, keyed, {"model": "nobody"}, 404, "not_found_error"),
        (f"{MESSAGE}/batches", keyed, {}, 404, "not_found_error"),
    ):
        body = {"messages": MESSAGES, "max_tokens": 1, **more}
        response = closed.post(path, json=body, headers=headers)
        assert (response.status_code, response.json()["error"]["type"]) == (status, kind)
        assert response.headers["request-id"].startswith("req_")


def numbers(count: int) -> dict[str, Any]:
    """Return a tool whose schema has numbers, which templates write as text."""
    function = {"name": "f", "parameters": {"type": "object", "enum": [0] * count}}
    return {"type": "function", "function": function}


def test_a_prompt_that_is_too_long_is_measured(client):
    body = {"model": "a", "messages": [{"role": "user", "content": "word " * CONTEXT_TOKENS}]}
    for path, kind in ((CHAT, "invalid_request_error"), (CHAT[3:], "exceed_context_size_error")):
        error = error_of(client.post(path, json=body), 400)
        assert error["type"] == kind
        assert error["n_prompt_tokens"] > error["n_ctx"] == CONTEXT_TOKENS


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "ab" * 100_000}]}),
        ("/apply-template", {"messages": [{"role": "user", "content": "ab" * 100_000}]}),
        ("/v1/completions", {"prompt": "ab" * 100_000}),
        ("/v1/embeddings", {"input": "ab" * 100_000}),
        ("/tokenize", {"content": "ab" * 100_000}),
        ("/v1/completions", {"prompt": [5], "logit_bias": [["ab" * 100_000, 1.0]]}),
        ("/v1/completions", {"prompt": [5], "logit_bias": [["ab" * 100, 1.0]] * 100}),
        ("/completion", {"prompt": [5, *["ab" * 100] * 100]}),
        (CHAT, {"messages": MESSAGES, "tools": [numbers(10_000)]}),
        ("/apply-template", {"messages": MESSAGES, "tools": [numbers(10_000)]}),
        (CHAT, {"messages": MESSAGES, "chat_template_kwargs": {"a": [[]] * 10_000}}),
    ],
    ids=[
        "chat", "template", "completion", "embedding", "tokenize", "bias", "biases", "parts",
        "tools", "template tools", "variables",
    ],
)  # fmt: skip
def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenized(client, monkeypatch, path, more):
    monkeypatch.setattr("potstill.llama.model.LlamaModel.tokenize", None)
    error = error_of(client.post(path, json={"model": "a", "max_tokens": 1} | more), 400)
    assert error["code"] == "context_length_exceeded"
    assert "bytes of text" in error["message"]


def test_tokens_that_cannot_fit_are_not_made_text(client):
    error = error_of(client.post("/detokenize", json={"model": "a", "tokens": [5] * 10_000}), 400)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "tokens")


def test_a_bias_is_tokenized_once_for_all_choices(client, monkeypatch):
    tokenized = []
    tokenize = GgufModel.tokenize

    def noting(model: GgufModel, text: str, *, parse_special: bool) -> list[int]:
        tokenized.append(text)
        return tokenize(model, text, parse_special=parse_special)

    monkeypatch.setattr(GgufModel, "tokenize", noting)
    more = {"n": 4, "max_tokens": 1, "logit_bias": [["once", 1.0]]}
    body = {"model": "a", "messages": MESSAGES, "prompt": "Hi", **more}
    for path in (CHAT, "/v1/completions"):
        assert client.post(path, json=body).status_code == 200
        assert tokenized.count("once") == 1
        tokenized.clear()


def test_a_fallback_answers_for_other_names(make_app):
    with TestClient(make_app(fallback_model="b")) as client:
        body = {"messages": MESSAGES, "max_tokens": 1}
        for more in ({}, {"model": "gpt-4"}):
            assert client.post(CHAT, json=body | more).json()["model"] == "b"
        assert client.get("/v1/models/gpt-4").json()["id"] == "b"


def test_a_body_that_is_too_large_is_not_read(make_app):
    client = TestClient(make_app(limits=AppLimits(max_body_bytes=100)))
    error_of(client.post(CHAT, json={"model": "x" * 200}), 413)

    def drip():
        for _ in range(30):
            yield b'{"a":'

    headers = {"Content-Type": "application/json"}
    error_of(client.post(CHAT, content=drip(), headers=headers), 413)


def test_the_bodies_in_progress_are_bounded_together():
    async def answer(_scope, _receive, send) -> None:
        await asyncio.sleep(0.05)
        await send({"type": "http.response.start", "status": 200})

    bounded = ReadBody(answer, max_bytes=100, seconds=1.0, max_held_bytes=250)
    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "headers": headers}

    async def post() -> int:
        statuses = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"x" * 100}

        async def send(message: dict[str, Any]) -> None:
            statuses.append(message.get("status"))

        await bounded(scope, receive, send)
        return statuses[0]

    async def several(number: int) -> list[int]:
        return sorted(await asyncio.gather(*(post() for _ in range(number))))

    assert asyncio.run(several(4)) == [200, 200, 429, 429]
    assert asyncio.run(several(2)) == [200, 200]


def test_the_bodies_of_one_key_leave_room_for_those_of_others():
    async def answer(_scope, receive, send) -> None:
        await receive()
        await asyncio.sleep(0.05)
        await send({"type": "http.response.start", "status": 200})

    bounded = ReadBody(answer, max_bytes=100, seconds=1.0, max_held_bytes=400, has_owners=True)

    async def post(name: str) -> int:
        statuses = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"x" * 100}

        async def send(message: dict[str, Any]) -> None:
            statuses.append(message.get("status"))

        key = Key(name, KeyEntry(sha256="0" * 64))
        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "headers": headers, "state": {"key": key}}
        await bounded(scope, receive, send)
        return statuses[0]

    async def several(names: str) -> list[int]:
        return await asyncio.gather(*map(post, names))

    assert asyncio.run(several("aaaab")) == [200, 200, 429, 429, 200]
    assert asyncio.run(several("aabbc")) == [200, 200, 200, 200, 429]


ASKED = {"model": "a", "messages": MESSAGES}


def test_an_error_quotes_little_of_its_request(client):
    for body in (
        ASKED | {"model": "x" * 1_000_000},
        ASKED | {"tool_choice": {"type": "function", "function": {"name": "x" * 1_000_000}}},
        ASKED | {"messages": [{"role": "x" * 1_000_000, "content": "a"}]},
    ):
        response = client.post(CHAT, json=body)
        assert response.status_code in (400, 404)
        assert len(response.content) < 20_000


def test_only_requests_for_allowed_hosts_are_answered(make_app):
    app = make_app(limits=AppLimits(allowed_hosts={"localhost", "127.0.0.1", "[::1]"}))
    client = TestClient(app)
    for host in ("localhost:8000", "127.0.0.1", "[::1]:80", "LOCALHOST"):
        assert client.get("/healthz", headers={"Host": host}).status_code == 200
    for host in ("evil.example:8000", "127.0.0.1.evil.example", "", "localhost:1:2"):
        error_of(client.get("/healthz", headers={"Host": host}), 421)


def test_pages_of_other_sites_make_nothing_run(make_app):
    origin = "https://chat.example.org"
    app = make_app(limits=AppLimits(allowed_hosts={"localhost"}, cors_origins=[origin]))
    client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)

    def status(site: str, kind: str, **more: str) -> int:
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Dest": kind} | more
        return client.get("/metrics", headers=headers).status_code

    assert status("cross-site", "image") == status("cross-site", "iframe") == 403
    assert status("same-site", "empty", Origin="http://localhost:9") == 403
    assert status("cross-site", "empty", Origin=origin) == 200
    assert status("cross-site", "document") == status("same-origin", "empty") == 200
    assert status("none", "document") == 200
    # A key is not sent by itself.
    open_to_all = TestClient(make_app(limits=AppLimits()))
    assert open_to_all.get("/metrics", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


def test_other_origins_may_call_only_when_they_are_named(make_app):
    asked = {"Origin": "https://chat.example", "Access-Control-Request-Method": "POST"}
    closed = TestClient(make_app()).options(CHAT, headers=asked)
    assert "access-control-allow-origin" not in closed.headers
    app = make_app(limits=AppLimits(cors_origins={"https://chat.example"}))
    opened = TestClient(app).options(CHAT, headers=asked)
    assert opened.headers["access-control-allow-origin"] == "https://chat.example"


def nested(depth: int) -> dict[str, Any]:
    """Nest lists in objects; strings with brackets do not count."""
    return {"a": [nested(depth - 1)] if depth else "]}" * 1000}


LONE = "\ud800"
TOOL = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"const": LONE}}}}


@pytest.mark.parametrize(
    ("path", "more", "param"),
    [
        (CHAT, {"messages": [{"role": "user", "content": LONE}]}, "messages[0].content"),
        (CHAT, {"json_schema": {"const": LONE}}, "json_schema.const"),
        (CHAT, {"tools": [{"type": "function", "function": TOOL}]},
         "tools[0].function.parameters.properties.a.const"),
        (CHAT, {"metadata": {LONE: 1}}, "metadata"),
        (CHAT, {"metadata": {"a": float("nan")}}, "metadata.a"),
        (CHAT, {"user": [float("-inf")]}, "user[0]"),
        ("/v1/responses", {"input": "Hi", "metadata": {"a": LONE}}, "metadata.a"),
        ("/v1/responses", {"input": "Hi", "metadata": {"a": float("nan")}}, "metadata.a"),
        ("/v1/embeddings", {"input": "\\\\" + LONE}, "input"),
        (CHAT, {"metadata": nested(100)}, None),
        ("/v1/responses", {"input": "Hi", "metadata": nested(100)}, None),
    ],
)  # fmt: skip
def test_what_json_cannot_hold_is_refused_where_it_is(client, path, more, param):
    body = json.dumps({"model": "a", "messages": MESSAGES, "max_tokens": 1} | more)
    headers = {"Content-Type": "application/json"}
    error = error_of(client.post(path, content=body, headers=headers), 400)
    assert (error["param"], error["code"]) == (param, "invalid_value")


@pytest.mark.parametrize("arguments", [r'["\ud800"]', "[NaN]", "[" * 1500])
def test_arguments_that_json_cannot_hold_stay_text(client, arguments):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    said = [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": [call]}]
    body = {"model": "a", "messages": [*said, *MESSAGES]}
    prompt = client.post("/apply-template", json=body).json()["prompt"]
    assert json.dumps(arguments)[1:-1][:100] in prompt
    assert client.post(CHAT, json=body | {"max_tokens": 1}).status_code < 500


@pytest.mark.parametrize(
    ("body", "is_valid"),
    [
        (rb'{"a": "\ud83d\ude00 \\ud800 \\\\ud800"}', True),
        (rb'{"a": "\ud83d\ude00\ude00"}', False),
        (rb'{"a": "\\\ud83d\ude00"}', True),
        (rb'{"a": "\\ud83d\ude00"}', False),
        (rb'{"a": "NaN and Infinity, 1e999"}', True),
        (rb'{"a": 1e308, "b": -Infinity}', False),
        (rb'{"a": -1e999}', False),
        (b'{"a": ' + b"9" * 309 + b".5}", False),
        ('{"a": "\ud800"}'.encode(errors="surrogatepass"), False),
        ('{"a": "b"}'.encode("utf-16"), False),
        ('{"a": "b"}'.encode("utf-16-le"), False),
        (b'{"a": NaN', True),
        (b'{"a": [], "b": "[[[[{{{{"},' * 100, True),
        (b"[1," * 128 + b"2" + b"]" * 128, True),
        (b"[1," * 129, False),
        (b"[" + b"[]," * 40_000 + b"0]", False),
        (b'["' + b"[]," * 40_000 + b'"]', True),
        (b'["' + rb"\"[],\\" * 40_000 + b'"]', True),
        (b"[" + b"0," * 600_000 + b"0]", False),
        (b'["' + b"0," * 600_000 + b'"]', True),
        (b"[" + b"0," * 300_000 + b"0]", True),
    ],
)  # fmt: skip
def test_a_body_is_checked_before_it_is_parsed(body, is_valid):
    context = nullcontext() if is_valid else pytest.raises(InvalidRequestError)
    with context:
        check_json(body)


def test_a_check_takes_memory_in_proportion_to_the_body():
    # The place of each value, with the name before it, would take 400 MB.
    body = json.dumps({"a" * 20_000: [0] * 20_000, "b": "NaN"}).encode()
    tracemalloc.start()
    check_json(body)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 25 * len(body)


async def call(app, body: bytes, *, gone_after: int | None) -> list[dict]:
    """Talk ASGI: a client that sends a body, and hangs up after some answers or never."""
    sent: list[dict] = []
    gone = asyncio.Event()
    incoming = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict:
        if incoming:
            return incoming.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        sent.append(message)
        if gone_after is not None and len(sent) >= gone_after:
            gone.set()

    if gone_after == 0:
        asyncio.get_running_loop().call_later(0.2, gone.set)
    scope = {
        "type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(),
        "query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1",
        "headers": [(b"content-type", b"application/json"), (b"host", b"localhost")],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip
    await app(scope, receive, send)
    return sent


ENDLESS = {"model": "a", "messages": MESSAGES, "ignore_eos": True}


@pytest.mark.parametrize(("stream", "gone_after"), [(True, 4), (False, 0)])
def test_a_disconnected_client_s_slot_is_freed_within_a_step(make_app, stream, gone_after):
    app = make_app(context_tokens=512)
    backend = app.state.serving.backends["a"]

    async def scenario() -> int:
        async with app.router.lifespan_context(app):
            body = json.dumps(ENDLESS | {"stream": stream}).encode()
            await asyncio.wait_for(call(app, body, gone_after=gone_after), 20)
            steps = backend.stats().num_steps
            for _ in range(200):
                if backend.stats().num_active == 0:
                    return backend.stats().num_steps - steps
                await asyncio.sleep(0.005)
            raise AssertionError("the slot is not freed")

    assert asyncio.run(scenario()) <= 2


def test_an_answer_that_takes_too_long_is_ended(make_app):
    app = make_app(context_tokens=512, limits=AppLimits(request_timeout_seconds=0.05))
    with TestClient(app) as client:
        assert error_of(client.post(CHAT, json=ENDLESS), 504)["code"] == "timeout"
        text = client.post(CHAT, json=ENDLESS | {"stream": True}).text
        last, done = text.strip().split("\n\n")[-2:]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
        assert done == "data: [DONE]"


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_server_s_end_cuts_off_gets_an_error(make_app, stream):
    app = make_app(context_tokens=512)

    async def scenario() -> list[dict]:
        async with app.router.lifespan_context(app):
            body = json.dumps(ENDLESS | {"stream": stream}).encode()
            asking = asyncio.create_task(call(app, body, gone_after=None))
            stats = app.state.serving.backends["a"].stats
            assert await asyncio.to_thread(eventually, lambda: stats().num_generated_tokens > 0)
            # As uvicorn does when the time to drain is over.
            asking.cancel()
            return await asking

    start, *_, last = asyncio.run(scenario())
    assert start["status"] == (200 if stream else 503)
    text = last["body"].decode()
    error = json.loads(text.split("\n\n")[0].removeprefix("data: "))["error"]
    assert (error["code"], error["type"]) == ("unavailable", "server_error")
    assert text.endswith("data: [DONE]\n\n" if stream else "}")
    assert not last.get("more_body")


def test_logs_name_the_request_and_quote_nothing(caplog):
    text = "what a user wrote"

    async def fail(_scope, _receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            raise ValueError(text)
        except ValueError as error:
            raise RuntimeError(text) from error

    async def scenario() -> str:
        sent: list[dict] = []

        async def send(message: dict) -> None:
            sent.append(message)

        try:
            await Count(fail, lambda _route, _status: None)({"type": "http"}, None, send)
        except RuntimeError:
            logging.getLogger("uvicorn.error").exception("Exception in ASGI application\n")
        return dict(sent[0]["headers"])[b"x-request-id"].decode()

    with caplog.filtering(PrivateRecords()):
        request_id = asyncio.run(scenario())
    assert caplog.text.count(request_id) == 1
    assert "ValueError" in caplog.text
    assert "RuntimeError" in caplog.text
    assert "await Count(fail" in caplog.text
    assert text not in caplog.text


def test_a_body_that_does_not_arrive_times_out(make_app):
    app = make_app(limits=AppLimits(body_timeout_seconds=0.05))
    sent: list[dict] = []

    async def receive() -> dict:
        await asyncio.sleep(60)
        raise AssertionError

    async def send(message: dict) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": headers}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 408


def test_a_full_queue_sets_retry_after(make_app):
    app = make_app(context_tokens=512)

    async def scenario() -> dict:
        async with app.router.lifespan_context(app):
            body = json.dumps(ENDLESS | {"n": MAX_PARALLEL + MAX_QUEUE}).encode()
            hanging = asyncio.create_task(call(app, body, gone_after=None))
            stats = app.state.serving.backends["a"].stats
            assert await asyncio.to_thread(eventually, lambda: stats().num_waiting == MAX_QUEUE)
            sent = await call(app, json.dumps(ENDLESS).encode(), gone_after=None)
            hanging.cancel()
            return sent[0]

    start = asyncio.run(scenario())
    assert start["status"] == 429
    assert int(dict(start["headers"])[b"retry-after"]) >= 1


INVALID = [
    ({"temperature": 9}, "temperature", "decimal_above_max_value"),
    ({"n": 0}, "n", "integer_below_min_value"),
    ({"messages": None}, "messages", "invalid_type"),
    ({"messages": []}, "messages", "empty_array"),
    ({"messages": [{"content": "Hi"}]}, "messages[0].role", "missing_required_parameter"),
    ({"messages": [*MESSAGES, {"role": "user", "content": 5}]}, "messages[1].content",
     "invalid_type"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
     "messages[0].content[0].text", "invalid_type"),
    ({"stop": ["a"] * 17}, "stop", "array_above_max_length"),
    ({"tool_choice": {"type": "function"}}, "tool_choice.function",
     "missing_required_parameter"),
    ({"logit_bias": {"7": 101}}, "logit_bias.7", "decimal_above_max_value"),
    ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]},
     "tools[0].function.name", "invalid_value"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "param", "code"), INVALID)
def test_errors_in_a_body_have_openais_codes_and_parameters(client, more, param, code):
    error = error_of(client.post(CHAT, json={"model": "a", "messages": MESSAGES} | more), 400)
    assert (error["param"], error["code"]) == (param, code)
    assert error["message"].startswith(f"{param}: ")


ROUTES = {
    CHAT: (ChatRequest, {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "done"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {
            "type": "object", "properties": {"a": {"enum": [1, "b"]}}, "required": ["a"]}}}],
        "tool_choice": "auto", "response_format": {"type": "text"}, "n": 2, "seed": 1,
        "stop": ["x"], "logprobs": True, "top_logprobs": 1, "logit_bias": {"7": 1.5},
        "chat_template_kwargs": {"a": 1}, "stream_options": {"include_usage": True},
    }),
    "/v1/completions": (CompletionRequest, {
        "prompt": ["Hi", [300, 301]], "echo": True, "logprobs": 1, "n": 1, "best_of": 1,
        "stop": "x", "logit_bias": [[7, False], ["a", 1]],
    }),
    "/v1/responses": (ResponseRequest, {
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "done"},
        ],
        "instructions": "Be brief.", "tools": [{"type": "function", "name": "f"}],
        "text": {"format": {"type": "text"}}, "metadata": {"a": "b"},
    }),
    MESSAGE: (MessageRequest, {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Hm."},
                {"type": "tool_use", "id": "1", "name": "f", "input": {}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "1", "content": "done"}]},
        ],
        "system": [{"type": "text", "text": "Be brief."}], "stop_sequences": ["x"],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto"}, "thinking": {"type": "enabled"},
        "output_config": {"effort": "low"}, "metadata": {"user_id": "a"},
    }),
    f"{MESSAGE}/count_tokens": (MessagePrompt, {"messages": MESSAGES, "system": "Be brief."}),
    "/v1/embeddings": (EmbeddingRequest, {"input": ["Hi", [300]], "dimensions": 2}),
    "/completion": (LlamaCompletionRequest, {
        "prompt": [300, "Hi", 301], "n_probs": 1, "response_fields": ["timings/prompt_n"],
    }),
    "/tokenize": (TokenizeRequest, {"content": "Hi", "with_pieces": True}),
    "/detokenize": (DetokenizeRequest, {"tokens": [300]}),
    "/apply-template": (TemplateRequest, {"messages": MESSAGES}),
}  # fmt: skip
"""Each route's type, and a body with many values to damage."""

LIMITS = ("max_tokens", "max_output_tokens", "n_predict")
odd_values = st.sampled_from(
    ["", "\ud800", "a" * 3000, 0, -1, 1e308, 2**63, 10**400, [], {}, [[]], [{}], [None], "null"]
)
json_values = odd_values | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NUM_BODIES = int(os.environ.get("FUZZ_BODIES", "250"))
"""docs/explanation/conformance.md says how many were tried."""


def places(value: object) -> Iterator[tuple[Any, Any]]:
    """Yield every element of a JSON value, as its container and its key or index."""
    if isinstance(value, dict | list):
        for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from places(inner)


@pytest.fixture(scope="module")
def patient_client(make_app) -> Iterator[TestClient]:
    """A client of a server that calls a minute a hang."""
    app = make_app(limits=AppLimits(request_timeout_seconds=60))
    with TestClient(app) as client:
        yield client


@pytest.mark.slow
@settings(max_examples=NUM_BODIES, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_body_breaks_anything(patient_client, data):
    path = data.draw(st.sampled_from(list(ROUTES)))
    model, valid = ROUTES[path]
    body = copy.deepcopy(valid)
    for container, key in data.draw(st.lists(st.sampled_from(list(places(body))), max_size=2)):
        if data.draw(st.booleans()):
            container[key] = data.draw(json_values)
    names = st.sampled_from(sorted(set(model.model_fields) - {"model", "stream"}))
    body |= data.draw(st.dictionaries(names, json_values, max_size=2))
    body |= {"model": "a", "stream": data.draw(st.booleans())}
    body |= {name: 2 for name in LIMITS if name in model.model_fields}
    content = json.dumps(body)
    response = patient_client.post(
        path, content=content, headers={"Content-Type": "application/json"}
    )
    assert response.status_code in (200, 400), (content, response.text)
    if response.status_code == 400 and path.startswith(MESSAGE):
        assert response.json()["error"].keys() == {"type", "message"}
    elif response.status_code == 400:
        error_of(response, 400)
    elif response.headers["content-type"].startswith("text/event-stream"):
        for kind in ("server_error", "api_error"):
            assert f'"type":"{kind}"' not in response.text, (content, response.text)

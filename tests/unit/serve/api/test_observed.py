"""All APIs' chats are observed alike."""

import pytest
from starlette.testclient import TestClient

QUESTION = [{"role": "user", "content": "Hi"}]
REQUESTS = {
    "/v1/chat/completions": {"messages": QUESTION, "max_tokens": 4},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 4},
    "/v1/messages": {"messages": QUESTION, "max_tokens": 4},
}


class Seen:
    def __init__(self) -> None:
        self.exchanges = []

    async def __call__(self, exchange) -> None:
        self.exchanges.append(exchange)


@pytest.fixture(scope="module")
def seen() -> Seen:
    return Seen()


@pytest.fixture(scope="module")
def observed(make_app, seen):
    with TestClient(make_app(observers=[seen])) as client:
        yield client


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", REQUESTS)
def test_a_complete_answer_is_reported_once(observed, seen, path, stream):
    seen.exchanges.clear()
    body = {"model": "a", "temperature": 0, "stream": stream, **REQUESTS[path]}
    response = observed.post(path, json=body)
    assert response.status_code == 200
    (exchange,) = seen.exchanges
    text = exchange.completion["choices"][0]["message"]["content"]
    assert text
    assert exchange.completion["usage"]["completion_tokens"] == 4
    assert exchange.body["messages"] == QUESTION
    if not stream:
        assert text in response.json().get("output_text", "") + response.text


@pytest.mark.parametrize("path", REQUESTS)
def test_a_refused_request_is_not_reported(observed, seen, path):
    seen.exchanges.clear()
    long = "word " * 2000
    body = {"model": "a", **REQUESTS[path], "messages": [{"role": "user", "content": long}]}
    body |= {"input": long} if path == "/v1/responses" else {}
    body.pop("messages" if path == "/v1/responses" else "input", None)
    assert observed.post(path, json=body).status_code == 400
    assert not seen.exchanges

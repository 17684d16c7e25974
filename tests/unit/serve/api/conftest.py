"""The application over a tiny random model, in this process."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient


@pytest.fixture(scope="session")
def client(make_app) -> Iterator[TestClient]:
    # An exception that no handler takes would be raised here: that fails a test, as it should.
    with TestClient(make_app()) as client:
        yield client


@pytest.fixture(scope="session")
def chat(client: TestClient) -> Callable[..., dict[str, Any]]:
    def chat(content: str = "Hi", **more: Any) -> dict[str, Any]:
        body = {"model": "a", "messages": [{"role": "user", "content": content}], "max_tokens": 8}
        response = client.post("/v1/chat/completions", json=body | more)
        assert response.status_code == 200, response.text
        return response.json()

    return chat

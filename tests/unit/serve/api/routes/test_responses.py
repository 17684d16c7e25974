"""What a response repeats of its request."""

import json

import pytest
from starlette.testclient import TestClient

MANY = {str(number): number for number in range(50_000)}


def ask(client: TestClient, **more: object) -> list[dict]:
    """Return the events of a stream."""
    body = {"model": "a", "input": "word " * 150, "max_output_tokens": 1, "stream": True} | more
    lines = client.post("/v1/responses", json=body).text.splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def test_settings_are_returned(client):
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    *_, last = ask(client, metadata={"a": "b"}, tools=[tool], tool_choice="none")
    response = last["response"]
    assert (response["metadata"], response["tools"]) == ({"a": "b"}, [tool])
    assert (response["tool_choice"], response["text"]) == ("none", {"format": {"type": "text"}})


@pytest.mark.parametrize(
    "more",
    [
        {"metadata": MANY},
        {"metadata": {"a": "x" * 300_000}},
        {"metadata": {"x" * 300_000: "a"}},
        {"text": {"format": {"type": "text", "schema": MANY}}},
        {"tool_choice": "none", "tools": [{"type": "function", "name": "f", "parameters": MANY}]},
    ],
)
def test_what_has_too_many_values_is_not_returned(client, more):
    events = ask(client, return_progress=True, **more)
    assert any("prompt_progress" in event for event in events)
    assert events[-1]["type"] == "response.incomplete"
    assert len(json.dumps(events)) < 50_000

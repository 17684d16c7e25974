"""Thinking in answers and streams; a grammar makes the random model write what a test needs."""

import json

import pytest
from starlette.testclient import TestClient

from serve.engine.model import GgufModel

TEMPLATE = (
    "{% for one in messages %}<|im_start|>{{ one.role }}\n"
    "{% if one.reasoning_content %}<think>\n{{ one.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ one.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% elif enable_thinking %}<think>\n{% endif %}"
)
pytestmark = pytest.mark.slow

ON, OFF = {"enable_thinking": True}, {"enable_thinking": False}


class ThinkingModel(GgufModel):
    chat_template = TEMPLATE


@pytest.fixture(scope="module")
def client(make_app, tiny_gguf):
    with TestClient(make_app(model=ThinkingModel(tiny_gguf))) as client:
        yield client


@pytest.fixture(scope="module")
def chat(client):
    def chat(**more):
        """Return the message and finish reason of an answer, and the same of its stream."""
        body = {
            "model": "a",
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 60,
            "seed": 1,
            **more,
        }
        whole = client.post("/v1/chat/completions", json=body)
        assert whole.status_code == 200, whole.text
        streamed = client.post("/v1/chat/completions", json={**body, "stream": True})
        deltas = [
            json.loads(line.removeprefix("data: "))["choices"][0]["delta"]
            for line in streamed.text.splitlines()
            if line.startswith("data: {") and '"choices":[{' in line
        ]
        message = whole.json()["choices"][0]["message"]
        for name in ("content", "reasoning_content", "reasoning"):
            assert "".join(one.get(name) or "" for one in deltas) == (message.get(name) or "")
        assert message.get("reasoning") == message.get("reasoning_content")
        return message

    return chat


def literal(text: str) -> str:
    return f"root ::= {json.dumps(text)}"


@pytest.mark.parametrize(
    ("text", "thinking", "content"),
    [
        ("<think>\nHm. So.\n</think>\n\nIt is 42.", "Hm. So.", "It is 42."),
        ("</think>\n\nIt is 42.", None, "It is 42."),
        ("It is </think>42.</think>", None, "It is 42."),
        ("It is 42.", None, "It is 42."),
        ("<think>\n\n</think>\n\n42", None, "42"),
    ],
)
def test_a_client_gets_thinking_apart_and_never_a_tag(chat, text, thinking, content):
    message = chat(grammar=literal(text))
    assert (message.get("reasoning_content"), message["content"]) == (thinking, content)


def test_thinking_can_be_left_in_or_out(chat):
    text = "<think>\nHm.\n</think>\n\n42"
    assert chat(grammar=literal(text), reasoning_format="none")["content"] == text
    without = chat(grammar=literal(text), include_reasoning=False)
    assert (without["content"], "reasoning_content" in without) == ("42", False)


@pytest.mark.parametrize(
    ("given", "thinks"),
    [
        ({"chat_template_kwargs": ON}, True),
        ({"chat_template_kwargs": OFF}, False),
        ({"reasoning_effort": "high"}, True),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "none", "chat_template_kwargs": ON}, True),
        ({}, False),
    ],
)
def test_what_follows_an_opened_prompt_is_thinking(chat, given, thinks):
    message = chat(max_tokens=6, **given)
    assert bool(message.get("reasoning_content")) == thinks
    assert bool(message["content"]) != thinks


def test_a_format_is_an_answer_even_after_an_opened_prompt(chat):
    message = chat(json_schema={"const": 42}, chat_template_kwargs=ON)
    assert (message["content"], "reasoning_content" in message) == ("42", False)


def test_calls_are_read_after_the_thinking(chat):
    call = '<tool_call>\n{"name": "look", "arguments": {"at": "it"}}\n</tool_call>'
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    text = f"<think>\nA {call}?\n</think>\n\n{call}"
    message = chat(grammar=literal(text), tools=tools, max_tokens=120)
    assert message["reasoning_content"] == f"A {call}?"
    assert [one["function"]["name"] for one in message["tool_calls"]] == ["look"]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_earlier_thinking_reaches_the_template(client, name):
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "42", name: "Hm."},
        {"role": "user", "content": "Why?"},
    ]
    answer = client.post("/apply-template", json={"model": "a", "messages": messages})
    assert "<think>\nHm.\n</think>\n\n42<|im_end|>" in answer.json()["prompt"]

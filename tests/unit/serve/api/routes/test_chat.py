"""Chats over HTTP: shapes that OpenAI's own types accept, streams with the content of whole
answers."""

import json
import re
from itertools import pairwise

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from starlette.testclient import TestClient

from potstill.tools.formats import ToolFormat
from serve.engine.model import GgufModel
from serve.wire.chunks import ChunkAssembler
from tests.fixtures.server_sent import events
from tests.unit.serve.conftest import BATCH_TOKENS


@pytest.fixture
def stream(client):
    def stream(content: str = "Hi", **more) -> list[dict]:
        body = {"model": "a", "messages": [{"role": "user", "content": content}], "max_tokens": 8}
        response = client.post("/v1/chat/completions", json=body | more | {"stream": True})
        assert response.headers["content-type"].startswith("text/event-stream")
        return events(response)

    return stream


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"success": {"type": "boolean", "const": True}},
                "required": ["success"],
            },
        },
    }
    for name in ("first", "second")
]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"temperature": 0, "logprobs": True, "top_logprobs": 3},
        {"n": 3, "seed": 5},
        {"stop": ["e", "a"], "seed": 1, "max_tokens": 30},
        {"response_format": {"type": "json_object"}, "seed": 2},
        {"tools": TOOLS, "tool_choice": "required", "seed": 3, "max_tokens": 60},
    ],
)
def test_a_stream_equals_the_whole_answer(chat, stream, more):
    settings = {"seed": 0, **more}
    whole = chat(**settings)
    ChatCompletion.model_validate(whole)
    chunks = stream(**settings, stream_options={"include_usage": True})
    assembler = ChunkAssembler()
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
        assembler.add(chunk)
    streamed = assembler.completion
    for answer in (whole, streamed):
        for choice in answer["choices"]:
            for call in choice["message"].get("tool_calls", []):
                assert call.pop("id").startswith("call_")
            choice["message"]["content"] = choice["message"]["content"] or ""
    assert streamed["choices"] == whole["choices"]
    assert streamed["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_a_stream_starts_with_the_role_and_has_no_usage_by_default(stream):
    first, *rest = stream(n=1)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert all("usage" not in chunk and chunk["choices"] for chunk in [first, *rest])
    assert all("role" not in chunk["choices"][0]["delta"] for chunk in rest)


def test_a_schema_binds_the_answer(chat):
    schema = {"const": "foooooo"}
    asked = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}}
    for more in ({"response_format": asked}, {"json_schema": schema}):
        assert json.loads(chat(**more, max_tokens=20)["choices"][0]["message"]["content"]) == (
            "foooooo"
        )
    assert chat(grammar='root ::= "a"{5,5}')["choices"][0]["message"]["content"] == "aaaaa"


def test_a_required_tool_is_called(chat):
    answer = chat(tools=TOOLS, tool_choice="required", max_tokens=60, parallel_tool_calls=False)
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] in ("first", "second")
    assert json.loads(call["function"]["arguments"]) == {"success": True}
    named = {"type": "function", "function": {"name": "second"}}
    choice = chat(tools=TOOLS, tool_choice=named, max_tokens=60)["choices"][0]
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["second"]


FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "s", "schema": {"const": "foooooo"}, "strict": True},
}


@pytest.mark.parametrize(("choice", "start"), [("required", '"'), ("auto", "<"), ("auto", '"')])
def test_beside_a_schema_tools_may_or_must_be_called(chat, choice, start):
    answer = chat(
        tools=TOOLS,
        tool_choice=choice,
        response_format=FORMAT,
        logit_bias={start: 100},
        max_tokens=60,
    )["choices"][0]
    if (choice, start) == ("auto", '"'):
        assert (answer["message"]["content"], answer["finish_reason"]) == ('"foooooo"', "stop")
    else:
        names = [call["function"]["name"] for call in answer["message"]["tool_calls"]]
        assert set(names) <= {"first", "second"}
        assert answer["finish_reason"] in ("tool_calls", "length")


def test_a_call_that_is_cut_off_leaves_no_marker_in_the_text(chat, stream):
    for max_tokens in (1, 3, 8, 16):
        cut = {"tools": TOOLS, "tool_choice": "required", "max_tokens": max_tokens}
        choice, chunks = chat(**cut)["choices"][0], stream(**cut)
        deltas = [one["choices"][0]["delta"].get("content") or "" for one in chunks]
        assert (choice["message"]["content"] or "", "".join(deltas)) == ("", "")
        assert choice["finish_reason"] == "length"


def test_a_call_that_has_begun_is_bound_by_the_tools(chat, monkeypatch):
    monkeypatch.setattr(ToolFormat, "marker", re.compile("z"))
    always_z = {"temperature": 0, "logit_bias": {"z": 100}, "parallel_tool_calls": False}
    choice = chat(tools=TOOLS, max_tokens=100, **always_z)["choices"][0]
    call = json.loads(choice["message"]["content"].removeprefix("z").removesuffix("</tool_call>"))
    assert call["name"] in ("first", "second")
    assert call["arguments"] == {"success": True}
    unread = [{"type": "function", "function": {"name": "f", "parameters": {"type": "hiccup"}}}]
    text = chat(tools=unread, max_tokens=40, **always_z)["choices"][0]["message"]["content"]
    assert text.startswith('z\n{"name": "f"')


def test_the_stop_string_that_was_met_is_named(chat, stream):
    settings = {"logit_bias": {"z": 100}, "temperature": 0, "stop": ["y", "z"]}
    assert chat(**settings)["choices"][0]["stop_reason"] == "z"
    assert stream(**settings)[-1]["choices"][0]["stop_reason"] == "z"
    assert "stop_reason" not in chat()["choices"][0]


def test_a_conversation_with_calls_is_understood(chat):
    function = {"name": "first", "arguments": '{"success": true}'}
    call = {"id": "call_1", "type": "function", "function": function}
    messages = [
        {"role": "user", "content": "Do it"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
    ]
    told = chat(messages=messages, tools=TOOLS, tool_choice="auto", verbose=True)
    prompt = told["__verbose"]["prompt"]
    assert '"name": "second"' in prompt
    assert "<tool_response>\ndone" in prompt
    assert "__verbose" not in chat(messages=messages)


def test_a_last_message_is_continued(chat):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well, "}]
    prompt = chat(messages=messages, continue_final_message=True, verbose=True)["__verbose"]
    assert prompt["prompt"].endswith("<|im_start|>assistant\nWell, ")


def test_biases_may_name_text(chat):
    for bias in ({"z": 100}, [["z", 100]]):
        content = chat(logit_bias=bias, temperature=0)["choices"][0]["message"]["content"]
        assert content == "z" * 8


def test_a_seed_repeats_an_answer_and_defaults_are_taken(chat, make_app):
    first, second = (chat(seed=11)["choices"][0]["message"] for _ in range(2))
    assert first == second
    from starlette.testclient import TestClient

    with TestClient(make_app(defaults={"temperature": 0})) as greedy:
        body = {"model": "a", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
        answers = [greedy.post("/v1/chat/completions", json=body).json() for _ in range(2)]
    expected = chat(temperature=0)["choices"][0]["message"]
    assert [answer["choices"][0]["message"] for answer in answers] == [expected, expected]


def test_a_stream_reports_the_progress_of_its_prompt(stream):
    chunks = stream("word " * 150, return_progress=True)
    told = [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]
    assert {(one["total"], one["cache"]) for one in told} == {(told[0]["total"], told[0]["cache"])}
    read = [one["processed"] for one in told]
    assert read[0] == told[0]["cache"] < told[0]["total"] == read[-1]
    assert len(read) >= 3
    assert all(0 < after - before <= BATCH_TOKENS for before, after in pairwise(read))


def test_timings_are_returned_if_requested(chat, stream):
    timings = chat(timings_per_token=True)["timings"]
    assert timings["predicted_n"] == 8
    last = stream(timings_per_token=True, stream_options={"include_usage": True})[-1]
    assert last["timings"]["prompt_n"] + last["timings"]["cache_n"] > 5


TEMPLATE = (
    "{% for one in messages %}<|im_start|>{{ one.role }}\n"
    "{% if one.reasoning_content %}<think>\n{{ one.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ one.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% elif enable_thinking %}<think>\n{% endif %}"
)
ON, OFF = {"enable_thinking": True}, {"enable_thinking": False}


class ThinkingModel(GgufModel):
    chat_template = TEMPLATE


@pytest.fixture(scope="module")
def thinking_client(make_app, tiny_gguf):
    with TestClient(make_app(model=ThinkingModel(tiny_gguf))) as client:
        yield client


@pytest.fixture(scope="module")
def think(thinking_client):
    def chat(**more):
        """Return the message and finish reason of an answer, and the same of its stream."""
        body = {
            "model": "a",
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 60,
            "seed": 1,
            **more,
        }
        whole = thinking_client.post("/v1/chat/completions", json=body)
        assert whole.status_code == 200, whole.text
        streamed = thinking_client.post("/v1/chat/completions", json={**body, "stream": True})
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


@pytest.mark.slow
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
def test_a_client_gets_thinking_apart_and_never_a_tag(think, text, thinking, content):
    message = think(grammar=literal(text))
    assert (message.get("reasoning_content"), message["content"]) == (thinking, content)


@pytest.mark.slow
def test_thinking_can_be_left_in_or_out(think):
    text = "<think>\nHm.\n</think>\n\n42"
    assert think(grammar=literal(text), reasoning_format="none")["content"] == text
    without = think(grammar=literal(text), include_reasoning=False)
    assert (without["content"], "reasoning_content" in without) == ("42", False)


@pytest.mark.slow
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
def test_what_follows_an_opened_prompt_is_thinking(think, given, thinks):
    message = think(max_tokens=6, **given)
    assert bool(message.get("reasoning_content")) == thinks
    assert bool(message["content"]) != thinks


@pytest.mark.slow
def test_a_format_is_an_answer_even_after_an_opened_prompt(think):
    message = think(json_schema={"const": 42}, chat_template_kwargs=ON)
    assert (message["content"], "reasoning_content" in message) == ("42", False)


@pytest.mark.slow
def test_calls_are_read_after_the_thinking(think):
    call = '<tool_call>\n{"name": "look", "arguments": {"at": "it"}}\n</tool_call>'
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    text = f"<think>\nA {call}?\n</think>\n\n{call}"
    message = think(grammar=literal(text), tools=tools, max_tokens=120)
    assert message["reasoning_content"] == f"A {call}?"
    assert [one["function"]["name"] for one in message["tool_calls"]] == ["look"]


@pytest.mark.slow
def test_a_call_that_could_not_be_sent_stays_text(think):
    call = r'<tool_call>{"arguments": {"at": "\ud800"}, "name": "look"}'
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    message = think(grammar=literal(call), tools=tools, max_tokens=120)
    assert (message["content"], "tool_calls" in message) == (call, False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_earlier_thinking_reaches_the_template(thinking_client, name):
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "42", name: "Hm."},
        {"role": "user", "content": "Why?"},
    ]
    answer = thinking_client.post("/apply-template", json={"model": "a", "messages": messages})
    assert "<think>\nHm.\n</think>\n\n42<|im_end|>" in answer.json()["prompt"]

"""Chats over HTTP: shapes that OpenAI's own types accept, streams with the content of whole
answers."""

import json
from itertools import pairwise

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from serve.wire.chunks import ChunkAssembler
from tests.fixtures.server_sent import events
from tests.unit.serve.api.conftest import BATCH_TOKENS


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
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": None, "refusal": None}
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

"""Anthropic's messages over HTTP: those of the chat with the same content, whole and streamed."""

import json

import pytest

from serve.api.message_of_chat import MessageOfChat
from serve.wire.messages import MessageRequest
from tests.unit.serve.api.routes.test_chat import TOOLS

HI = [{"role": "user", "content": "Hi"}]
OWN_TOOLS = [
    {"name": one["function"]["name"], "input_schema": one["function"]["parameters"]}
    for one in TOOLS
]
REQUIRED = {"tools": OWN_TOOLS, "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}


@pytest.fixture
def ask(client):
    def ask(path: str = "", **more) -> dict:
        body = {"model": "a", "messages": HI, "max_tokens": 8, "temperature": 0, **more}
        response = client.post(f"/v1/messages{path}", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    return ask


@pytest.fixture
def stream(client):
    def stream(**more) -> list[dict]:
        body = {"model": "a", "messages": HI, "max_tokens": 8, "temperature": 0, **more}
        response = client.post("/v1/messages", json={**body, "stream": True})
        pairs = [one.split("\n") for one in response.text.strip().split("\n\n")]
        sent = [json.loads(data.removeprefix("data: ")) for _, data in pairs]
        assert [name.removeprefix("event: ") for name, _ in pairs] == [one["type"] for one in sent]
        return sent

    return stream


def assembled(sent: list[dict]) -> dict:
    """Return the message that events add up to, as Anthropic's client does."""
    message, *_ = [one["message"] for one in sent if one["type"] == "message_start"]
    content, written = message["content"], {}
    for event in sent:
        if event["type"] == "content_block_start":
            assert event["index"] == len(content)
            content.append(event["content_block"])
        elif event["type"] == "content_block_delta":
            kind, block = event["delta"]["type"], content[event["index"]]
            if kind == "input_json_delta":
                written.setdefault(event["index"], "")
                written[event["index"]] += event["delta"]["partial_json"]
            else:
                name = kind.removesuffix("_delta")
                block[name] += event["delta"][name]
        elif event["type"] == "message_delta":
            message |= {**event["delta"], "usage": event["usage"]}
    for index, text in written.items():
        content[index]["input"] = json.loads(text)
    num_stops = sum(one["type"] == "content_block_stop" for one in sent)
    assert (num_stops, sent[-1]["type"]) == (len(content), "message_stop")
    return message


@pytest.mark.parametrize(
    ("more", "kind", "reason"),
    [
        ({}, "text", "max_tokens"),
        ({"stop_sequences": ["z"], "logit_bias": {"a": 90, "z": 90}, "temperature": 1, "seed": 5,
          "max_tokens": 60}, "text", "stop_sequence"),
        ({**REQUIRED, "max_tokens": 60}, "tool_use", "tool_use"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"const": 42}}}},
         "text", "end_turn"),
    ],
)  # fmt: skip
def test_a_streamed_message_equals_the_whole_one(ask, stream, more, kind, reason):
    whole, streamed = ask(**more), assembled(stream(**more))
    for message in (whole, streamed):
        assert message.pop("id").startswith("msg_")
        for block in message["content"]:
            block.pop("id", None)
        message["usage"].pop("cache_read_input_tokens")
        message["usage"].pop("input_tokens")
    assert streamed == whole
    assert whole["stop_reason"] == reason
    assert whole["stop_sequence"] == ("z" if reason == "stop_sequence" else None)
    assert {block["type"] for block in whole["content"]} <= {kind}


def test_a_message_has_the_content_of_the_chat(ask, chat):
    message = ask()
    completion = chat(temperature=0)
    (block,) = message["content"]
    assert block == {"type": "text", "text": completion["choices"][0]["message"]["content"]}
    usage = message["usage"]
    prompt = usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert (prompt, usage["output_tokens"]) == (completion["usage"]["prompt_tokens"], 8)
    assert ask("/count_tokens")["input_tokens"] == prompt


def test_a_called_tool_has_its_arguments_as_an_object(ask):
    (call,) = ask(**REQUIRED, max_tokens=60)["content"]
    assert (call["type"], call["input"]) == ("tool_use", {"success": True})
    assert call["name"] in ("first", "second")
    named = {"type": "tool", "name": "second"}
    (call,) = ask(tools=OWN_TOOLS, tool_choice=named, max_tokens=60)["content"]
    assert call["name"] == "second"
    cut = ask(tools=OWN_TOOLS, tool_choice=named, max_tokens=14)
    assert cut["stop_reason"] == "max_tokens"


@pytest.mark.parametrize("value", ["NaN", "1e999", r'"\ud800"', "[" * 5000 + "]" * 5000, "{"])
def test_arguments_that_could_not_be_sent_are_left_out(value):
    call = {"id": "c", "function": {"name": "f", "arguments": f'{{"a": {value}}}'}}
    message = {"role": "assistant", "content": "", "tool_calls": [call]}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    request = MessageRequest.model_validate({"model": "a", "max_tokens": 1, "messages": HI})
    made = MessageOfChat(request).whole(
        {"choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": usage}
    )
    assert [one["input"] for one in made["content"] if one["type"] == "tool_use"] == [{}]

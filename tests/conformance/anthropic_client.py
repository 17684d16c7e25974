"""Anthropic's client against a served model; its address, without a path, is the first argument."""

import sys

import anthropic
import pytest

client = anthropic.Anthropic(base_url=sys.argv[1], api_key="none", max_retries=0)
QUESTION = {"role": "user", "content": "What is 2+2?"}
GREEDY = {"extra_body": {"temperature": 0}}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"name": "look_up", "description": "Looks a city up.", "input_schema": SCHEMA}
settings = {"model": "student", "messages": [QUESTION], "max_tokens": 40, **GREEDY}

whole = client.messages.create(**settings, system="You are a calculator.")
assert whole.content[0].type == "text", whole
assert "4" in whole.content[0].text, whole
assert whole.stop_reason in ("end_turn", "max_tokens"), whole

counted = client.messages.count_tokens(
    model="student", messages=[QUESTION], system="You are a calculator."
)
assert counted.input_tokens == whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)

with client.messages.stream(**settings, system="You are a calculator.") as stream:
    text = "".join(stream.text_stream)
    final = stream.get_final_message()
assert text == whole.content[0].text, text
assert final.usage.output_tokens == whole.usage.output_tokens, final
assert final.stop_reason == whole.stop_reason, final

stopped = client.messages.create(**settings, stop_sequences=["4", "four"])
assert stopped.stop_reason == "stop_sequence", stopped
assert stopped.stop_sequence in ("4", "four"), stopped

called = {**settings, "tools": [TOOL], "tool_choice": {"type": "any"}, "max_tokens": 120}
(call, *_) = client.messages.create(**called).content
assert (call.type, call.name) == ("tool_use", "look_up"), call
assert isinstance(call.input["city"], str), call
with client.messages.stream(**called) as stream:
    (streamed, *_) = stream.get_final_message().content
assert streamed.input == call.input, streamed

result = {"type": "tool_result", "tool_use_id": call.id, "content": "It rains."}
conversation = [
    QUESTION,
    {"role": "assistant", "content": [call.model_dump(exclude_none=True)]},
    {"role": "user", "content": [result]},
]
answer = client.messages.create(**{**settings, "messages": conversation}, tools=[TOOL])
assert answer.usage.output_tokens > 0, answer

bound = client.messages.create(
    **settings, output_config={"format": {"type": "json_schema", "schema": SCHEMA}}
)
assert bound.content[0].text.startswith("{"), bound

for wrong in (
    {"max_tokens": 0},
    {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
):
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(**{**settings, **wrong})
    assert refused.value.body["type"] == "error", refused.value.body
    assert refused.value.request_id, refused.value

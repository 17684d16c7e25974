"""LiteLLM's client against a served model; its address is the first argument."""

import json
import sys

import litellm

QUESTION = [{"role": "user", "content": "What is 2+2?"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}
served = {"model": "openai/student", "api_base": sys.argv[1], "api_key": "none"}
settings = {**served, "messages": QUESTION, "temperature": 0, "max_tokens": 40}

text = litellm.completion(**settings).choices[0].message.content
assert "4" in text, text

chunks = list(litellm.completion(**settings, stream=True, stream_options={"include_usage": True}))
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
assert litellm.stream_chunk_builder(chunks, messages=QUESTION).usage.completion_tokens > 0

named = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}
answer = litellm.completion(**settings, response_format=named).choices[0].message.content
assert list(json.loads(answer)) == ["city"], answer

function = {"type": "function", "function": {"name": "look_up", "parameters": SCHEMA}}
answer = litellm.completion(**settings, tools=[function], tool_choice="required")
assert answer.choices[0].message.tool_calls[0].function.name == "look_up"

vectors = litellm.embedding(**served, input=["Hi"], encoding_format="float").data
assert abs(sum(value**2 for value in vectors[0]["embedding"]) - 1) < 1e-3

"""Every sample has the same four requests; `tests/fixtures/traces/write_samples.py` wrote them."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generate.sources.files import find_files, read_file
from generate.sources.formats.registry import COLUMNS, read_row
from generate.sources.messages import tools_text
from generate.sources.rows import RowError
from generate.sources.shapes import to_prompts

SAMPLES = Path(__file__).parents[4] / "fixtures" / "traces"
LOST = {
    "openai-responses.jsonl": {"choices"},
    "anthropic.jsonl": {"choices"},
    "otel-v2-logs.jsonl": {"error", "model", "tools"},
    "vllm.log": {"error"},
}
"""What a format does not have: several choices, or, beside messages, what stands in spans."""
TEXTUAL = {".jsonl", ".json", ".log"}
SAMPLE_NAMES = sorted(path.name for path in SAMPLES.iterdir() if path.suffix in TEXTUAL)


def traces(name):
    (file,) = find_files(str(SAMPLES / name))
    found = [one for row in read_file(file, COLUMNS) for one in read_row(row.values)]
    assert not [one for one in found if isinstance(one, RowError)]
    return found


@pytest.mark.parametrize("name", SAMPLE_NAMES)
def test_the_requests_of_every_tool_survive(name):
    sums, called, answered, *_ = traces(name)
    assert sums.messages[-1].content == "What is 17 plus 25?"
    assert sums.answers[0].content == "42"
    (answer,) = called.answers
    assert answer.calls[0]["function"] == {"name": "weather", "arguments": '{"city": "Linz"}'}
    assert answer.calls[0]["id"] == "call_1"
    assert [one.role for one in answered.messages[-3:]] == ["user", "assistant", "tool"]
    assert answered.messages[-1].content == "sunny, 21 degrees"
    assert answered.messages[-1].tool_call_id == "call_1"
    assert answered.answers[0].content == "It is sunny."
    assert sums.model == (None if "model" in LOST.get(name, ()) else "model-1")


@pytest.mark.parametrize("name", SAMPLE_NAMES)
def test_a_system_prompt_and_tools_survive(name):
    _, called, *_ = traces(name)
    assert called.messages[0].role == "system"
    if "tools" in LOST.get(name, ()):
        return
    (tool,) = json.loads(tools_text(called.tools))
    assert tool["function"]["name"] == "weather"
    assert tool["function"]["parameters"]["type"] == "object"


@pytest.mark.parametrize("name", SAMPLE_NAMES)
def test_all_choices_and_the_error_survive(name):
    sums, *_, failed = traces(name)
    if "choices" not in LOST.get(name, ()):
        assert [one.content for one in sums.answers] == ["42", "It is 42."]
    if name != "openai-responses.jsonl":
        assert failed.messages[-1].content == "Please fail."
        assert failed.answers == ()
        assert ("refused" in (failed.error or "")) != ("error" in LOST.get(name, ()))


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.pb")), ids=lambda path: path.name)
def test_protobuf_is_read_as_its_json_is(path):
    assert traces(path.name) == traces(path.with_suffix(".jsonl").name)


KEYS = [
    *sorted(COLUMNS),
    "role", "content", "parts", "scopeSpans", "spans", "scopeLogs", "logRecords", "key", "value",
    "stringValue", "arrayValue", "kvlistValue", "values", "name", "body", "message", "generations",
    "data", "kwargs", "id", "tool_calls", "function", "arguments", "invocation_params",
    "gen_ai.input.messages", "gen_ai.prompt.0.content", "llm.input_messages.0.message.role",
]  # fmt: skip
TEXTS = [
    "user", "assistant", "tool", "text", "tool_use", "tool_result", "tool_call", "function_call",
    "llm", "GENERATION", "completion", "constructor", "HumanMessage", "gen_ai.choice", "[]", "{}",
    "[{}]", "[3]", '{"messages": [3]}', "{",
]  # fmt: skip
VALUES = st.recursive(
    st.none() | st.integers(0, 2) | st.booleans() | st.sampled_from(TEXTS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=12,
)


@given(row=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))
@settings(max_examples=150, deadline=None)
def test_whatever_a_row_holds_is_read_or_refused(row):
    for found in to_prompts(row, last_role="assistant", source="made in a test"):
        assert isinstance(found, RowError) or found.messages[-1].role == "assistant"

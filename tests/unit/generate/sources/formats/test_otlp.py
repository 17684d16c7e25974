import json

import pytest

from generate.sources.formats.registry import read_row
from generate.sources.rows import RowError

PARTS = [{"role": "user", "parts": [{"type": "text", "content": "Weather in Linz?"}]}]
CALLED = [
    {
        "role": "assistant",
        "parts": [
            {"type": "reasoning", "content": "I look."},
            {"type": "tool_call", "id": "c1", "name": "weather", "arguments": {"city": "Linz"}},
        ],
        "finish_reason": "tool_calls",
    }
]
ANSWERED = [
    {
        "role": "tool",
        "parts": [{"type": "tool_call_response", "id": "c1", "response": {"sky": "clear"}}],
    }
]
SYSTEM = [{"type": "text", "content": "Be brief."}]


def any_value(value):
    """Return OTLP's AnyValue of a JSON value."""
    if isinstance(value, dict):
        return {"kvlistValue": {"values": attributes(value)}}
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_value(one) for one in value]}}
    return {"stringValue": value}


def attributes(values):
    return [{"key": key, "value": any_value(value)} for key, value in values.items()]


def spans(*found):
    return {"resourceSpans": [{"scopeSpans": [{"spans": list(found)}]}]}


def span(values, **fields):
    return {"traceId": "a", "spanId": "b", "attributes": attributes(values), **fields}


def records(*bodies, span_id="b"):
    found = [
        {"eventName": name, "spanId": span_id, "body": any_value(body)} for name, body in bodies
    ]
    return {"resourceLogs": [{"scopeLogs": [{"logRecords": found}]}]}


def only(row):
    (found,) = read_row(row)
    if isinstance(found, RowError):
        raise found
    return found


@pytest.mark.parametrize("stored", [json.dumps, lambda value: value])
def test_messages_in_parts_are_read_as_text_and_as_values(stored):
    values = {
        "gen_ai.system_instructions": stored(SYSTEM),
        "gen_ai.input.messages": stored(PARTS + CALLED + ANSWERED),
        "gen_ai.output.messages": stored(CALLED),
        "gen_ai.request.model": "model-1",
    }
    found = only(spans(span({}), span(values)))
    assert [message.role for message in found.messages] == ["system", "user", "assistant", "tool"]
    assert found.messages[3].content == '{"sky": "clear"}'
    assert found.messages[3].tool_call_id == "c1"
    (answer,) = found.answers
    assert answer.calls[0]["function"] == {"name": "weather", "arguments": '{"city": "Linz"}'}
    assert answer.reasoning_content == "I look."
    assert found.model == "model-1"


def test_the_same_messages_are_read_in_one_event():
    event = {"name": "gen_ai.client.inference.operation.details"}
    values = {"gen_ai.input.messages": json.dumps(PARTS)}
    found = only(spans(span({}, events=[{**event, "attributes": attributes(values)}])))
    assert found.messages[0].content == "Weather in Linz?"


def test_an_event_for_each_message_is_read_with_all_choices():
    found = only(
        records(
            ("gen_ai.system.message", {"content": "Be brief."}),
            ("gen_ai.user.message", {"content": "17 plus 25?"}),
            ("gen_ai.choice", {"index": "0", "message": {"content": "42"}}),
            ("gen_ai.choice", {"index": "1", "message": {"content": "It is 42."}}),
        )
    )
    assert [message.role for message in found.messages] == ["system", "user"]
    assert [answer.content for answer in found.answers] == ["42", "It is 42."]


def test_the_first_spelling_is_read_from_a_spans_events():
    asked = {"gen_ai.prompt": json.dumps([{"role": "user", "content": "Hello"}])}
    said = {"gen_ai.completion": json.dumps([{"role": "assistant", "content": "Hi!"}])}
    events = [
        {"name": "gen_ai.content.prompt", "attributes": attributes(asked)},
        {"name": "gen_ai.content.completion", "attributes": attributes(said)},
    ]
    found = only(spans(span({}, events=events)))
    assert (found.messages[0].content, found.answers[0].content) == ("Hello", "Hi!")


def test_a_failed_request_keeps_its_messages_and_its_error():
    values = {"gen_ai.input.messages": json.dumps(PARTS)}
    found = only(spans(span(values, status={"code": 2, "message": "rate limit"})))
    assert (found.error, found.answers) == ("rate limit", ())


def test_spans_of_other_things_are_skipped():
    assert list(read_row(spans(span({"http.method": "GET"})))) == []


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"resourceSpans": 3}, "resourceSpans that are not a list"),
        (spans(span({"gen_ai.input.messages": "{"})), "span 1: text: not JSON"),
        (spans(span({"gen_ai.input.messages": "3"})), "span 1: messages that are not a list"),
        (
            spans(
                span(
                    {
                        "gen_ai.input.messages": [
                            {"role": "user", "parts": [{"type": "blob", "content": "a"}]}
                        ]
                    }
                )
            ),
            "span 1: a content part of type blob",
        ),
        (records(("gen_ai.choice", {"message": {"content": "42"}})), "log records 1: answers"),
        ({"resourceSpans": [{"scopeSpans": [{"spans": [{"attributes": "a"}]}]}]}, "attributes"),
    ],
)
def test_what_cannot_be_read_is_named(row, found):
    with pytest.raises(RowError, match=found):
        only(row)


def test_a_span_that_cannot_be_read_leaves_the_others():
    good = span({"gen_ai.input.messages": json.dumps(PARTS)})
    bad = span({"gen_ai.input.messages": "{"})
    first, second = read_row(spans(bad, good))
    assert str(first).startswith("OpenTelemetry: span 1: text: not JSON")
    assert second.messages[0].content == "Weather in Linz?"


def test_attributes_nested_deep_are_refused():
    value = "a"
    for _ in range(70):
        value = [value]
    with pytest.raises(RowError, match="nested more than 64 deep"):
        only(spans(span({"gen_ai.input.messages": value})))

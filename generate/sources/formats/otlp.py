"""OpenTelemetry's traces and logs of requests to models, in OTLP's JSON or one span of the SDK.

A line has spans or log records of many requests. Attributes and events become plain JSON here;
`otel_genai` reads messages in them. The events of a request may be in several log records, which
are joined if they are in one line.

Source: opentelemetry-proto 1.x (trace, logs, common) in its JSON encoding, and
`ReadableSpan.to_json` of opentelemetry-sdk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from generate.sources.formats.otel_genai import Event, Recorded, read_recorded
from generate.sources.formats.reader import Reader, Row, Trace, listed, mapping
from generate.sources.rows import RowError

ERROR_CODES = (2, "STATUS_CODE_ERROR", "ERROR")
MAX_DEPTH = 64
"""Of an attribute's value."""


def _read(row: Row) -> Iterator[Trace | RowError]:
    for number, one in enumerate(_recorded(row), start=1):
        try:
            yield from read_recorded(one)
        except RowError as error:
            yield RowError(f"{one.name} {number}: {error}")


def _recorded(row: Row) -> Iterator[Recorded]:
    if "attributes" in row:
        yield _span(row, _plain, code="status_code", message="description")
    for span in _leaves(row, "resourceSpans", "scopeSpans", "spans"):
        yield _span(span, _attributes, code="code", message="message")
    yield from _joined_records(row)


def _leaves(row: Row, key: str, *inner: str) -> Iterator[Row]:
    """Yield the objects of lists in lists, by the keys of the lists."""
    for one in map(mapping, listed(row.get(key) or [], key)):
        yield from _leaves(one, *inner) if inner else (one,)


def _span(
    span: Row,
    plain: Callable[[object], dict[str, Any]],
    *,
    code: str,
    message: str,
) -> Recorded:
    """Return a span.

    Args:
        plain: Returns attributes as plain JSON.
        code: Key of the status's code.
        message: Key of its text.
    """
    status = mapping(span.get("status"))
    events = [
        Event(str(mapping(one).get("name")), plain(mapping(one).get("attributes")))
        for one in listed(span.get("events") or [], "events")
    ]
    text = str(status.get(message) or "error")
    error = text if status.get(code) in ERROR_CODES else None
    return Recorded("span", plain(span.get("attributes")), events, error)


def _joined_records(row: Row) -> Iterator[Recorded]:
    """Yield the log records of each span as one; records without a span stay alone."""
    joined: dict[object, Recorded] = {}
    for record in _leaves(row, "resourceLogs", "scopeLogs", "logRecords"):
        attributes = _attributes(record.get("attributes"))
        name = record.get("eventName") or attributes.get("event.name")
        event = Event(str(name), attributes, _value(record.get("body")))
        key = str(record["spanId"]) if record.get("spanId") else object()
        joined.setdefault(key, Recorded("log records", {}, [], None)).events.append(event)
    yield from joined.values()


def _plain(given: object) -> dict[str, Any]:
    return dict(mapping(given))


def _attributes(given: object, depth: int = 0) -> dict[str, Any]:
    return {
        str(mapping(one).get("key")): _value(mapping(one).get("value"), depth)
        for one in listed(given or [], "attributes")
    }


def _value(given: object, depth: int = 0) -> Any:  # noqa: ANN401  (JSON has any type)
    """Return the plain value of an AnyValue."""
    if depth > MAX_DEPTH:
        raise RowError(f"an attribute nested more than {MAX_DEPTH} deep")
    if not isinstance(given, Mapping) or not given:
        return None
    kind, value = next(iter(given.items()))
    if kind == "kvlistValue":
        return _attributes(mapping(value).get("values"), depth + 1)
    if kind == "arrayValue":
        values = listed(mapping(value).get("values") or [], "values")
        return [_value(one, depth + 1) for one in values]
    return value


READER = Reader(
    "OpenTelemetry",
    lambda row: (
        "resourceSpans" in row
        or "resourceLogs" in row
        or ("attributes" in row and "context" in row)
    ),
    _read,
    frozenset({"resourceSpans", "resourceLogs", "attributes", "context", "events", "status"}),
)

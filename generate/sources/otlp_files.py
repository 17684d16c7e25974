"""Protobuf files of OpenTelemetry's traces and logs, as rows in OTLP's JSON encoding.

A file is one TracesData or LogsData, or several, each after its length in four bytes, big-endian,
as the collector's file exporter writes them with `format: proto`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from generate.sources.rows import RowError

SUFFIXES = {".pb", ".binpb", ".otlp"}
MAX_MESSAGE_BYTES = 1 << 26
"""64 MiB. A message without a length before it begins with the byte 10, which would be the length
of more than twice as much: the two kinds of files cannot be confused."""


def read_messages(stream: BinaryIO) -> Iterator[object]:
    """Yield each message as OTLP's JSON, or a RowError in its place.

    Raises:
        ImportError: The package opentelemetry-proto is missing.
    """
    head = stream.read(4)
    if head[:1] == b"\n":
        yield _in_json(head + stream.read(MAX_MESSAGE_BYTES + 1))
        return
    while head:
        size = int.from_bytes(head, "big")
        if len(head) < 4 or size > MAX_MESSAGE_BYTES:
            yield RowError(f"a message of {size} bytes, beyond {MAX_MESSAGE_BYTES} or cut off")
            return
        content = stream.read(size)
        if len(content) < size:
            yield RowError(f"a message of {size} bytes, of which {len(content)} are there")
            return
        yield _in_json(content)
        head = stream.read(4)


def _in_json(content: bytes) -> object:
    if len(content) > MAX_MESSAGE_BYTES:
        return RowError(f"a message of more than {MAX_MESSAGE_BYTES} bytes")
    from google.protobuf.json_format import MessageToDict
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
    from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

    # Both kinds have the same outer fields. Log records are no spans, or spans without an id.
    try:
        traces = TracesData.FromString(content)
        if all(span.trace_id for span in _spans(traces)):
            return MessageToDict(traces)
    except (DecodeError, ValueError):
        pass
    try:
        return MessageToDict(LogsData.FromString(content))
    except (DecodeError, ValueError, RecursionError) as error:
        return RowError(f"not OTLP: {error}")


def _spans(traces: Any) -> list[Any]:  # noqa: ANN401  (protobuf's classes are made at run time)
    return [
        span
        for resource in traces.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]

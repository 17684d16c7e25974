"""Observations of Langfuse, and traces that contain them.

Source: `ObservationsView` and `TraceWithFullDetails` of its public API; exports from its tables
have the same keys, in snake case too, with JSON text for input and output.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from generate.sources.formats.langchain import plain_message, plain_messages
from generate.sources.formats.openai_chat import chat_answers
from generate.sources.formats.reader import (
    Reader,
    Row,
    Trace,
    error_text,
    kind_of,
    listed,
    mapping,
    model_name,
)
from generate.sources.messages import parsed, to_message, to_messages
from generate.sources.rows import RowError
from potstill.schema import Message

GENERATION = "GENERATION"
"""Kind of observations that are requests to a model; spans, tools and others are skipped."""
KINDS = {GENERATION, "SPAN", "EVENT", "AGENT", "TOOL", "CHAIN", "RETRIEVER", "EVALUATOR"} | {
    "EMBEDDING", "GUARDRAIL"
}  # fmt: skip


def _read(row: Row) -> Iterator[Trace | RowError]:
    if "observations" in row:
        for number, one in enumerate(listed(row["observations"], "observations"), start=1):
            try:
                yield from _observation(mapping(one))
            except RowError as error:
                yield RowError(f"observation {number}: {error}")
    else:
        yield from _observation(row)


def _observation(row: Row) -> Iterable[Trace]:
    if row.get("type") != GENERATION:
        return
    given, tools = _json(row.get("input")), None
    if isinstance(given, dict):  # what the integrations write where there are tools
        tools, given = given.get("tools"), given.get("messages") or given.get("input")
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise RowError("an input without messages")
    failed = row.get("level") == "ERROR"
    reason = row.get("statusMessage") or row.get("status_message")
    yield Trace(
        to_messages(plain_messages(given)),
        () if failed else _answers(_json(row.get("output"))),
        tools,
        model_name(row.get("model")),
        error_text(reason or "error") if failed else None,
    )


def _answers(output: object) -> tuple[Message, ...]:
    if output is None:
        return ()
    if "choices" in mapping(output):
        return chat_answers(mapping(output))
    found = output if isinstance(output, list) else [output]
    return tuple(
        to_message(
            {"role": "assistant", "content": one}
            if isinstance(one, str)
            else {"role": "assistant", **mapping(plain_message(one))}
        )
        for one in found
    )


def _json(value: object) -> object:
    """Return parsed JSON where a text is an object or a list; other texts are text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return parsed(value)
        except RowError:
            return value
    return value


READER = Reader(
    "Langfuse",
    lambda row: isinstance(row.get("observations"), list)
    or (kind_of(row) in KINDS and ("traceId" in row or "trace_id" in row)),
    _read,
    frozenset(
        {
            "type", "traceId", "trace_id", "input", "output", "model", "level", "statusMessage",
            "status_message", "observations",
        }
    ),
)  # fmt: skip

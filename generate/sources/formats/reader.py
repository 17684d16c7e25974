"""What a reader finds in a row: requests to a model, each with its answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from generate.sources.rows import RowError
from potstill.schema import Message

Row = Mapping[str, Any]

MOST_ERROR = 500
"""Characters of an error that are kept: it may be a proxy's page, or a trace of calls."""


@dataclass(frozen=True)
class Trace:
    """One request to a model, or a stored conversation."""

    messages: tuple[Message, ...]
    """The request's; those of a conversation may end in an answer."""
    answers: tuple[Message, ...] = ()
    """The choices of the response, the first one first."""
    tools: object = None
    """Definitions of the tools, as OpenAI spells them; not checked yet."""
    model: str | None = None
    error: str | None = None
    """Why there is no answer; None without an error."""


@dataclass(frozen=True)
class Reader:
    """The reader of one schema."""

    name: str
    """Of the tool or format, for messages."""
    matches: Callable[[Row], bool]
    """Returns whether a row has the schema."""
    read: Callable[[Row], Iterable[Trace | RowError]]
    """Returns the requests in a row, none if it is about something else. It raises a RowError if
    the row cannot be read, and returns one for each part of a row that cannot be."""
    columns: frozenset[str]
    """Keys of the row that are read; other columns of tables are skipped."""


def mapping(value: object) -> Row:
    """Return a JSON object, or an empty one in place of anything else."""
    return value if isinstance(value, Mapping) else {}


def kind_of(value: object) -> str:
    """Return the text under `type` of a JSON object; an empty one without it."""
    kind = mapping(value).get("type")
    return kind if isinstance(kind, str) else ""


def listed(value: object, what: str) -> list[Any]:
    """Return a JSON list.

    Raises:
        RowError: It is something else.
    """
    if not isinstance(value, list):
        raise RowError(f"{what} that are not a list")
    return value


def function_call(call_id: object, name: object, arguments: object) -> dict[str, Any]:
    """Return a call as the chat API spells it; nothing is checked yet."""
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def text_or_none(row: Row, key: str) -> str | None:
    """Return the text under a key; None without one.

    Raises:
        RowError: It is not text.
    """
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise RowError(f"{key} is not text")
    return value


def model_name(value: object) -> str | None:
    """Return the name of a model; None where it is missing or not text."""
    return value if isinstance(value, str) and value else None


def error_text(error: object) -> str | None:
    """Return an error's message, which logs store as text or as an object; None without one."""
    if isinstance(error, Mapping):
        error = error.get("message") or error.get("error_message") or error.get("type")
    return str(error)[:MOST_ERROR] if error else None

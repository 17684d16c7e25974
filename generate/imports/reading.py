"""Requests to models in files of traces, and what in them cannot be read.

In: paths as in a source of prompts. Out: a stream of requests and of errors with their places.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from generate.sources.files import find_files, read_file
from generate.sources.formats.reader import Trace, mapping
from generate.sources.formats.registry import COLUMNS, ROW_COLUMNS, read_row
from generate.sources.messages import tools_text
from generate.sources.rows import RowError
from potstill.schema import Message

MOST_FOUND = 300
"""Characters of what was found: a row may have thousands of keys."""


class Unreadable(NamedTuple):
    """A row, or a part of one, that cannot be read."""

    where: str
    """File and line."""
    found: str


@dataclass(frozen=True)
class Request:
    """One request with its answers, apart from the messages before them."""

    messages: tuple[Message, ...]
    answers: tuple[Message, ...]
    tools: str | None
    """JSON list of the tools, as OpenAI spells them."""
    model: str | None
    error: str | None
    kept: dict[str, object]
    """What the row says of the conversation: source, license and known answer."""


def read_requests(paths: Iterable[str]) -> Iterator[Request | Unreadable]:
    """Yield the requests in files, in the order of names and rows.

    Raises:
        ConfigError: A path has no file, or a file cannot be read.
    """
    for path in paths:
        for file in find_files(path):
            for row in read_file(file, COLUMNS):
                kept = {
                    key: value for key, value in mapping(row.values).items() if key in ROW_COLUMNS
                }
                for found in read_row(row.values):
                    yield _request(found, row.where, {"source": row.source, **kept})


def _request(found: Trace | RowError, where: str, kept: dict[str, object]) -> Request | Unreadable:
    if isinstance(found, RowError):
        return Unreadable(where, str(found)[:MOST_FOUND])
    try:
        tools = tools_text(found.tools)
    except RowError as error:
        return Unreadable(where, str(error))
    messages, answers = found.messages, found.answers
    if not answers and messages and messages[-1].role == "assistant":
        messages, answers = messages[:-1], messages[-1:]
    if not any(message.role in ("user", "tool") for message in messages):
        return Unreadable(where, "no message of a user")
    return Request(messages, answers, tools, found.model, found.error, kept)

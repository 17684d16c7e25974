"""The rows of a file: examples, or traces that `potstill import` wrote, one a line.

In: JSONL with `prompt` or `messages`, or `request` and `response`. Out: a `Subject`, and lines with
other answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generate.review.rows import (
    Doubt,
    Doubts,
    Row,
    Subject,
    labels_of,
    merged,
    new_row_id,
    notes_on_shown,
    shown_rows,
)
from generate.sources.formats import exchange, openai_chat
from generate.sources.formats.reader import Trace, mapping
from generate.sources.formats.registry import read_row, reader_of
from generate.sources.json_text import parse_json
from generate.sources.rows import RowError
from potstill.errors import ConfigError
from potstill.files import disk_errors
from potstill.schema import Message
from potstill.task.answers import Answer, Item
from potstill.task.items import known_answer
from potstill.task.task import Task

READERS = (openai_chat.PROMPT, openai_chat.MESSAGES, exchange.RECORD)
"""Formats whose answers can be replaced."""
REVIEWER, REVIEWED_AT = "reviewer", "reviewed_at"
"""Keys of a line that a person has decided about."""


@dataclass(frozen=True)
class Line:
    """A line of the file."""

    text: str
    values: Mapping[str, Any] | None = None
    """Its JSON; None where it is not a prompt with at most one conversation."""
    messages: tuple[Message, ...] = ()
    """The prompt."""
    answers: tuple[Message, ...] = ()
    """Its answers; an empty one where there is none yet."""
    known: Answer | None = None
    """The known answer beside stored ones."""


def file_subject(path: Path, task: Task | None) -> Subject:
    """Return what there is to review in a file.

    Args:
        task: What judges the answers; None: nothing does.

    Raises:
        ConfigError: There is nothing in it to review.
        ArtifactError: It cannot be read.
    """
    lines = read_lines(path)
    found = [line for line in lines if line.answers]
    num_unreadable = sum(bool(line.text.strip()) for line in lines) - len(found)
    if not found:
        raise ConfigError(
            "there is nothing to review in the file",
            where=path,
            expected='JSONL with "prompt" or "messages", and "answer" where there is one',
            hint="potstill import reads the traces of other tools, and writes such a file",
        )
    doubts = Doubts(task)
    rows = list(merged(_rows(found, path.name, doubts)))
    shown = shown_rows(rows)
    notes = []
    if num_unreadable:
        notes.append(f"{num_unreadable:,} lines have no prompt that can be reviewed.")
    notes += notes_on_shown(len(rows), len(shown))
    return Subject(str(path), shown, review_path(path), tuple(notes), labels_of(task))


def review_path(path: Path) -> Path:
    """Return where decisions about a file are stored: beside it."""
    return path.with_suffix(".review.jsonl")


def read_lines(path: Path) -> list[Line]:
    """Return all lines of a file.

    Raises:
        ArtifactError: It cannot be read.
    """
    with disk_errors("reading what is reviewed", path):
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    return [_line(one) for one in text.split("\n")]


def with_answers(line: Line, answers: Sequence[Message]) -> dict[str, Any]:
    """Return a line's JSON with other answers in the place of its own."""
    values: dict[str, Any] = dict(line.values or {})
    choices = [
        {"index": index, "message": answer.to_chat()} for index, answer in enumerate(answers)
    ]
    messages = values.get("messages")
    if "request" in values:
        values["response"] = {**mapping(values.get("response")), "choices": choices}
    elif values.get("choices"):
        values["choices"] = choices
    elif isinstance(messages, list) and messages[-1].get("role") == "assistant":
        values["messages"] = [*messages[:-1], answers[0].to_chat()]
    else:
        values["answer"] = plain(answers[0])
    return values


def plain(answer: Message) -> object:
    """Return an answer as the key `answer` has it: a text, or a list of calls."""
    calls = Answer.from_message(answer).tool_calls
    if not calls:
        return answer.content
    return [{"name": call.name, "arguments": json.loads(call.arguments)} for call in calls]


def _line(text: str) -> Line:
    try:
        values = parse_json(text)
        if not isinstance(values, Mapping) or reader_of(values) not in READERS:
            return Line(text)
        (found,) = read_row(values)
    except ValueError:  # also of another number of requests
        return Line(text)
    return Line(text) if isinstance(found, RowError) else _answered(text, values, found)


def _answered(text: str, values: Mapping[str, Any], found: Trace) -> Line:
    known = known_answer(values.get("answer"), has_tools=True)
    messages, answers = found.messages, found.answers
    if not answers and messages[-1:] and messages[-1].role == "assistant":
        messages, answers = messages[:-1], messages[-1:]
    if not any(message.role in ("user", "tool") for message in messages):
        return Line(text)
    if not answers:
        answers, known = ((known or Answer()).to_message(),), None
    return Line(text, values, messages, answers, known)


def _rows(lines: Iterable[Line], source: str, doubts: Doubts) -> Iterator[Row]:
    """Yield the answers of all lines, those to the same prompt beside one another."""
    by_prompt: dict[tuple[Message, ...], list[tuple[Line, Message]]] = {}
    for line in lines:
        for answer in line.answers:
            by_prompt.setdefault(line.messages, []).append((line, answer))
    for messages, same in by_prompt.items():
        disagreeing = doubts.disagreeing([answer for _, answer in same])
        for (line, answer), disagrees in zip(same, disagreeing, strict=True):
            failed = doubts.by_metrics(answer, Item(messages=messages, known=line.known))
            yield Row(
                id=new_row_id(messages, [answer]),
                source=source,
                messages=messages,
                answer=(answer,),
                doubts=(
                    *(Doubt(name, text) for name, text in failed),
                    *filter(None, [disagrees]),
                ),
                known=line.known,
                reviewed=_signature(line),
            )


def _signature(line: Line) -> str | None:
    values = line.values or {}
    said = [values[key] for key in (REVIEWER, REVIEWED_AT) if isinstance(values.get(key), str)]
    return ", ".join(said) or None

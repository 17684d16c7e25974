"""Prompts of a task with their known answers, read from JSONL or CSV.

A line is an object with `messages` or `prompt`, and perhaps `answer`: a text, a JSON value that is
the answer, or with tools a call, {"name", "arguments"}, or a list of calls. Without `answer` an
assistant's message at the end is the known answer. With `"each_turn": true` a line is a dialogue
whose every answer is known: one prompt for each, with the messages before it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from potstill.csv_text import CSV_SUFFIXES, EXPECTED_CSV, CsvError, read_csv
from potstill.errors import ArtifactError, first_problem
from potstill.files import read_typed_text
from potstill.json_text import parse_json
from potstill.schema import Message
from potstill.task.answers import Answer, Item, ToolCall

EXPECTED = (
    '{"prompt": "..."} or {"messages": [{"role": "user", "content": "..."}]} on each line, with '
    '"answer" where it is known'
)

NO_JSONL_HINT = (
    "write one JSON object on each line; save a table as CSV, with a name in .csv; convert a JSON "
    "list first"
)
CSV_HINT = (
    "correct that line; save from a spreadsheet as CSV in UTF-8, with the names of columns in the "
    "first line"
)

FENCED = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)
"""A text that is one block of code."""


def read_items(path: Path, *, has_tools: bool) -> tuple[Item, ...]:
    """Read prompts and their known answers.

    Args:
        has_tools: Whether a JSON answer with a name and arguments is a call of a tool.

    Raises:
        ArtifactError: The file cannot be read, has no prompt, or a line is not one.
    """
    text = read_typed_text(path, "reading prompts of the task")
    is_table = path.suffix.lower() in CSV_SUFFIXES
    items = (_items_of_table if is_table else _items_of_lines)(text, path, has_tools)
    if not items:
        expected = EXPECTED_CSV if is_table else EXPECTED
        raise ArtifactError("there is no prompt", where=path, expected=expected)
    return tuple(items)


def _items_of_lines(text: str, path: Path, has_tools: bool) -> list[Item]:
    # Not `splitlines`, which also splits at characters that may stand within a JSON string.
    return [
        item
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
        for item in items_of_line(line, f"{path}:{number}", has_tools=has_tools)
    ]


def _items_of_table(text: str, path: Path, has_tools: bool) -> list[Item]:
    try:
        return [
            Item(
                messages=(Message(role="user", content=row["prompt"]),),
                known=known_answer(row.get("answer"), has_tools=has_tools),
            )
            for _, row in read_csv(StringIO(text, newline=""), by_place=2)
        ]
    except CsvError as error:
        raise ArtifactError(
            "a table has no prompts of the task",
            where=f"{path}:{error.line}",
            expected=EXPECTED_CSV,
            found=error,
            hint=CSV_HINT,
        ) from error


def lines_of(items: Iterable[Item]) -> str:
    """Return prompts as JSONL that `read_items` reads back."""
    lines = []
    for item in items:
        messages = [*item.messages, *([item.known.to_message()] if item.known else [])]
        row = {"messages": [message.to_chat() for message in messages]}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines)


def items_of_line(line: str, where: str, *, has_tools: bool) -> list[Item]:
    """Return the prompts of a line: several, where each answer of a dialogue is known.

    Args:
        where: File and number of the line, for errors.
        has_tools: As for `read_items`.

    Raises:
        ArtifactError: It has no prompt.
    """
    try:
        row = json.loads(line)
        if not isinstance(row, Mapping):
            raise _refusal(where, f"a JSON {type(row).__name__}", NO_JSONL_HINT)
        messages = [_message(one) for one in _messages(row)]
        known = known_answer(row.get("answer"), has_tools=has_tools)
        if messages and messages[-1].role == "assistant":
            last = messages.pop()
            known = known or Answer.from_message(last)
        if not messages or messages[-1].role not in {"user", "tool"}:
            raise ValueError("the last message before the answer must be the user's or a tool's")
        item = Item(messages=tuple(messages), known=known)
        return [*_earlier(item), item] if row.get("each_turn") else [item]
    except json.JSONDecodeError as error:
        found = f"not JSON: {error.msg} at character {error.pos + 1}"
        raise _refusal(where, found, NO_JSONL_HINT) from error
    except ValidationError as error:
        raise _refusal(where, first_problem(error)) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _refusal(where, error) from error


def _earlier(item: Item) -> Iterator[Item]:
    """Yield the prompts of a dialogue's earlier answers."""
    for index, message in enumerate(item.messages):
        if message.role == "assistant":
            yield Item(messages=item.messages[:index], known=Answer.from_message(message))


def _messages(row: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    if "messages" in row:
        messages: Sequence[Mapping[str, Any]] = row["messages"]
        return messages
    if "prompt" not in row:
        raise ValueError(f"keys {', '.join(row) or 'none'}")
    if not isinstance(row["prompt"], str):
        raise ValueError(f"prompt is no text: {json.dumps(row['prompt'], ensure_ascii=False)}")
    return [{"role": "user", "content": row["prompt"]}]


def _message(given: Mapping[str, Any]) -> Message:
    calls = given.get("tool_calls")
    return Message(
        role=given["role"],
        content=given.get("content") or "",
        tool_calls=json.dumps(calls, ensure_ascii=False) if calls else None,
        tool_call_id=given.get("tool_call_id"),
    )


def known_answer(given: Any, *, has_tools: bool) -> Answer | None:  # noqa: ANN401  (JSON)
    """Return the answer that a row names: a text, a JSON value, calls of tools; None for null.

    Args:
        has_tools: Whether a JSON answer with a name and arguments is a call of a tool.
    """
    if given is None:
        return None
    if has_tools and (calls := tool_calls_in(given)) is not None:
        return Answer(tool_calls=calls)
    text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    return Answer(text=text)


def tool_calls_in(given: object) -> tuple[ToolCall, ...] | None:
    """Return the calls that a JSON value or its text spells out; None when it is something else.

    A call is {"name": ..., "arguments": {...}}; Llama's "parameters" is read as well. The text may
    be a block of code, as models of code write it.
    """
    if isinstance(given, str):
        block = FENCED.fullmatch(given.strip())
        try:
            given = parse_json(block[1] if block else given)
        except ValueError:
            return None
    listed = given if isinstance(given, list) else [given]
    calls = [_call(one) for one in listed]
    return tuple(call for call in calls if call) if all(calls) else None


def _call(given: object) -> ToolCall | None:
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        return None
    arguments = given.get("arguments", given.get("parameters"))
    if not isinstance(arguments, Mapping):
        return None
    return ToolCall(name=given["name"], arguments=json.dumps(arguments, ensure_ascii=False))


def _refusal(
    where: str,
    found: object,
    hint: str = "correct or remove the line, then run the same command again",
) -> ArtifactError:
    return ArtifactError(
        "a line is not a prompt of the task",
        where=where,
        expected=EXPECTED,
        found=found,
        hint=hint,
    )

"""Prompts from a JSONL file.

In: a file with one JSON object a line, `prompt` or `messages` in each. Out: `RawPrompt`s.
Knows nothing of models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from generate.prompts import RawPrompt
from potstill.errors import ArtifactError, ConfigError
from potstill.schema import Message

EXPECTED = (
    '{"prompt": "..."} or {"messages": [{"role": "user", "content": "..."}]} on each line, '
    "the last message the user's"
)


def read_prompt_file(path: Path) -> list[RawPrompt]:
    """Read all rows; empty lines are skipped, keys other than ours are left alone.

    Raises:
        ConfigError: The file is missing or cannot be read.
        ArtifactError: A row is no prompt.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the file of prompts cannot be read",
            where=path,
            expected="a JSONL file in UTF-8 (generate.prompts.path)",
            found=getattr(error, "strerror", None) or error,
            hint="check the path; without one the teacher writes the prompts itself",
        ) from error
    prompts = list(_parse(text, path))
    if not prompts:
        raise ArtifactError("the file of prompts is empty", where=path, expected=EXPECTED)
    return prompts


def _parse(text: str, path: Path) -> Iterator[RawPrompt]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
            # Half a character (a lone surrogate) is JSON, but can be neither tokenised nor stored.
            json.dumps(row, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise _refusal(where, f"not JSON: {error}") from error
        if not isinstance(row, dict):
            raise _refusal(where, f"a JSON {type(row).__name__}")
        yield RawPrompt(
            messages=_messages(row, where),
            source=_text(row, "source", where) or path.name,
            licence=_text(row, "licence", where) or _text(row, "license", where),
        )


def _messages(row: dict[str, Any], where: str) -> tuple[Message, ...]:
    if ("prompt" in row) == ("messages" in row):
        raise _refusal(where, f"keys {', '.join(row) or 'none'}")
    given = row.get("messages", [{"role": "user", "content": row.get("prompt")}])
    if not isinstance(given, list):
        raise _refusal(where, "messages that are no list")
    try:
        messages = tuple(Message.model_validate(message) for message in given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "message"
        raise _refusal(where, f"{key}: {first['msg']}") from error
    if not messages or messages[-1].role != "user" or not messages[-1].content.strip():
        raise _refusal(where, "no user's message at the end, or an empty one")
    return messages


def _text(row: dict[str, Any], key: str, where: str) -> str | None:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise _refusal(where, f"{key} is no text")
    return value


def _refusal(where: str, found: str) -> ArtifactError:
    return ArtifactError(
        "a row of the file of prompts cannot be used",
        where=where,
        expected=EXPECTED,
        found=found,
        hint="mend or remove the line, then run the same command again",
    )

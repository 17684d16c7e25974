"""Decisions written back: to a task's examples and references, or to the file that was reviewed.

In: decisions. Out: files with corrected answers, their authors and times beside them, and lines
that say what was written. The same decisions written again change nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generate.curation.reviews import Decision, read_decisions
from generate.review.file_rows import (
    REVIEWED_AT,
    REVIEWER,
    Line,
    read_lines,
    review_path,
    with_answers,
)
from generate.review.rows import new_row_id
from potstill.errors import ConfigError
from potstill.files import disk_errors, read_typed_text, write_text_atomically
from potstill.schema import Message
from potstill.task.answers import Item
from potstill.task.config import TaskConfig
from potstill.task.items import items_of_line

PROMPT_KEYS = {"prompt", "messages", "answer"}
"""Keys of a line that say what is asked and answered."""
Corrected = Mapping[tuple[Message, ...], tuple[Item, Decision]]
"""Prompts with their right answers, by the messages of the prompt."""


@dataclass
class Change:
    """A file with what changes in it."""

    path: Path
    lines: list[str] = field(default_factory=list)
    added: int = 0
    changed: int = 0
    removed: int = 0
    by_hand: list[int] = field(default_factory=list)
    """Numbers of lines with several prompts, which stay as they are."""

    def write(self) -> list[str]:
        """Write the file if there is anything to write; return what was done, in words.

        Raises:
            ArtifactError: The disk is full.
        """
        said = [
            f"{self.path}:{number} is a dialogue with several answers: change it by hand"
            for number in self.by_hand
        ]
        if self.added or self.changed or self.removed:
            with disk_errors("writing decisions back", self.path):
                write_text_atomically(self.path, "".join(f"{line}\n" for line in self.lines))
        counts = f"{self.added} added, {self.changed} changed, {self.removed} removed"
        return [*said, f"{self.path}: {counts}"]


def apply_to_task(decisions: Iterable[Decision], config: TaskConfig) -> list[str]:
    """Write decisions to the files of a task; return what was done, in words.

    A prompt that was decided to be an example or a reference stands in that file alone afterwards.

    Raises:
        ConfigError: The task names no such file.
        ArtifactError: A file cannot be read or written.
    """
    corrected: dict[str, dict[tuple[Message, ...], tuple[Item, Decision]]] = {
        "examples": {},
        "references": {},
    }
    for decision in sorted(decisions, key=lambda one: one.time):
        item = decision.item
        if item is not None and decision.use in corrected:
            for items in corrected.values():
                items.pop(item.messages, None)
            corrected[decision.use][item.messages] = item, decision
    for use, items in corrected.items():
        if items and getattr(config, use) is None:
            raise ConfigError(
                f"there is no file to write {use} to",
                where=f"task.{use}",
                expected="a JSONL file",
                found=f"{len(items)} decisions with the use {use}",
                hint=f'name one in [task]: {use} = "{use}.jsonl"',
            )
    has_tools = config.tools is not None
    changes = [
        _rewritten(path, corrected[use], corrected[other], has_tools)
        for use, other, path in (
            ("references", "examples", config.references),
            ("examples", "references", config.examples),
        )
        if path is not None and any(corrected.values())
    ]
    return [line for change in changes for line in change.write()]


def apply_to_file(path: Path) -> list[str]:
    """Write the decisions about a file into it; return what was done, in words.

    Rejected answers leave it, with their line where it has no other; the decisions keep them.

    Raises:
        ArtifactError: The file cannot be read or written.
    """
    decisions = read_decisions([review_path(path)])
    change = Change(path)
    for line in read_lines(path):
        values = _decided(line, decisions)
        if values is None:
            change.removed += 1
        elif values == line.values or not line.text.strip():
            change.lines += [line.text] if line.text.strip() else []
        else:
            change.changed += 1
            change.lines.append(json.dumps(values, ensure_ascii=False))
    return change.write()


def _decided(line: Line, decisions: Mapping[str, Decision]) -> Mapping[str, Any] | None:
    """Return a line's JSON as people want it; None where all its answers are rejected."""
    pairs = [
        (answer, decisions.get(new_row_id(line.messages, [answer]))) for answer in line.answers
    ]
    decided = [decision for _, decision in pairs if decision is not None]
    if not decided:
        return line.values or {}
    kept = [
        decision.known if decision and decision.action == "edit" and decision.known else answer
        for answer, decision in pairs
        if decision is None or decision.action != "reject"
    ]
    if not kept:
        return None
    values = dict(line.values or {}) if tuple(kept) == line.answers else with_answers(line, kept)
    for decision in decided:
        if decision.action == "label" and decision.known is not None:
            values["answer"] = decision.known.content
    return values | _signed(decided[-1])


def _rewritten(path: Path, own: Corrected, others: Corrected, has_tools: bool) -> Change:
    """Return a file with its own prompts corrected and added, and without those of the other."""
    change, missing = Change(path), dict(own)
    lines = read_typed_text(path, "reading prompts of the task").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        asked = [
            item.messages for item in items_of_line(line, f"{path}:{number}", has_tools=has_tools)
        ]
        found = [messages for messages in asked if messages in own or messages in others]
        for messages in found:
            missing.pop(messages, None)
        if found and len(asked) > 1:
            change.by_hand.append(number)
            change.lines.append(line)
        elif found and found[0] in others:
            change.removed += 1
        elif found:
            new = _corrected_line(line, *own[found[0]])
            change.changed += new != line
            change.lines.append(new)
        else:
            change.lines.append(line)
    change.added = len(missing)
    change.lines += [_corrected_line("{}", *one) for one in missing.values()]
    return change


def _corrected_line(line: str, item: Item, decision: Decision) -> str:
    """Return a line with a prompt and its right answer; what else it says stays."""
    kept = {key: value for key, value in json.loads(line).items() if key not in PROMPT_KEYS}
    answer = [item.known.to_message()] if item.known else []
    messages = [message.to_chat() for message in (*item.messages, *answer)]
    return json.dumps({"messages": messages, **kept, **_signed(decision)}, ensure_ascii=False)


def _signed(decision: Decision) -> dict[str, str]:
    return {REVIEWER: decision.reviewer, REVIEWED_AT: decision.time}

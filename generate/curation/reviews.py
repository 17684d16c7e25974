"""What people decided about answers: accepted, edited, rejected, labeled.

In: JSONL files of decisions, as `potstill review` writes them, one line each and only appended to.
Out: the decision that counts for each answer. A row is an answer to a prompt, recognized by the
prompt's id and the answer's text, so that a decision holds in other runs with the same answer.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from potstill.errors import ArtifactError, first_problem
from potstill.files import disk_errors, sha256_bytes, sync_path
from potstill.schema import Message, Value
from potstill.task.answers import Answer, Item

Action = Literal["accept", "edit", "reject", "label", "undo"]
Use = Literal["training", "examples", "references"]
PRIVATE = 0o600
"""Mode of a new file: users wrote the prompts in it."""
ANSWER_DIGITS = 8
"""Hex digits of an answer's hash in a row's id: enough for the answers to one prompt."""
EXPECTED = "a decision on each line, as potstill review writes it"


class Decision(Value):
    """What one person decided about one answer; a line of the file."""

    row: str
    """The prompt's id, `-`, and a hash of the answer."""
    action: Action
    """`undo` takes the former decision back."""
    reviewer: str
    time: str
    """UTC, ISO 8601."""
    use: Use = "training"
    """Where the answer goes: the training data alone, or also the task's examples; or the task's
    references instead."""
    known: Message | None = None
    """What the answer should be: of an edited one the new message, of a labeled one the label."""
    note: str = ""
    messages: tuple[Message, ...] = Field(min_length=1)
    """The prompt, without the task's instructions."""
    answer: tuple[Message, ...] = Field(min_length=1)
    """The answer as it was shown; of several turns, all messages from the first answer on."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if (self.known is not None) != (self.action in ("edit", "label")):
            raise ValueError("known is of edited and labeled answers")
        if self.known is not None:
            Answer.from_message(self.known)
        return self

    @property
    def prompt_id(self) -> str:
        """The id of the prompt."""
        return self.row.rpartition("-")[0]

    @property
    def item(self) -> Item | None:
        """The prompt with the answer that is right; None where none is known to be."""
        right = self.answer[-1] if self.action == "accept" else self.known
        if right is None:
            return None
        return Item(messages=(*self.messages, *self.answer[:-1]), known=Answer.from_message(right))

    @property
    def signature(self) -> str:
        """Who decided when."""
        return f"{self.reviewer}, {self.time}"


def row_id(prompt_id: str, completion: Sequence[Message]) -> str:
    """Return the id of an answer to a prompt; thinking does not count."""
    said = [[one.role, one.content, one.tool_calls] for one in completion]
    return f"{prompt_id}-{sha256_bytes(json.dumps(said).encode())[:ANSWER_DIGITS]}"


def effective(decisions: Iterable[Decision]) -> dict[str, Decision]:
    """Return the last decision on each row, without those that were taken back."""
    last = {decision.row: decision for decision in decisions}
    return {row: one for row, one in last.items() if one.action != "undo"}


def read_decisions(paths: Iterable[Path]) -> dict[str, Decision]:
    """Return the decisions that count, of several files those of later ones.

    Raises:
        ArtifactError: A file cannot be read, or a line is not a decision.
    """
    return effective(one for path in paths for one in ReviewLog(path).decisions)


class ReviewLog:
    """A file of decisions, shared by threads and processes.

    A decision is on the disk when `add` returns. What a kill leaves of a line is no decision, and
    is cut off before the next one.

    Raises:
        ArtifactError: The file cannot be read, or a line is not a decision.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.decisions: list[Decision] = []
        """All of them, in order."""
        self._versions: Counter[str] = Counter()
        self._end = 0
        self._lock = threading.Lock()
        self.refresh()

    def refresh(self) -> None:
        """Read what others wrote."""
        with self._lock, disk_errors("reading decisions", self.path):
            if self.path.exists():
                with self.path.open("rb") as file:
                    self._read(file.fileno())

    def add(self, decision: Decision, seen: int) -> bool:
        """Append a decision, unless there is one on the same row that its author has not seen.

        Args:
            seen: The number of decisions on the row that the author has seen.

        Raises:
            ArtifactError: The file cannot be written.
        """
        with self._lock, disk_errors("storing a decision", self.path):
            is_new = not self.path.exists()
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, PRIVATE)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                self._read(descriptor)
                if self._versions[decision.row] != seen:
                    return False
                os.ftruncate(descriptor, self._end)
                line = decision.model_dump_json(exclude_none=True) + "\n"
                with os.fdopen(os.dup(descriptor), "ab") as file:
                    file.write(line.encode())
                os.fsync(descriptor)
                self._read(descriptor)
            finally:
                os.close(descriptor)
            if is_new:
                sync_path(self.path.parent)
        return True

    def wait(self) -> None:
        """Wait until a decision that is being stored is complete."""
        with self._lock:
            pass

    def _read(self, descriptor: int) -> None:
        """Take the complete lines that follow what was read."""
        size = os.fstat(descriptor).st_size
        if size < self._end:  # Somebody removed lines.
            self.decisions, self._versions, self._end = [], Counter(), 0
        content = os.pread(descriptor, size - self._end, self._end)
        complete = content[: content.rfind(b"\n") + 1]
        for line in complete.split(b"\n"):
            if line.strip():
                decision = self._parse(line)
                self.decisions.append(decision)
                self._versions[decision.row] += 1
        self._end += len(complete)

    def _parse(self, line: bytes) -> Decision:
        try:
            return Decision.model_validate(json.loads(line))
        except ValueError as error:
            raise ArtifactError(
                "a line of a file of decisions cannot be used",
                where=f"{self.path}:{len(self.decisions) + 1}",
                expected=EXPECTED,
                found=first_problem(error) if isinstance(error, ValidationError) else error,
                hint="fix or remove the line",
            ) from error

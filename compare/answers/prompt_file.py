"""Prompts of a JSONL file, with known answers and checks.

In: a file. Out: `Question`s. A line is an object with `messages` or `prompt`
(a text), and optionally `answer`, `check` ({"exact": TEXT} or {"regex": PATTERN}), `prompt_id`,
`cluster_id`, `source` and `language`. An assistant's message at the end is the known answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compare.answers.jsonl import read_lines
from compare.answers.questions import Check, Question, messages_id, slices_of
from potstill.errors import ArtifactError
from potstill.schema import Message

EXPECTED = (
    '{"prompt": "..."} or {"messages": [{"role": "user", "content": "..."}]} on each line, with '
    '"answer" and "check" where known'
)


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore")
    messages: list[Message] = Field(default_factory=list)
    prompt: str | None = None
    answer: str | None = None
    check: Check | None = None
    prompt_id: str | None = None
    cluster_id: str | None = None
    source: str | None = None
    language: str | None = None

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.prompt is not None and not self.messages:
            self.messages = [Message(role="user", content=self.prompt)]
        if self.messages and self.messages[-1].role == "assistant":
            last = self.messages.pop()
            self.answer = self.answer if self.answer is not None else last.content
        if not self.messages or self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's, or an answer after it")
        return self


def read_prompt_file(path: Path) -> list[Question]:
    """Return the questions of a JSONL file; of duplicate prompts, the first.

    Raises:
        ArtifactError: The file cannot be read, is empty, or a line is not a prompt.
    """
    questions: dict[str, Question] = {}
    seen: set[str] = set()
    for row in read_lines(path, _Row, what="prompts", expected=EXPECTED):
        question, content = _question(row, path.name), messages_id(row.messages)
        if content not in seen:  # Whatever its id is: twice the same prompt is one observation.
            seen.add(content)
            questions.setdefault(question.prompt_id, question)
    if not questions:
        raise ArtifactError("the file has no prompt", where=path, expected=EXPECTED)
    return list(questions.values())


def _question(row: _Row, name: str) -> Question:
    prompt_id = row.prompt_id or messages_id(row.messages)
    source = row.source or name
    return Question(
        prompt_id=prompt_id,
        conversation_id=prompt_id,
        cluster_id=row.cluster_id or prompt_id,
        source=source,
        messages=tuple(row.messages),
        slices=slices_of(row.messages, source, row.language),
        reference=row.answer,
        check=row.check,
    )

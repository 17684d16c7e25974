"""People's labels: whether an answer meets a criterion.

In: a JSONL file, as `potstill label` writes it. Out: `Labels`. A line is

    {"messages": [...] or "prompt": TEXT, "answer": TEXT, "criterion": TEXT, "label": true or false,
     "labeler": TEXT, "comparison": TEXT or null}

An answer is recognized by its text and its prompt. Of several labels of one labeler the last one
counts; of several labelers, their mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Self

from pydantic import BaseModel, ConfigDict, StrictBool, model_validator

from compare.answers.jsonl import read_lines
from compare.answers.questions import messages_id
from compare.judges.protocol import Pair, PairKey, is_of
from potstill.schema import Message

EXPECTED = (
    '{"prompt": "..." or "messages": [...], "answer": "...", "criterion": "...", "label": true} on '
    "each line"
)


class Label(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(extra="ignore")
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    answer: str
    criterion: str
    label: StrictBool
    labeler: str = ""
    comparison: str | None = None
    """Digest of the models and settings whose answer this is."""

    @model_validator(mode="after")
    def _has_a_prompt(self) -> Self:
        if self.prompt is not None and not self.messages:
            self.messages = (Message(role="user", content=self.prompt),)
        if not self.messages:
            raise ValueError("a label needs a prompt or messages")
        return self


class Labels:
    """Labels of answers, by prompt, answer and criterion."""

    def __init__(self, labels: Iterable[Label] = ()) -> None:
        self._said: dict[tuple[str, str, str], dict[str, bool]] = {}
        for one in labels:
            self.add(one)

    def add(self, label: Label) -> None:
        """Add a label in place of the same labeler's former one."""
        key = (messages_id(label.messages), label.answer, label.criterion)
        self._said.setdefault(key, {})[label.labeler] = label.label

    def of(self, messages: Sequence[Message], answer: str, criterion: str) -> float | None:
        """Return the share of labelers who say that an answer meets a criterion; None without one.

        No answer at all meets no criterion, and needs no label.
        """
        if not answer.strip():
            return 0.0
        said = self._said.get((messages_id(messages), answer, criterion))
        return None if said is None else fmean(said.values())

    def value(
        self, messages: Sequence[Message], answer: str, criteria: Sequence[str]
    ) -> float | None:
        """Return the share of the criteria that an answer meets; None where a label is missing."""
        shares = [self.of(messages, answer, criterion) for criterion in criteria]
        known = [share for share in shares if share is not None]
        return fmean(known) if len(known) == len(shares) else None

    def scores(self, pairs: Sequence[Pair], criteria: Sequence[str]) -> dict[PairKey, float]:
        """Return the score of each pair with labels of both answers, as a judge gives it."""
        found = {}
        for pair in pairs:
            messages = pair.question.messages
            student = self.value(messages, pair.student, criteria)
            teacher = self.value(messages, pair.teacher, criteria)
            if student is not None and teacher is not None:
                found[pair.key] = 0.5 + (student - teacher) / 2
        return found


def read_labels(path: Path, comparison: str | None = None) -> Labels:
    """Return the labels of a file; none where it does not exist yet.

    Args:
        comparison: As in `is_of`.

    Raises:
        ArtifactError: The file cannot be read, or a line is not a label.
    """
    if not path.exists():
        return Labels()
    labels = read_lines(path, Label, what="labels", expected=EXPECTED)
    return Labels(one for one in labels if is_of(one.comparison, comparison))

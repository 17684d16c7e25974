"""Tokens of prompts and answers, before any model is loaded.

In: items, and the teacher's name. Out: mean and largest numbers of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from potstill.task.answers import Answer, Item
from potstill.task.shots import shot_chooser
from potstill.task.task import Task

CHARACTERS_PER_TOKEN = 4.0
"""Of ASCII. Of other characters each counts as a token, as in vocabularies made for English."""

Count = Callable[[str], int]


@dataclass(frozen=True)
class Lengths:
    """Numbers of tokens."""

    mean: float
    most: int

    @staticmethod
    def of(numbers: Iterable[int]) -> Lengths:
        """Return mean and largest of numbers; zeros of none."""
        found = list(numbers)
        return Lengths(sum(found) / len(found), max(found)) if found else Lengths(0.0, 0)

    def __str__(self) -> str:
        return f"{self.mean:.0f} (at most {self.most})"


def counter(model: str) -> Count:
    """Return what counts the tokens of a text: by characters where there is no tokenizer.

    Args:
        model: The teacher as the configuration names it; nothing is downloaded.
    """
    path = Path(model).expanduser() / "tokenizer.json"
    if not path.is_file():
        return _estimate
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _estimate(text: str) -> int:
    num_ascii = sum(map(str.isascii, text))
    return len(text) - num_ascii + math.ceil(num_ascii / CHARACTERS_PER_TOKEN)


def prompt_lengths(task: Task, items: Sequence[Item], count: Count) -> tuple[Lengths, Lengths]:
    """Return the lengths of the teacher's and of the student's prompts, without the template's."""
    choose = shot_chooser(task)
    teacher = [
        sum(count(one.content) for one in task.teacher_messages(messages, choose(messages)))
        + count(task.tools or "")
        for messages in (item.messages for item in items)
    ]
    student = [
        sum(count(one.content) for one in task.student_messages(item.messages))
        + count(task.student_tools or "")
        for item in items
    ]
    return Lengths.of(teacher), Lengths.of(student)


def answer_lengths(known: Sequence[Answer], count: Count) -> Lengths:
    """Return the lengths of answers."""
    return Lengths.of(
        count(answer.text)
        + sum(count(call.name) + count(call.arguments) for call in answer.tool_calls)
        for answer in known
    )

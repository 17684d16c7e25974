"""Known answers as whole conversations with the student.

In: a task and its items. Out: what the student is asked and what it should have answered.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from potstill.schema import Message, Value
from potstill.task.answers import Answer, Item
from potstill.task.metrics.config import LabelConfig
from potstill.task.metrics.label import Label
from potstill.task.task import Task


class KnownConversation(Value):
    """A prompt as the student gets it, and the known answer in the form that it is to learn."""

    given: tuple[Message, ...]
    answer: Message
    tools: str | None = None
    """JSON list of the tools in the student's prompt."""


def known_conversations(task: Task, items: Iterable[Item]) -> list[KnownConversation]:
    """Return the conversations of the items whose answer is known."""
    return [
        KnownConversation(
            given=task.student_messages(item.messages),
            answer=whole_answer(task, item.known).to_message(),
            tools=task.student_tools,
        )
        for item in items
        if item.known is not None
    ]


def whole_answer(task: Task, known: Answer) -> Answer:
    """Return a known answer as a model writes it: a label alone as the JSON it is read from."""
    for config in task.metrics:
        if not isinstance(config, LabelConfig) or config.field is None:
            continue
        metric = Label(config)
        label = metric.read_known(known.text)
        if label is not None and metric.read(known.text) is None:
            return Answer(text=_nested(config.field, label))
    return known


def _nested(path: str, label: str) -> str:
    """Return JSON with a label at a dotted path."""
    content: object = label
    for key in reversed(path.split(".")):
        content = {key: content}
    return json.dumps(content, ensure_ascii=False)

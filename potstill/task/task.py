"""A run's task: the `[task]` table with its files read, the same for every stage.

The teacher is asked with `teacher_messages`, the student with `student_messages`: everywhere a
prompt is made for one of them, it is made by these two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from potstill.schema import Message, Value
from potstill.task.answers import Item
from potstill.task.metrics.config import LabelConfig, MetricConfig
from potstill.task.metrics.metric import Metric
from potstill.task.metrics.registry import make_metrics

EXAMPLES_TITLE = "Examples:"
"""Heads the examples in the teacher's system prompt."""
EXAMPLES_PLACE = "{examples}"
"""Where they stand in the instructions; without it, after them. A model follows best what comes
last, such as the format of the answer."""


class Task(Value):
    """What the student is for."""

    instructions: str = ""
    """System prompt of the teacher; empty: none."""
    student_instructions: str = ""
    """System prompt of the student; empty: none."""
    tools: str | None = None
    """JSON list of the teacher's tools, as OpenAI spells them."""
    student_sees_tools: bool = True
    """Whether the tools are in the student's prompt."""
    answer_schema: str | None = None
    """JSON schema of every answer."""
    examples: tuple[Item, ...] = ()
    references: tuple[Item, ...] = ()
    """Prompts with known answers that no stage trains on."""
    num_shots: int = Field(default=0, ge=0)
    """Examples with known answers in the teacher's prompt."""
    shots: Literal["same", "nearest"] = "same"
    metrics: tuple[MetricConfig, ...] = ()
    """What makes an answer good; the first one decides."""

    @property
    def student_tools(self) -> str | None:
        """The tools in the student's prompt; None: none."""
        return self.tools if self.student_sees_tools else None

    @property
    def distills_prompt(self) -> bool:
        """Whether the student's prompt is another than the teacher's."""
        asked = (Message(role="user", content="?"),)
        return (
            self.num_shots > 0
            or self.tools != self.student_tools
            or self.teacher_messages(asked) != self.student_messages(asked)
        )

    @property
    def schema_content(self) -> Mapping[str, Any] | None:
        """The answers' JSON schema, parsed."""
        return None if self.answer_schema is None else dict(json.loads(self.answer_schema))

    @property
    def labels(self) -> tuple[str, ...]:
        """All the answers that there are, where an answer is a label alone; empty: any text."""
        first = self.metrics[0] if self.metrics else None
        if not isinstance(first, LabelConfig) or first.field or self.answer_schema or self.tools:
            return ()
        return first.labels

    def make_metrics(self) -> list[Metric]:
        """Return the task's metrics; the first one decides.

        Raises:
            ConfigError: A metric cannot be used.
        """
        return make_metrics(self.metrics, self.schema_content)

    def teacher_messages(
        self, messages: Sequence[Message], shots: Sequence[Item] = ()
    ) -> tuple[Message, ...]:
        """Return a prompt as the teacher gets it: instructions, examples, then the messages.

        Args:
            messages: The prompt. A system message of its own follows the instructions.
            shots: Examples with known answers, see `potstill.task.shots`.
        """
        before, place, after = self.instructions.partition(EXAMPLES_PLACE)
        examples = shots_text(shots)
        text = f"{before}{examples}{after}" if place else f"{before}\n\n{examples}"
        return _with_system(text.strip(), messages)

    def student_messages(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Return a prompt as the student gets it: its instructions, then the messages."""
        return _with_system(self.student_instructions, messages)


def label_grammar(labels: Sequence[str]) -> str:
    """Return a grammar of llama.cpp (GBNF) for answers that are one of some labels."""
    return f"root ::= {' | '.join(json.dumps(label, ensure_ascii=False) for label in labels)}"


def shots_text(shots: Sequence[Item]) -> str:
    """Return examples as text for a system prompt; empty without any.

    They are text and not turns of the chat, because a known answer need not be a whole answer: it
    may be the label alone.
    """
    lines = [f"{_question(item)} -> {_known(item)}" for item in shots]
    return "\n".join([EXAMPLES_TITLE, *lines]) if lines else ""


def _with_system(instructions: str, messages: Sequence[Message]) -> tuple[Message, ...]:
    own = [message.content for message in messages[:1] if message.role == "system"]
    text = "\n\n".join(filter(None, (instructions, *own)))
    rest = messages[len(own) :]
    return (Message(role="system", content=text), *rest) if text else tuple(rest)


def _question(item: Item) -> str:
    if len(item.messages) == 1:
        return " ".join(item.messages[0].content.split())
    return " / ".join(f"{message.role}: {_message_text(message)}" for message in item.messages)


def _message_text(message: Message) -> str:
    return " ".join(f"{message.content} {message.tool_calls or ''}".split())


def _known(item: Item) -> str:
    if item.known is None:
        raise ValueError("an example without a known answer")
    if not item.known.tool_calls:
        return item.known.text
    return "\n".join(
        json.dumps({"name": call.name, "arguments": json.loads(call.arguments)}, ensure_ascii=False)
        for call in item.known.tool_calls
    )

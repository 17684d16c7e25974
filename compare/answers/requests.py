"""What a model is asked: the messages and tools of a prompt, as this model gets them.

In: questions, the run's task. Out: `Request`s. A teacher and its student have different
instructions, and only the teacher may have examples in its prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import openai

from compare.answers.questions import Question
from potstill.schema import Message, is_general
from potstill.task.shots import shot_chooser
from potstill.task.task import Task


@dataclass(frozen=True)
class Request:
    """One prompt for one model."""

    messages: tuple[Message, ...]
    tools: str | None = None
    """JSON list of the tools that it may call, as OpenAI spells them."""
    reads_calls: bool = False
    """Whether an answer may call tools that are not in the prompt, because the model has learned
    them: the server then returns the calls as text."""

    @property
    def wire_tools(self) -> Any:  # noqa: ANN401  (the client's union of tables, or its mark)
        """The tools as the `openai` client takes them."""
        return json.loads(self.tools) if self.tools else openai.omit


Ask = Callable[[Question], Request]
"""From a prompt to the request for one model."""


def as_given(question: Question) -> Request:
    """Return the prompt unchanged."""
    return Request(question.messages, question.tools)


def as_student(task: Task) -> Ask:
    """Return how the student is asked: with its own instructions."""
    calls = task.tools is not None
    return lambda one: Request(task.student_messages(one.messages), task.student_tools, calls)


def as_teacher(task: Task) -> Ask:
    """Return how the teacher is asked: with its instructions, and `num_shots` examples."""
    choose = cache(shot_chooser(task))
    calls = task.tools is not None
    return lambda one: Request(
        task.teacher_messages(one.messages, choose(one.messages)), task.tools, calls
    )


def as_teacher_of_stored(task: Task) -> Ask:
    """Return how the teacher is asked prompts that are stored as the student gets them.

    Prompts that are not of the task are the same for both.
    """
    ask = as_teacher(task)

    def unwrapped(question: Question) -> Request:
        if is_general(question.source):
            return as_given(question)
        first, *rest = question.messages
        if first.role != "system":
            return ask(question)
        own = first.content.removeprefix(task.student_instructions).strip()
        system = (Message(role="system", content=own),) if own else ()
        return ask(question.model_copy(update={"messages": (*system, *rest)}))

    return unwrapped

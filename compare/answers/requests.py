"""What a model is asked: the messages and tools of a prompt, as this model gets them.

In: questions, the run's task. Out: `Request`s. A teacher and its student have different
instructions, and only the teacher may have examples in its prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import openai

from compare.answers.client import Endpoint
from compare.answers.questions import Question
from compare.config import CompareConfig
from potstill.schema import Message, is_general
from potstill.task.shots import shot_chooser
from potstill.task.task import Task, label_grammar


@dataclass(frozen=True)
class Request:
    """One prompt for one model."""

    messages: tuple[Message, ...]
    tools: str | None = None
    """JSON list of the tools that it may call, as OpenAI spells them."""
    schema: str | None = None
    """JSON schema that the answer is bound to."""
    grammar: str | None = None
    """GBNF that the answer is bound to, by servers that read it."""
    reads_calls: bool = False
    """Whether an answer may call tools that are not in the prompt, because the model has learned
    them: the server then returns the calls as text."""

    @property
    def wire_tools(self) -> Any:  # noqa: ANN401  (the client's union of tables, or its mark)
        """The tools as the `openai` client takes them."""
        return json.loads(self.tools) if self.tools else openai.omit

    @property
    def wire_format(self) -> Any:  # noqa: ANN401  (the client's union of tables, or its mark)
        """The format of the answer as the `openai` client takes it."""
        if self.schema is None:
            return openai.omit
        content = {"name": "task", "schema": json.loads(self.schema)}
        return {"type": "json_schema", "json_schema": content}

    def extra_body(self, server: Endpoint, max_tokens: int) -> dict[str, Any]:
        """Return what the `openai` client has no arguments for."""
        bound = {"grammar": self.grammar} if self.grammar and server.reads_grammars else {}
        return {server.limit_name: max_tokens} | bound


Ask = Callable[[Question], Request]
"""From a prompt to the request for one model."""


def asks_of(config: CompareConfig, task: Task | None, measured: Task | None) -> dict[str, Ask]:
    """Return how each role is asked; nothing where all are asked the prompts as they are.

    Args:
        task: The run's.
        measured: The same if its known answers are asked.
    """
    if measured is not None:
        student = as_student(measured, bound=config.task_schema)
        teacher = as_teacher(measured, bound=config.task_schema)
    elif task is not None and task.distills_prompt and config.prompts is None:
        student, teacher = as_given, as_teacher_of_stored(task)
    else:
        return {}
    return {"student": student, "teacher": teacher, "known_worse": student}


def as_given(question: Question) -> Request:
    """Return the prompt unchanged."""
    return Request(question.messages, question.tools)


def as_student(task: Task, *, bound: bool) -> Ask:
    """Return how the student is asked: with its own instructions.

    Args:
        bound: Whether answers without calls must fit the task's schema or labels, as `potstill
            serve` has it.
    """
    like = _request(task, task.student_tools, bound=bound)
    return lambda one: replace(like, messages=task.student_messages(one.messages))


def as_teacher(task: Task, *, bound: bool, shots: bool = True) -> Ask:
    """Return how the teacher is asked: with its instructions.

    Args:
        bound: As for the student.
        shots: Whether `num_shots` examples stand in the prompt.
    """
    like = _request(task, task.tools, bound=bound)
    choose = cache(shot_chooser(task)) if shots else lambda _: ()
    return lambda one: replace(
        like, messages=task.teacher_messages(one.messages, choose(one.messages))
    )


def _request(task: Task, tools: str | None, *, bound: bool) -> Request:
    """Return a task's request without messages."""
    if task.tools is not None:
        return Request((), tools, reads_calls=True)
    grammar = label_grammar(task.labels) if bound and task.labels else None
    return Request((), tools, task.answer_schema if bound else None, grammar)


def as_teacher_of_stored(task: Task) -> Ask:
    """Return how the teacher is asked prompts that are stored as the student gets them.

    Prompts that are not of the task are the same for both.
    """
    ask = as_teacher(task, bound=False)

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

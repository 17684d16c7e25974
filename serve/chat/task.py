"""A run's task applied to chats: what a request leaves out comes from the task.

In: a request with the user's words. Out: the request with the model's instructions, the task's
tools, and the format of its answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

from pydantic import TypeAdapter, ValidationError

from potstill.errors import ConfigError
from potstill.facts.shared import Role
from potstill.schema import Message
from potstill.task.shots import shot_chooser
from potstill.task.task import Task, label_grammar
from serve.engine.grammar import GrammarSource, check_grammar, schema_of
from serve.errors import InvalidRequestError
from serve.wire.chat import ChatMessage, ChatRequest, NamedSchema, ResponseFormat, Tool
from serve.wire.models import TaskCard
from serve.wire.shared import JsonObject

_TOOLS = TypeAdapter(list[Tool])


class ServedTask:
    """The task as one model gets it.

    Args:
        role: Whose instructions the model gets.
        enforces_schema: Whether the student's answers are bound by the task's schema or labels.

    Raises:
        ConfigError: The server cannot use the task's tools, or cannot enforce its schema.
    """

    def __init__(self, task: Task, role: Role, *, enforces_schema: bool) -> None:
        self._task, self._role = task, role
        self._tools = _read_tools(task)
        self._choose = shot_chooser(task) if role == "teacher" else None
        # A call is no answer of the schema.
        is_bound = enforces_schema and role == "student" and not self._tools
        self._format = _answer_format(task) if is_bound else None
        self._labels = task.labels if is_bound else ()

    @property
    def card(self) -> TaskCard:
        """What of the task applies to the model, and how its answers are measured."""
        return {
            "role": self._role,
            "metrics": [metric.name or metric.kind for metric in self._task.metrics],
            "tools": [tool.function.name for tool in self._tools],
            "answer_schema": self._format is not None,
            "labels": list(self._labels),
        }

    def without_grammars(self) -> ServedTask:
        """Return the task for a model of a server that reads no grammars, which labels need."""
        other = copy(self)
        other._labels = ()
        return other

    def applied(self, request: ChatRequest) -> ChatRequest:
        """Return a request with what it leaves out.

        Instructions are added where there is no system message; tools or the answer's format where
        the request has no tools, format, grammar or schema of its own; and temperature 0, at which
        `potstill compare` measured them, where answers can be right or wrong.
        """
        update: dict[str, object] = {}
        tools = request.tools
        if all(one.role not in ("system", "developer") for one in request.messages):
            update["messages"] = [*self._instructions(request), *request.messages]
        own = (request.tools, request.response_format, request.grammar, request.json_schema)
        if all(one is None for one in own):
            if self._tools:
                update["tools"] = tools = self._tools
            elif self._format is not None:
                update["response_format"] = self._format
            elif self._labels:
                update["grammar"] = label_grammar(self._labels)
        if self._has_learned(tools or ()) and request.tools_in_prompt is None:
            update["tools_in_prompt"] = False
        if self._task.metrics and request.temperature is None:
            update["temperature"] = 0.0
        return request.model_copy(update=update)

    def _has_learned(self, tools: Sequence[Tool]) -> bool:
        is_taught = self._role == "student" and not self._task.student_sees_tools
        return is_taught and _by_name(tools) == _by_name(self._tools)

    def _instructions(self, request: ChatRequest) -> list[ChatMessage]:
        given = [
            Message.model_validate({"role": one.role, "content": one.text})
            for one in request.messages
            if one.role not in ("system", "developer")
        ]
        if self._choose is None:
            whole = self._task.student_messages(given)
        else:
            whole = self._task.teacher_messages(given, self._choose(given))
        added = whole[: len(whole) - len(given)]
        return [ChatMessage(role="system", content=one.content) for one in added]


def _read_tools(task: Task) -> list[Tool]:
    try:
        return _TOOLS.validate_json(task.tools or "[]")
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            "the task's tools cannot be served",
            where=f"task.tools.{'.'.join(map(str, first['loc']))}",
            found=first["msg"],
            hint="--set serve.task=false serves the models without the task",
        ) from error


def _answer_format(task: Task) -> ResponseFormat | None:
    schema = task.schema_content
    if schema is None:
        return None
    try:
        check_grammar(
            GrammarSource.of_schema(schema_of(schema, "task.answer_schema", is_exact=False))
        )
    except InvalidRequestError as error:
        raise ConfigError(
            f"the task's schema cannot be enforced: {error.what}",
            where="task.answer_schema",
            found=error.found,
            hint="--set serve.task_schema=false leaves answers unbound",
        ) from error
    return ResponseFormat(
        type="json_schema", json_schema=NamedSchema(name="task", schema=dict(schema))
    )


def _by_name(tools: Sequence[Tool]) -> dict[str, JsonObject]:
    return {tool.function.name: tool.model_dump(exclude_none=True) for tool in tools}

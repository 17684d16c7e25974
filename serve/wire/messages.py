"""`/v1/messages` on the wire: Anthropic's API, as far as a chat expresses it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from typing_extensions import TypedDict

from serve.errors import UnsupportedParameterError
from serve.wire.chat import MAX_MESSAGES, MAX_TOOLS, FunctionName
from serve.wire.shared import (
    MAX_STOP_STRINGS,
    ContentPart,
    ErrorBody,
    JsonObject,
    Many,
    Received,
    SamplingFields,
    StopString,
    Text,
    unsupported_content,
)
from serve.wire.translation import Translation

NEEDED: dict[str, tuple[str, ...]] = {
    "text": (),
    "thinking": (),
    "redacted_thinking": (),
    "tool_use": ("id", "name"),
    "tool_result": ("tool_use_id",),
}
"""The supported blocks, and what each must have."""
REFUSED = ("mcp_servers", "container")
"""Parameters that would change the answer; values other than null are refused."""
CHOICES = {"auto": "auto", "any": "required", "none": "none"}
STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
"""Anthropic's by OpenAI's."""
ERROR_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""By status; others are `invalid_request_error` below 500, and `api_error` from there on."""


class Block(Received):
    """A part of a message: text, thinking, a call, or its result."""

    type: Text
    text: Text = ""
    thinking: Text = ""
    id: Text | None = None
    name: Text | None = None
    input: JsonObject | None = None
    tool_use_id: Text | None = None
    content: Text | Many[ContentPart] | None = None
    """The result of a call."""

    @model_validator(mode="after")
    def _is_supported(self) -> Self:
        if self.type not in NEEDED:
            raise unsupported_content(self.type)
        for name in NEEDED[self.type]:
            if getattr(self, name) is None:
                raise ValueError(f"a block of type {self.type} needs {name}")
        return self


class Turn(Received):
    """A message of the conversation so far."""

    role: Literal["user", "assistant", "system"]
    content: Text | Many[Block]


class MessageTool(Received):
    """A tool that the model may call; only those of the client are supported."""

    type: Text | None = None
    name: FunctionName
    description: Text | None = None
    input_schema: JsonObject | None = None
    strict: bool | None = None


class MessageToolChoice(Received):
    """Which tools the model must call."""

    type: Literal["auto", "any", "tool", "none"]
    name: Text | None = None
    """Of the tool, for the type `tool`."""
    disable_parallel_tool_use: bool | None = None


class Thinking(Received):
    """Whether the model thinks; every type but `disabled` lets it."""

    type: Text


class OutputFormat(Received):
    """The schema of the answer."""

    type: Literal["json_schema"]
    schema_: JsonObject = Field(alias="schema")


class OutputConfig(Received):
    """Settings of the answer."""

    effort: Text | None = None
    format: OutputFormat | None = None


class Metadata(Received):
    """Who asks."""

    user_id: Text | None = None
    """Identifies users of an experiment."""


class MessagePrompt(SamplingFields):
    """The body of POST /v1/messages/count_tokens. Null is the same as absent."""

    model_config = ConfigDict(extra="allow")

    model: Text | None = None
    messages: Annotated[Many[Turn], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: Text | Many[ContentPart] | None = None
    tools: Annotated[Many[MessageTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: MessageToolChoice | None = None
    thinking: Thinking | None = None
    """Without it the template decides, and thinking is left out of the answer."""
    output_config: OutputConfig | None = None
    stop_sequences: Annotated[Many[StopString], Field(max_length=MAX_STOP_STRINGS)] | None = None
    metadata: Metadata | None = None

    @property
    def shows_thinking(self) -> bool:
        """Whether the answer has blocks of thinking."""
        return self.thinking is not None and self.thinking.type != "disabled"

    def to_chat(self) -> Translation:
        """Return the equivalent chat.

        Raises:
            UnsupportedParameterError: It needs what only Anthropic runs.
        """
        for name in REFUSED:
            if (self.model_extra or {}).get(name):
                raise UnsupportedParameterError(f"this {name} is not supported", where=name)
        body = self.model_dump(
            exclude_none=True, include={*SamplingFields.model_fields, "model", "stream"}
        )
        if self.stop_sequences:
            body["stop"] = self.stop_sequences
        if self.metadata and self.metadata.user_id is not None:
            body["user"] = self.metadata.user_id
        chat = Translation(body, places={"stop": "stop_sequences"})
        self._add_tools(chat)
        self._add_settings(chat)
        if self.system is not None:
            chat.add("system", role="system", content=_dumped(self.system))
        for number, turn in enumerate(self.messages):
            _add_turn(chat, turn, f"messages[{number}]")
        last = chat.messages[-1] if chat.messages else {}
        if last.get("role") == "assistant" and last["content"] and "tool_calls" not in last:
            body["continue_final_message"] = True
        return chat

    def _add_tools(self, chat: Translation) -> None:
        if self.tools:
            chat.body["tools"] = [_chat_tool(one, n) for n, one in enumerate(self.tools)]
            for n in range(len(self.tools)):
                chat.places[f"tools[{n}].function"] = f"tools[{n}]"
                chat.places[f"tools[{n}].function.parameters"] = f"tools[{n}].input_schema"
        if choice := self.tool_choice:
            named = {"type": "function", "function": {"name": choice.name}}
            chat.body["tool_choice"] = CHOICES.get(choice.type, named)
            if choice.disable_parallel_tool_use:
                chat.body["parallel_tool_calls"] = False

    def _add_settings(self, chat: Translation) -> None:
        if self.thinking is not None:
            variables = {"enable_thinking": self.shows_thinking}
            chat.body["chat_template_kwargs"] = variables
        output = self.output_config or OutputConfig()
        if output.effort is not None and self.shows_thinking:
            chat.body["reasoning_effort"] = output.effort
        if output.format is not None:
            schema = {"name": "answer", "schema": output.format.schema_, "strict": True}
            chat.body["response_format"] = {"type": "json_schema", "json_schema": schema}
            for place in ("response_format", "response_format.json_schema"):
                chat.places[place] = "output_config.format"


class MessageRequest(MessagePrompt):
    """The body of POST /v1/messages. Null is the same as absent."""

    max_tokens: int = Field(ge=1, lt=2**63)
    stream: bool | None = None

    def to_chat(self) -> Translation:
        """Return the equivalent chat; raises as `MessagePrompt.to_chat` does."""
        chat = super().to_chat()
        chat.body["max_completion_tokens"] = self.max_tokens
        chat.places["max_completion_tokens"] = "max_tokens"
        return chat


def _add_turn(chat: Translation, turn: Turn, place: str) -> None:
    """Add a turn; the results of calls in a user's are messages of their own."""
    if isinstance(turn.content, str):
        chat.add(place, role=turn.role, content=turn.content)
        return
    if turn.role == "assistant":
        _add_answer(chat, turn.content, place)
        return
    for number, block in enumerate(turn.content):
        if block.type == "tool_result":
            result = _dumped(block.content or "")
            where = f"{place}.content[{number}]"
            chat.add(where, role="tool", tool_call_id=block.tool_use_id, content=result)
    if texts := _texts(turn.content):
        chat.add(place, role=turn.role, content=texts)


def _add_answer(chat: Translation, blocks: Sequence[Block], place: str) -> None:
    message: JsonObject = {"role": "assistant", "content": _texts(blocks) or None}
    calls = [
        {
            "id": block.id,
            "type": "function",
            "function": {"name": block.name, "arguments": json.dumps(block.input or {})},
        }
        for block in blocks
        if block.type == "tool_use"
    ]
    if calls:
        message["tool_calls"] = calls
    if thinking := "".join(block.thinking for block in blocks):
        message["reasoning_content"] = thinking
    chat.add(place, **message)


def _texts(blocks: Sequence[Block]) -> list[JsonObject]:
    return [{"type": "text", "text": block.text} for block in blocks if block.type == "text"]


def _dumped(content: str | list[ContentPart]) -> object:
    return content if isinstance(content, str) else [part.model_dump() for part in content]


def _chat_tool(tool: MessageTool, number: int) -> JsonObject:
    if tool.type not in (None, "custom"):
        raise UnsupportedParameterError(
            f"tools of type {tool.type!r} are not supported",
            where=f"tools[{number}]",
            expected="custom",
        )
    function = {"name": tool.name, "description": tool.description, "strict": tool.strict}
    return {"type": "function", "function": {**function, "parameters": tool.input_schema}}


class MessageErrorDetail(TypedDict):
    """Description of a failure."""

    type: str
    message: str


class MessageError(TypedDict):
    """The body of every response without status 2xx, and an event of a stream that fails."""

    type: Literal["error"]
    error: MessageErrorDetail


def message_error(body: ErrorBody, status: int) -> MessageError:
    """Return an error in Anthropic's shape, which names the place in its message."""
    given = body["error"]
    other = "invalid_request_error" if status < 500 else "api_error"
    message, place = given["message"], given["param"]
    if place is not None and not message.startswith(place):
        message = f"{place}: {message}"
    kind = ERROR_TYPES.get(status, other)
    return {"type": "error", "error": {"type": kind, "message": message}}

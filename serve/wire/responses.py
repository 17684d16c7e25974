"""`/v1/responses` on the wire: the stateless subset with text and function calls."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from serve.errors import InvalidRequestError, UnsupportedParameterError
from serve.wire.chat import MAX_MESSAGES, MAX_TOOLS, FunctionName
from serve.wire.shared import ContentPart, JsonObject, Many, Received, SamplingFields, Text
from serve.wire.translation import Translation

STATEFUL = ("previous_response_id", "conversation", "prompt", "background")
"""Parameters that need stored responses; values other than null and false are refused."""
LOGPROBS = "message.output_text.logprobs"
"""The value of `include` that asks for log-probabilities."""


class InputPart(ContentPart):
    """A part of an input or an earlier output; only text is supported."""

    SUPPORTED = ("input_text", "output_text", "text", "refusal")


class InputItem(Received):
    """A message, a function call, or a call's output."""

    type: Text | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Text | Many[InputPart] | None = None
    call_id: Text | None = None
    name: Text | None = None
    arguments: Text | None = None
    output: Text | Many[InputPart] | None = None


class ResponseTool(Received):
    """A tool that the assistant may call; only functions are supported."""

    type: Text
    name: FunctionName | None = None
    description: Text | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class NamedTool(Received):
    """The one function that the assistant must call."""

    type: Text
    name: Text | None = None


class TextFormat(Received):
    """The format of the answer."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: Text | None = None
    schema_: JsonObject | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextSettings(Received):
    """Settings of text output."""

    format: TextFormat | None = None
    verbosity: Any = None


class ResponseRequest(SamplingFields):
    """The body of POST /v1/responses. Null is the same as absent."""

    model_config = ConfigDict(extra="allow")

    model: Text | None = None
    input: Text | Annotated[Many[InputItem], Field(min_length=1, max_length=MAX_MESSAGES)]
    instructions: Text | None = None
    """A system message before the input."""
    max_output_tokens: int | None = Field(default=None, ge=1, lt=2**63)
    stream: bool | None = None
    tools: Annotated[Many[ResponseTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextSettings | None = None
    metadata: dict[str, Any] | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    include: Many[Text] | None = None
    timings_per_token: bool | None = None
    return_progress: bool | None = None

    @property
    def wants_logprobs(self) -> bool:
        """Whether the log-probabilities of the text are returned."""
        return self.top_logprobs is not None or LOGPROBS in (self.include or ())

    def to_chat(self) -> Translation:
        """Return the equivalent chat.

        Raises:
            UnsupportedParameterError: It needs stored responses, or a tool that is not a function.
            InvalidRequestError: An item is neither a message nor a call.
        """
        extra = self.model_extra or {}
        for name in STATEFUL:
            if extra.get(name):
                raise UnsupportedParameterError(
                    f"{name} is not supported: nothing is stored", where=name
                )
        body = self.model_dump(
            exclude_none=True,
            include=set(SamplingFields.model_fields)
            | {"model", "stream", "parallel_tool_calls", "timings_per_token", "return_progress"},
        )
        if self.max_output_tokens is not None:
            body["max_completion_tokens"] = self.max_output_tokens
        # Experiments identify users by them.
        body |= {name: extra[name] for name in ("user", "safety_identifier") if name in extra}
        if self.wants_logprobs:
            body |= {"logprobs": True, "top_logprobs": self.top_logprobs or 0}
        places = {"messages": "input", "max_completion_tokens": "max_output_tokens"}
        if self.tools:
            body["tools"] = [_chat_tool(tool, number) for number, tool in enumerate(self.tools)]
            body["tool_choice"] = self._tool_choice()
            places |= {f"tools[{n}].function": f"tools[{n}]" for n in range(len(self.tools))}
        if self.text and self.text.format:
            body["response_format"] = _chat_format(self.text.format)
            places["response_format"] = "text.format"
            places["response_format.json_schema"] = "text.format"
        chat = Translation(body, places=places)
        self._add_messages(chat)
        return chat

    def _add_messages(self, chat: Translation) -> None:
        if self.instructions is not None:
            chat.add("instructions", role="system", content=self.instructions)
        if isinstance(self.input, str):
            chat.add("input", role="user", content=self.input)
            return
        for number, item in enumerate(self.input):
            _add_item(chat, item, f"input[{number}]")

    def _tool_choice(self) -> object:
        if isinstance(self.tool_choice, NamedTool):
            return {"type": self.tool_choice.type, "function": {"name": self.tool_choice.name}}
        return self.tool_choice or "auto"


def _add_item(chat: Translation, item: InputItem, place: str) -> None:
    if item.type in (None, "message") and item.role is not None:
        chat.add(place, role=item.role, content=_content(item.content))
    elif item.type == "function_call" and item.name is not None:
        function = {"name": item.name, "arguments": item.arguments or ""}
        call = {"id": item.call_id or "", "type": "function", "function": function}
        if chat.messages and "tool_calls" in chat.messages[-1]:
            chat.messages[-1]["tool_calls"].append(call)
        else:
            chat.add(place, role="assistant", content=None, tool_calls=[call])
    elif item.type == "function_call_output":
        chat.add(place, role="tool", tool_call_id=item.call_id, content=_content(item.output))
    elif item.type != "reasoning":
        raise InvalidRequestError(
            "an item of input is not supported",
            where=place,
            expected="message | function_call | function_call_output",
            found=item.type,
        )


def _content(content: str | list[InputPart] | None) -> object:
    if not isinstance(content, list):
        return content or ""
    kinds = {"input_text": "text", "output_text": "text"}
    return [
        {"type": kinds.get(part.type, part.type), "text": part.text, "refusal": part.refusal}
        for part in content
    ]


def _chat_tool(tool: ResponseTool, number: int) -> JsonObject:
    if tool.type != "function" or tool.name is None:
        raise UnsupportedParameterError(
            f"tools of type {tool.type!r} are not supported",
            where=f"tools[{number}]",
            expected="function",
        )
    function = tool.model_dump(exclude_none=True, exclude={"type"})
    return {"type": "function", "function": function}


def _chat_format(format_: TextFormat) -> JsonObject:
    if format_.type != "json_schema":
        return {"type": format_.type}
    schema = {"name": format_.name, "schema": format_.schema_, "strict": format_.strict}
    return {"type": "json_schema", "json_schema": schema}

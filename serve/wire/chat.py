"""`/v1/chat/completions` on the wire."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, Self

from pydantic import ConfigDict, Field, model_validator
from typing_extensions import TypedDict

from serve.errors import InvalidRequestError, UnsupportedParameterError
from serve.wire.shared import (
    CompletionUsage,
    ContentPart,
    JsonObject,
    Many,
    NumTokens,
    PromptProgress,
    Received,
    SamplingFields,
    StreamOptions,
    Text,
    Timings,
    TokenLogprob,
)

MAX_MESSAGES = 4096
MAX_TOOLS = 128
"""OpenAI's own limit."""

FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
"""OpenAI's names have at most 64 characters, Anthropic's 128."""


class CalledFunction(Received):
    """The function that an assistant called, with arguments."""

    name: Text
    arguments: Text = ""
    """JSON."""


class MadeCall(Received):
    """A call in an assistant's earlier message."""

    id: Text = ""
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Received):
    """A message of the conversation so far."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Many[ContentPart] | None = None
    name: Text | None = None
    tool_calls: Annotated[Many[MadeCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: Text | None = None
    reasoning_content: Text | None = None
    """The thinking before an assistant's answer, as llama.cpp's server spells it."""
    reasoning: Text | None = None
    """The same, as vLLM spells it."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"a message of role {self.role!r} needs content")
        return self

    @property
    def text(self) -> str:
        """The message's text, parts joined by newlines."""
        if not isinstance(self.content, list):
            return self.content or ""
        return "\n".join(part.text or part.refusal for part in self.content)


class FunctionDefinition(Received):
    """A function that the assistant may call."""

    name: FunctionName
    description: Text | None = None
    parameters: JsonObject | None = None
    """JSON schema of its arguments."""
    strict: bool | None = None


class Tool(Received):
    """A tool that the assistant may call; only functions are supported."""

    type: Literal["function"]
    function: FunctionDefinition


class _NamedFunction(Received):
    name: Text


class NamedChoice(Received):
    """The one function that the assistant must call."""

    type: Literal["function"]
    function: _NamedFunction


class AllowedTools(Received):
    """Not supported."""

    type: Literal["allowed_tools", "custom"]


class NamedSchema(Received):
    """The JSON schema of a whole answer."""

    name: Text | None = None
    description: Text | None = None
    schema_: JsonObject | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Received):
    """The format of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None
    schema_: JsonObject | None = Field(default=None, alias="schema")
    """The schema of `json_object`, as llama.cpp's clients send it."""

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if self.type == "json_schema" and (
            self.json_schema is None or self.json_schema.schema_ is None
        ):
            raise ValueError("json_schema needs json_schema.schema")
        return self

    @property
    def json_schema_of_answer(self) -> JsonObject | None:
        """The schema that the answer must follow; {} allows any object, None any text."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return self.schema_ or {}
        assert self.json_schema is not None
        return self.json_schema.schema_

    @property
    def place(self) -> str:
        """The place of that schema in a request."""
        if self.type == "json_schema":
            return "response_format.json_schema.schema"
        return "response_format.schema" if self.schema_ is not None else "response_format"


class ChatRequest(SamplingFields):
    """The body of POST /v1/chat/completions. Null is the same as absent.

    docs/reference/http-api.md documents the support of OpenAI's parameters.
    """

    model_config = ConfigDict(extra="allow", serialize_by_alias=True)

    model: Text | None = None
    messages: Many[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=128)
    max_tokens: NumTokens | None = None
    max_completion_tokens: int | None = Field(default=None, ge=0, lt=2**63)
    """Newer name of `max_tokens`; takes precedence."""
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: Annotated[Many[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | AllowedTools | None = None
    parallel_tool_calls: bool | None = None
    tools_in_prompt: bool | None = None
    """Not OpenAI's: false leaves the tools out of the prompt, for a model that has learned them;
    calls are read all the same."""
    modalities: Many[Text] | None = None
    functions: Many[JsonObject] | None = None
    function_call: Any = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    """The answer continues the last message, an assistant's."""
    chat_template_kwargs: JsonObject | None = None
    """Variables for the model's template, such as `enable_thinking`."""
    reasoning_effort: Text | None = None
    """A variable of the template; "none" turns its thinking off, others turn it on."""
    reasoning_format: Literal["none", "auto", "deepseek", "deepseek-legacy"] | None = None
    """llama.cpp's: "none" leaves thinking in the content, with its tags."""
    include_reasoning: bool | None = None
    """vLLM's: false leaves thinking out of the answer."""
    timings_per_token: bool | None = None
    """llama.cpp's: chunks include timings."""
    return_progress: bool | None = None
    """llama.cpp's: a stream reports the progress of reading its prompt."""
    verbose: bool | None = None
    """llama.cpp's: the answer includes the rendered prompt."""

    @property
    def template_variables(self) -> JsonObject:
        """Further variables of the chat template."""
        effort, given = self.reasoning_effort, self.chat_template_kwargs or {}
        if effort is None:
            return given
        return {"reasoning_effort": effort, "enable_thinking": effort != "none", **given}

    @property
    def streams_usage(self) -> bool:
        """Whether the stream ends with a chunk of token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def max_new_tokens(self) -> int | None:
        """Largest number of tokens; None uses the room in the context."""
        limit = self.max_completion_tokens
        limit = self.max_tokens if limit is None else limit
        return None if limit == -1 else limit

    @property
    def callable_tools(self) -> list[Tool]:
        """The tools that this answer may call."""
        return [] if self.tool_choice == "none" else self.tools or []

    @property
    def required_tools(self) -> list[Tool]:
        """The tools of which this answer must call one; empty if it need not.

        Raises:
            InvalidRequestError: The tool that must be called is not among the tools.
        """
        if self.tool_choice == "required":
            return self.tools or []
        if not isinstance(self.tool_choice, NamedChoice):
            return []
        name = self.tool_choice.function.name
        named = [tool for tool in self.tools or [] if tool.function.name == name]
        if not named:
            raise InvalidRequestError(
                f"tool_choice names {name!r}, which is not among tools", where="tool_choice"
            )
        return named

    def check(self) -> None:
        """Refuse unsupported parameters, and contradictory ones.

        Raises:
            UnsupportedParameterError: A parameter would change the answer and cannot be honored.
            InvalidRequestError: Parameters contradict each other.
        """
        if set(self.modalities or ()) - {"text"}:
            raise _unsupported("modalities", "only text is generated")
        if self.function_call not in (None, "none"):
            raise _unsupported("function_call", "use tool_choice")
        if self.functions and self.function_call is None:
            raise _unsupported("functions", "use tools")
        if isinstance(self.tool_choice, AllowedTools):
            raise _unsupported("tool_choice", 'name one function, or use "required"')
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequestError("top_logprobs needs logprobs: true", where="top_logprobs")
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise InvalidRequestError("tool_choice needs tools", where="tool_choice")
        self._check_ending()
        self._check_constraints()

    def _check_ending(self) -> None:
        roles = [message.role for message in self.messages]
        if roles[-2:] == ["assistant", "assistant"]:
            raise InvalidRequestError(
                "the conversation ends with two messages of the assistant", where="messages"
            )
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidRequestError(
                "continue_final_message and add_generation_prompt exclude each other",
                where="continue_final_message",
            )
        if self.continue_final_message and roles[-1] != "assistant":
            raise InvalidRequestError(
                "continue_final_message needs a last message of the assistant",
                where="continue_final_message",
            )

    def _check_constraints(self) -> None:
        constraints = {
            "grammar": self.grammar is not None,
            "json_schema": self.json_schema is not None,
            "response_format": self.answer_format is not None,
            # Beside a format, a required call is what the answer is.
            "tool_choice": self.answer_format is None and bool(self.required_tools),
        }
        given = [name for name, is_given in constraints.items() if is_given]
        if len(given) > 1:
            raise InvalidRequestError(f"{' and '.join(given)} exclude each other", where=given[0])

    @property
    def answer_format(self) -> JsonObject | None:
        """The schema of `response_format`; None without one."""
        return None if self.response_format is None else self.response_format.json_schema_of_answer

    @property
    def is_format_exact(self) -> bool:
        """Whether the answer must follow all of that schema, or only what a grammar can express."""
        named = self.response_format.json_schema if self.response_format else None
        return named is None or bool(named.strict)


def _unsupported(name: str, hint: str) -> UnsupportedParameterError:
    return UnsupportedParameterError(f"this {name} is not supported", where=name, hint=hint)


class ChoiceLogprobs(TypedDict):
    """Log-probabilities of a choice's tokens; the last may be the end token's."""

    content: list[TokenLogprob]
    refusal: None


class FunctionCall(TypedDict):
    """A function's name with its arguments as JSON text."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """A call the assistant makes."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class AnswerMessage(TypedDict):
    """The assistant's message."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ToolCall]]
    reasoning_content: NotRequired[str]
    """The thinking, as llama.cpp's server spells it; the next is vLLM's spelling."""
    reasoning: NotRequired[str]


FinishReason = Literal["stop", "length", "tool_calls"]


class Ending(TypedDict):
    """How a choice ended, besides OpenAI's fields."""

    stop_reason: NotRequired[str | int | None]
    """vLLM's: the stop string that was met."""


class Choice(Ending):
    """One of the `n` answers."""

    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason


class AnswerHead(TypedDict):
    """The common fields of answers and chunks."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class ChatCompletion(AnswerHead):
    """A whole answer."""

    object: Literal["chat.completion"]
    choices: list[Choice]
    usage: CompletionUsage
    timings: NotRequired[Timings]


class ChunkChoice(Ending):
    """A chunk's addition to one of the `n` answers."""

    index: int
    delta: dict[str, Any]
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(AnswerHead):
    """A piece of a streamed answer."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChunkChoice]
    usage: NotRequired[CompletionUsage | None]
    timings: NotRequired[Timings]
    prompt_progress: NotRequired[PromptProgress]

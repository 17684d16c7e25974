"""OpenAI's wire types: the only place where its spellings live.

In: JSON bodies, checked here. Out: the engine's requests, and the JSON shapes of answers.
Knows nothing of how an answer is made.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from potstill.schema import Message, Role
from serve.engine.request import Request
from serve.engine.sampler import SamplerParams
from serve.errors import InvalidRequestError, UnsupportedParameterError


def _encodable(text: str) -> str:
    """Refuse lone surrogates, which JSON can carry and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("must be valid Unicode, without lone surrogates") from error
    return text


Text = Annotated[str, AfterValidator(_encodable)]
StopString = Annotated[Text, Field(min_length=1)]
Bias = Annotated[float, Field(ge=-100.0, le=100.0)]

REFUSED_UNLESS: dict[str, tuple[object, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
}
"""Parameters of OpenAI that would change the answer and that this server cannot honour, with the
values that ask for nothing. Any other unknown parameter is ignored."""


class _Received(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class ContentPart(_Received):
    """A part of a message; only text is understood."""

    type: Text
    text: Text = ""


class ChatMessage(_Received):
    """A message of the conversation so far."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[ContentPart] | None = None

    def to_message(self) -> Message:
        """Return the message as the chat template takes it: text parts joined by newlines.

        Raises:
            UnsupportedParameterError: A part is not text.
        """
        role: Role = "system" if self.role == "developer" else self.role
        if not isinstance(self.content, list):
            return Message(role=role, content=self.content or "")
        for part in self.content:
            if part.type != "text":
                raise UnsupportedParameterError(
                    f"content of type {part.type!r} is not supported",
                    where="messages",
                    expected="text",
                )
        return Message(role=role, content="\n".join(part.text for part in self.content))


class StreamOptions(_Received):
    """What a stream carries besides the answer."""

    include_usage: bool | None = None


class ChatRequest(_Received):
    """The body of POST /v1/chat/completions. Null is the same as absent."""

    model_config = ConfigDict(extra="allow")

    model: Text
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=128)
    seed: int | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=4)] | None = None
    max_tokens: int | None = Field(default=None, ge=0)
    max_completion_tokens: int | None = Field(default=None, ge=0)
    """Newer name of `max_tokens`; wins over it."""
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    top_p: float | None = Field(default=None, ge=0.0, le=1.0)
    top_k: int | None = Field(default=None, ge=0, lt=2**31)
    """Not OpenAI's: draw from the k most probable tokens; 0 means all."""
    min_p: float | None = Field(default=None, ge=0.0, le=1.0)
    """Not OpenAI's: least probability as a share of the most probable token's."""
    repeat_penalty: float | None = Field(default=None, gt=0.0, le=10.0)
    """Not OpenAI's: divides the logits of recent tokens; 1 is off."""
    presence_penalty: float | None = Field(default=None, ge=-2.0, le=2.0)
    frequency_penalty: float | None = Field(default=None, ge=-2.0, le=2.0)
    logit_bias: dict[int, Bias] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)

    @property
    def streams_usage(self) -> bool:
        """Whether the stream ends with a chunk of token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def check(self) -> None:
        """Refuse what this server knows of and cannot do, and what contradicts itself.

        Raises:
            UnsupportedParameterError: A parameter would change the answer and cannot be honoured.
            InvalidRequestError: `top_logprobs` is set and `logprobs` is not.
        """
        for name, value in (self.model_extra or {}).items():
            if name in REFUSED_UNLESS and value not in REFUSED_UNLESS[name]:
                raise UnsupportedParameterError(f"{name} is not supported", where=name)
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequestError("top_logprobs needs logprobs: true", where="top_logprobs")

    def to_messages(self) -> list[Message]:
        """Return the conversation as values."""
        return [message.to_message() for message in self.messages]

    def to_requests(self, prompt_token_ids: list[int]) -> list[Request]:
        """Return one engine request for each of the `n` choices; choice i has seed + i."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        limit = self.max_completion_tokens
        return [
            Request(
                prompt_token_ids=prompt_token_ids,
                sampler=self._sampler(choice),
                max_new_tokens=self.max_tokens if limit is None else limit,
                stop=tuple(stop),
                num_top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            )
            for choice in range(self.n or 1)
        ]

    def _sampler(self, choice: int) -> SamplerParams:
        return SamplerParams(
            temperature=_or(self.temperature, 1.0),
            top_p=_or(self.top_p, 1.0),
            top_k=_or(self.top_k, 0),
            min_p=_or(self.min_p, 0.0),
            repeat_penalty=_or(self.repeat_penalty, 1.0),
            presence_penalty=_or(self.presence_penalty, 0.0),
            frequency_penalty=_or(self.frequency_penalty, 0.0),
            seed=None if self.seed is None else self.seed + choice,
            logit_bias=self.logit_bias or {},
        )


def _or(value: Any, default: Any) -> Any:  # noqa: ANN401  (a number, of either's type)
    return default if value is None else value


class TopLogprob(TypedDict):
    """A token that could have been sampled."""

    id: int
    """Not OpenAI's: the token's id, as llama.cpp's own server gives it."""
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token that was sampled, with its most probable rivals."""

    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(TypedDict):
    """Log-probabilities along a choice; the last ones are the end token's, if it was reached."""

    content: list[TokenLogprob]
    refusal: None


class AnswerMessage(TypedDict):
    """The assistant's message."""

    role: Literal["assistant"]
    content: str
    refusal: None


class Choice(TypedDict):
    """One of the `n` answers."""

    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: Literal["stop", "length"]


class PromptTokensDetails(TypedDict):
    """How the prompt's tokens were come by."""

    cached_tokens: int


class CompletionUsage(TypedDict):
    """Token counts of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class AnswerHead(TypedDict):
    """What an answer and each chunk of a streamed one begin with."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class ChatCompletion(AnswerHead):
    """A whole answer."""

    object: Literal["chat.completion"]
    choices: list[Choice]
    usage: CompletionUsage


class ChunkChoice(TypedDict):
    """What a chunk adds to one of the `n` answers."""

    index: int
    delta: dict[str, Any]
    logprobs: ChoiceLogprobs | None
    finish_reason: str | None


class ChatCompletionChunk(AnswerHead):
    """A piece of a streamed answer."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChunkChoice]
    usage: NotRequired[CompletionUsage | None]


class ModelCard(TypedDict):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    """All models that are served."""

    object: Literal["list"]
    data: list[ModelCard]


class ErrorDetail(TypedDict):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    """The body of every answer that is not 2xx."""

    error: ErrorDetail

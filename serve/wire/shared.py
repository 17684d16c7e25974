"""Common parts of several endpoints on the wire: sampling, logprobs, usage, errors."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Literal, NotRequired, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

MAX_STOP_STRINGS = 16
"""OpenAI takes 4; clients of llama.cpp's server send more."""

MAX_BIASES = 1 << 13
"""Each takes microseconds to check, and ten times as long to report."""
MOST_BIAS = 100.0


def _encodable(text: str) -> str:
    """Refuse lone surrogates, which JSON can carry and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("must be valid Unicode, without lone surrogates") from error
    return text


def _few(biases: object) -> object:
    """Refuse more biases than can be checked quickly; of wrong ones leave the first, to report."""
    if isinstance(biases, dict | list) and len(biases) > MAX_BIASES:
        raise ValueError(f"at most {MAX_BIASES} biases are allowed")
    if isinstance(biases, dict):
        for key, bias in biases.items():
            if isinstance(bias, str):
                raise ValueError("a bias must be a number")
            if not isinstance(bias, int | float) or not -MOST_BIAS <= bias <= MOST_BIAS:
                return {key: bias}
    return biases


T = TypeVar("T")
Many = Annotated[list[T], Field(fail_fast=True)]
"""A list; only its first error is reported, because reporting a megabyte of errors takes a minute
and gigabytes."""
Text = Annotated[str, AfterValidator(_encodable)]
StopString = Annotated[Text, Field(min_length=1, max_length=1024)]
Bias = Annotated[float, Field(ge=-MOST_BIAS, le=MOST_BIAS)]
JsonObject = dict[str, Any]
Positive = Annotated[float, Field(gt=0.0, le=1000.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Window = Annotated[int, Field(ge=-1, lt=2**31)]
NumTokens = Annotated[int, Field(ge=-1, lt=2**63)]
"""-1, sent by llama.cpp's clients, is the same as absent. Python would multiply larger numbers, and
then fail to write them."""
PERSONAL = frozenset({"user", "safety_identifier", "metadata", "store"})
"""Further fields of a chat, which say nothing about its answer."""


class Received(BaseModel):
    """Base of what clients send; unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


def unsupported_content(kind: str) -> PydanticCustomError:
    """Return the error of a part of a message that is no text."""
    return PydanticCustomError(
        "unsupported_parameter", "content of type '{kind}' is not supported", {"kind": kind}
    )


class ContentPart(Received):
    """A part of a message; only text is supported."""

    SUPPORTED: ClassVar[Collection[str]] = ("text", "refusal")

    type: Text
    text: Text = ""
    refusal: Text = ""

    @model_validator(mode="after")
    def _is_supported(self) -> Self:
        if self.type not in self.SUPPORTED:
            raise unsupported_content(self.type)
        return self


class StreamOptions(Received):
    """Options of a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """Ignored: nothing is padded."""


class SamplingFields(Received):
    """Sampling and stopping, on every endpoint that generates text.

    Null is the same as absent. Names and ranges are OpenAI's where it has the parameter, and those
    of llama.cpp's server elsewhere.
    """

    seed: int | None = None
    """Equal requests with equal seeds get equal answers; choice i of several has seed + i."""
    stop: StopString | Annotated[Many[StopString], Field(max_length=MAX_STOP_STRINGS)] | None = None
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    top_p: Share | None = None
    presence_penalty: float | None = Field(default=None, ge=-2.0, le=2.0)
    frequency_penalty: float | None = Field(default=None, ge=-2.0, le=2.0)
    logit_bias: Annotated[
        dict[Text, Bias] | Many[tuple[int | Text, Bias | Literal[False]]] | None,
        BeforeValidator(_few),
    ] = None
    """By token id; text is tokenized, and each token gets the bias; false forbids them."""
    top_k: int | None = Field(default=None, ge=-1, lt=2**31)
    """Draw from the k most probable tokens; 0 and -1 draw from all."""
    min_p: Share | None = None
    """Least probability, relative to the most probable token's."""
    typical_p: Share | None = None
    top_n_sigma: float | None = Field(default=None, ge=-1.0, le=100.0)
    xtc_probability: Share | None = None
    xtc_threshold: Share | None = None
    mirostat: Literal[0, 1, 2] | None = None
    mirostat_tau: Positive | None = None
    mirostat_eta: Positive | None = None
    repeat_penalty: float | None = Field(default=None, ge=1e-6, le=10.0)
    """Divides the logits of recent tokens; 1 is off."""
    repeat_last_n: Window | None = None
    dry_multiplier: float | None = Field(default=None, ge=0.0, le=100.0)
    dry_base: float | None = Field(default=None, ge=1.0, le=10.0)
    dry_allowed_length: int | None = Field(default=None, ge=0, lt=2**31)
    dry_penalty_last_n: Window | None = None
    dry_sequence_breakers: (
        Annotated[Many[Annotated[StopString, Field(max_length=64)]], Field(max_length=16)] | None
    ) = None
    ignore_eos: bool | None = None
    """Never draw an end token."""
    grammar: Text | None = None
    """GBNF, llama.cpp's grammar language: the answer follows it."""
    json_schema: JsonObject | None = None
    """The answer is JSON of this schema."""

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The strings before which the answer ends."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def bias_pairs(self) -> list[tuple[int | str, float]]:
        """Token ids or texts with the amount added to their logits."""
        given = self.logit_bias or {}
        pairs = given.items() if isinstance(given, dict) else given
        return [(_token_key(key), _bias(value)) for key, value in pairs]


SAMPLER_FIELDS = (
    "temperature", "top_p", "top_k", "min_p", "typical_p", "top_n_sigma", "xtc_probability",
    "xtc_threshold", "mirostat", "mirostat_tau", "mirostat_eta", "repeat_penalty", "repeat_last_n",
    "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "presence_penalty",
    "frequency_penalty",
)  # fmt: skip
"""Fields with the same meaning on the wire and in the engine."""


def _token_key(key: int | str) -> int | str:
    if isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) < 16:
        return int(key)
    return key


def _bias(value: float | bool) -> float:
    return float("-inf") if value is False else float(value)


class TopLogprob(TypedDict):
    """A token with its log-probability."""

    id: int
    """Not OpenAI's: the token's id, as llama.cpp's own server gives it."""
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A sampled token, with the most probable alternatives."""

    top_logprobs: list[TopLogprob]


class PromptTokensDetails(TypedDict):
    """Details of the prompt's tokens."""

    cached_tokens: int


class CompletionUsage(TypedDict):
    """Token counts of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: NotRequired[PromptTokensDetails]


class Timings(TypedDict):
    """The speed of an answer, in the format of llama.cpp's server."""

    cache_n: int
    prompt_n: int
    """Prompt tokens that were computed."""
    prompt_ms: float
    """From the request to its first token, queue included."""
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_second: float


class PromptProgress(TypedDict):
    """How much of a prompt was read, in the format of llama.cpp's server."""

    total: int
    cache: int
    processed: int
    time_ms: float


class ErrorDetail(TypedDict):
    """Description of a failure."""

    message: str
    type: str
    param: str | None
    code: str | None
    n_prompt_tokens: NotRequired[int]
    """llama.cpp's, for a prompt that is too long."""
    n_ctx: NotRequired[int]
    """llama.cpp's: the context length."""


class ErrorBody(TypedDict):
    """The body of every response without status 2xx."""

    error: ErrorDetail

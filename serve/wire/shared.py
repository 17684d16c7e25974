"""What several endpoints share on the wire: sampling, logprobs, usage, errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from typing_extensions import TypedDict

MAX_STOP_STRINGS = 16
"""OpenAI takes 4; clients of llama.cpp's server send more."""

MAX_BIASES = 1 << 13
"""Each costs microseconds to check, and ten times as much to complain of."""


def _encodable(text: str) -> str:
    """Refuse lone surrogates, which JSON can carry and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("must be valid Unicode, without lone surrogates") from error
    return text


def _few(biases: object) -> object:
    """Refuse what takes long to check."""
    if isinstance(biases, dict | list) and len(biases) > MAX_BIASES:
        raise ValueError(f"at most {MAX_BIASES} biases are taken")
    return biases


T = TypeVar("T")
Many = Annotated[list[T], Field(fail_fast=True)]
"""A list; of all that is wrong in it the first is told, since a megabyte of mistakes takes a minute
and gigabytes to tell."""
Text = Annotated[str, AfterValidator(_encodable)]
StopString = Annotated[Text, Field(min_length=1, max_length=1024)]
Bias = Annotated[float, Field(ge=-100.0, le=100.0)]
JsonObject = dict[str, Any]
Positive = Annotated[float, Field(gt=0.0, le=1000.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Window = Annotated[int, Field(ge=-1, lt=2**31)]


class Received(BaseModel):
    """Base of what clients send: what is not known is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class StreamOptions(Received):
    """What a stream carries besides the answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """Ignored: nothing is padded."""


class SamplingFields(Received):
    """How tokens are drawn and where they end, on every endpoint that writes text.

    Null is the same as absent. Names and ranges are OpenAI's where it has the parameter, and those
    of llama.cpp's server elsewhere.
    """

    seed: int | None = None
    """Equal requests with an equal seed get an equal answer; choice i of several has seed + i."""
    stop: StopString | Annotated[Many[StopString], Field(max_length=MAX_STOP_STRINGS)] | None = None
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    top_p: Share | None = None
    presence_penalty: float | None = Field(default=None, ge=-2.0, le=2.0)
    frequency_penalty: float | None = Field(default=None, ge=-2.0, le=2.0)
    logit_bias: Annotated[
        dict[Text, Bias] | Many[tuple[int | Text, Bias | Literal[False]]] | None,
        BeforeValidator(_few),
    ] = None
    """By token id; text is cut into tokens, each of which gets the bias; false forbids them."""
    top_k: int | None = Field(default=None, ge=-1, lt=2**31)
    """Draw from the k most probable tokens; 0 and -1 mean all."""
    min_p: Share | None = None
    """Least probability as a share of the most probable token's."""
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
    """Never draw a token that ends the answer."""
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
        """Token ids or texts with what is added to their logits."""
        given = self.logit_bias or {}
        pairs = given.items() if isinstance(given, dict) else given
        return [(_token_key(key), _bias(value)) for key, value in pairs]


SAMPLER_FIELDS = (
    "temperature", "top_p", "top_k", "min_p", "typical_p", "top_n_sigma", "xtc_probability",
    "xtc_threshold", "mirostat", "mirostat_tau", "mirostat_eta", "repeat_penalty", "repeat_last_n",
    "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "presence_penalty",
    "frequency_penalty",
)  # fmt: skip
"""Fields that mean the same on the wire and in the engine."""


def _token_key(key: int | str) -> int | str:
    if isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) < 16:
        return int(key)
    return key


def _bias(value: float | bool) -> float:
    return float("-inf") if value is False else float(value)


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


class PromptTokensDetails(TypedDict):
    """How the prompt's tokens were come by."""

    cached_tokens: int


class CompletionUsage(TypedDict):
    """Token counts of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: NotRequired[PromptTokensDetails]


class Timings(TypedDict):
    """How fast a request was answered, in the spelling of llama.cpp's server."""

    cache_n: int
    prompt_n: int
    """Prompt tokens that were computed."""
    prompt_ms: float
    """From the request to its first token, waiting included."""
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_second: float


class PromptProgress(TypedDict):
    """How much of a prompt was read, in the spelling of llama.cpp's server."""

    total: int
    cache: int
    processed: int
    time_ms: float


class ErrorDetail(TypedDict):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None
    n_prompt_tokens: NotRequired[int]
    """llama.cpp's, of a prompt that is too long."""
    n_ctx: NotRequired[int]
    """llama.cpp's: the context that it does not fit."""


class ErrorBody(TypedDict):
    """The body of every answer that is not 2xx."""

    error: ErrorDetail

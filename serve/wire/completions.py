"""`/v1/completions` on the wire: text without a chat template."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from serve.errors import InvalidRequestError
from serve.wire.shared import (
    CompletionUsage,
    Many,
    NumTokens,
    SamplingFields,
    StreamOptions,
    Text,
    Timings,
)

MAX_PROMPTS = 128
MAX_CHOICES = 128
DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[Many[TokenId], Field(min_length=1)]
GivenPrompt = Text | TokenIds


class CompletionRequest(SamplingFields):
    """The body of POST /v1/completions. Null is the same as absent."""

    model_config = ConfigDict(extra="allow")

    model: Text | None = None
    prompt: (
        Text | TokenIds | Annotated[Many[GivenPrompt], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    """A text, its token ids, or a list of either; each element is completed."""
    suffix: Text | None = None
    max_tokens: NumTokens | None = None
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    best_of: int | None = Field(default=None, ge=0, le=20)
    """Number of choices to generate; the `n` with the highest mean log-probability are returned."""
    echo: bool | None = None
    """The answer starts with the prompt, whose tokens get log-probabilities too."""
    logprobs: int | None = Field(default=None, ge=0, le=20)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    timings_per_token: bool | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each text to complete, or its token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [element for element in self.prompt if isinstance(element, int)]
        if ids:
            return [ids]
        return [element for element in self.prompt if not isinstance(element, int)]

    @property
    def num_choices(self) -> int:
        """Choices generated per prompt."""
        return max(self.n or 1, self.best_of or 0)

    @property
    def max_new_tokens(self) -> int | None:
        """Largest number of tokens; None uses the room in the context."""
        if self.max_tokens is None:
            return DEFAULT_MAX_TOKENS
        return None if self.max_tokens == -1 else self.max_tokens

    @property
    def streams_usage(self) -> bool:
        """Whether the stream ends with a chunk of token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def check(self) -> None:
        """Refuse contradictory parameters.

        Raises:
            InvalidRequestError: Parameters contradict each other.
        """
        if self.best_of and self.best_of < (self.n or 1):
            raise InvalidRequestError("best_of must not be less than n", where="best_of")
        if self.num_choices > (self.n or 1) and self.stream:
            raise InvalidRequestError("a stream cannot choose the best of several", where="best_of")
        if self.num_choices * len(self.prompts) > MAX_CHOICES:
            raise InvalidRequestError(
                "too many choices", where="n", expected=f"prompts x n <= {MAX_CHOICES}"
            )
        if self.grammar is not None and self.json_schema is not None:
            raise InvalidRequestError("grammar and json_schema exclude each other", where="grammar")


class CompletionLogprobs(TypedDict):
    """Log-probabilities of a completion's tokens, as lists of equal length."""

    tokens: list[str]
    token_logprobs: list[float | None]
    """None for the first token of a prompt, which nothing precedes."""
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(TypedDict):
    """One completion, or a piece of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class Completion(TypedDict):
    """A whole answer, or a piece of a streamed one."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: NotRequired[CompletionUsage | None]
    timings: NotRequired[Timings]

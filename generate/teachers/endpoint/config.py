"""Configuration of a teacher behind an OpenAI-compatible or Anthropic-compatible API."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from potstill.config import Table


class EndpointConfig(Table):
    """The server of a teacher, and the limits of its use."""

    base_url: str = Field(pattern=r"^https?://[^@/\s]+(/\S*)?$")
    """Address including the version, such as http://127.0.0.1:8000/v1."""
    model: str = Field(min_length=1)
    """The model's name on the server, as /models lists it."""
    api: Literal["openai", "anthropic"] = "openai"
    """Whose API the server is compatible with. Anthropic's gives text alone."""
    text_only: bool = False
    """Take text alone from a server that gives no log-probabilities with exact tokens: the student
    learns at sequence level (`kd.weight` becomes 0), in its own tokens. Always so with the API
    `anthropic`."""
    terms_allow_training: bool | None = None
    """Whether the terms of the API, and the license of its model, allow training a model on its
    answers; many commercial ones forbid it. Required where text is all that a server gives, as for
    APIs of others: read the terms, then set it. The answer is recorded with the data set."""
    tokenizer: str | None = Field(default=None, min_length=1)
    """Checkpoint directory or hub name of the tokenizer of another model than the teacher, such as
    one that plays the user. None: the teacher's, `generate.teacher.model`."""
    api_key_variable: str | None = None
    """Environment variable with the server's API key. None sends none, as most local servers
    expect. The key itself is never part of a configuration."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Further parameters of each request, as the API spells them, such as `reasoning_effort` or
    `thinking`. Servers that take token ids do not get them."""
    max_concurrency: int = Field(default=64, ge=1)
    """Largest number of requests in flight. 64 saturates a vLLM server with one GPU and a small
    model; use fewer for a paid API's rate limit or a CPU."""
    timeout_seconds: float = Field(default=600.0, gt=0.0)
    """Longest wait for a complete answer, in seconds: answers are not streamed, and may queue on a
    busy server."""
    max_retries: int = Field(default=5, ge=0)
    """Number of retries after a timeout, a lost connection or status 408, 409, 429 and 5xx; five
    wait about 15 seconds in total, or as long as the server requests."""
    prompt_price: float = Field(default=0.0, ge=0.0)
    """Price of a million prompt tokens, in any currency; 0 for your own server."""
    completion_price: float = Field(default=0.0, ge=0.0)
    """Price of a million completion tokens, in the same currency."""
    max_cost: float | None = Field(default=None, gt=0.0)
    """Most that one run of the stage may spend, in that currency; never exceeded, because requests
    in flight count with all their tokens. None: no cap."""

    @property
    def api_name(self) -> str:
        """Whose format answers have, as it is written."""
        return {"openai": "OpenAI", "anthropic": "Anthropic"}[self.api]

    @property
    def gives_text(self) -> bool:
        """Whether text is all that the server gives."""
        return self.text_only or self.api == "anthropic"

    @model_validator(mode="after")
    def _terms_are_known(self) -> Self:
        if self.gives_text and not self.terms_allow_training:
            raise ValueError(
                "a server that gives text alone needs terms_allow_training = true, which only you "
                "can set: read whether its terms allow training a model on the answers"
                if self.terms_allow_training is None
                else "terms_allow_training = false: no student may learn from these answers; "
                "use another teacher"
            )
        return self

    @model_validator(mode="after")
    def _cap_has_prices(self) -> Self:
        if self.max_cost is not None and not (self.prompt_price or self.completion_price):
            raise ValueError("max_cost needs prompt_price or completion_price")
        return self

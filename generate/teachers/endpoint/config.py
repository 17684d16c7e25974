"""Configuration of a teacher behind an OpenAI-compatible API."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from potstill.config import Table


class EndpointConfig(Table):
    """The server of a teacher, and the limits of its use."""

    base_url: str = Field(pattern=r"^https?://[^@/\s]+(/\S*)?$")
    """Address including the version, such as http://127.0.0.1:8000/v1."""
    model: str = Field(min_length=1)
    """The model's name on the server, as /models lists it."""
    tokenizer: str | None = Field(default=None, min_length=1)
    """Checkpoint directory or hub name of the tokenizer of another model than the teacher, such as
    one that plays the user. None: the teacher's, `generate.teacher.model`."""
    api_key_variable: str | None = None
    """Environment variable with the server's API key. None sends none, as most local servers
    expect. The key itself is never part of a configuration."""
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

    @model_validator(mode="after")
    def _cap_has_prices(self) -> Self:
        if self.max_cost is not None and not (self.prompt_price or self.completion_price):
            raise ValueError("max_cost needs prompt_price or completion_price")
        return self

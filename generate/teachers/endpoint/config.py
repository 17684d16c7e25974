"""Configuration of a teacher behind an OpenAI-compatible API."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from potstill.config import Table


class EndpointConfig(Table):
    """Where the teacher is served, and how much may be asked of it."""

    base_url: str = Field(pattern=r"^https?://[^@/\s]+(/\S*)?$")
    """Address up to and with the version, such as http://127.0.0.1:8000/v1."""
    model: str = Field(min_length=1)
    """The model's name at the server, as its /models lists it."""
    tokenizer: str | None = Field(default=None, min_length=1)
    """Checkpoint directory or hub name of the tokenizer of another model than the teacher, such as
    one that plays the user. None: the teacher's, `generate.teacher.model`."""
    api_key_variable: str | None = None
    """Environment variable that holds the server's key; None sends none, right for most servers of
    one's own. The key itself never stands in a configuration."""
    max_concurrency: int = Field(default=64, ge=1)
    """Requests in flight at once. 64 fills a vLLM server of one GPU for small models; a paid API's
    rate limit or a CPU wants fewer."""
    timeout_seconds: float = Field(default=600.0, gt=0.0)
    """Longest wait for one whole answer, in seconds: answers are not streamed, and a busy server
    lets them queue."""
    max_retries: int = Field(default=5, ge=0)
    """Further attempts after a timeout, a lost connection or status 408, 409, 429 and 5xx; five
    wait about 15 seconds in all, or as long as the server asks for."""
    prompt_price: float = Field(default=0.0, ge=0.0)
    """Price of a million prompt tokens, in any currency; 0 for a server of one's own."""
    completion_price: float = Field(default=0.0, ge=0.0)
    """Price of a million completion tokens, in the same currency."""
    max_cost: float | None = Field(default=None, gt=0.0)
    """Most that one start of the stage may spend, in that currency; it is never exceeded, since
    what is in flight counts as if it took all its tokens. None sets no cap."""

    @model_validator(mode="after")
    def _cap_has_prices(self) -> Self:
        if self.max_cost is not None and not (self.prompt_price or self.completion_price):
            raise ValueError("max_cost needs prompt_price or completion_price")
        return self

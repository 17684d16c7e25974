"""The [serve.upstreams.NAME] and [serve.adapters.NAME] tables."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from potstill.config import Table


class UpstreamConfig(Table):
    """A model that another server with OpenAI's API answers for, such as `vllm serve`."""

    base_url: str = Field(pattern=r"^https?://[^@/\s]+(/\S*)?$")
    """Its address up to and with the version, such as http://127.0.0.1:8001/v1."""

    model: str | None = Field(default=None, min_length=1)
    """The model's name there; None is the same name as here."""

    api_key_variable: str | None = Field(default=None, min_length=1)
    """Environment variable that holds the server's key; None sends none. The key itself never
    stands in a configuration."""

    connect_timeout_seconds: float = Field(default=5.0, gt=0)
    """How long a connection may take, in seconds; one within a data center takes milliseconds."""

    read_timeout_seconds: float = Field(default=300.0, gt=0)
    """Longest silence of the server, in seconds; an answer that is not streamed is silence."""

    max_retries: int = Field(default=2, ge=0)
    """Further attempts, before the answer has begun, after a lost connection, a timeout, or status
    408, 409, 429 and 5xx; two wait about 1.5 seconds in all, or as long as the server asks for."""


class AdapterConfig(Table):
    """A LoRA adapter over a served model."""

    base: str
    """Name of the model that it changes."""

    path: Path
    """GGUF file of the adapter, as llama.cpp's convert_lora_to_gguf.py writes it."""

    scale: float = 1.0
    """How strongly it changes the model; 0 leaves it as it is."""

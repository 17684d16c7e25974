"""The [serve.upstreams.NAME], [serve.adapters.NAME] and [serve.vllm] tables."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from potstill.config import SecretInValueError, Table

CONTEXT_TOKENS = 4096
"""Of models whose server is not asked for it."""


class UpstreamConfig(Table):
    """A model of another server with OpenAI's API, such as `vllm serve`."""

    base_url: str = Field(pattern=r"^https?://[^/\s]+(/\S*)?$")
    """Address of its API, version included, such as http://127.0.0.1:8001/v1; without user, key or
    query, since the configuration is copied into the run directory."""

    model: str | None = Field(default=None, min_length=1)
    """The model's name there; None takes the name it has here."""

    api_key_variable: str | None = Field(default=None, min_length=1)
    """Environment variable that holds the server's key; None sends none. The key itself
    does not belong in a configuration."""

    parameters: tuple[str, ...] = ()
    """Parameters of requests that are passed on besides those that potstill itself knows; others
    are left out, as a server may let them change what it does for everybody."""

    max_answer_bytes: int = Field(default=16 << 20, ge=1024)
    """Largest answer; a longer one fails. 2,000 tokens with 20 log-probabilities each take 4 MB.
    While an answer is parsed, nothing else runs."""

    context_tokens: int = Field(default=CONTEXT_TOKENS, ge=1)
    """Prompt and completion of one request together, in tokens, where the request sets no limit: so
    many are reserved from its key's tokens before it runs, and unused ones are returned."""

    max_parallel: int = Field(default=256, ge=1)
    """Choices in progress there together. Further ones wait here, where keys take turns, as far as
    `serve.max_queue` allows."""

    connect_timeout_seconds: float = Field(default=5.0, gt=0)
    """How long a connection may take, in seconds; one within a data center takes milliseconds."""

    read_timeout_seconds: float = Field(default=300.0, gt=0)
    """Longest silence of the server, in seconds; it is silent until an answer that is not streamed
    is complete."""

    max_retries: int = Field(default=2, ge=0)
    """Further attempts, before the answer has begun, after a lost connection, a timeout, or status
    408, 409, 429 and 5xx; two take about 1.5 seconds in all, or as long as the server asks for."""

    @field_validator("base_url")
    @classmethod
    def _has_no_secret(cls, given: str) -> str:
        if set("@?#") & set(given):
            raise SecretInValueError(
                "an address without user, query and fragment; api_key_variable names the key's"
                " environment variable"
            )
        return given


class AdapterConfig(Table):
    """A LoRA adapter over a served model."""

    base: str
    """Name of the model it adapts."""

    path: Path
    """GGUF file of the adapter, as llama.cpp's convert_lora_to_gguf.py writes it. Or a run that
    kept its adapter (`train.lora.merge = false`) and has the same base; its task is served too."""

    scale: float = 1.0
    """Strength of the adapter; 0 leaves the model unchanged."""


class VllmConfig(Table):
    """vLLM as a child process, where `serve.engine` is "vllm"."""

    python: Path | None = None
    """Interpreter of an environment that has vLLM; None takes potstill's own."""

    options: tuple[str, ...] = ()
    """Further options of `vllm serve`, each as one text, such as "--tensor-parallel-size=2" or
    "--tool-call-parser=hermes"."""

    ready_timeout_seconds: float = Field(default=900.0, gt=0)
    """How long it may take to load the model and to compile, in seconds; then it is started
    again."""

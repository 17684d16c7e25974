"""The [serve] table of the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from potstill.config import Table
from serve.backends.config import AdapterConfig, UpstreamConfig
from serve.experiment.config import CascadeConfig, ExperimentConfig
from serve.storage.config import StorageConfig

MAX_PARALLEL = 256
"""The most sequences one llama.cpp context can hold (llama_max_parallel_sequences)."""


class ServeConfig(Table):
    """What is served, where, and how much of the machine it may take."""

    host: str = "127.0.0.1"
    """Address to listen on; loopback by default, and another one needs an API key."""

    port: int = Field(default=8000, ge=0, le=65535)
    """TCP port to listen on; 0 takes a free one."""

    models: tuple[str, ...] = ()
    """Models of the run to serve: "student" (the recommended file), "teacher" (its first file), or
    a file of the gguf stage by name, such as "student-Q8_0"; empty serves student and teacher."""

    paths: dict[str, Path] = Field(default_factory=dict)
    """GGUF files from elsewhere, by the model name they are served under."""

    upstreams: dict[str, UpstreamConfig] = Field(default_factory=dict)
    """Models that other servers answer for, by the name they are served under here; one named like
    a model of the run takes its place."""

    drafts: dict[str, str] = Field(default_factory=dict)
    """Models with a smaller one that drafts for each, such as {teacher = "student"}: the large one
    checks several drafted tokens in a step, and says what it would say alone. Both need the same
    tokens. It is quicker where drafts are cheap and mostly right, and few requests come at once."""

    adapters: dict[str, AdapterConfig] = Field(default_factory=dict)
    """LoRA adapters by the model name each is served under. The base is loaded once; requests for
    one adapter are decoded together, requests for different ones by turns, and each has a
    key-value memory of its own."""

    context_tokens: int = Field(default=2048, ge=16)
    """Prompt and completion of one request together, in tokens; memory grows with it times
    `max_parallel`. A model trained on a shorter context gets its own length."""

    max_parallel: int = Field(default=16, ge=1, le=MAX_PARALLEL)
    """Requests decoded together per model; past 16 a CPU gains little throughput."""

    max_batch_tokens: int = Field(default=256, ge=2, le=4096)
    """Tokens per decoding step, prefill chunks included; small steps keep the streams that are
    already running smooth, and cancellation quick, while a long prompt is read."""

    max_queue: int = Field(default=64, ge=0)
    """Requests that may wait per model; one more is refused with 429."""

    reproducible: bool = True
    """Whether models that can answer the same at any load do so: files of type Q4_0, Q4_1, Q8_0 and
    F32. It costs them time with long prompts, 1.3 times as much at 1,000 tokens; others can not,
    and are read at full speed anyway."""

    threads: int | None = Field(default=None, ge=1)
    """CPU threads of llama.cpp; None takes the physical cores, more make decoding slower."""

    sampling: dict[str, float] = Field(default_factory=dict)
    """Sampling parameters for requests that leave them out, such as {temperature = 0.7}; by
    default a request draws from the model's own distribution, as OpenAI's do."""

    fallback_model: str | None = None
    """Model that answers requests for names that are not served, and for none, so that clients
    with a built-in name work; by default they get 404, as from OpenAI."""

    keys_path: Path | None = None
    """TOML file of API keys, hashed, with their limits; see `serve/keys.py`. None leaves only the
    environment's key, or none."""

    allowed_hosts: tuple[str, ...] = ()
    """Host names that requests may be for, besides loopback's, when there is no key; "*" is any.
    Without this, any web page could use the server through its visitor's browser."""

    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the server, such as "https://chat.example.org"; none by
    default, so that no web page can."""

    experiments: dict[str, ExperimentConfig] = Field(default_factory=dict)
    """Names under which several models answer, each user always by the same one; see
    docs/experiments.md."""

    cascades: dict[str, CascadeConfig] = Field(default_factory=dict)
    """Names under which the student answers, and the teacher where the student is unsure."""

    storage: StorageConfig | None = None
    """Where live traffic is kept. None keeps none, unless there is an experiment: then in the run
    directory, by the table's defaults."""

    playground: bool = True
    """Whether `/` is a page on which the models are tried and experiments watched; it opens
    without a key, but asks for one before it shows anything."""

    max_body_bytes: int = Field(default=4 << 20, ge=1024)
    """Largest body of a request; ten times what fills a long context, and read in memory."""

    body_timeout_seconds: float = Field(default=30.0, gt=0)
    """How long a body may take to arrive, in seconds; an honest client needs one."""

    request_timeout_seconds: float = Field(default=600.0, gt=0)
    """How long an answer may take, waiting included, in seconds; as long as OpenAI's clients wait
    by default."""

    drain_seconds: int = Field(default=60, ge=0)
    """How long a shutdown waits for requests in flight, in seconds."""

    record_path: Path | None = None
    """JSONL file to which each finished request and its answer are appended whole, to be read as
    prompts later (`generate.prompts.path`). None, and an empty text, record nothing, the default
    because what users write is private: ask them first, and guard the file."""

    @field_validator("record_path", "keys_path", "fallback_model", "storage", mode="before")
    @classmethod
    def _nothing_is_off(cls, given: object) -> object:
        """TOML has no null, and `--set` must be able to turn off what a file turned on."""
        return None if given == "" else given

    @model_validator(mode="after")
    def _decoding_leaves_room_for_prefill(self) -> Self:
        if self.max_batch_tokens <= self.max_parallel:
            raise ValueError(
                f"max_batch_tokens must exceed max_parallel ({self.max_parallel}), so that prompts "
                f"are read while others decode; found {self.max_batch_tokens}"
            )
        return self

"""The [serve] table of the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from potstill.config import Table
from serve.backends.config import AdapterConfig, UpstreamConfig, VllmConfig
from serve.experiment.config import CascadeConfig, ExperimentConfig
from serve.storage.config import StorageConfig

MAX_PARALLEL = 256
"""The most sequences one llama.cpp context can hold (llama_max_parallel_sequences)."""


class ServeConfig(Table):
    """What is served, where, and with how much of the machine."""

    host: str = "127.0.0.1"
    """Address to listen on; loopback by default, and another one needs an API key."""

    port: int = Field(default=8000, ge=0, le=65535)
    """TCP port to listen on; 0 takes a free one."""

    models: tuple[str, ...] = ()
    """Models of the run to serve: "student" (the recommended file), "teacher" (its first file), or
    a file of the gguf stage by name, such as "student-Q8_0"; empty serves student and teacher."""

    versions: bool = True
    """Whether the run's student is that of its served version (`potstill update`), which is
    followed while the server runs. False serves the run's own."""

    engine: Literal["llama.cpp", "vllm"] = "llama.cpp"
    """What runs the model `student`: llama.cpp with the recommended file, on the processor, or vLLM
    with the checkpoint, in a monitored child process. All other models are files."""

    vllm: VllmConfig = VllmConfig()

    paths: dict[str, Path] = Field(default_factory=dict)
    """GGUF files from elsewhere, by the model name they are served under."""

    upstreams: dict[str, UpstreamConfig] = Field(default_factory=dict)
    """Models of other servers, by the name they are served under here; one named like a model of
    the run takes its place."""

    drafts: dict[str, str] = Field(default_factory=dict)
    """Models with a smaller one that drafts for each, such as {teacher = "student"}: the large one
    verifies several drafted tokens in a step; its answers stay the same. Both need the same
    vocabulary. It is faster where drafts are cheap and mostly right, and requests are few; the
    server measures that and makes none where it is not."""

    adapters: dict[str, AdapterConfig] = Field(default_factory=dict)
    """LoRA adapters by the model name each is served under. The base is loaded once; requests for
    one adapter are decoded together, requests for different ones in turns, and each adapter has its
    own key-value memory."""

    context_tokens: int = Field(default=2048, ge=0)
    """Prompt and completion of one request together, in tokens; memory grows with it times
    `max_parallel`. A model trained on a shorter context gets its own length. 0, and the default
    without a run, is the model's own length as far as an eighth of the machine's memory holds it
    `max_parallel` times."""

    max_parallel: int = Field(default=16, ge=1, le=MAX_PARALLEL)
    """Requests decoded together per model; beyond 16 a CPU gains little throughput."""

    max_batch_tokens: int = Field(default=256, ge=2, le=4096)
    """Tokens per decoding step, prefill chunks included; small steps keep running
    streams smooth and cancellation quick while a long prompt is read."""

    max_queue: int = Field(default=64, ge=0)
    """Requests that may wait per model; further ones get 429."""

    public_prompts: tuple[str, ...] = ()
    """System prompts that no key keeps secret: the prefix cache shares their memory among all keys.
    The task's own instructions are public; all else is shared among one key's requests only, since
    counts and times would show a key how far it has guessed the prompt of another."""

    reproducible: bool = True
    """Whether answers are the same at any load, for files of type Q4_0, Q4_1, Q8_0 and F32. Their
    prompts take longer to read then, 1.3 times at 1,000 tokens; files of other types cannot be
    reproducible and are read at full speed."""

    kv_cache: Literal["q8_0"] | None = None
    """Number format of keys and values, of which there are `max_parallel` times `context_tokens`.
    None: 16 bits. "q8_0" takes 8.5 and rounds them; no file is reproducible then."""

    threads: int | None = Field(default=None, ge=1)
    """CPU threads of llama.cpp; None uses the physical cores; more make decoding slower."""

    sampling: dict[str, float] = Field(default_factory=dict)
    """Sampling parameters for requests that leave them out, such as {temperature = 0.7}; by
    default tokens are drawn from the model's own distribution, as at OpenAI."""

    fallback_model: str | None = None
    """Model that answers requests for unknown names and without a name, for clients with a built-in
    name; by default they get 404, as from OpenAI."""

    keys_path: Path | None = None
    """TOML file of API keys, hashed, with their limits; see `serve/keys.py`. None leaves only the
    environment's key, if there is one."""

    allowed_hosts: tuple[str, ...] = ()
    """Host names accepted besides those of loopback where no key is needed; "*" accepts any.
    Without this check, any web page could use the server through its visitor's browser."""

    cors_origins: tuple[str, ...] = ()
    """Origins whose web pages may call the server, such as "https://chat.example.org"; none by
    default."""

    experiments: dict[str, ExperimentConfig] = Field(default_factory=dict)
    """Names behind which several models answer, each user always with the same one; see
    docs/how-to/experiments.md."""

    cascades: dict[str, CascadeConfig] = Field(default_factory=dict)
    """Names behind which the student answers, and the teacher where the student is unsure."""

    storage: StorageConfig | None = None
    """Where live traffic is stored. None stores none, unless there is an experiment: then it is
    stored in the run directory, with the table's defaults."""

    task: bool = True
    """Whether the run's task completes chats: instructions where there is no system message, tools
    or the answers' format where the request has none. False serves the bare models."""

    task_schema: bool = True
    """Whether the task's JSON schema binds the student's answers, with the keys in its order, or
    its labels do, where an answer is a label alone; not where the task has tools. False leaves them
    as the student writes them."""

    playground: bool = True
    """Whether `/` is a page to try the models and watch experiments; it opens without a key, but
    asks for one before it shows anything."""

    max_body_bytes: int = Field(default=4 << 20, ge=1024)
    """Largest body of a request, ten times what fills a long context; it is read into memory."""

    body_timeout_seconds: float = Field(default=30.0, gt=0)
    """How long a body may take to arrive, in seconds; an ordinary client needs one second."""

    max_connections: int = Field(default=2048, ge=1)
    """Open connections in all. A further one takes the place of the one that has waited longest for
    a request, or gets 503 if all are being answered."""

    max_connections_per_address: int = Field(default=1024, ge=1)
    """The same for one address; a proxy is one address for all of its clients."""

    head_timeout_seconds: float = Field(default=10.0, gt=0)
    """How long a connection may wait for a complete request line with headers, in seconds; also how
    long an idle one is kept for the next request. A proxy must close its idle ones earlier."""

    write_timeout_seconds: float = Field(default=60.0, gt=0)
    """How long a client may leave an answer unread, in seconds, before it is disconnected."""

    request_timeout_seconds: float = Field(default=600.0, gt=0)
    """How long an answer may take, queue included, in seconds; as long as OpenAI's clients wait by
    default."""

    drain_seconds: int = Field(default=60, ge=0)
    """How long a shutdown waits for requests in flight, in seconds."""

    record_path: Path | None = None
    """JSONL file to which each request is appended with its answer, to be used as prompts later
    (`generate.prompts.path`). None and "" record nothing; this is the default because what users
    write is private: ask them first, and protect the file."""

    otlp_endpoint: str | None = Field(default=None, pattern=r"^https?://[^/\s@?#]+(/[^\s@?#]*)?$")
    """Address of an OpenTelemetry collector, such as http://127.0.0.1:4318, that gets a span and
    figures of each chat over OTLP; the variable OTEL_EXPORTER_OTLP_HEADERS holds its key. None and
    "" send nothing."""

    otlp_content: bool = False
    """Whether spans contain what users and models write."""

    @field_validator(
        "record_path", "otlp_endpoint", "keys_path", "fallback_model", "storage", mode="before"
    )
    @classmethod
    def _empty_is_off(cls, given: object) -> object:
        """Read "" as None: TOML has no null, and `--set` must be able to turn a setting off."""
        return None if given == "" else given

    @model_validator(mode="after")
    def _decoding_leaves_room_for_prefill(self) -> Self:
        if self.max_batch_tokens <= self.max_parallel:
            raise ValueError(
                f"max_batch_tokens must exceed max_parallel ({self.max_parallel}), so that prompts "
                f"are read while others decode; found {self.max_batch_tokens}"
            )
        return self

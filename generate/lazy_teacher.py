"""The teacher of a run, loaded when it is first needed: a finished stage needs none.

In: the configuration. Out: its checkpoint, and the loaded teacher: vLLM in this process, replicas
on a Ray cluster, or a server.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from generate.config import GenerateConfig
from generate.teachers.checkpoint import TeacherCheckpoint, find_teacher
from generate.teachers.protocol import SamplingTeacher
from potstill.chat import with_thinking

LONGEST_MODEL_LEN = 8192
"""Default limit of a conversation's tokens: vLLM on a CPU prefills prompts whole, and its memory
grows with the longest."""


class LazyTeacher:
    """The teacher of one process; `close` frees its memory."""

    def __init__(self, config: GenerateConfig) -> None:
        self._config = config
        self._loaded: SamplingTeacher | None = None

    @cached_property
    def checkpoint(self) -> TeacherCheckpoint:
        """The teacher on disk; for a served teacher only the tokenizer."""
        return find_teacher(self._config.teacher)

    @property
    def max_model_len(self) -> int:
        """Longest conversation, in tokens."""
        wanted = self._config.engine.max_model_len or LONGEST_MODEL_LEN
        return min(wanted, self.checkpoint.context_tokens)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        return str(self.checkpoint.tokenizer.decode(token_ids))

    def load(self) -> SamplingTeacher:
        """Return the loaded teacher.

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
        config, thinks = self._config, self._config.thinking.teacher
        if config.teacher.endpoint is not None:
            from generate.teachers.endpoint.teacher import connect

            return connect(config.teacher.endpoint, self.checkpoint.dir, thinks=thinks)
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

            teacher: SamplingTeacher = RayTeacher(spec, config.engine, config.ray)
        else:
            teacher = VllmTeacher(spec, config.engine)
        # For the prompts that it writes.
        teacher.tokenizer = with_thinking(teacher.tokenizer, thinks)
        return teacher

"""The teachers of a run, loaded when they are first needed: a finished stage needs none.

In: the configuration. Out: a teacher's checkpoint, and the loaded teacher: vLLM in this process,
replicas on a Ray cluster, or a server. Of several teachers one is loaded at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from generate.config import FIRST_TEACHER, GenerateConfig
from generate.teachers.checkpoint import TeacherCheckpoint, find_teacher
from generate.teachers.protocol import SamplingTeacher
from potstill.chat import tokenizer_sha256, with_thinking

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


@dataclass(frozen=True)
class LoadedTeacher:
    """One of the configured teachers.

    Attributes:
        facts: What must be the same where sampling is resumed, and the level at which it teaches.
        max_model_len: Longest conversation, in the first teacher's tokens.
    """

    name: str
    teacher: SamplingTeacher
    facts: dict[str, Any]
    max_model_len: int


@contextmanager
def loaded_teacher(
    config: GenerateConfig, first: LazyTeacher, name: str
) -> Iterator[LoadedTeacher]:
    """Load one of the configured teachers, for conversations in the first one's tokens.

    The first teacher stays loaded; it is closed before another one is loaded.

    Raises:
        TeacherError: It cannot be loaded or reached.
    """
    if name == FIRST_TEACHER:
        facts = first.load().facts() | {"fingerprint": first.checkpoint.fingerprint}
        yield LoadedTeacher(name, first.load(), facts, first.max_model_len)
        return
    first.close()
    lazy = LazyTeacher(config.of_teacher(name))
    try:
        teacher, level = lazy.load(), "sequence"
        if not _agree(first.checkpoint, lazy.checkpoint):
            teacher = _in_tokens_of(first, lazy, config.thinking.teacher)
        elif not config.further_teachers[name].gives_text:
            level = "token"
        facts = teacher.facts() | {"fingerprint": lazy.checkpoint.fingerprint, "level": level}
        max_model_len = min(first.max_model_len, lazy.max_model_len)
        yield LoadedTeacher(name, teacher, facts, max_model_len)
    finally:
        lazy.close()


def _agree(one: TeacherCheckpoint, other: TeacherCheckpoint) -> bool:
    """Return whether two teachers read and write the same tokens for the same messages."""
    return (
        tokenizer_sha256(one.dir) == tokenizer_sha256(other.dir)
        and one.tokenizer.chat_template == other.tokenizer.chat_template
    )


def _in_tokens_of(first: LazyTeacher, other: LazyTeacher, thinks: bool | None) -> SamplingTeacher:
    from generate.teachers.endpoint.text_tokens import AnswerTokens
    from generate.teachers.in_text import TextTeacher

    checkpoint = first.checkpoint
    stored = AnswerTokens(with_thinking(checkpoint.tokenizer, thinks), checkpoint.end_token_ids)
    return TextTeacher(other.load(), other.max_model_len, stored)

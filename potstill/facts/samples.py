"""Facts of the stage `samples`, and the part that the facts of `conversations` share."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from potstill.facts.base import Facts, Record, StageName
from potstill.facts.shared import FurtherTeacher, TeacherIdentity


class SignalStats(Record):
    """Figures of the conversations in the files; part of the manifest's `stats`."""

    prompt_tokens: int
    completion_tokens: int
    """Tokens of all answers."""
    truncated_share: float
    """Share of answers that were cut off at the token limit."""
    mean_tail_mass: float
    """Mean probability that is not stored."""
    nats_per_token: float
    """Mean -log p of the tokens under the teacher."""
    entropy_bits: float
    """Mean entropy of the stored entries with the tail as one category: a lower bound."""
    entries_per_token: float
    """Stored log-probabilities per token."""
    bytes_per_token: float


class SampledFacts(Facts):
    """The teacher, how its answers were sampled, and how many there are."""

    teacher: TeacherIdentity
    tokenizer_sha256: str
    chat_template_sha256: str
    vocab_size: int
    served_as: str | None = None
    """The name of a teacher behind an endpoint; None for one that ran in this process."""
    logprobs_mode: str
    """`raw_logprobs` where log-probabilities are the model's own, before temperature and top-p;
    `none` where the teacher gave text alone, and each token of an answer counts as certain."""
    top_logprobs: int
    """Most log-probabilities stored per token."""
    top_mass: float
    min_probability: float
    generation_temperature: float | None
    """None, like top-p, of answers that were scored and not sampled."""
    generation_top_p: float | None
    structured: bool = False
    """Whether answers were bound by the task's schema while they were sampled."""
    known_answers: bool = False
    """Whether known answers were taken where there are some, but not for the test split."""
    turns: str
    """Kind of conversation, as in `generate.turns.kind`."""
    num_sampled_per_prompt: int
    num_kept_per_prompt: int
    num_failed: int
    """Conversations that failed."""
    num_conversations: dict[str, int]
    """By split."""
    further_teachers: dict[str, FurtherTeacher] = Field(default_factory=dict)
    """Teachers beside the first one, by name."""
    num_by_teacher: dict[str, int] = Field(default_factory=dict)
    """Conversations by the teacher's name, without known answers."""

    @classmethod
    def upgrade(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Drop the second copy of the teacher's fingerprint."""
        return {name: value for name, value in content.items() if name != "fingerprint"}

    @property
    def answered_like_references(self) -> bool:
        """Whether training answers were sampled like those to the task's references.

        The teacher alone answers references, at temperature 0.
        """
        return self.generation_temperature == 0.0 and not self.known_answers

    @property
    def sampled_unchanged(self) -> bool:
        """Whether answers were sampled from the stored distributions."""
        as_sampled = self.generation_temperature == self.generation_top_p == 1.0
        in_text = self.teacher.text_only or any(
            teacher.level == "sequence" for teacher in self.further_teachers.values()
        )
        return as_sampled and not self.structured and not in_text


class SamplesFacts(SampledFacts):
    """Facts of the samples, before conversations are filtered."""

    stage: ClassVar[StageName] = "samples"

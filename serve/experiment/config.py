"""The [serve.experiments.NAME] and [serve.cascades.NAME] tables."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from potstill.config import Table

StickyBy = Literal["user", "key", "header"]


class VariantConfig(Table):
    """One of the models among which users are divided."""

    model: str | None = None
    """A served model's name; None takes the variant's own name."""
    weight: float = Field(ge=0.0)
    """Share of the users, relative to the other weights: one weight can be raised without touching
    the others, and then users move to this variant only. 0 assigns none."""


class ShadowConfig(Table):
    """Answers generated in the background, for pairs that can be judged."""

    share: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of the requests that the other side answers too. All by default: a verdict needs
    hundreds of pairs. 0 turns shadows off."""
    queue: int = Field(default=100, ge=1)
    """Requests that may wait; further ones are dropped and counted. Each holds its conversation in
    memory."""
    concurrency: int = Field(default=1, ge=1)
    """Requests in progress at once; one by default, because a model in this process shares the
    machine with waiting clients."""
    timeout_seconds: float = Field(default=120.0, gt=0)
    """How long one answer may take; an unavailable model must not block the queue for long."""


class GuardrailsConfig(Table):
    """Limits on rates of the student's answers; after a breach the teacher answers all requests."""

    most_errors: float = Field(default=0.05, gt=0.0, lt=1.0)
    """Highest share of failed answers, shadow answers included. Client errors do not count."""
    slow_seconds: float | None = Field(default=None, gt=0)
    """An answer that takes longer is slow. None sets no limit: latency depends on the machine."""
    most_slow: float = Field(default=0.05, gt=0.0, lt=1.0)
    """Highest share of slow answers; 0.05 limits the 95th percentile of the latency."""
    long_tokens: int | None = Field(default=None, ge=1)
    """An answer with more tokens is long, such as that of a model that does not stop. None sets no
    limit: it depends on the prompts."""
    most_long: float = Field(default=0.05, gt=0.0, lt=1.0)
    """Highest share of long answers."""


class ExperimentConfig(Table):
    """A name behind which several models answer, each user always with the same one."""

    variants: dict[str, VariantConfig] = Field(min_length=2)
    """The variants, by the names that results use."""
    student: str = "student"
    """The variant that may replace the teacher."""
    teacher: str = "teacher"
    """The variant that the student is compared with; it answers all requests after a breach."""
    sticky: tuple[StickyBy, ...] = ("user", "key", "header")
    """What identifies users, the first that a request has: OpenAI's `user` or `safety_identifier`,
    the API key's name, a header. Put "header" first where one key serves many people. A request
    without any is assigned by itself."""
    header: str = "x-potstill-user"
    """Name of that header."""
    salt: str | None = None
    """Text that the assignment depends on. None takes the storage's own; servers with separate
    storages need the same text to assign alike."""
    margin: float = Field(default=0.05, gt=0.0, lt=0.5)
    """By how much the student's win rate may be below one half and still pass, as in
    `compare.verdict`."""
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Probability of a PASS for a student exactly at the margin, over any number of looks."""
    judge: str | None = None
    """Name of the judge that decides; "votes" are people's blind votes. None takes the first one
    that judged a pair."""
    failed_pairs: Literal["lose", "leave_out"] = "lose"
    """How a pair counts if one side failed to answer. That side loses it, as it would with a
    user; if such pairs are left out, a student that fails at hard prompts looks better."""
    shadow: ShadowConfig = Field(default_factory=ShadowConfig)
    guardrails: GuardrailsConfig = Field(default_factory=GuardrailsConfig)

    @model_validator(mode="after")
    def _sides_are_variants(self) -> Self:
        for side in (self.student, self.teacher):
            if side not in self.variants:
                raise ValueError(f"there is no variant {side!r} among {', '.join(self.variants)}")
        if self.student == self.teacher:
            raise ValueError("student and teacher are the same variant")
        if not any(variant.weight for variant in self.variants.values()):
            raise ValueError("at least one variant needs a weight above 0")
        return self

    @property
    def own_side(self) -> str:
        """The variant in whose clients' conversations both are compared: the student's.

        While the student answers no client, its answers in the teacher's conversations are.
        """
        return self.student if self.variants[self.student].weight else self.teacher

    def model_of(self, variant: str) -> str:
        """Return the name of the model behind a variant."""
        return self.variants[variant].model or variant


class CascadeConfig(Table):
    """A name behind which the student answers, and the teacher where the student is unsure."""

    student: str = "student"
    """The model that answers first."""
    teacher: str = "teacher"
    """The model that takes over."""
    least_mean_logprob: float | None = Field(default=None, le=0.0)
    """Mean log-probability, in nats per token, below which an answer of the student is discarded;
    `potstill cascade` fits it. None sets no limit."""
    prompt_pattern: str | None = None
    """Regular expression: the teacher answers at once if a user's last message matches it. None
    always starts with the student."""
    answer_pattern: str | None = None
    """Regular expression: a student's answer that matches it, such as a refusal, is discarded."""
    most_tokens: int | None = Field(default=None, ge=1)
    """A longer answer of the student is discarded, and so is one cut off at the token limit. None
    keeps both."""
    student_price: float = Field(default=0.0, ge=0.0)
    """Price of a million completion tokens, in any currency, for the reported cost."""
    teacher_price: float = Field(default=0.0, ge=0.0)
    """The same for the teacher."""

    @field_validator("prompt_pattern", "answer_pattern")
    @classmethod
    def _can_be_compiled(cls, given: str | None) -> str | None:
        try:
            re.compile(given or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return given

    @model_validator(mode="after")
    def _models_differ(self) -> Self:
        if self.student == self.teacher:
            raise ValueError("student and teacher are the same model")
        return self

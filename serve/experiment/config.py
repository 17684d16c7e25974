"""The [serve.experiments.NAME] and [serve.cascades.NAME] tables."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from potstill.config import Table

StickyBy = Literal["user", "key", "header"]


class VariantConfig(Table):
    """One of the models among which users are dealt."""

    model: str | None = None
    """A served model's name; None is the variant's own name."""
    weight: float = Field(ge=0.0)
    """Share of the users, relative to the other weights: one weight can be raised without touching
    the others, and then users move to this variant only. 0 gives it none."""


class ShadowConfig(Table):
    """Answers that are made in the background, to have pairs that can be judged."""

    share: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of the answers beside which the other side answers too. All by default: a verdict takes
    hundreds of pairs. 0 turns shadows off."""
    queue: int = Field(default=100, ge=1)
    """Requests that may wait; one more is dropped and counted. Each holds its conversation in
    memory."""
    concurrency: int = Field(default=1, ge=1)
    """Requests under way at once; one, since a model in this process shares its machine with those
    who wait."""
    timeout_seconds: float = Field(default=120.0, gt=0)
    """Patience for one answer; a model that is away must not hold the queue for long."""


class GuardrailsConfig(Table):
    """Rates of the student's answers that may not rise; when one does, the teacher answers all."""

    most_errors: float = Field(default=0.05, gt=0.0, lt=1.0)
    """Highest share of failed answers, those in the shadow included. What a client did wrong does
    not count."""
    slow_seconds: float | None = Field(default=None, gt=0)
    """An answer that takes longer is slow. None asks nothing of latency, which depends on the
    machine."""
    most_slow: float = Field(default=0.05, gt=0.0, lt=1.0)
    """Highest share of slow answers; the 95th percentile of the latency stays below the limit."""
    long_tokens: int | None = Field(default=None, ge=1)
    """An answer of more tokens is long, as of a model that does not find its end. None asks
    nothing, since it depends on what is asked."""
    most_long: float = Field(default=0.05, gt=0.0, lt=1.0)
    """Highest share of long answers."""


class ExperimentConfig(Table):
    """A name under which several models answer, each user always by the same one."""

    variants: dict[str, VariantConfig] = Field(min_length=2)
    """Who answers, by the name that results speak of."""
    student: str = "student"
    """The variant that is to replace the teacher."""
    teacher: str = "teacher"
    """The variant that the student is compared with, and that answers when it is taken off."""
    sticky: tuple[StickyBy, ...] = ("user", "key", "header")
    """What tells users apart, the first that a request has: OpenAI's `user` or `safety_identifier`,
    the API key's name, a header. Put "header" first where one key serves many people. A request
    that has none is dealt for itself."""
    header: str = "x-potstill-user"
    """Which header."""
    salt: str | None = None
    """Text that decides who falls where. None takes the storage's own; servers with storages of
    their own need the same text to deal alike."""
    margin: float = Field(default=0.05, gt=0.0, lt=0.5)
    """By how much the student's win rate may be below one half and still pass, as in
    `compare.verdict`."""
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Chance of a PASS for a student exactly at the margin, however often one looks."""
    judge: str | None = None
    """Name of the judge that decides; "votes" are people's blind votes. None takes the first that
    has judged a pair."""
    failed_pairs: Literal["lose", "leave_out"] = "lose"
    """What becomes of a pair of which one side failed to answer. That side loses it, as it does
    before a user; left out, a student looks the better the more often it fails at what is hard."""
    shadow: ShadowConfig = Field(default_factory=ShadowConfig)
    guardrails: GuardrailsConfig = Field(default_factory=GuardrailsConfig)

    @model_validator(mode="after")
    def _sides_are_variants(self) -> Self:
        for side in (self.student, self.teacher):
            if side not in self.variants:
                raise ValueError(f"there is no variant {side!r} among {', '.join(self.variants)}")
        if self.student == self.teacher:
            raise ValueError("student and teacher are one variant")
        if not any(variant.weight for variant in self.variants.values()):
            raise ValueError("one variant needs a weight above 0")
        return self

    def model_of(self, variant: str) -> str:
        """Return the name of the model behind a variant."""
        return self.variants[variant].model or variant


class CascadeConfig(Table):
    """A name under which the student answers, and the teacher where the student is unsure."""

    student: str = "student"
    """The model that is asked first."""
    teacher: str = "teacher"
    """The model that takes over."""
    least_mean_logprob: float | None = Field(default=None, le=0.0)
    """Mean log-probability, in nats per token, below which an answer of the student's is thrown
    away; `potstill cascade` fits it. None asks for no confidence."""
    prompt_pattern: str | None = None
    """Regular expression: what a user's last message has to match for the teacher to be asked at
    once. None asks the student always."""
    answer_pattern: str | None = None
    """Regular expression: a student's answer that it matches is thrown away, such as a refusal."""
    most_tokens: int | None = Field(default=None, ge=1)
    """A longer answer of the student's is thrown away, and so is one cut off at the limit of
    tokens; None lets both pass."""
    student_price: float = Field(default=0.0, ge=0.0)
    """Price of a million completion tokens, in any currency, for the cost that is reported."""
    teacher_price: float = Field(default=0.0, ge=0.0)
    """The same of the teacher."""

    @field_validator("prompt_pattern", "answer_pattern")
    @classmethod
    def _can_be_compiled(cls, given: str | None) -> str | None:
        try:
            re.compile(given or "")
        except re.error as error:
            raise ValueError(f"this is no regular expression: {error}") from error
        return given

    @model_validator(mode="after")
    def _someone_else_takes_over(self) -> Self:
        if self.student == self.teacher:
            raise ValueError("student and teacher are one model")
        return self

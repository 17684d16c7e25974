"""JSON bodies and answers of the routes of experiments."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from typing_extensions import TypedDict

from serve.wire.shared import JsonObject, Many, Received, Text

MAX_COMMENT_CHARACTERS = 10_000
MAX_JUDGMENTS = 10_000

State = Literal["running", "fallback", "killed"]
"""Fallback: a guardrail was breached, and the teacher answers all; killed: a person said so."""
ResponseId = Annotated[Text, Field(min_length=1, max_length=200)]
Score = Annotated[float, Field(ge=0.0, le=1.0)]


class FeedbackRequest(Received):
    """The body of POST /v1/feedback: what a user thinks of one answer; the last word counts."""

    response_id: ResponseId
    score: Score | None = None
    """From 0, useless, to 1, perfect."""
    thumbs: Literal["up", "down"] | None = None
    """The same as a score of 1 or 0."""
    comment: Annotated[Text, Field(max_length=MAX_COMMENT_CHARACTERS)] | None = None

    @model_validator(mode="after")
    def _rates_once(self) -> Self:
        if (self.score is None) == (self.thumbs is None):
            raise ValueError("give either score or thumbs")
        return self

    @property
    def value(self) -> float:
        """The score that was meant."""
        return float(self.thumbs == "up") if self.score is None else self.score


class VoteRequest(Received):
    """The body of POST /v1/votes: which of two answers to the same messages is better."""

    response_ids: tuple[ResponseId, ResponseId]
    preference: Literal["a", "b", "tie"]
    """The first of them, the second, or neither."""
    blind: bool = False
    """Whether the voter did not know which model wrote which; only such votes decide."""


class JudgmentEntry(Received):
    """What a judge says of one pair."""

    pair_id: ResponseId
    score: Score
    """From 0, the teacher's answer is better, to 1, the student's is."""


class JudgmentsRequest(Received):
    """The body of POST /v1/experiments/{name}/judgments: newly judged pairs."""

    judge: Annotated[Text, Field(min_length=1, max_length=200)]
    is_valid: bool
    """Whether the judge has shown that it can tell good from bad."""
    judgments: Annotated[Many[JudgmentEntry], Field(max_length=MAX_JUDGMENTS)]


class Accepted(TypedDict):
    """That something was stored."""

    stored: Literal[True]


class ExperimentList(TypedDict):
    """All experiments, by name."""

    data: list[str]


class FeedbackSummary(TypedDict):
    """The ratings of a variant's answers."""

    n: int
    mean: float | None


class VariantView(TypedDict):
    """One variant as clients saw it; shadow answers are not in it."""

    name: str
    model: str
    weight: float
    exposures: int
    """Answers, failed ones included."""
    users: int
    errors: int
    error_rate: float | None
    p50_seconds: float | None
    """Of the newest answers that were whole."""
    p95_seconds: float | None
    tokens_mean: float | None
    """Completion tokens of an answer."""
    feedback: FeedbackSummary


class ShadowView(TypedDict):
    """The answers that were made in the background."""

    pairs: int
    dropped: int
    """Not asked since the queue was full, since the server's start."""
    failed: int
    queue: int
    """Waiting now."""


class SampleRatioView(TypedDict):
    """Whether users fell to variants as the weights say."""

    p_value: float
    is_mismatch: bool


class GuardrailView(TypedDict):
    """One rate of the student's that may not rise above its limit."""

    name: str
    value: float | None
    limit: float
    is_breached: bool


class VerdictView(TypedDict):
    """Whether the student may replace the teacher, valid at any time it is looked at."""

    outcome: str
    win_rate: float | None
    lower: float
    upper: float
    margin: float
    alpha: float
    pairs: int
    failed: dict[str, int]
    """Pairs that a side has lost by failing to answer, by "student" and "teacher"."""
    is_withheld: bool
    """Whether it would be PASS, if the teacher had failed less often than a student may."""


class RatingsView(TypedDict):
    """How much better the student's answers are rated than the teacher's."""

    difference: float
    """Mean of the student's less that of the teacher's; a user counts once, by the first rating."""
    lower: float
    upper: float
    """Bounds of it that hold at all looks together with probability 1 - alpha."""
    alpha: float
    users: dict[str, int]
    """Who rated, by "student" and "teacher"."""


class ExperimentView(TypedDict):
    """An experiment's results up to now."""

    name: str
    state: State
    salt_id: str
    """Changes when users are dealt anew."""
    variants: list[VariantView]
    shadow: ShadowView
    sample_ratio: SampleRatioView
    guardrails: list[GuardrailView]
    verdict: VerdictView | None
    """None before the first pair is judged."""
    ratings: RatingsView | None
    """None before both sides were rated."""


class PairView(TypedDict):
    """Both answers to the same messages."""

    pair_id: str
    conversation: str
    """The same for all pairs of a conversation: one independent observation."""
    messages: list[JsonObject]
    student: str
    teacher: str
    student_finished: bool
    """Whether it ended by itself, not at the limit of tokens."""
    teacher_finished: bool
    student_failed: bool
    """Whether it did not answer, and so has lost; its text is then empty."""
    teacher_failed: bool


class PairList(TypedDict):
    """Pairs that a judge has not seen, the oldest first."""

    data: list[PairView]
    teacher_model: str
    """The name under which the teacher answers here."""
    margin: float
    alpha: float


class CascadeView(TypedDict):
    """What a cascade has done since the server's start."""

    name: str
    student: str
    teacher: str
    answers: int
    escalated: int
    """Answers that were the teacher's."""
    share_escalated: float | None
    student_tokens: int
    """Completion tokens, those of answers that were thrown away included."""
    teacher_tokens: int
    cost: float
    """By the prices of the configuration."""


class CascadeList(TypedDict):
    """All cascades."""

    data: list[CascadeView]

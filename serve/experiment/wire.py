"""JSON bodies and answers of the routes of experiments."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from typing_extensions import TypedDict

from potstill import former_names
from serve.wire.shared import JsonObject, Many, Received, Text

MAX_COMMENT_CHARACTERS = 10_000
MAX_JUDGMENTS = 10_000

State = Literal["running", "fallback", "killed"]
"""In fallback, after a breach, and when killed by a person, the teacher answers all requests."""
ResponseId = Annotated[Text, Field(min_length=1, max_length=200)]
Score = Annotated[float, Field(ge=0.0, le=1.0)]


class FeedbackRequest(Received):
    """The body of POST /v1/feedback: a user's rating of one answer; the last one counts."""

    response_id: ResponseId
    score: Score | None = None
    """From 0, useless, to 1, perfect."""
    thumbs: Literal["up", "down"] | None = None
    """Stands for a score of 1 or 0."""
    comment: Annotated[Text, Field(max_length=MAX_COMMENT_CHARACTERS)] | None = None

    @model_validator(mode="after")
    def _rates_once(self) -> Self:
        if (self.score is None) == (self.thumbs is None):
            raise ValueError("give either score or thumbs")
        return self

    @property
    def value(self) -> float:
        """The score, whichever way it was given."""
        return float(self.thumbs == "up") if self.score is None else self.score


class DealRequest(Received):
    """The body of POST /v1/deals: two models for a blind vote."""

    models: tuple[Text, Text]


class VoteRequest(Received):
    """The body of POST /v1/votes: which of two answers to the same messages is better."""

    response_ids: tuple[ResponseId, ResponseId]
    preference: Literal["a", "b", "tie"]
    """The first answer, the second, or neither."""
    blind: bool = False
    """Whether the answers are those of dealt names; only such votes count, and of these those on
    answers under the server's own settings."""


class JudgmentEntry(Received):
    """A judgment of one pair."""

    pair_id: ResponseId
    score: Score
    """From 0, the teacher's answer is better, to 1, the student's is."""


class JudgmentsRequest(Received):
    """The body of POST /v1/experiments/{name}/judgments: newly judged pairs."""

    judge: Annotated[Text, Field(min_length=1, max_length=200)]
    is_valid: bool
    """Whether the judge passed its assay."""
    judgments: Annotated[Many[JudgmentEntry], Field(max_length=MAX_JUDGMENTS)]

    @model_validator(mode="before")
    @classmethod
    def _take_former_names(cls, body: object) -> object:
        return former_names.in_artifact(body)


class Accepted(TypedDict):
    """Confirms that something was stored."""

    stored: Literal[True]


class DealView(TypedDict):
    """Names of two models, each for one answer."""

    models: list[str]


class VoteView(Accepted):
    """Confirms a vote."""

    models: list[str]
    """Who wrote the two answers."""
    counts: bool
    """Whether it may decide something: it is blind, under the server's own settings."""
    settings: list[str]
    """Parameters of the requests because of which a blind vote does not count."""


class ExperimentList(TypedDict):
    """All experiments, by name."""

    data: list[str]


class FeedbackSummary(TypedDict):
    """The ratings of a variant's answers."""

    n: int
    mean: float | None


class VariantView(TypedDict):
    """One variant as clients saw it, without shadow answers."""

    name: str
    model: str
    weight: float
    exposures: int
    """Answers, failed ones included."""
    users: int
    errors: int
    error_rate: float | None
    p50_seconds: float | None
    """Of the newest complete answers."""
    p95_seconds: float | None
    tokens_mean: float | None
    """Completion tokens of an answer."""
    feedback: FeedbackSummary


class ShadowView(TypedDict):
    """The answers generated in the background."""

    pairs: int
    dropped: int
    """Requests dropped because the queue was full, since the server's start."""
    failed: int
    queue: int
    """Waiting now."""


class SampleRatioView(TypedDict):
    """Whether the numbers of users match the weights."""

    p_value: float
    is_mismatch: bool


class GuardrailView(TypedDict):
    """One limited rate of the student."""

    name: str
    value: float | None
    limit: float
    is_breached: bool


class RecentView(TypedDict):
    """The newest users that counted."""

    users: int
    win_rate: float | None


class VerdictView(TypedDict):
    """Whether the student may replace the teacher, valid at every look."""

    outcome: str
    alone: str | None
    """What a judge other than people would say; its PASS alone is INCONCLUSIVE."""
    judge: str
    """Whose verdict it is: "votes" are people's."""
    voters: int | None
    """Number of keys that voted, where votes decide: few voters may be of one mind."""
    win_rate: float | None
    lower: float
    upper: float
    margin: float
    alpha: float
    pairs: int
    failed: dict[str, int]
    """Pairs lost by failing to answer, by "student" and "teacher"."""
    is_withheld: bool
    """Whether PASS was withheld because the teacher failed more often than a student may."""
    is_withdrawn: bool
    """Whether PASS was withdrawn because the newest users contradict it."""
    recent: RecentView
    conversations_of: str
    """The variant in whose clients' conversations both are compared."""


class RatingsView(TypedDict):
    """The student's ratings compared with the teacher's."""

    difference: float
    """Mean of the student minus that of the teacher; of each user the first rating counts."""
    lower: float
    upper: float
    """The bounds hold over all looks together with probability 1 - alpha."""
    alpha: float
    users: dict[str, int]
    """Number of users who rated, by "student" and "teacher"."""


class ExperimentView(TypedDict):
    """An experiment's current results."""

    name: str
    state: State
    salt_id: str
    """Changes when users are assigned anew."""
    variants: list[VariantView]
    shadow: ShadowView
    sample_ratio: SampleRatioView
    guardrails: list[GuardrailView]
    verdict: VerdictView | None
    """None before the first pair is judged."""
    ratings: RatingsView | None
    """None until both sides are rated."""


class PairView(TypedDict):
    """Both answers to the same messages."""

    pair_id: str
    conversation: str
    """Equal for all pairs of a conversation."""
    user: str
    """Equal for all pairs of a user, which is one independent observation; the conversation where
    no user was named."""
    messages: list[JsonObject]
    student: str
    teacher: str
    student_finished: bool
    """Whether it ended by itself, not at the token limit."""
    teacher_finished: bool
    student_failed: bool
    """Whether it failed to answer, and so lost the pair; its text is then empty."""
    teacher_failed: bool


class PairList(TypedDict):
    """Pairs that a judge has not judged, oldest first."""

    data: list[PairView]
    teacher_model: str
    """The name of the teacher's model here."""
    margin: float
    alpha: float


class CascadeView(TypedDict):
    """A cascade's counts since the server's start."""

    name: str
    student: str
    teacher: str
    answers: int
    escalated: int
    """Answers by the teacher."""
    share_escalated: float | None
    student_tokens: int
    """Completion tokens, discarded answers included."""
    teacher_tokens: int
    cost: float
    """At the configured prices."""


class CascadeList(TypedDict):
    """All cascades."""

    data: list[CascadeView]

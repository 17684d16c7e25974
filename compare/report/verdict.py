"""The verdict as numbers: what a page needs to show it, and to show why.

In: nothing but values. Out: typed sections of report.json. Knows nothing of how they are computed.
"""

from __future__ import annotations

from typing import Literal

from compare.judges.protocol import Claim, Judgment, Usage
from potstill.schema import Message, Value
from potstill.verdict.outcome import Outcome

ScaleName = Literal["win rate", "difference"]
EQUAL: dict[ScaleName, float] = {"win rate": 0.5, "difference": 0.0}
"""What equal models have."""


class Estimate(Value):
    """A figure of the student against the teacher, with one-sided bounds of confidence 1 - alpha.

    Of a judge that prefers, a win rate with ties one half, where equal is 1/2; of one that measures
    each answer, the mean difference student - teacher, where equal is 0.
    """

    scale: ScaleName
    value: float
    lower: float
    upper: float
    threshold: float
    """What the lower bound must exceed to pass: equal, less the margin."""
    standard_error: float
    """Cluster-robust."""
    num_pairs: int
    num_clusters: int
    tie_share: float
    student_mean: float | None = None
    """The metric's means, of a judge that measures each answer."""
    teacher_mean: float | None = None

    @property
    def equal(self) -> float:
        """What equal models have."""
        return EQUAL[self.scale]


class Discordance(Value):
    """Prompts that only one of both answered rightly, and McNemar's test of them."""

    only_student: int
    only_teacher: int
    p_exact: float
    """Two-sided p-value of "both are right equally often", prompts taken as independent."""


class HumanCorrected(Value):
    """A judge's win rate set right by people's votes on some of its pairs (PPI++)."""

    rate: float
    lower: float
    upper: float
    num_human_votes: int
    num_judged: int
    outcome: Outcome


class HealthCheck(Value):
    """One question to a judge about itself."""

    name: str
    passed: bool | None
    """None when it could not be asked."""
    value: float | None
    limit: float | None
    detail: str
    """What was looked at, in words."""


class Control(Value):
    """What a judge said of pairs whose better side is known."""

    name: str
    expected: str
    """What a sound judge says of the changed answer: "tie", "worse", "equal" or "not_better"."""
    num_pairs: int
    num_failed: int
    win_rate: float | None
    """Of the changed answer against the teacher's own; None when nothing was judged, as after an
    earlier control that had failed."""
    lower: float | None
    upper: float | None
    tie_share: float | None


class Slice(Value):
    """The same figure on prompts of one kind."""

    key: str
    """Such as "length"."""
    value: str
    """Such as "short"."""
    estimate: Estimate
    p_adjusted: float
    """p-value of "worse by the margin or more", after Holm over all slices."""
    outcome: Outcome
    """At the adjusted level: a slice passes only if it does among all of them."""


class ShownAnswer(Value):
    """An answer to be read."""

    text: str
    num_tokens: int
    seconds: float
    """From the request to the whole answer, others being under way."""
    finish_reason: str


class Example(Value):
    """One prompt with both answers, and what each judge said of them."""

    prompt_id: str
    sample: int
    slices: dict[str, str]
    messages: tuple[Message, ...]
    student: ShownAnswer
    teacher: ShownAnswer
    judgments: dict[str, Judgment]
    """By the judge's name; those who were not asked are left out."""


class JudgeReport(Value):
    """One judge: whether it can be trusted, and what it says."""

    name: str
    kind: str
    claim: Claim
    model: str | None
    decides: bool
    """Whether the verdict is this judge's."""
    outcome: Outcome | None
    """None for a judge of similarity: it shows, and never decides."""
    reason: str
    """Why, in one sentence."""
    estimate: Estimate | None
    """None when nothing was judged, or the judge is invalid."""
    bootstrap: Estimate | None = None
    """The same by BCa bootstrap over clusters."""
    further_prompts: int | None = None
    """Prompts still needed for a decision, if rate and variance stay as they are."""
    human_corrected: HumanCorrected | None = None
    """The win rate by people's preference, where enough of them voted on the same pairs."""
    discordance: Discordance | None = None
    """Of right answers, for a judge that checks."""
    checks: tuple[HealthCheck, ...] = ()
    controls: tuple[Control, ...] = ()
    slices: tuple[Slice, ...] = ()
    num_failed: int = 0
    """Pairs without a judgment."""
    usage: Usage = Usage()

    @property
    def worst_slice(self) -> Slice | None:
        """The slice where the student is farthest behind."""
        return min(self.slices, key=lambda one: one.estimate.value, default=None)


class Verdict(Value):
    """May this student replace the teacher?"""

    outcome: Outcome
    reason: str
    margin: float
    alpha: float
    cluster_by: str
    registered_at: str
    """When margin and alpha were written down (UTC), before the first answer was there."""
    num_answers_before: int
    """Answers that were there by then, kept from another comparison: they could have been seen."""
    power_at_parity: float
    """Probability that so many prompts let a student as good as the teacher pass, without ties."""
    decided_by: str | None
    """Name of the judge that decides."""
    judges: tuple[JudgeReport, ...]
    num_prompts: int
    """Prompts that at least one side answered."""
    num_refused: dict[str, int]
    """Answers that an endpoint refused to give, by side; a refusal loses against an answer."""
    samples_per_prompt: int
    temperature: float
    max_tokens: int
    seed: int
    student: str
    """What the student is called."""
    teacher: str

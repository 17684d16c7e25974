"""The verdict as numbers: what `report.json` has of it.

Frozen values, computed by the other modules of this folder.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from compare.judges.protocol import Answerer, Claim, Usage
from compare.verdict.following import Counted
from potstill.schema import Value
from potstill.task.metrics.label import LabelReport
from potstill.verdict.outcome import Outcome

ScaleName = Literal["win rate", "difference"]
EQUAL: dict[ScaleName, float] = {"win rate": 0.5, "difference": 0.0}
"""Value for two equal models."""
Basis = Literal["first", "followed", "corrected"]
"""What the bounds of a comparison are: those of the first one by its judge; those that hold at all
its comparisons together; or those of one of several, with its part of alpha."""
Relation = Literal["at most", "at least", "below"]


class Estimate(Value):
    """A mean over pairs of student and teacher, with one-sided bounds of confidence 1 - alpha.

    The win rate of the student, ties counted as one half, of a judge that prefers; the mean
    difference student - teacher of one that measures each answer.
    """

    scale: ScaleName
    value: float
    lower: float
    upper: float
    threshold: float
    """PASS needs the lower bound above it: the value for equal models less the margin."""
    standard_error: float
    """Cluster-robust."""
    num_pairs: int
    num_unread: int = 0
    """Pairs that the judge could not read: losses in the lower bound, wins in the upper one."""
    num_clusters: int
    tie_share: float
    student_mean: float | None = None
    """Mean of the student's measurements, of a judge that measures each answer."""
    teacher_mean: float | None = None

    @property
    def equal(self) -> float:
        """Value for two equal models."""
        return EQUAL[self.scale]


class Discordance(Value):
    """Prompts that only one of the models answered correctly, and McNemar's test of them."""

    only_student: int
    only_teacher: int
    p_exact: float
    """Two-sided p-value of "both are correct equally often", prompts taken as independent."""


class HumanCorrected(Value):
    """A judge's estimate corrected by people's votes or labels on some of its pairs (PPI++)."""

    rate: float
    """On the judge's scale: the win rate, or the mean difference."""
    lower: float
    upper: float
    num_human_votes: int
    """Pairs with a vote, or with labels of both answers."""
    num_judged: int
    standard_error: float | None = None
    """None in reports of earlier versions."""
    sensitivity: float | None = None
    """Share of people's preference that the judge's scores show on pairs with votes: the slope of
    one on the other. None where all votes are ties, or in reports of earlier versions."""
    sensitivity_error: float | None = None
    """Its standard error."""
    outcome: Outcome


class GradedSet(Value):
    """Pairs of which a known share is worse and the others are equal, as a judge sees them."""

    true_rate: float
    """Win rate of the set, by how it was made."""
    seen: float
    """Win rate by the judge."""
    lower: float
    upper: float
    """Bounds of confidence 1 - alpha each."""


class Sensitivity(Value):
    """How much of a known difference a judge sees: 1 all of it, 0 nothing."""

    value: float
    lower: float
    """One-sided, of confidence 1 - alpha/2."""
    num_pairs: int
    """Pairs of the assay whose worse answer is known, of graded controls where there are some."""
    sets: tuple[GradedSet, ...] = ()
    """None without graded controls."""


class Agreement(Value):
    """A judge's readings of answers that people labeled."""

    num_met: int
    """Answers that meet the criterion by people's labels."""
    num_met_seen: int
    """Those of them that meet it by the judge."""
    num_unmet: int
    num_unmet_seen: int


class CriterionRow(Value):
    """One criterion of a judge of criteria."""

    criterion: str
    shares: dict[Answerer, float]
    """Of each side's answers that meet it, by the judge alone."""
    agreement: dict[Answerer, Agreement]
    """Its errors may differ between both sides."""


class HealthCheck(Value):
    """One requirement on a judge."""

    name: str
    value: float | None
    """None when there was nothing to compute it from."""
    relation: Relation
    limit: float
    detail: str
    """What the value is."""

    @property
    def passed(self) -> bool | None:
        """Whether the value is within the limit; None when there is no value."""
        if self.value is None:
            return None
        if self.relation == "at least":
            return self.value >= self.limit
        return self.value < self.limit or (self.relation == "at most" and self.value == self.limit)


class Control(Value):
    """A judge's judgments on pairs whose better side is known."""

    name: str
    expected: str
    """A sound judge's result for the changed answer: "tie", "worse", "equal" or "not_better"."""
    num_pairs: int
    num_failed: int
    win_rate: float | None = None
    """Of the changed answer against the teacher's own; None when no pair was judged, as after a
    failed earlier control."""
    lower: float | None = None
    upper: float | None = None
    tie_share: float | None = None


class Slice(Value):
    """The estimate on prompts of one kind."""

    key: str
    """Such as "length"."""
    value: str
    """Such as "short"."""
    estimate: Estimate
    p_adjusted: float
    """p-value of "worse by the margin or more", adjusted for all slices by Holm's procedure."""
    outcome: Outcome
    """At the adjusted level."""


class Adjusted(Value):
    """A mean adjusted to prompts that were not compared, by what is known of them (CUPED)."""

    value: float
    standard_error: float
    variance_saved: float
    """Share of the variance that the adjustment removes; below 0 it adds some."""
    covariates: tuple[str, ...]
    num_prompts: int
    """Prompts with covariates, the compared ones among them."""

    def in_words(self) -> str:
        """Return the adjusted mean and its gain as a sentence."""
        saved = f"{abs(self.variance_saved):.0%} {'less' if self.variance_saved >= 0 else 'more'}"
        return (
            f"Adjusted by {' and '.join(self.covariates)} to all {self.num_prompts:,} prompts of "
            f"the run (CUPED): {self.value:.3f}, standard error {self.standard_error:.3f}, {saved} "
            "variance. It decides nothing: its coefficients are fitted to the same scores, for "
            "which the exact test is not made."
        )


class JudgeReport(Value):
    """One judge: whether it passed its assay, and its result."""

    name: str
    kind: str
    claim: Claim
    model: str | None
    decides: bool
    """Whether the verdict is this judge's."""
    outcome: Outcome | None
    """None for a judge of similarity, which never decides."""
    reason: str
    """Why, in one sentence."""
    estimate: Estimate | None
    """None when nothing was judged, or the judge is invalid."""
    adjusted: Adjusted | None = None
    """The estimate by covariates of prompts, of the judge that decides; None without covariates of
    further prompts."""
    basis: Basis = "first"
    level: float | None = None
    """Error rate of the bounds, on either side; None in reports of earlier versions: alpha."""
    further_prompts: int | None = None
    """Prompts that, added to these, decide with the plan's power if rate and variance stay as they
    are; None where they decide nothing without people's votes."""
    share_voted: float | None = Field(default=None, exclude=True)
    """Of the votes or labels that a first comparison needs, where people decide."""
    line: str | None = Field(default=None, exclude=True)
    """Identity of this judge's comparisons, of the one that decides."""
    counted: tuple[Counted, ...] = Field(default=(), exclude=True, repr=False)
    """The values that this comparison adds to the line."""
    human_corrected: HumanCorrected | None = None
    """What decides for a judge that prefers, and for one of criteria; None with too few votes on
    the same pairs, or too few labels."""
    sensitivity: Sensitivity | None = None
    """Of a judge that prefers and was tested by an assay."""
    criteria: tuple[CriterionRow, ...] = ()
    """Of a judge of criteria."""
    alone: Outcome | None = None
    """What a judge that prefers would say without people's votes: PASS needs the lower bound above
    ½ less the margin as it sees it, FAIL the upper bound below ½ less the margin. Of a judge of
    criteria, what it would say without people's labels."""
    discordance: Discordance | None = None
    """For a judge whose measurements are correct or wrong."""
    labels: dict[Answerer, LabelReport] = Field(default_factory=dict)
    """Macro-F1 and confusion matrix of each side, for a metric that reads labels or calls."""
    problems: dict[Answerer, dict[str, int]] = Field(default_factory=dict)
    """Answers of each side by why they are not right, the most frequent first."""
    checks: tuple[HealthCheck, ...] = ()
    controls: tuple[Control, ...] = ()
    slices: tuple[Slice, ...] = ()
    num_failed: int = 0
    """Pairs without a judgment."""
    usage: Usage = Usage()

    @property
    def was_tested(self) -> bool:
        """Whether it could have passed the student."""
        return self.estimate is not None and (self.alone is None or bool(self.human_corrected))

    @property
    def needs_people(self) -> bool:
        """Whether it may err on real answers, so that people's votes or labels decide."""
        return self.kind in {"llm", "criteria"}

    @property
    def people(self) -> str:
        """What people said of the same pairs, in words; empty without a correction."""
        if self.human_corrected is None:
            return ""
        number = self.human_corrected.num_human_votes
        if self.kind == "criteria":
            return f"people's labels of both answers to {number} prompts"
        return f"{number} of people's votes"

    @property
    def worst_slice(self) -> Slice | None:
        """The slice where the student is farthest behind."""
        return min(self.slices, key=lambda one: one.estimate.value, default=None)


class GateRow(Value):
    """One requirement of the gate, and what was found."""

    name: str
    """Of the metric, the judge or the suite, or the kind of the requirement."""
    measured: str
    """What the value is, in words."""
    required: bool
    outcome: Outcome
    """FAIL is shown to be missed, INCONCLUSIVE neither shown nor missed, or not measured."""
    value: float | None = None
    """None where nothing was measured."""
    lower: float | None = None
    """One-sided, as is `upper`; both None of a price."""
    upper: float | None = None
    threshold: float | None = None
    """PASS needs the lower bound above it, or a price of at most that."""
    num_items: int = 0
    """Answers or pairs behind the value."""
    note: str | None = None
    """Why it is not decided, where the numbers do not show it."""


class Attempt(Value):
    """One comparison of a run, finished with this outcome."""

    registered_at: str
    judges: tuple[str, ...]
    num_prompts: int
    margin: float
    outcome: Outcome
    models: str | None = None
    """Identity of student and teacher; None, like `line`, in files of earlier versions."""
    line: str | None = None
    """Identity of the judge that decided, with its settings."""
    was_tested: bool = True
    """Whether it could have been a PASS."""
    share_voted: float | None = None
    """As in `JudgeReport`."""
    values: tuple[Counted, ...] = ()
    """Of clusters that no earlier comparison of the line had."""


class Verdict(Value):
    """Whether the student may replace the teacher."""

    outcome: Outcome
    reason: str
    margin: float
    alpha: float
    cluster_by: str
    registered_at: str
    """When margin and alpha were recorded (UTC), before the first answer."""
    num_answers_before: int
    """Answers that existed then, kept from another comparison."""
    power_at_parity: float | None
    """Probability of PASS for a student equal to its teacher, with the clusters, the ties and the
    votes of this comparison; without a valid judge, with independent prompts and no ties. None
    where the prompts follow those of an earlier comparison."""
    earlier: tuple[Attempt, ...] = ()
    """Comparisons of the same run before this one, whatever their judges and prompts were."""
    decided_by: str | None
    """Name of the judge that decides."""
    gate: tuple[GateRow, ...] = ()
    """What the student must show to PASS, all of it; the outcome is that of the gate. Empty where
    the judge that decides is the only requirement."""
    judges: tuple[JudgeReport, ...]
    num_prompts: int
    """Prompts that at least one model answered."""
    num_refused: dict[str, int]
    """Answers that an endpoint refused to give, by side; a refusal loses against an answer."""
    samples_per_prompt: int
    temperature: float
    max_tokens: int
    seed: int
    student: str
    """Name of the student."""
    teacher: str

    @property
    def decider(self) -> JudgeReport | None:
        """The judge whose verdict this is."""
        return next((judge for judge in self.judges if judge.decides), None)

    @property
    def basis(self) -> Basis:
        """What the bounds are that decide."""
        return self.decider.basis if self.decider else "first"

    @property
    def missed(self) -> list[GateRow]:
        """The required parts of the gate that did not pass."""
        return [row for row in self.gate if row.required and row.outcome is not Outcome.PASS]

    @property
    def level(self) -> float:
        """Error rate of the bounds that decide."""
        return (self.decider and self.decider.level) or self.alpha


def bounds_in_words(lower: float, upper: float, alpha: float, basis: Basis = "first") -> str:
    """Return a pair of one-sided bounds as text, with their confidence."""
    if basis == "followed":
        return (
            f"{lower:.3f} to {upper:.3f} (each bound holds at all comparisons together with "
            f"probability {1 - alpha:g})"
        )
    return (
        f"{lower:.3f} to {upper:.3f} ({100 * (1 - 2 * alpha):g} % interval: two one-sided "
        f"{100 * (1 - alpha):g} % bounds)"
    )

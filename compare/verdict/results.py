"""The verdict as numbers: what `report.json` has of it.

Frozen values, computed by the other modules of this folder.
"""

from __future__ import annotations

from pydantic import Field

from compare.judges.protocol import Answerer, Claim, Usage
from compare.verdict.figures import (
    Adjusted,
    Basis,
    Control,
    CriterionRow,
    Discordance,
    Estimate,
    HealthCheck,
    HumanCorrected,
    Sensitivity,
    Slice,
)
from compare.verdict.following import Counted
from potstill.schema import Value
from potstill.task.metrics.label import LabelReport
from potstill.verdict.outcome import Outcome

NEED_PEOPLE = frozenset({"llm", "criteria"})
"""Kinds of judges that may err on real answers."""


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
    """What decides for a preference judge, and for one of criteria; None with too few votes on
    the same pairs, or too few labels."""
    sensitivity: Sensitivity | None = None
    """Of a preference judge that was tested by an assay."""
    criteria: tuple[CriterionRow, ...] = ()
    """Of a judge of criteria."""
    alone: Outcome | None = None
    """What a preference judge would say without people's votes: PASS needs the lower bound above
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
        return self.kind in NEED_PEOPLE

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
    was_shown: bool = False
    """Whether the report had the scores of the judge that decided, tested or not."""
    num_others: int = 0
    """Other judges of quality whose results the report had."""
    answers: str | None = None
    """Digest of the answers; None in files of earlier versions."""
    comparison: str | None = None
    """Digest of the models and the settings of their answers."""
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
    answers: str = Field(default="", exclude=True)
    """Digest of both models' answers."""
    shared_level: float | None = Field(default=None, exclude=True)
    """Error rate of what is tested of these answers beside the judge that decides; None: that of a
    first comparison."""
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

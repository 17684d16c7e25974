"""From a comparison's answers to the rows of its gate.

In: requirements, the answers of all models, the judges' reports. Out: `GateRow`s.

Each is the mean of bounded values in clusters, tested like the verdict: a difference against its
margin, a share against its limit. What was not measured is not passed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from statistics import fmean

from compare.answers.answers import Answer, Role
from compare.config import CompareConfig
from compare.gate.asking import STUDENT, reference_of, role_of
from compare.gate.refusals import free_text, refuses
from compare.gate.suites import SUITES
from compare.gate_config import (
    CostRequirement,
    LatencyRequirement,
    LengthRequirement,
    MetricRequirement,
    RefusalsRequirement,
    RequirementConfig,
    SchemaRequirement,
    SuiteRequirement,
)
from compare.verdict.following import Standing
from compare.verdict.intervals import mean_interval
from compare.verdict.non_inferiority import outcome_of_bounds
from compare.verdict.results import EQUAL, Estimate, GateRow, JudgeReport, Verdict
from potstill.task.answers import Item
from potstill.task.metrics.config import SchemaConfig
from potstill.task.metrics.json_valid import SchemaValid
from potstill.task.metrics.metric import safe_score
from potstill.task.task import Task
from potstill.verdict.outcome import Outcome

ByPrompt = Mapping[str, float]
NAMES = {"teacher": "the teacher", "untrained": "the student before training"}
UNIT, CHANGE = (0.0, 1.0), (-1.0, 1.0)


@dataclass(frozen=True)
class Evidence:
    """What a comparison found."""

    config: CompareConfig
    task: Task | None
    verdict: Verdict
    """That of the judge that decides."""
    answers: Mapping[Role, Sequence[Answer]]
    clusters: Mapping[str, str]
    """Of the comparison's own prompts; others are their own."""
    dollars: float | None
    """Of a million output tokens of the student."""

    @property
    def own_alpha(self) -> float:
        """Error rate for the comparison's own prompts, which later comparisons may change.

        Those of one student share alpha. A suite is always answered alike by one student, so it is
        tested once, at all of alpha.
        """
        num_before = sum(one.was_tested for one in self.verdict.earlier)
        standing = Standing(self.config.verdict.alpha, batches=((),) * num_before)
        return standing.corrected_level

    def of(self, role: Role, value: Callable[[Answer], float | None]) -> dict[str, float]:
        """Return the mean value of a role's answers by prompt; answers without one are left out."""
        found: dict[str, list[float]] = {}
        for answer in self.answers.get(role, ()):
            known = value(answer)
            if known is not None:
                found.setdefault(answer.prompt_id, []).append(known)
        return {prompt_id: fmean(values) for prompt_id, values in found.items()}

    def row(
        self,
        requirement: RequirementConfig,
        name: str,
        measured: str,
        values: ByPrompt,
        threshold: float,
        bounds: tuple[float, float] = UNIT,
    ) -> GateRow:
        """Return the row of a mean that must be above a threshold."""
        row = GateRow(
            name=name,
            measured=measured,
            required=requirement.required,
            outcome=Outcome.INCONCLUSIVE,
            threshold=threshold,
            num_items=len(values),
            note="not measured",
        )
        if not values:
            return row
        clusters = [self.clusters.get(prompt_id, prompt_id) for prompt_id in values]
        is_own = values.keys() <= self.clusters.keys()
        alpha = self.own_alpha if is_own else self.config.verdict.alpha
        found = mean_interval(list(values.values()), clusters, alpha=alpha, bounds=bounds)
        outcome = outcome_of_bounds(found.lower, found.upper, threshold)
        return with_enough(
            row.model_copy(
                update={
                    "outcome": outcome,
                    "value": found.mean,
                    "lower": found.lower,
                    "upper": found.upper,
                    "note": None,
                }
            ),
            requirement,
        )


def with_enough(row: GateRow, requirement: RequirementConfig) -> GateRow:
    """Return the row; a PASS of fewer items than required is none."""
    least = 1 if isinstance(requirement, CostRequirement) else requirement.min_items
    if row.outcome is not Outcome.PASS or row.num_items >= least:
        return row
    note = f"passes with {least:,} items or more (min_items)"
    return row.model_copy(update={"outcome": Outcome.INCONCLUSIVE, "note": note})


def gated(evidence: Evidence) -> Verdict:
    """Return the verdict of the gate: PASS only if all that is required passes.

    PASS claims that every requirement is met. If one is not, PASS needs a wrong PASS of that one,
    whose probability is at most alpha whatever the others do. So nothing is divided.

    Source: Berger 1982, "Multiparameter hypothesis testing and acceptance sampling", Technometrics
    24:295, theorem 1 (intersection-union test).
    """
    verdict, gate = evidence.verdict, evidence.config.gate
    if gate is None:
        return verdict
    rows = tuple(row_of(requirement, evidence) for requirement in gate)
    gated_verdict = verdict.model_copy(update={"gate": rows})
    return gated_verdict.model_copy(update={"outcome": outcome_of(gated_verdict)})


def outcome_of(verdict: Verdict) -> Outcome:
    """Return the outcome of a gate: FAIL as soon as one required row is shown to be missed."""
    missed = {row.outcome for row in verdict.missed}
    order = (Outcome.FAIL, Outcome.INVALID_JUDGE, Outcome.INCONCLUSIVE)
    return next((one for one in order if one in missed), Outcome.PASS)


@singledispatch
def row_of(requirement: RequirementConfig, evidence: Evidence) -> GateRow:
    """Return what was found of a requirement."""
    raise TypeError(f"no row of {requirement.kind}, {len(evidence.answers)} roles")


@row_of.register
def _(requirement: MetricRequirement, evidence: Evidence) -> GateRow:
    verdict, name = evidence.verdict, requirement.metric
    found = (
        verdict.decider
        if name is None
        else next((one for one in verdict.judges if one.name == name), None)
    )
    if found is None or found.estimate is None:
        return GateRow(
            name=name or verdict.decided_by or "judge",
            measured="which answers are better",
            required=requirement.required,
            outcome=Outcome.INVALID_JUDGE,
            note=found.reason if found else verdict.reason,
        )
    row = _judged(requirement, found, found.estimate, verdict.num_prompts)
    return with_enough(row, requirement)


def _judged(
    requirement: MetricRequirement, judge: JudgeReport, estimate: Estimate, num_prompts: int
) -> GateRow:
    people = judge.human_corrected
    value, lower, upper = estimate.value, estimate.lower, estimate.upper
    outcome = judge.outcome or Outcome.INCONCLUSIVE
    threshold = estimate.threshold
    if people is not None:
        value, lower, upper = people.rate, people.lower, people.upper
    if requirement.margin is not None and estimate.scale == "difference":
        threshold = EQUAL[estimate.scale] - requirement.margin
        if people is not None or not judge.needs_people:
            outcome = outcome_of_bounds(lower, upper, threshold)
    is_undecided = outcome is Outcome.INCONCLUSIVE and lower > threshold
    return GateRow(
        name=judge.name,
        measured="student less teacher" if estimate.scale == "difference" else estimate.scale,
        required=requirement.required,
        outcome=outcome,
        value=value,
        lower=lower,
        upper=upper,
        threshold=threshold,
        num_items=min(estimate.num_pairs, num_prompts),
        note=judge.reason if is_undecided else None,
    )


@row_of.register
def _(requirement: SchemaRequirement, evidence: Evidence) -> GateRow:
    schema = evidence.task.schema_content if evidence.task else None
    if schema is None:
        return evidence.row(requirement, "schema", "valid answers", {}, -requirement.margin)
    metric = SchemaValid(SchemaConfig(), schema)

    def is_valid(answer: Answer) -> float:
        if answer.is_refused:
            return 0.0
        return safe_score(metric, answer.content, Item(messages=answer.messages)).value

    lead = _lead(evidence.of(STUDENT, is_valid), evidence.of("teacher", is_valid))
    measured = "valid answers, student less teacher"
    return evidence.row(requirement, "schema", measured, lead, -requirement.margin, CHANGE)


@row_of.register
def _(requirement: RefusalsRequirement, evidence: Evidence) -> GateRow:
    def responds(answer: Answer) -> float:
        return float(not (answer.is_refused or refuses(free_text(answer.content))))

    lead = _lead(evidence.of(STUDENT, responds), evidence.of("teacher", responds))
    measured = "answers that refuse nothing, student less teacher"
    return evidence.row(requirement, "refusals", measured, lead, -requirement.margin, CHANGE)


@row_of.register
def _(requirement: SuiteRequirement, evidence: Evidence) -> GateRow:
    suite, reference = SUITES[requirement.suite], reference_of(requirement)

    def scores(who: str) -> dict[str, float]:
        return suite.scores(list(evidence.answers.get(role_of(suite.name, who), ())))

    measured, own = f"answers that {suite.right}", scores(STUDENT)
    if reference is None:
        limit = requirement.at_least or suite.at_least or 0.0
        return evidence.row(requirement, suite.name, measured, own, limit)
    measured = f"{measured}, student less {NAMES[reference]}"
    lead = _lead(own, scores(reference))
    row = evidence.row(requirement, suite.name, measured, lead, -requirement.margin, CHANGE)
    if not lead:
        return row.model_copy(update={"note": f"there is no file of {NAMES[reference]} to ask"})
    return row


@row_of.register
def _(requirement: LatencyRequirement, evidence: Evidence) -> GateRow:
    def is_in_time(answer: Answer) -> float | None:
        if answer.is_refused:
            return 0.0
        return None if answer.seconds is None else float(answer.seconds <= requirement.seconds)

    values = evidence.of(STUDENT, is_in_time)
    measured = f"answers within {requirement.seconds:g} s"
    return evidence.row(requirement, "latency", measured, values, requirement.share)


@row_of.register
def _(requirement: LengthRequirement, evidence: Evidence) -> GateRow:
    def length(answer: Answer) -> float | None:
        return None if answer.is_refused else float(len(answer.shown))

    student, teacher = evidence.of(STUDENT, length), evidence.of("teacher", length)
    values = {
        key: float(student[key] <= requirement.ratio * max(teacher[key], 1.0))
        for key in student
        if key in teacher
    }
    measured = f"answers at most {requirement.ratio:g} times as long as the teacher's"
    return evidence.row(requirement, "length", measured, values, requirement.share)


@row_of.register
def _(requirement: CostRequirement, evidence: Evidence) -> GateRow:
    found = evidence.dollars
    is_met = found is not None and found <= requirement.dollars
    outcome = Outcome.PASS if is_met else Outcome.FAIL
    return GateRow(
        name="cost",
        measured="dollars for a million output tokens",
        required=requirement.required,
        outcome=Outcome.INCONCLUSIVE if found is None else outcome,
        value=found,
        threshold=requirement.dollars,
        note="not measured" if found is None else None,
    )


def _lead(student: ByPrompt, other: ByPrompt) -> dict[str, float]:
    """Return the student's values less another's, of the prompts that both answered."""
    return {key: value - other[key] for key, value in student.items() if key in other}

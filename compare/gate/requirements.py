"""From a comparison's evidence to the rows of its gate, one function for each kind of requirement.

In: requirements, evidence. Out: `GateRow`s. What was not measured is not passed.
"""

from __future__ import annotations

from functools import singledispatch

from compare.answers.answers import Answer
from compare.gate.asking import STUDENT, role_of
from compare.gate.evidence import CHANGE, ByPrompt, Evidence, with_enough
from compare.gate.refusals import free_text, refuses
from compare.gate.suites import SUITES
from compare.gate_config import (
    SUITE_LIMITS,
    CostRequirement,
    FormerRequirement,
    LatencyRequirement,
    LengthRequirement,
    MemorizationRequirement,
    MetricRequirement,
    RefusalsRequirement,
    RequirementConfig,
    SchemaRequirement,
    SuiteRequirement,
)
from compare.verdict.figures import EQUAL, Estimate
from compare.verdict.non_inferiority import outcome_of_bounds
from compare.verdict.results import GateRow, JudgeReport
from potstill.task.answers import Item
from potstill.task.metrics.config import SchemaConfig
from potstill.task.metrics.json_valid import SchemaValid
from potstill.task.metrics.metric import safe_score
from potstill.verdict.outcome import Outcome

NAMES = {"teacher": "the teacher", "untrained": "the student before training"}


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
    suite, reference = SUITES[requirement.suite], requirement.reference

    def scores(who: str) -> dict[str, float]:
        return suite.scores(list(evidence.answers.get(role_of(suite.name, who), ())))

    measured, own = f"answers that {suite.right}", scores(STUDENT)
    if reference is None:
        limit = requirement.at_least or SUITE_LIMITS.get(suite.name, 0.0)
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


@row_of.register
def _(requirement: FormerRequirement, evidence: Evidence) -> GateRow:
    former = evidence.former
    found = former.decider if former else None
    name, other = "last student", "the last student"
    if former is None or found is None or found.estimate is None:
        return GateRow(
            name=name,
            measured="which answers are better",
            required=requirement.required,
            outcome=Outcome.INVALID_JUDGE,
            note=former.reason if former else "not measured",
        )
    same = MetricRequirement(required=requirement.required)
    row = _judged(same, found, found.estimate, former.num_prompts)
    measured = row.measured.replace("teacher", other)
    measured = measured if other in measured else f"{measured} against {other}"
    changes = {"name": name, "measured": f"{found.name}, {measured}"}
    return with_enough(row.model_copy(update=changes), requirement)


@row_of.register
def _(requirement: MemorizationRequirement, evidence: Evidence) -> GateRow:
    found = evidence.memorization
    row = GateRow(
        name="memorization",
        measured="held-out answers completed verbatim, less training answers",
        required=requirement.required,
        outcome=Outcome.INCONCLUSIVE,
        threshold=-requirement.at_most,
        note="not measured",
    )
    if found is None:
        return row
    notes = [] if found.canaries is None else [found.canaries.in_short]
    changes: dict[str, object] = {}
    if found.surplus is None or found.trained is None:
        notes.insert(0, "no training answer is long and distinct enough")
    else:
        lower, upper = -found.surplus.upper, -found.surplus.lower
        changes = {
            "outcome": outcome_of_bounds(lower, upper, -requirement.at_most),
            "value": 0.0 - found.surplus.value,
            "lower": lower,
            "upper": upper,
            "num_items": found.trained.num_answers,
        }
    if found.canaries is not None and found.canaries.exceeds(requirement.at_most):
        changes["outcome"] = Outcome.FAIL
    changes["note"] = "; ".join(notes) or None
    return with_enough(row.model_copy(update=changes), requirement)


def _lead(student: ByPrompt, other: ByPrompt) -> dict[str, float]:
    """Return the student's values less another's, of the prompts that both answered."""
    return {key: value - other[key] for key, value in student.items() if key in other}

"""What a comparison found, for the requirements of its gate.

In: the answers of all models, the judges' reports. Out: means by prompt, tested like the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from compare.answers.answers import Answer, Role, means_by_prompt
from compare.config import CompareConfig
from compare.gate_config import Requirement
from compare.verdict.following import FIRST
from compare.verdict.intervals import mean_interval
from compare.verdict.non_inferiority import outcome_of_bounds
from compare.verdict.results import GateRow, Verdict
from potstill.facts.memorization import Memorization
from potstill.task.task import Task
from potstill.verdict.outcome import Outcome

ByPrompt = Mapping[str, float]
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
    former: Verdict | None = None
    """The verdict with the student that this one would replace in the place of the teacher; None:
    it replaces none."""
    memorization: Memorization | None = None
    """None: not measured."""

    def of(self, role: Role, value: Callable[[Answer], float | None]) -> dict[str, float]:
        """Return the mean value of a role's answers by prompt; answers without one are left out."""
        return means_by_prompt(self.answers.get(role, ()), value)

    def row(
        self,
        requirement: Requirement,
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
        # One student answers a suite always alike, if it is not sampled: this is tested once.
        is_own = values.keys() <= self.clusters.keys()
        may_change = is_own or self.config.sampling_temperature > 0
        alpha = self.config.verdict.alpha
        if may_change:
            alpha = self.verdict.shared_level or FIRST * alpha
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


def with_enough(row: GateRow, requirement: Requirement) -> GateRow:
    """Return the row; with fewer items than required a PASS is INCONCLUSIVE."""
    if row.outcome is not Outcome.PASS or row.num_items >= requirement.min_items:
        return row
    note = f"passes with {requirement.min_items:,} items or more (min_items)"
    return row.model_copy(update={"outcome": Outcome.INCONCLUSIVE, "note": note})

"""Which prompts of suites are asked of whom.

In: the gate, the sides of the comparison, a run's files. Out: for each suite and model a role of
its own, with its side, its questions and how it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compare.answers.answers import Role
from compare.answers.questions import Question
from compare.answers.references import sample_of
from compare.answers.requests import Ask, as_given
from compare.answers.serving import FileSide, Side, Sides
from compare.config import CompareConfig
from compare.gate.suites import SUITES
from compare.gate_config import Gate, SuiteName, SuiteRequirement
from compare.measurement.run_files import RunFiles
from compare.measurement.untrained import start_file
from potstill.files import sha256_file

STUDENT: Role = "student"


@dataclass(frozen=True)
class Asked:
    """What suites ask, by role."""

    sides: dict[Role, Side] = field(default_factory=dict)
    questions: dict[Role, Sequence[Question]] = field(default_factory=dict)
    asks: dict[Role, Ask] = field(default_factory=dict)


def role_of(suite: SuiteName, who: str) -> Role:
    """Return the role of a model's answers to a suite."""
    return f"{suite}/{who}"


def asked_by(
    config: CompareConfig,
    run: RunFiles | None,
    sides: Sides,
    asks: Mapping[Role, Ask],
    directory: Path,
) -> Asked:
    """Return what the gate's suites ask.

    Args:
        sides: Of student and teacher.
        asks: How both are asked the comparison's own prompts; one without gets prompts as they are.
        directory: Where the file of the student before training may be written.
    """
    gate = config.gate or ()
    start = start_file(run, directory) if run and _needs_untrained(gate) else None
    if start is not None:
        sides = {**sides, "untrained": FileSide(start.stem, sha256_file(start), start)}
    asked = Asked()
    for requirement in gate:
        if not isinstance(requirement, SuiteRequirement):
            continue
        suite = SUITES[requirement.suite]
        for who in filter(None, (STUDENT, requirement.reference)):
            if who not in sides:
                continue
            role = role_of(suite.name, who)
            own = asks.get("teacher" if who == "teacher" else STUDENT, as_given)
            asked.sides[role] = sides[who]
            asked.questions[role] = sample_of(suite.questions(), requirement.num_items, config.seed)
            asked.asks[role] = own if suite.in_task else as_given
    return asked


def _needs_untrained(gate: Gate) -> bool:
    """Return whether the student before training is asked."""
    suites = (one for one in gate if isinstance(one, SuiteRequirement))
    return any(one.reference == "untrained" for one in suites)

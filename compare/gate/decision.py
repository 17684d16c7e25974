"""The verdict of the gate: that of all its requirements together.

In: evidence. Out: `Verdict`.
"""

from __future__ import annotations

from compare.gate.evidence import Evidence
from compare.gate.requirements import row_of
from compare.verdict.results import Verdict
from potstill.verdict.outcome import Outcome


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

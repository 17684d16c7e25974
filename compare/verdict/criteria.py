"""What decides for a judge of criteria: people's labels of some of its answers.

In: its decided pairs and its figures without labels, the labels. Out: the fields of its report that
they change.

The judge errs, and its errors may differ between the student's answers and the teacher's: one that
is lenient with a style that only the student has would pass any student. So both answers of a pair
are labeled, and the difference is corrected pair by pair (`human_correction`). Correcting each
side's rate by sensitivity and specificity (Rogan & Gladen 1978, Am. J. Epidemiol. 107:71) needs as
many labels of each side, and assumes that errors do not depend on the answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from compare.judges.labels import Labels
from compare.judges.protocol import Answerer, PairKey
from compare.verdict.figures import Agreement, CriterionRow, Estimate, bounds_in_words
from compare.verdict.people import by_people, open_scores
from compare.verdict.scale import Decided, Scale
from potstill.verdict.outcome import Outcome, Plan
from potstill.verdict.sample_size import normal_quantile_sum

LEAST_LABELED_PAIRS = 25
"""Prompts with labels of both answers, 50 answers, from which on the corrected difference decides.
Its bounds hold for fewer too; but that prompts were drawn at random cannot be judged by less."""
SIDES: tuple[Answerer, ...] = ("student", "teacher")


def label_scores(decided: Sequence[Decided], labels: Labels) -> dict[PairKey, float]:
    """Return people's score of each pair with labels of both answers."""
    return labels.scores([one.pair for one in decided], _criteria(decided))


def by_criteria(
    decided: Sequence[Decided], scale: Scale, labels: Labels, figures: Mapping[str, Any]
) -> dict[str, object]:
    """Return what decides for a judge of criteria, and what it would say alone."""
    criteria, people = _criteria(decided), label_scores(decided, labels)
    corrected = by_people(decided, people, scale, least=LEAST_LABELED_PAIRS)
    found: dict[str, object] = {
        "alone": figures["outcome"],
        "human_corrected": corrected,
        "criteria": tuple(_row(criterion, decided, labels) for criterion in criteria),
    }
    estimate: Estimate = figures["estimate"]
    alpha = scale.plan.alpha
    bounds = bounds_in_words(estimate.lower, estimate.upper, alpha, threshold=scale.threshold)
    alone = f"the judge alone: {figures['outcome']}, difference {estimate.value:.3f}, {bounds}"
    if corrected is None:
        number = sum(score is not None for score in open_scores(decided, people))
        reason = (
            f"judge not verified on real answers: PASS needs people's labels of both answers to "
            f"{LEAST_LABELED_PAIRS} or more prompts drawn at random, at parity about "
            f"{labels_needed(scale.plan)}, and {LEAST_LABELED_PAIRS - number} of the "
            f"{LEAST_LABELED_PAIRS} are missing; {alone}"
        )
        return found | {"outcome": Outcome.INCONCLUSIVE, "reason": reason}
    bounds = bounds_in_words(corrected.lower, corrected.upper, alpha, threshold=scale.threshold)
    reason = (
        f"difference by people's labels {corrected.rate:.3f}, {bounds}, from both answers to "
        f"{corrected.num_human_votes} labeled prompts and {corrected.num_judged} judged ones; PASS "
        f"needs the lower bound above {scale.threshold:.3f}; {alone}"
    )
    return found | {"outcome": corrected.outcome, "reason": reason}


def labels_needed(plan: Plan) -> int:
    """Return how many labeled prompts let a student at parity pass if the judge never errs.

    Labels of L prompts may have missed an error that moves the difference by 2: the bound is about
    (1 + z)·2/L below the estimate (`human_correction`). The quantile of the power stands for the
    prompts that were drawn.
    """
    needed = 2 * (1 + normal_quantile_sum(plan)) / plan.margin
    return max(LEAST_LABELED_PAIRS, math.ceil(needed))


def _criteria(decided: Sequence[Decided]) -> list[str]:
    return list(dict.fromkeys(one.criterion for d in decided for one in d.judgment.readings))


def _row(criterion: str, decided: Sequence[Decided], labels: Labels) -> CriterionRow:
    shares, agreement = {}, {}
    for side in SIDES:
        read = [
            (one, reading.meets)
            for one in decided
            for reading in one.judgment.readings
            if (reading.side, reading.criterion) == (side, criterion) and reading.meets is not None
        ]
        shares[side] = fmean(meets for _, meets in read) if read else 0.0
        said = [(_label(one, side, criterion, labels), meets) for one, meets in read]
        met = [meets for label, meets in said if label is not None and label >= 0.5]
        unmet = [meets for label, meets in said if label is not None and label < 0.5]
        agreement[side] = Agreement(
            num_met=len(met),
            num_met_seen=sum(met),
            num_unmet=len(unmet),
            num_unmet_seen=len(unmet) - sum(unmet),
        )
    return CriterionRow(criterion=criterion, shares=shares, agreement=agreement)


def _label(one: Decided, side: Answerer, criterion: str, labels: Labels) -> float | None:
    """Return people's label; None without one, or of no answer, which needs none."""
    text = one.pair.student if side == "student" else one.pair.teacher
    return labels.of(one.pair.question.messages, text, criterion) if text.strip() else None

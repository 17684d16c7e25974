"""The verdict of a comparison: that of the first judge of quality.

In: opinions, the plan and when it was registered. Out: `Verdict`, rows of judgments.parquet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from compare.answers.answers import Answer
from compare.answers.questions import messages_id
from compare.config import CompareConfig
from compare.judges.panel import Opinion
from compare.judges.protocol import Judgment, Pair, PairKey
from compare.measurement.covariates import FindCovariates
from compare.verdict.figures import LARGEST_DIFFERENCE
from compare.verdict.findings import VOTES, report_on
from compare.verdict.following import FIRST, Standing
from compare.verdict.registration import Ledger, digest
from compare.verdict.results import NEED_PEOPLE, JudgeReport, Verdict
from compare.verdict.reweighting import p_at_most
from potstill.facts.comparison import Registration
from potstill.verdict.outcome import Outcome, Plan
from potstill.verdict.sample_size import power, power_of

NO_LEDGER = Ledger()
NO_JUDGE = "no judge of quality is configured, and similarity to the teacher decides nothing"


def decide(
    config: CompareConfig,
    registration: Registration,
    opinions: Sequence[Opinion],
    answers: Sequence[Answer],
    cluster_of: Callable[[Pair], str],
    ledger: Ledger = NO_LEDGER,
    find_covariates: FindCovariates | None = None,
    level: float | None = None,
) -> Verdict:
    """Return the verdict, with the reports of all judges.

    The first judge of quality in the configuration decides, whatever the others' results are: which
    one counts is fixed before any answer is judged.

    Args:
        ledger: The earlier comparisons of the run.
        find_covariates: None where no prompts but the compared ones are known.
        level: Error rate of a comparison that is a requirement beside another one; None: of one
            that decides by itself.
    """
    plan = Plan(margin=config.verdict.margin, alpha=config.verdict.alpha)
    decider = next((one for one in opinions if one.judged.claim == "quality"), None)
    people = scores_by_pair(one for one in opinions if one.judged.kind == VOTES)
    line = ledger.line(decider.key) if decider else ""
    said = _digest_of(answers)
    standing = ledger.standing(line, plan.alpha, said)
    shared_level = ledger.shared_level(plan.alpha, said)
    if level is not None:
        standing, shared_level = Standing(level / FIRST), level

    def beside(opinion: Opinion) -> Standing:
        """Return what a judge has that does not decide; people's votes may be more each time."""
        changes = level is None and opinion.judged.kind in NEED_PEOPLE
        rate = ledger.shared_level(plan.alpha, "") if changes else shared_level
        return Standing(rate / FIRST)

    reports = []
    for opinion in opinions:
        decides = opinion is decider
        report = report_on(
            opinion,
            plan,
            cluster_of,
            decides=decides,
            people=people,
            standing=standing if decides else beside(opinion),
            shared_level=shared_level,
            find_covariates=find_covariates if decides else None,
        )
        reports.append(report.model_copy(update={"line": line if decides else None}))
    deciding = next((report for report in reports if report.decides), None)
    outcome = deciding.outcome if deciding else None
    names = {answer.role: answer.model for answer in answers}
    refused = Counter(answer.role for answer in answers if answer.is_refused)
    num_prompts = len({answer.prompt_id for answer in answers if not answer.is_refused})
    return Verdict(
        outcome=outcome or Outcome.INVALID_JUDGE,
        reason=deciding.reason if deciding else NO_JUDGE,
        margin=plan.margin,
        alpha=plan.alpha,
        cluster_by=config.verdict.cluster_by,
        registered_at=registration.registered_at,
        num_answers_before=registration.num_answers_before,
        power_at_parity=_power_at_parity(plan, standing, deciding, num_prompts),
        earlier=tuple(one.model_copy(update={"values": ()}) for one in ledger.of_models),
        answers=said,
        shared_level=shared_level,
        decided_by=deciding.name if deciding else None,
        judges=tuple(reports),
        num_prompts=num_prompts,
        num_refused={"student": refused["student"], "teacher": refused["teacher"]},
        samples_per_prompt=config.samples_per_prompt,
        temperature=config.sampling_temperature,
        max_tokens=config.max_tokens,
        seed=config.seed,
        student=names["student"],
        teacher=names["teacher"],
    )


def _digest_of(answers: Sequence[Answer]) -> str:
    """Return a digest of the student's and the teacher's answers, in any order."""
    compared = (one for one in answers if one.role in ("student", "teacher"))
    return digest(sorted([one.role, messages_id(one.messages), one.shown] for one in compared))


def _power_at_parity(
    plan: Plan, standing: Standing, deciding: JudgeReport | None, num_prompts: int
) -> float | None:
    """Return the probability of PASS for an equal student, with clusters, ties and votes as seen.

    By the normal approximation, but 0 where ties alone would not pass. Without a valid judge, with
    independent prompts and no ties.

    Returns:
        None where the prompts follow those of an earlier comparison, with its result.
    """
    if standing.follows:
        return None
    if deciding is None or deciding.estimate is None:
        return power(replace(plan, alpha=standing.first_level), num_prompts)
    plan = replace(plan, alpha=deciding.level or standing.first_level)
    estimate = deciding.estimate
    ties = np.full(estimate.num_clusters, estimate.equal)
    low = estimate.equal - LARGEST_DIFFERENCE[estimate.scale]
    if p_at_most(estimate.threshold, ties, np.ones_like(ties), low) >= plan.alpha:
        return 0.0
    if deciding.human_corrected is not None:
        error = deciding.human_corrected.standard_error
    else:
        error = estimate.standard_error
    return power_of(plan.margin, error or 0.0, plan)


def scores_by_pair(opinions: Iterable[Opinion]) -> dict[PairKey, float]:
    """Return the mean score of each pair of answers."""
    scores: dict[PairKey, list[float]] = {}
    for opinion in opinions:
        for pair, judgment in opinion.judged_pairs:
            if judgment.score is not None:
                scores.setdefault(pair.key, []).append(judgment.score)
    return {key: sum(values) / len(values) for key, values in scores.items()}


def judgment_rows(opinion: Opinion, cluster_of: Callable[[Pair], str]) -> list[dict[str, object]]:
    """Return a judge's judgments as rows of JUDGMENT_SCHEMA, controls first."""

    def row(
        control: str | None, prompt_id: str, sample: int, cluster: str, judgment: Judgment
    ) -> dict[str, object]:
        named = {"judge": opinion.judged.name, "control": control, "prompt_id": prompt_id}
        return named | {"sample": sample, "cluster": cluster} | judgment.model_dump()

    controls = [
        row(control.name, prompt_id, 0, cluster, judgment)
        for control in opinion.judged.controls
        # Without judgments, where an earlier control failed, there are no rows.
        for prompt_id, cluster, judgment in zip(
            control.prompt_ids, control.clusters, control.said, strict=bool(control.said)
        )
    ]
    return controls + [
        row(None, pair.question.prompt_id, pair.sample, cluster_of(pair), judgment)
        for pair, judgment in opinion.judged_pairs
    ]

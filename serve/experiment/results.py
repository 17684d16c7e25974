"""An experiment's results as clients see them; the verdict is valid at every look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from potstill.verdict.anytime import WinRateMonitor
from potstill.verdict.outcome import Outcome, Plan
from serve.experiment.backend import Experiment
from serve.experiment.bounded_mean import difference_of_means
from serve.experiment.config import ExperimentConfig
from serve.experiment.sample_ratio import SAMPLE_RATIO_ALARM_P, sample_ratio_mismatch
from serve.experiment.wire import (
    ExperimentView,
    RatingsView,
    ShadowView,
    VariantView,
    VerdictView,
)
from serve.storage.queries import (
    Batch,
    VariantTotals,
    blind_votes,
    dealt_users,
    failed_pairs,
    first_ratings,
    judged_batches,
    shadow_counts,
    variant_totals,
)
from serve.storage.storage import salted_hash

VOTES = "votes"
"""Name of the judge for people's votes."""


async def results_of(experiment: Experiment) -> ExperimentView:
    """Return an experiment's current results."""
    return await experiment.storage.read(lambda connection: _view(connection, experiment))


def _view(connection: Connection, experiment: Experiment) -> ExperimentView:
    totals = variant_totals(connection, experiment.name)
    splits = dealt_users(connection, experiment.name)
    counts = Counter[str]()
    for _, users in splits:
        counts.update(users)
    p_value = sample_ratio_mismatch(splits)
    return {
        "name": experiment.name,
        "state": experiment.state,
        "salt_id": salted_hash(experiment.salt, "salt", experiment.name).hex()[:8],
        "variants": [
            _variant(experiment, name, totals.get(name, VariantTotals()), counts[name])
            for name in experiment.config.variants
        ],
        "shadow": _shadow(connection, experiment),
        "sample_ratio": {"p_value": p_value, "is_mismatch": p_value < SAMPLE_RATIO_ALARM_P},
        "guardrails": experiment.guardrails.views,
        "verdict": _verdict(connection, experiment),
        "ratings": _ratings(connection, experiment),
    }


def _variant(
    experiment: Experiment, name: str, totals: VariantTotals, num_users: int
) -> VariantView:
    answered = totals.whole + totals.errors
    median, high = totals.percentiles_seconds or (None, None)
    return {
        "name": name,
        "model": experiment.config.model_of(name),
        "weight": experiment.config.variants[name].weight,
        "exposures": totals.exposures,
        "users": num_users,
        "errors": totals.errors,
        "error_rate": totals.errors / answered if answered else None,
        "p50_seconds": median,
        "p95_seconds": high,
        "tokens_mean": totals.tokens_mean,
        "feedback": {"n": totals.num_ratings, "mean": totals.rating_mean},
    }


def _shadow(connection: Connection, experiment: Experiment) -> ShadowView:
    counts = shadow_counts(connection, experiment.name)
    return {
        "pairs": counts.get("whole", 0),
        "dropped": experiment.shadow.num_dropped,
        "failed": counts.get("failed", 0),
        "queue": experiment.shadow.num_waiting,
    }


def _verdict(connection: Connection, experiment: Experiment) -> VerdictView | None:
    config = experiment.config
    batches = judged_batches(connection, experiment.name, config.own_side)
    student = config.model_of(config.student)
    # Any key may vote: that votes decide is the administrator's choice.
    votes = (
        blind_votes(connection, experiment.sides, experiment.began) if config.judge == VOTES else []
    )
    for vote in votes:
        # Each vote is a separate look.
        score = vote.score if vote.first.model == student else 1 - vote.score
        batches.append(Batch(VOTES, True, [score], [vote.user]))
    judge = config.judge or (batches[0].judge if batches else None)
    judged = [batch for batch in batches if batch.judge == judge]
    if judge is None or not judged:
        return None
    failed = failed_pairs(connection, experiment.name, judge)
    num_voters = len({vote.voter for vote in votes}) if judge == VOTES else None
    return verdict_of(config, judged, failed, num_voters=num_voters)


def verdict_of(
    config: ExperimentConfig,
    batches: Sequence[Batch],
    failed: Mapping[str, int],
    *,
    num_voters: int | None = None,
) -> VerdictView:
    """Return the verdict of one judge's batches; INVALID JUDGE if the latest failed its tests.

    Winning against a teacher that fails to answer proves nothing, nor does a PASS by anything but
    people: how much of a difference another judge sees on real pairs is not known. Withholding PASS
    only makes it rarer, so that its error probability over all looks still holds.

    Args:
        failed: Judged pairs that a variant lost by failing to answer.
        num_voters: Number of people's keys, where their votes decide.
    """
    monitor = WinRateMonitor(Plan(margin=config.margin, alpha=config.alpha))
    for batch in batches:
        if batch.is_valid:
            monitor.update(batch.scores, batch.users)
    outcome = monitor.outcome if batches[-1].is_valid else Outcome.INVALID_JUDGE
    is_withdrawn = outcome is Outcome.PASS and monitor.has_fallen
    most_failures = config.guardrails.most_errors * monitor.num_pairs
    is_withheld = outcome is Outcome.PASS and failed.get(config.teacher, 0) > most_failures
    if is_withheld or is_withdrawn:
        outcome = Outcome.INCONCLUSIVE
    judge = batches[-1].judge
    passes_alone = outcome is Outcome.PASS and judge != VOTES
    return {
        "outcome": Outcome.INCONCLUSIVE if passes_alone else outcome,
        "alone": None if judge == VOTES else outcome,
        "judge": judge,
        "voters": num_voters,
        "win_rate": monitor.rate,
        "lower": monitor.lower,
        "upper": monitor.upper,
        "margin": config.margin,
        "alpha": config.alpha,
        "pairs": monitor.num_pairs,
        "failed": {
            "student": failed.get(config.student, 0),
            "teacher": failed.get(config.teacher, 0),
        },
        "is_withheld": is_withheld,
        "is_withdrawn": is_withdrawn,
        "recent": {"users": len(monitor.recent), "win_rate": monitor.recent_rate},
        "conversations_of": config.own_side,
    }


def _ratings(connection: Connection, experiment: Experiment) -> RatingsView | None:
    config = experiment.config
    rated = first_ratings(connection, experiment.name)
    student, teacher = rated.get(config.student), rated.get(config.teacher)
    if not student or not teacher:
        return None
    found = difference_of_means(student, teacher, config.alpha)
    return {
        "difference": found.difference,
        "lower": found.lower,
        "upper": found.upper,
        "alpha": config.alpha,
        "users": {"student": len(student), "teacher": len(teacher)},
    }

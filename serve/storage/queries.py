"""Queries of stored live traffic: counts, times, pairs, judgments."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, Select, and_, case, func, null, or_, select

from serve.storage import tables
from serve.storage.records import OutcomeName, StoredPair
from serve.storage.storage import insert_new

Split = tuple[dict[str, float], dict[str, int]]
NEWEST = 10_000
"""Number of answers that percentiles are computed over."""
MOST_CHARACTERS = 1 << 25
"""Of the texts of pairs that are read together."""
VOTES_AT_ONCE = 8
"""Votes whose texts are read together."""

WHOLE: OutcomeName = "whole"
FAILED: OutcomeName = "failed"

answers, feedback = tables.answers.c, tables.feedback.c


@dataclass(frozen=True)
class VariantTotals:
    """Totals of one variant's answers to clients."""

    exposures: int = 0
    whole: int = 0
    errors: int = 0
    tokens_mean: float | None = None
    """Of complete answers."""
    percentiles_seconds: tuple[float, float] | None = None
    """50th and 95th, of the newest complete answers."""
    num_ratings: int = 0
    rating_mean: float | None = None


@dataclass(frozen=True)
class Batch:
    """Judgments that a judge submitted at one time."""

    judge: str
    is_valid: bool
    scores: list[float]
    """The student's scores, in order."""
    users: list[str]
    """The user of each, or the conversation where no user was named."""


def variant_totals(connection: Connection, experiment: str) -> dict[str, VariantTotals]:
    """Return totals by variant, for variants with answers."""
    to_clients = and_(answers.experiment == experiment, answers.shadow_of.is_(None))
    rows = connection.execute(
        select(
            answers.variant,
            func.count(),
            func.sum(case((answers.outcome == WHOLE, 1), else_=0)),
            func.sum(case((answers.outcome == FAILED, 1), else_=0)),
            func.avg(case((answers.outcome == WHOLE, answers.completion_tokens))),
        )
        .where(to_clients)
        .group_by(answers.variant)
    ).all()
    ratings = {
        variant: (number, mean)
        for variant, number, mean in connection.execute(
            select(answers.variant, func.count(), func.avg(feedback.score))
            .join(tables.feedback, feedback.response_id == answers.id)
            .where(to_clients)
            .group_by(answers.variant)
        )
    }
    found = {}
    for variant, exposures, whole, errors, tokens in rows:
        seconds = connection.scalars(
            select(answers.seconds)
            .where(to_clients, answers.variant == variant, answers.outcome == WHOLE)
            .order_by(answers.number.desc())
            .limit(NEWEST)
        ).all()
        number, mean = ratings.get(variant, (0, None))
        found[variant] = VariantTotals(
            exposures=exposures,
            whole=whole,
            errors=errors,
            tokens_mean=None if tokens is None else float(tokens),
            percentiles_seconds=_percentiles(seconds),
            num_ratings=number,
            rating_mean=mean,
        )
    return found


def dealt_users(connection: Connection, experiment: str) -> list[Split]:
    """Return for each split the shares by variant, and the number of users of each."""
    columns = tables.users.c
    found: dict[str, dict[str, int]] = {}
    query = (
        select(columns.variant, columns.shares, func.count())
        .where(columns.experiment == experiment)
        .group_by(columns.variant, columns.shares)
    )
    for variant, shares, number in connection.execute(query):
        found.setdefault(shares, {})[variant] = number
    return [(json.loads(shares), counts) for shares, counts in found.items()]


def shadow_counts(connection: Connection, experiment: str) -> Mapping[str, int]:
    """Return the number of shadow answers by outcome."""
    query = (
        select(answers.outcome, func.count())
        .where(answers.experiment == experiment, answers.shadow_of.isnot(None))
        .group_by(answers.outcome)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def unjudged_pairs(
    connection: Connection,
    experiment: str,
    judge: str,
    *,
    own_side: str,
    other_side: str,
    with_failed: bool,
    quiet_since: float,
    limit: int,
) -> list[StoredPair]:
    """Return pairs with texts that a judge has not judged, the user first seen first.

    All pairs of a user come together: one whose pairs would exceed the limit, or that of their
    texts' length, is left for later, unless there is no other.

    Args:
        own_side: The variant whose clients' conversations count.
        other_side: The variant that answered in the shadow.
        with_failed: Whether to include pairs of which one side failed to answer.
        quiet_since: Conversations with later activity are left out.
    """
    own, shadow = tables.answers.alias("own"), tables.answers.alias("shadow")
    later, judged = tables.answers.alias("later"), tables.judgments.c
    usable = (WHOLE, FAILED) if with_failed else (WHOLE,)
    query: Select[Any] = (
        select(
            own.c.id,
            own.c.conversation,
            own.c.user,
            own.c.messages,
            own.c.variant,
            own.c.answer,
            own.c.finish_reason,
            shadow.c.variant,
            shadow.c.answer,
            shadow.c.finish_reason,
            own.c.outcome,
            shadow.c.outcome,
        )
        .join(shadow, shadow.c.shadow_of == own.c.id)
        .where(
            own.c.experiment == experiment,
            own.c.outcome.in_(usable),
            shadow.c.outcome.in_(usable),
            or_(own.c.outcome == WHOLE, shadow.c.outcome == WHOLE),
            own.c.variant == own_side,
            shadow.c.variant == other_side,
            own.c.messages.isnot(None),
            or_(own.c.outcome == FAILED, own.c.answer.isnot(None)),
            or_(shadow.c.outcome == FAILED, shadow.c.answer.isnot(None)),
            ~select(judged.number)
            .where(
                judged.experiment == experiment, judged.judge == judge, judged.pair_id == own.c.id
            )
            .exists(),
            ~select(later.c.number)
            .where(later.c.conversation == own.c.conversation, later.c.created > quiet_since)
            .exists(),
        )
        .order_by(func.min(own.c.number).over(partition_by=own.c.user), own.c.number)
        .limit(limit + 1)
    )
    rows, num_characters = [], 0
    # Not all at once: clients decide how long their texts are.
    for row in connection.execute(query.execution_options(yield_per=1)):
        rows.append(row)
        num_characters += sum(len(text or "") for text in (row[3], row[5], row[8]))
        if len(rows) > 1 and num_characters > MOST_CHARACTERS:
            limit = len(rows) - 1
            break
    if len(rows) > limit and rows[0].user != rows[-1].user:
        rows = [row for row in rows if row.user != rows[-1].user]
    return [
        StoredPair(
            id=row[0],
            conversation=row[1],
            user=row[2],
            messages=row[3],
            answers={row[4]: row[5] or "", row[7]: row[8] or ""},
            finish_reasons={row[4]: row[6], row[7]: row[9]},
            failed={row[10]: row[4], row[11]: row[7]}.get(FAILED),
        )
        for row in rows[:limit]
    ]


def judged_batches(connection: Connection, experiment: str, own_side: str) -> list[Batch]:
    """Return the batches of all judges, in order.

    Args:
        own_side: The variant whose clients' conversations count.
    """
    batches, judgments = tables.batches.c, tables.judgments.c
    rows = connection.execute(
        select(batches.number, batches.judge, batches.is_valid, judgments.score, answers.user)
        .outerjoin_from(tables.batches, tables.judgments, judgments.batch == batches.number)
        .outerjoin(
            tables.answers,
            and_(answers.id == judgments.pair_id, answers.variant == own_side),
        )
        .where(batches.experiment == experiment)
        .order_by(batches.number, judgments.number)
    )
    found: dict[int, Batch] = {}
    for number, judge, is_valid, score, user in rows:
        batch = found.setdefault(number, Batch(judge, is_valid, [], []))
        if score is not None and user is not None:
            batch.scores.append(score)
            batch.users.append(user)
    return list(found.values())


def failed_pairs(connection: Connection, experiment: str, judge: str) -> dict[str, int]:
    """Return the number of judged pairs that each variant lost by failing to answer."""
    judged = tables.judgments.c
    query = (
        select(answers.variant, func.count())
        .join(
            tables.judgments,
            and_(
                judged.experiment == experiment,
                judged.judge == judge,
                judged.pair_id == func.coalesce(answers.shadow_of, answers.id),
            ),
        )
        .where(answers.experiment == experiment, answers.outcome == FAILED)
        .group_by(answers.variant)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def first_ratings(connection: Connection, experiment: str) -> dict[str, list[float]]:
    """Return the first rating of each user, by rated variant, in order."""
    query = (
        select(answers.user, answers.variant, feedback.score)
        .join(tables.feedback, feedback.response_id == answers.id)
        .where(answers.experiment == experiment, answers.shadow_of.is_(None))
        .order_by(feedback.created, answers.number)
    )
    firsts: dict[str, tuple[str, float]] = {}
    for user, variant, score in connection.execute(query):
        firsts.setdefault(user, (variant, score))
    found: dict[str, list[float]] = {}
    for variant, score in firsts.values():
        found.setdefault(variant, []).append(score)
    return found


@dataclass(frozen=True)
class ShownAnswer:
    """One of two answers that a person compared; text is None where none is stored."""

    model: str
    text: str | None


@dataclass(frozen=True)
class BlindVote:
    """A person's vote on two answers of unknown origin."""

    number: int
    created: float
    first: ShownAnswer
    second: ShownAnswer
    score: float
    """Of the first answer: 1, 0, or ½ for a tie."""
    user: str
    """The user, or the conversation where no user was named."""
    messages: str | None
    """JSON."""
    voter: str
    """A hash of the voter's key."""


def began(connection: Connection, experiment: str, now: float) -> float:
    """Return when an experiment began: with its first answer or else now, which is stored."""
    first = select(func.min(answers.created)).where(answers.experiment == experiment)
    name, value = f"began: {experiment}", str(connection.scalar(first) or now)
    connection.execute(insert_new(connection, tables.facts, {"name": name, "value": value}))
    stored = select(tables.facts.c.value).where(tables.facts.c.name == name)
    return float(connection.execute(stored).scalar_one())


def blind_votes(
    connection: Connection,
    models: Collection[str],
    since: float,
    *,
    texts_after: int | None = None,
) -> list[BlindVote]:
    """Return the blind votes between two models, in order; those of which the voter is stored.

    Args:
        since: Time from which on answers count: earlier ones may be of other models of these names.
        texts_after: Return the texts, too, of the first few votes after this number, which may take
            megabytes each; None returns all votes without.
    """
    votes = tables.votes.c
    first, second = tables.answers.alias("first"), tables.answers.alias("second")
    with_texts = texts_after is not None
    rows = connection.execute(
        select(
            votes.number,
            votes.created,
            first.c.model,
            first.c.answer if with_texts else null(),
            second.c.model,
            second.c.answer if with_texts else null(),
            votes.score,
            func.coalesce(first.c.user, first.c.conversation),
            first.c.messages if with_texts else null(),
            tables.voters.c.voter,
        )
        .join(tables.voters, tables.voters.c.vote == votes.number)
        .join(first, first.c.id == votes.first_id)
        .join(second, second.c.id == votes.second_id)
        .where(
            votes.is_blind,
            first.c.created >= since,
            second.c.created >= since,
            first.c.model.in_(models),
            second.c.model.in_(models),
            first.c.model != second.c.model,
            votes.number > (texts_after or 0),
        )
        .order_by(votes.number)
        .limit(VOTES_AT_ONCE if with_texts else None)
    )
    return [
        BlindVote(
            number=row[0],
            created=row[1],
            first=ShownAnswer(*row[2:4]),
            second=ShownAnswer(*row[4:6]),
            score=row[6],
            user=row[7],
            messages=row[8],
            voter=row[9],
        )
        for row in rows
    ]


def _percentiles(seconds: Sequence[float]) -> tuple[float, float] | None:
    if not seconds:
        return None
    median, high = np.percentile(np.asarray(seconds), [50, 95])
    return float(median), float(high)

"""Comparisons that are followed: prompts are added until the verdict is no longer undecided.

In: the true win rate, the share of ties, the prompts of the first comparison. Out: the outcome of
the last comparison, and the number of its prompts. The same with votes that are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from benchmarks.verdict._judges import Comparison, Judge, by_votes
from compare.verdict.following import Counted, Standing
from compare.verdict.preference import planned_votes
from potstill.verdict.outcome import Outcome, Plan

MOST_PROMPTS = 20_000


@dataclass(frozen=True)
class Followed:
    """Comparisons of one student on more and more prompts."""

    rate: float
    tie_share: float
    num_first: int
    num_lines: int = 0
    """Judges that were tried before."""

    def decide(self, plan: Plan, rng: Generator) -> tuple[Outcome, int]:
        """Add as many prompts as a report asks for, until one decides or 20,000 have."""
        batches: list[tuple[Counted, ...]] = []
        total, wanted = 0, self.num_first
        while True:
            scores = Comparison(wanted, 0, self.rate, self.tie_share).human(rng)
            found = tuple(
                Counted(str(number), 1, float(score), float(score))
                for number, score in enumerate(scores, start=total)
            )
            total += wanted
            standing = Standing(plan.alpha, self.num_lines, tuple(batches))
            line = standing.line(found, (0.0, 1.0), plan.margin)
            threshold = plan.win_rate_threshold
            if line.is_shown_above(threshold):
                return Outcome.PASS, total
            if line.is_shown_below(threshold):
                return Outcome.FAIL, total
            if total >= MOST_PROMPTS:
                return Outcome.INCONCLUSIVE, total
            batches.append(found)
            further = line.further_clusters(threshold, plan.power) or MOST_PROMPTS
            wanted = min(further, MOST_PROMPTS - total)


def passed_by_votes(
    judge: Judge, pairs: Comparison, looks: Sequence[int], plan: Plan, rng: Generator
) -> bool:
    """Return whether any of several comparisons of the same pairs, with more votes, passes."""
    human_N = pairs.human(rng)
    scores_N = judge.scores(human_N, rng)
    needed = planned_votes(replace(plan, alpha=Standing(plan.alpha).first_level))
    for number, num_votes in enumerate(looks):
        voted = looks[number - 1] / needed if number else 0.0
        standing = Standing(plan.alpha, batches=((),) * number, share_voted=voted)
        level = standing.level_of_votes(num_votes / needed)
        found = by_votes(scores_N, human_N, num_votes, level)
        if found.p_at_most(plan.win_rate_threshold) < level:
            return True
    return False


def passed_by_the_best(
    judge: Judge, pairs: Comparison, num_seeds: int, plan: Plan, rng: Generator
) -> tuple[bool, bool]:
    """Return whether votes on the answers that a judge likes best of several seeds pass them.

    At the error rate of a first comparison, and at what the looks at the others leave.
    """
    seeds = []
    for _ in range(num_seeds):
        human_N = pairs.human(rng)
        seeds.append((judge.scores(human_N, rng), human_N))
    best = int(np.argmax([scores_N.mean() for scores_N, _ in seeds]))
    needed = planned_votes(replace(plan, alpha=Standing(plan.alpha).first_level))
    passes = []
    for standing in (Standing(plan.alpha), Standing(plan.alpha, num_lines=best)):
        level = standing.level_of_votes(1.0)
        found = by_votes(*seeds[best], min(needed, pairs.num_pairs), level)
        passes.append(found.p_at_most(plan.win_rate_threshold) < level)
    return passes[0], passes[1]


def outcomes(
    setting: Followed, plan: Plan, num_runs: int, rng: Generator
) -> tuple[dict[Outcome, float], float]:
    """Return the share of each outcome, and the median number of prompts."""
    found = [setting.decide(plan, rng) for _ in range(num_runs)]
    shares = {one: sum(outcome is one for outcome, _ in found) / num_runs for one in Outcome}
    return shares, float(np.median([total for _, total in found]))

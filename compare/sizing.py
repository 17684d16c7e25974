"""How many prompts, and votes of people, a comparison needs, and what its judges' requests cost.

In: the [compare] table, the lengths and the number of prompts. Out: `Need`, also in sentences. The
same estimate is that of `potstill plan`, `init` and `--dry-run`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from compare.config import CompareConfig
from compare.judge_config import (
    TEACHER_JUDGE,
    CriteriaJudgeConfig,
    JudgeConfig,
    LikelihoodJudgeConfig,
    LlmJudgeConfig,
    ReferenceJudgeConfig,
    VotesJudgeConfig,
)
from compare.verdict.criteria import labels_needed
from compare.verdict.following import FIRST
from compare.verdict.preference import EXPECTED_TIES, level_of_first_votes, votes_needed
from potstill.errors import ConfigError
from potstill.plan import Workload
from potstill.verdict.outcome import Plan
from potstill.verdict.sample_size import pairs_for, power_of, score_variance

TIES_OF_MEASUREMENT = 0.8
"""Share of prompts with the same score on both sides, where none is known yet."""
METRIC = "metric"
NUM_CONTROLS = 9
"""Pairs of an assay for each of its prompts."""
RUBRIC_TOKENS = 350
"""A judge's instruction and the marks around texts."""
JUDGMENT_TOKENS = 40
"""A judge's answer: a reason in a few words, and the winner."""
MILLION = 1e6


@dataclass(frozen=True)
class Need:
    """What lets a student equal to its teacher pass with the wanted probability."""

    judge: str
    num_prompts: int
    num_available: int
    """Prompts that the comparison will ask as it is configured."""
    power_available: float
    """Probability that such a student passes with these."""
    power: float
    num_votes: int = 0
    """Of people; labels of both answers to so many prompts, for a judge of criteria."""
    votes_on_twice: int = 0
    """The same on twice as many prompts; 0 where that saves none."""
    hours_of_people: float = 0.0
    assumed: str = ""

    def sentences(self) -> Iterator[str]:
        """Yield what is needed, and what is there."""
        votes = f" with {self.num_votes:,} of people's votes" if self.num_votes else ""
        yield (
            f"A student equal to its teacher passes with probability {self.power:g} on "
            f"{self.num_prompts:,} prompts{votes} (judge: {self.judge}; {self.assumed})."
        )
        if self.num_votes:
            yield f"The votes take about {self.hours_of_people:.1f} hours of people."
        if self.votes_on_twice:
            yield f"On {2 * self.num_prompts:,} prompts {self.votes_on_twice:,} votes are enough."
        if self.num_available != self.num_prompts:
            yield (
                f"The comparison asks {self.num_available:,} prompts, with which it passes with "
                f"probability {self.power_available:.2f}{' if people vote on all' * bool(votes)}."
            )


def needed(config: CompareConfig, workload: Workload) -> Need:
    """Return what a comparison needs.

    By the normal approximation, with the part of alpha that a first comparison has, and at least
    as many prompts as the rule of three asks for where all scores are equal.
    """
    decider = _decider(config, workload)
    prefers = isinstance(decider, LlmJudgeConfig | VotesJudgeConfig)
    assumed = config.plan
    plan = Plan(config.verdict.margin, FIRST * config.verdict.alpha, assumed.power)
    variance, words = _variance(config, prefers=prefers)
    unseen = 1 - plan.margin / (0.5 if prefers else 1.0)
    least = math.ceil(math.log(plan.alpha) / math.log(unseen) * assumed.cluster_size)
    num_needed = max(pairs_for(plan, variance, plan.margin), least)
    available = asked_prompts(config, workload)
    num_prompts, num_votes, on_twice = num_needed, 0, 0
    if isinstance(decider, VotesJudgeConfig):
        num_votes = num_needed
    elif isinstance(decider, CriteriaJudgeConfig):
        num_votes = labels_needed(plan)
        num_prompts = max(num_needed, num_votes)
    elif prefers:
        num_prompts = max(num_needed, available)
        seen = assumed.sensitivity
        num_votes, on_twice = (
            votes_needed(plan, variance, seen, number) for number in (num_prompts, 2 * num_prompts)
        )
        num_prompts = max(num_prompts, num_votes)
        words += f", {'unknown sensitivity' if seen is None else f'sensitivity {seen:.2g}'}"
        if available:
            plan = replace(plan, alpha=level_of_first_votes(plan, available))
    error = math.sqrt(variance / available) if available else math.inf
    return Need(
        judge=METRIC if decider is None else decider.name,
        num_prompts=num_prompts,
        num_available=available,
        power_available=power_of(plan.margin, error, plan),
        power=assumed.power,
        num_votes=num_votes,
        votes_on_twice=on_twice if on_twice < num_votes else 0,
        hours_of_people=num_votes * assumed.seconds_per_vote / 3600,
        assumed=words,
    )


def asked_prompts(config: CompareConfig, workload: Workload) -> int:
    """Return how many prompts the comparison will ask."""
    there = workload.test_share * workload.num_conversations
    if workload.task.num_references and config.prompts is None:
        there = workload.task.num_references
    return round(min(config.num_prompts, there))


def judges_price(config: CompareConfig, workload: Workload) -> float:
    """Return the price of all requests to judges whose prices are configured."""
    task, num_prompts = workload.task, asked_prompts(config, workload)
    is_task = bool(task.num_references) and config.prompts is None
    prompt_tokens = task.prompt_tokens if is_task else workload.prompt_tokens
    answer_tokens = task.answer_tokens if is_task else workload.completion_tokens
    answer_tokens = min(config.max_tokens, answer_tokens)
    num_pairs = num_prompts * config.samples_per_prompt
    total = 0.0
    for judge in config.judges:
        if isinstance(judge, LlmJudgeConfig):
            num_read = 2 * (num_pairs + NUM_CONTROLS * min(config.assay.num_prompts, num_prompts))
            read = RUBRIC_TOKENS + prompt_tokens + 2 * answer_tokens
        elif isinstance(judge, CriteriaJudgeConfig):
            num_read = 2 * len(judge.criteria) * num_pairs
            read = RUBRIC_TOKENS + prompt_tokens + answer_tokens
        else:
            continue
        price = read * judge.prompt_price + JUDGMENT_TOKENS * judge.completion_price
        total += num_read * price / MILLION
    return total


def with_decider(config: CompareConfig, name: str) -> CompareConfig:
    """Return the configuration with one of its judges, by name or kind, in the first place.

    Raises:
        ConfigError: There is no such judge.
    """
    if name == METRIC:
        return config.model_copy(update={"judges": ()})
    judges = config.judges or (TEACHER_JUDGE,)
    judges_of_quality = [one for one in judges if _is_of_quality(one)]
    chosen = next((one for one in judges_of_quality if name in (one.name, one.kind)), None)
    if chosen is None:
        known = [METRIC, *(one.name for one in judges_of_quality)]
        raise ConfigError(
            f"no judge {name!r} can decide",
            where="--judge",
            expected=f"one of {', '.join(known)}",
            hint='add a table [[compare.judges]], such as kind = "llm"',
        )
    others = [one for one in judges if one is not chosen]
    return config.model_copy(update={"judges": (chosen, *others)})


def _decider(config: CompareConfig, workload: Workload) -> JudgeConfig | None:
    """Return the judge that will decide; None for a task's metric."""
    if workload.task.num_references and workload.task.has_metric and config.prompts is None:
        return None
    return next(filter(_is_of_quality, config.judges or (TEACHER_JUDGE,)), TEACHER_JUDGE)


def _is_of_quality(judge: JudgeConfig) -> bool:
    """Return whether the judge can decide; one of similarity cannot."""
    if isinstance(judge, ReferenceJudgeConfig):
        return judge.reference == "answer"
    return not isinstance(judge, LikelihoodJudgeConfig)


def _variance(config: CompareConfig, *, prefers: bool) -> tuple[float, str]:
    """Return the variance of a pair's score, with the effect of clusters, and its source."""
    assumed = config.plan
    if assumed.variance is not None:
        return assumed.variance, f"variance {assumed.variance:.3g} for each prompt"
    ties = assumed.tie_share
    if ties is None:
        ties = EXPECTED_TIES if prefers else TIES_OF_MEASUREMENT
    variance = score_variance(0.5, min(ties, 1 - 1e-9)) if prefers else 1 - ties
    words = f"{ties:.0%} ties"
    if assumed.cluster_size > 1:
        variance *= 1 + (assumed.cluster_size - 1) * assumed.cluster_correlation
        words += (
            f", {assumed.cluster_size:g} prompts a cluster with a correlation of "
            f"{assumed.cluster_correlation:g}"
        )
    return variance, words

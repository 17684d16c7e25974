"""Several comparisons of one student, which together pass it wrongly no more often than alpha.

In: the values of each comparison, by cluster. Out: bounds that hold at all of them together, and
how many further clusters would decide.

A *line* is the comparisons of one student with one teacher, by the same judge and settings. Of the
alpha that a line has, `FIRST` is for its first comparison, by the exact test of a fixed number of
prompts. `FOLLOWING` is for prompts that are added: the p-value of the first comparison becomes an
e-value, and bets on each new cluster multiply it, as in live traffic. Their product is a test
martingale, so that it may be inspected after any number of prompts, however that was chosen. The
remaining `OTHERS` is the alpha of the next line: another judge, or other settings.

Source: Vovk & Wang 2021, "E-values: calibration, combination and applications", Annals of
Statistics 49:1736, proposition 2.1 (an integral of 1 makes a decreasing function of p an e-value);
Ville's inequality for the product; `betting` for the bets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from compare.verdict.reweighting import p_at_most
from potstill.verdict.betting import Moments, expected_wealth, log_wealth
from potstill.verdict.outcome import Plan
from potstill.verdict.scores import Floats

FIRST, FOLLOWING, OTHERS = 0.8, 0.1, 0.1
MOST_FURTHER_CLUSTERS = 100_000
"""Above it, no sample that a user can collect would decide."""
TOLERANCE = 1e-6


class Counted(NamedTuple):
    """The values of one cluster, which counts once."""

    cluster: str
    num_values: int
    lowest: float
    """Mean, with the smallest possible value for unread pairs."""
    highest: float
    """The same with the largest."""
    prompts: tuple[str, ...] = ()
    """Hashes of its prompts, by which it is recognized under another name too; none in files of
    earlier versions."""


def counted(
    values: Sequence[float | None],
    clusters: Sequence[str],
    prompts: Sequence[str],
    bounds: tuple[float, float],
) -> tuple[Counted, ...]:
    """Return each cluster's values, in the order of its first appearance."""
    groups: dict[str, list[float | None]] = {}
    asked: dict[str, list[str]] = {}
    for value, cluster, prompt in zip(values, clusters, prompts, strict=True):
        groups.setdefault(cluster, []).append(value)
        asked.setdefault(cluster, []).append(prompt)

    def mean(group: Sequence[float | None], unread: float) -> float:
        return math.fsum(unread if one is None else one for one in group) / len(group)

    return tuple(
        Counted(
            cluster,
            len(group),
            lowest=mean(group, bounds[0]),
            highest=mean(group, bounds[1]),
            prompts=tuple(dict.fromkeys(asked[cluster])),
        )
        for cluster, group in groups.items()
    )


def kept_level(alpha: float, num_before: int) -> float:
    """Return the error rate of a later comparison, where prompts cannot be bet on one by one.

    What is kept for comparisons after the first one is halved each time.

    Args:
        num_before: Comparisons before this one, at least one.
    """
    return FOLLOWING * alpha / 2.0**num_before


@dataclass(frozen=True)
class Standing:
    """What earlier comparisons of a student leave to this one."""

    alpha: float
    num_lines: int = 0
    """Earlier lines."""
    batches: tuple[tuple[Counted, ...], ...] = ()
    """Of each earlier comparison of this line that was tested, the clusters that it had first."""
    share_voted: float = 0.0
    """Of the votes or labels that a first comparison needs, the largest share that one had."""
    num_choices: int = 1
    """How many judges might have been chosen for this line by what earlier ones showed of them."""
    num_seen: int = 0
    """Earlier comparisons of this line that showed a judge's scores of other answers, untested."""
    has_first_answers: bool = True
    """Whether the answers are those of the first comparison of this line."""

    @property
    def follows(self) -> bool:
        """Whether this line has an earlier comparison that was tested."""
        return bool(self.batches)

    @property
    def num_before(self) -> int:
        """Comparisons before this one that cost it a part of alpha."""
        return len(self.batches) + self.num_seen

    @property
    def line_alpha(self) -> float:
        """Error rate of all comparisons of this line and of lines after it."""
        return self.alpha * OTHERS**self.num_lines / self.num_choices

    @property
    def first_level(self) -> float:
        """Error rate of the first comparison of this line."""
        return FIRST * self.line_alpha

    @property
    def line_level(self) -> float:
        """Error rate of all comparisons of this line together."""
        return (FIRST + FOLLOWING) * self.line_alpha

    def level_of_votes(self, share: float) -> float:
        """Return the error rate of one comparison of this line by people's votes.

        The part of a first comparison is spent in proportion to the votes, so that an early look
        costs little; what is kept for later ones is halved each time. Answers that were chosen by
        what a judge said of others have that part only: else one could draw answers until the judge
        likes them, and let people vote on these.

        Source: Lan & DeMets 1983, "Discrete sequential boundaries for clinical trials", Biometrika
        70:659, the linear spending function, with each look's part as its level.

        Args:
            share: Of the votes that a first comparison needs.
        """
        gained = max(0.0, min(1.0, share) - self.share_voted) if self.has_first_answers else 0.0
        kept = kept_level(self.line_alpha, self.num_before) if self.num_before else 0.0
        return FIRST * self.line_alpha * gained + kept

    def new(self, found: Sequence[Counted]) -> tuple[Counted, ...]:
        """Return the clusters that no earlier comparison of this line had, or a prompt of them."""
        before = [one for batch in self.batches for one in batch]
        names = {one.cluster for one in before}
        prompts = {prompt for one in before for prompt in one.prompts}
        return tuple(
            one for one in found if one.cluster not in names and prompts.isdisjoint(one.prompts)
        )

    def line(self, found: Sequence[Counted], bounds: tuple[float, float], margin: float) -> Line:
        """Return the line with this comparison's values."""
        first, *later = (*self.batches, self.new(found))
        return Line(
            first,
            tuple(one for batch in later for one in batch),
            bounds,
            margin,
            self.first_level,
            self.line_level,
        )


@dataclass(frozen=True)
class Line:
    """All values of a line; what is shown by them holds at every comparison together."""

    first: Sequence[Counted]
    """Of the first comparison, tested as a fixed sample."""
    later: Sequence[Counted]
    """That were added, in order; each is bet on."""
    bounds: tuple[float, float]
    """Smallest and largest possible value."""
    margin: float
    first_level: float
    level: float

    @property
    def mean(self) -> float:
        """Mean of all clusters, with unread pairs in the middle."""
        return float(self._moments.total / self._moments.count * self._span + self.bounds[0])

    def log_evidence_above(self, threshold: float) -> float:
        """Return the largest log e-value so far against "the mean is at most the threshold"."""
        low = self.bounds[0]
        means_G, sizes_G = self._first("lowest")
        p_value = p_at_most(threshold, means_G * sizes_G, sizes_G, low)
        return self._log_evidence(p_value, threshold, 0)

    def log_evidence_below(self, threshold: float) -> float:
        """Return the largest log e-value so far against "the mean is at least the threshold"."""
        means_G, sizes_G = self._first("highest")
        p_value = p_at_most(-threshold, -means_G * sizes_G, sizes_G, -self.bounds[1])
        return self._log_evidence(p_value, threshold, 1)

    def is_shown_above(self, threshold: float) -> bool:
        """Return whether the mean is shown to be above the threshold."""
        return self.log_evidence_above(threshold) >= -math.log(self.level)

    def is_shown_below(self, threshold: float) -> bool:
        """Return whether the mean is shown to be below the threshold."""
        return self.log_evidence_below(threshold) >= -math.log(self.level)

    def lower(self, threshold: float) -> float:
        """Return the lower bound of the mean.

        Args:
            threshold: Where the bound must agree with the evidence.
        """
        return _last_shown(self.is_shown_above, threshold, *self.bounds)

    def upper(self, threshold: float) -> float:
        """Return the upper bound of the mean; `threshold` as in `lower`."""
        return _last_shown(self.is_shown_below, threshold, *self.bounds[::-1])

    def further_clusters(self, threshold: float, power: float) -> int | None:
        """Return how many more clusters decide with this probability.

        If mean and variance stay as they are: by the expected growth of the wealth, less the
        normal quantile of the power times its standard deviation.

        Returns:
            None where more than 100,000 would be needed, or the mean is at the threshold.
        """
        from scipy.stats import norm

        above = self.mean > threshold
        if self.mean == threshold:
            return None
        log_e = self.log_evidence_above if above else self.log_evidence_below
        needed = -math.log(self.level) - log_e(threshold)
        horizon = 1000
        while horizon <= MOST_FURTHER_CLUSTERS:
            mean_T, variance_T = expected_wealth(
                self._moments, self._plan, horizon, self._scaled(threshold), above=above
            )
            enough_T = mean_T - norm.ppf(power) * np.sqrt(variance_T) >= needed
            if enough_T.any():
                return int(np.argmax(enough_T)) + 1
            horizon *= 10
        return None

    @property
    def _span(self) -> float:
        return self.bounds[1] - self.bounds[0]

    @property
    def _plan(self) -> Plan:
        """The plan on the scale from 0 to 1, on which bets are made."""
        return Plan(margin=self.margin / self._span, alpha=self.level)

    def _scaled(self, value: float) -> float:
        return (value - self.bounds[0]) / self._span

    def _first(self, name: str) -> tuple[Floats, Floats]:
        means_G = np.array([getattr(one, name) for one in self.first])
        return means_G, np.array([float(one.num_values) for one in self.first])

    @cached_property
    def _moments(self) -> Moments:
        """Of all clusters' means between their lowest and highest, from 0 to 1."""
        middles = [(one.lowest + one.highest) / 2 for one in (*self.first, *self.later)]
        return Moments().after((np.array(middles) - self.bounds[0]) / self._span)

    def _log_evidence(self, p_value: float, threshold: float, direction: int) -> float:
        log_e = log_calibrated(p_value, self.first_level, self.level)
        if not self.later:
            return log_e
        name = ("lowest", "highest")[direction]
        low = self.bounds[0]
        before = Moments().after((self._first(name)[0] - low) / self._span)
        later_T = (np.array([getattr(one, name) for one in self.later]) - low) / self._span
        grown_T = log_wealth(later_T, self._plan, before, threshold=self._scaled(threshold))
        return log_e + max(0.0, float(grown_T[direction].max()))


def log_calibrated(p_value: float, first_level: float, level: float) -> float:
    """Return the logarithm of the e-value of a p-value.

    1/level up to `first_level`, which is enough to decide, and proportional to 1/p above it, so
    that its integral over all p-values is 1.
    """
    if p_value <= first_level:
        return -math.log(level)
    return math.log((1 - first_level / level) / -math.log(first_level)) - math.log(p_value)


def _last_shown(shown: Callable[[float], bool], middle: float, near: float, far: float) -> float:
    """Return the threshold farthest from `near`, towards `far`, that is shown."""
    if shown(middle):
        near = middle
    else:
        far = middle
    while abs(far - near) > TOLERANCE:
        middle = (near + far) / 2
        if shown(middle):
            near = middle
        else:
            far = middle
    return near

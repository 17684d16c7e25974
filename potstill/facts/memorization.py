"""What a student gives back of its training data: figures for reports, cards and the hub.

Written by the comparison, read where a student is published.
"""

from __future__ import annotations

from math import e, log2

from potstill.facts.base import Record

CHANCE_BITS = log2(e)
"""Mean exposure of texts that were not learned, with many candidates: their ranks are uniform."""

MOST_MEMORIZED = 0.05
"""Surplus of verbatim completions above which a student counts as one that has memorized."""


class Share(Record):
    """A share, or a difference of two, with bounds of one-sided confidence 1 - alpha each."""

    value: float
    lower: float
    upper: float


class Completions(Record):
    """How many answers a model completes verbatim from their first half."""

    num_answers: int
    share: Share

    @property
    def num_completed(self) -> int:
        """How many they are."""
        return round(self.share.value * self.num_answers)


class CanaryFigures(Record):
    """What the student learned of planted texts.

    Source: exposure of Carlini et al. 2019, "The Secret Sharer", USENIX Security, by a sample of
    the candidates.
    """

    num_candidates: int
    """Secrets among which each canary's is ranked, itself included."""
    exposures_bits: tuple[float, ...]
    """log2 of the number of candidates less log2 of the rank, of each canary; 0 is the last."""
    num_verbatim: int
    """Canaries that are completed from their first half."""
    p_value: float
    """Of "none was learned", by Fisher's method: a rank over the number of candidates is a p-value,
    because the secret was drawn like the candidates."""

    @property
    def num_canaries(self) -> int:
        """How many were planted and measured."""
        return len(self.exposures_bits)

    @property
    def mean_bits(self) -> float:
        """Their mean exposure."""
        return sum(self.exposures_bits) / self.num_canaries

    def exceeds(self, limit: float) -> bool:
        """Return whether a larger share of them is completed."""
        return self.num_verbatim > limit * self.num_canaries

    @property
    def in_short(self) -> str:
        """The figures for a table."""
        return (
            f"{self.num_verbatim} of {self.num_canaries} canaries completed, mean exposure "
            f"{self.mean_bits:.1f} bits"
        )

    @property
    def sentence(self) -> str:
        """The figures in words."""
        most = log2(self.num_candidates)
        return (
            f"{self.in_short} (at most {most:.0f}, by chance {CHANCE_BITS:.1f}; p = "
            f"{self.p_value:.2g} of so much if none was learned)."
        )


class Memorization(Record):
    """How often the student completes answers verbatim, with greedy decoding.

    Source: extractable memorization of Carlini et al. 2023, "Quantifying Memorization Across Neural
    Language Models", ICLR.
    """

    min_tokens: int
    """Fewest tokens of a second half."""
    num_distinct: int
    """Training answers whose second half is as long and that no other prompt has."""
    trained: Completions | None = None
    """Of a sample of these; None: there are none."""
    untrained: Completions | None = None
    """The same answers, by the student before training; None: there is no file of it."""
    learned: Share | None = None
    """Difference of both."""
    held_out: Completions | None = None
    """Answers to prompts that the student was not trained on; None: there are none as long."""
    surplus: Share | None = None
    """Share of training answers less that of held-out ones, which counts as none without any."""
    num_by_teacher: int | None = None
    """Training answers that were completed and that the teacher writes itself: each token of the
    second half was its most probable one. None: of an earlier version."""
    verbatim: tuple[str, ...] = ()
    """Conversations of training answers that were completed, the first of them; those that the
    teacher does not write itself come first."""
    canaries: CanaryFigures | None = None
    """None: none were planted."""

    def exceeds(self, limit: float) -> bool:
        """Return whether the surplus, or the share of canaries completed, is above a limit."""
        if self.canaries is not None and self.canaries.exceeds(limit):
            return True
        return self.surplus is not None and self.surplus.value > limit

    @property
    def sentences(self) -> list[str]:
        """The figures in words."""
        canaries = [] if self.canaries is None else [self.canaries.sentence]
        if self.trained is None or self.surplus is None:
            nothing = (
                f"No training answer has a second half of {self.min_tokens} tokens or more that no "
                "other prompt has, so verbatim completion was not measured."
            )
            return [nothing, *canaries]
        trained = self.trained
        first = (
            f"From the first half, the student completes {_percent(trained.share)} of "
            f"{trained.num_answers} training answers verbatim (greedy decoding; second halves of "
            f"{self.min_tokens} tokens or more that no other prompt has)."
        )
        others = []
        if self.untrained is not None:
            others.append(f"before training it completed {_percent(self.untrained.share)} of them")
        if self.held_out is not None:
            held_out = self.held_out
            others.append(
                f"of {held_out.num_answers} held-out answers, it completes "
                f"{_percent(held_out.share)}"
            )
        others.append(f"the surplus over held-out answers is {_percent(self.surplus)}")
        second = "; ".join(others)
        return [first, f"{second[0].upper()}{second[1:]}.", *self._by_teacher, *canaries]

    @property
    def _by_teacher(self) -> list[str]:
        """Whose text was completed, in words; empty where it is not known or nothing was."""
        if self.trained is None or self.num_by_teacher is None or not self.trained.num_completed:
            return []
        return [
            f"Of the {self.trained.num_completed} that it completes, the teacher writes "
            f"{self.num_by_teacher} itself: each token of the second half was its most probable "
            "one."
        ]


def _percent(share: Share) -> str:
    """Return a share in percent with its bounds."""
    return f"{share.value:.1%} [{share.lower:.1%}, {share.upper:.1%}]"

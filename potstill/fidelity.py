"""How close a student is to its teacher: the same figures, of the same definition, in every stage.

In: conversations as rows of teacher and student. Out: means over tokens, with their standard
errors. Knows nothing of engines: torch and llama.cpp both hand over plain numpy arrays, so all
figures in a report are one and the same.

Shape legend: T tokens, K stored log-probabilities per token.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from potstill.divergences import (
    StudentRows,
    TeacherRows,
    acceptance_bounds,
    acceptance_estimate,
    bucket_kl_nats,
    bucket_reverse_kl_nats,
    kl_estimate_nats,
    kl_upper_bound_nats,
)

Floats = NDArray[np.float64]

NUM_CONFIDENCE_BINS = 15
"""Bins of the calibration error, as many as in Guo et al. 2017."""


@dataclass(frozen=True)
class Fidelity:
    """Means over tokens, in nats where not a share; None where a figure cannot be known.

    Standard errors take conversations, not tokens, as independent. All but nats per token and
    calibration compare distributions over the same tokens, and are None for a student with others.
    """

    kl_nats: float | None
    """Forward KL(teacher‖student) over the stored tokens and one for the rest: a lower bound."""
    kl_standard_error: float | None
    top1_agreement: float | None
    """Share of places where the most probable token of both is the same."""
    nats_per_token: float
    """Negative log-probability that the student gives the teacher's tokens."""
    num_tokens: int
    kl_upper_bound_nats: float | None = None
    """What forward KL is at most. Far above it, since the student may give next to no probability
    to what the teacher was not asked about. None also where it is infinite."""
    kl_estimate_nats: float | None = None
    """Unbiased estimate of the full forward KL. None where `tokens_are_draws` does not hold."""
    kl_estimate_standard_error: float | None = None
    reverse_kl_nats: float | None = None
    """Reverse KL(student‖teacher), a lower bound as for `kl_nats`. There is no upper one: a token
    that is not stored may have no probability at all under the teacher."""
    reverse_kl_standard_error: float | None = None
    acceptance_lower_bound: float | None = None
    """Share of the student's draws that a speculative decoder would accept for the teacher, which
    is the overlap of both distributions."""
    acceptance_upper_bound: float | None = None
    acceptance_estimate: float | None = None
    """Unbiased estimate of it. None where `tokens_are_draws` does not hold."""
    acceptance_standard_error: float | None = None
    """Of the estimate."""
    top1_standard_error: float | None = None
    nats_standard_error: float | None = None
    calibration_error: float | None = None
    """Expected calibration error: how far the student's confidence in its most probable token is
    from how often that is the teacher's token. None in measurements that did not make it."""

    @property
    def loss_nats(self) -> float:
        """The held-out loss, by which students are told better or worse: lower is better."""
        return self.nats_per_token if self.kl_nats is None else self.kl_nats


def tokens_are_draws(facts: Mapping[str, Any]) -> bool:
    """Tell whether each token of a data set was drawn from the distribution that is stored for it.

    Filters that look at what was said make it true only nearly; they are not looked at here.

    Args:
        facts: Those of the conversations' manifest.
    """
    return bool(
        facts["generation_temperature"] == facts["generation_top_p"] == 1.0
        and facts["num_kept_per_prompt"] == facts["num_sampled_per_prompt"]
    )


class FidelityMeter:
    """Gathers conversations one at a time and keeps sums only.

    Args:
        drawn: Whether `tokens_are_draws`; without it nothing is estimated.
    """

    def __init__(self, *, drawn: bool) -> None:
        self._drawn = drawn
        self._sums: dict[str, list[float]] = defaultdict(list)
        self._counts: list[int] = []
        self._confidence_gaps = np.zeros(NUM_CONFIDENCE_BINS)

    def add(self, teacher: TeacherRows, student: StudentRows) -> None:
        """Count one conversation's T tokens."""
        self._counts.append(len(teacher.token_ids_T))
        for name, values_T in self._figures(teacher, student).items():
            self._sums[name].append(float(values_T.sum()))
        confidence_T = np.exp(student.max_logprobs_T)
        bins_T = np.ceil(confidence_T * NUM_CONFIDENCE_BINS).astype(np.int64) - 1
        gaps_T = (student.argmax_ids_T == teacher.token_ids_T) - confidence_T
        np.add.at(self._confidence_gaps, np.clip(bins_T, 0, NUM_CONFIDENCE_BINS - 1), gaps_T)

    def result(self) -> Fidelity:
        """Return the means over all tokens counted so far; at least one is needed.

        Source: standard errors: `ratio_with_standard_error`. Calibration error: Guo et al. 2017,
            "On Calibration of Modern Neural Networks", equation 3, in bins of equal width; with few
            tokens in a bin, chance alone raises it.
        """
        counts = np.array(self._counts, dtype=np.float64)
        means, errors = {}, {}
        for name, sums in self._sums.items():
            means[name], errors[name] = ratio_with_standard_error(np.array(sums), counts)
        upper = means.get("kl upper bound")
        return Fidelity(
            kl_nats=means.get("kl"),
            kl_standard_error=errors.get("kl"),
            top1_agreement=means.get("top-1"),
            nats_per_token=means["nats"],
            num_tokens=int(counts.sum()),
            kl_upper_bound_nats=None if upper is None or np.isinf(upper) else upper,
            kl_estimate_nats=means.get("kl estimate"),
            kl_estimate_standard_error=errors.get("kl estimate"),
            reverse_kl_nats=means.get("reverse kl"),
            reverse_kl_standard_error=errors.get("reverse kl"),
            acceptance_lower_bound=means.get("acceptance lower bound"),
            acceptance_upper_bound=means.get("acceptance upper bound"),
            acceptance_estimate=means.get("acceptance estimate"),
            acceptance_standard_error=errors.get("acceptance estimate"),
            top1_standard_error=errors.get("top-1"),
            nats_standard_error=errors["nats"],
            calibration_error=float(np.abs(self._confidence_gaps).sum() / counts.sum()),
        )

    def _figures(self, teacher: TeacherRows, student: StudentRows) -> dict[str, NDArray[Any]]:
        figures: dict[str, NDArray[Any]] = {"nats": -student.sampled_logprobs_T}
        if teacher.top_token_ids_TK.shape[1] == 0:
            return figures
        lower_T, upper_T = acceptance_bounds(teacher, student)
        figures |= {
            "kl": bucket_kl_nats(teacher, student),
            "kl upper bound": kl_upper_bound_nats(teacher, student),
            "reverse kl": bucket_reverse_kl_nats(teacher, student),
            "top-1": student.argmax_ids_T == teacher.top_token_ids_TK[:, 0],
            "acceptance lower bound": lower_T,
            "acceptance upper bound": upper_T,
        }
        if self._drawn and teacher.sampled_logprobs_T is not None:
            drawn = (teacher, student, teacher.sampled_logprobs_T)
            figures |= {
                "kl estimate": kl_estimate_nats(*drawn),
                "acceptance estimate": acceptance_estimate(*drawn),
            }
        return figures


def ratio_with_standard_error(sums: Floats, counts: Floats) -> tuple[float, float]:
    """Return the mean over all tokens of conversations, and its standard error.

    Args:
        sums: Of each conversation's tokens.
        counts: Numbers of those tokens.

    Source: the ratio estimator, clustered by conversation (Cochran 1977, equation 6.13 without the
        finite-population factor).
    """
    mean = sums.sum() / counts.sum()
    with np.errstate(invalid="ignore"):  # an infinite mean has no standard error
        residuals = sums - mean * counts
    variance = (residuals**2).sum() / max(len(counts) - 1, 1)
    return float(mean), float(np.sqrt(variance * len(counts)) / counts.sum())

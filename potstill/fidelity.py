"""Fidelity of a student to its teacher, computed the same way in every stage.

In: conversations as rows of teacher and student. Out: means over tokens, with their standard
errors. Both torch and llama.cpp deliver numpy arrays, so figures of checkpoints and of files are
comparable.

Shape legend: T tokens, K stored log-probabilities per token.
"""

from __future__ import annotations

from collections import defaultdict
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
from potstill.facts.shared import Fidelity

Floats = NDArray[np.float64]

NUM_CONFIDENCE_BINS = 15
"""Bins of the calibration error, as many as in Guo et al. 2017."""


class FidelityMeter:
    """Adds conversations one at a time; only sums are kept.

    Args:
        drawn: `ConversationsFacts.tokens_are_draws`; without it nothing is estimated.
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
        sums: Sum over each conversation's tokens.
        counts: Number of each conversation's tokens.

    Source: the ratio estimator, clustered by conversation (Cochran 1977, equation 6.13 without the
        finite-population factor).
    """
    mean = sums.sum() / counts.sum()
    with np.errstate(invalid="ignore"):  # an infinite mean has no standard error
        residuals = sums - mean * counts
    variance = (residuals**2).sum() / max(len(counts) - 1, 1)
    return float(mean), float(np.sqrt(variance * len(counts)) / counts.sum())

"""How close a student's next-token distributions are to the teacher's stored ones.

In: per token, the teacher's stored log-probabilities and the student's at the same ids. Out: the
means that every stage reports, with their standard errors. Knows nothing of engines: torch and
llama.cpp both hand over plain numpy arrays, so all figures in a report are one and the same.

Shape legend: T tokens, K stored log-probabilities per token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from potstill.distributions import TokenDistributions
from potstill.schema import Conversation

Floats = NDArray[np.float64]

SMALLEST_MASS = 1e-7
"""Tail masses are clamped to this, so that rounding in float32 inputs never yields log(0)."""


@dataclass(frozen=True)
class TeacherRows:
    """The teacher's stored signal for T completion tokens; absent entries have id -1."""

    token_ids_T: NDArray[np.int64]
    top_token_ids_TK: NDArray[np.int64]
    top_logprobs_TK: Floats

    @classmethod
    def from_signal(cls, token_ids_T: NDArray[np.int64], signal: TokenDistributions) -> Self:
        """Lay a conversation's signal out in rows; K is the largest number stored."""
        top_token_ids_TK, top_logprobs_TK = signal.padded()
        return cls(
            token_ids_T, top_token_ids_TK.astype(np.int64), top_logprobs_TK.astype(np.float64)
        )

    @classmethod
    def of(cls, conversation: Conversation) -> Self:
        """Return the signal of a conversation's answers."""
        token_ids_T = conversation.token_ids[conversation.positions_T].astype(np.int64)
        return cls.from_signal(token_ids_T, conversation.signal)


@dataclass(frozen=True)
class StudentRows:
    """The student's distribution for the same T tokens, gathered at the teacher's ids."""

    sampled_logprobs_T: Floats
    top_logprobs_TK: Floats
    argmax_ids_T: NDArray[np.int64]


@dataclass(frozen=True)
class Fidelity:
    """Means over tokens, in nats where not a share.

    `kl_nats` is forward KL(teacher‖student) over the stored top K plus one bucket for the rest: by
    the data-processing inequality (Cover & Thomas 2006, theorem 2.8.1) a lower bound of the full
    KL.
    `kl_standard_error` treats conversations, not tokens, as independent.
    """

    kl_nats: float
    kl_standard_error: float
    top1_agreement: float
    nats_per_token: float
    num_tokens: int


def bucket_kl_nats(teacher: TeacherRows, student: StudentRows) -> Floats:
    """Return KL(teacher‖student) per token [T] over K stored tokens and one tail bucket.

    Source: sum_T p log(p/q) + (1-P) log((1-P)/(1-Q)), with P and Q the stored tokens' masses.
    """
    stored = (teacher.top_token_ids_TK >= 0) & (teacher.top_logprobs_TK > -np.inf)
    logp = np.where(stored, teacher.top_logprobs_TK, 0.0)
    logq = np.where(stored, student.top_logprobs_TK, 0.0)
    p = np.where(stored, np.exp(logp), 0.0)
    q = np.where(stored, np.exp(logq), 0.0)
    p_tail = np.maximum(1.0 - p.sum(-1), SMALLEST_MASS)
    q_tail = np.maximum(1.0 - q.sum(-1), SMALLEST_MASS)
    head = (p * (logp - logq)).sum(-1)
    result: Floats = head + p_tail * (np.log(p_tail) - np.log(q_tail))
    return result


class FidelityMeter:
    """Gathers conversations one at a time and keeps sums only."""

    def __init__(self) -> None:
        self._kl_sums: list[float] = []
        self._counts: list[int] = []
        self._num_agreements = 0
        self._nats = 0.0

    def add(self, teacher: TeacherRows, student: StudentRows) -> None:
        """Count one conversation's T tokens."""
        self._kl_sums.append(float(bucket_kl_nats(teacher, student).sum()))
        self._counts.append(len(teacher.token_ids_T))
        self._num_agreements += int((student.argmax_ids_T == teacher.top_token_ids_TK[:, 0]).sum())
        self._nats -= float(student.sampled_logprobs_T.sum())

    def result(self) -> Fidelity:
        """Return the means over all tokens counted so far; at least one is needed.

        The standard error is the ratio estimator's, clustered by conversation (Cochran 1977,
        equation 6.13 without the finite-population factor).
        """
        sums, counts = np.array(self._kl_sums), np.array(self._counts, dtype=np.float64)
        num_tokens = int(counts.sum())
        mean = float(sums.sum() / num_tokens)
        num_conversations = len(counts)
        residuals = sums - mean * counts
        variance = float((residuals**2).sum()) / max(num_conversations - 1, 1)
        return Fidelity(
            kl_nats=mean,
            kl_standard_error=float(np.sqrt(variance * num_conversations) / num_tokens),
            top1_agreement=self._num_agreements / num_tokens,
            nats_per_token=self._nats / num_tokens,
            num_tokens=num_tokens,
        )

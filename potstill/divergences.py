"""Divergences of a student from the teacher's stored distributions, token by token.

In: per token, the teacher's stored log-probabilities and the student's log-probabilities of those
tokens, as numpy arrays. Out: nats or shares per token, in float64.

Only the teacher's most probable tokens are stored. So a divergence has a lower bound (all other
tokens as one), sometimes an upper bound (the other tokens as different from the student as
possible), and an estimate: where the sampled token is not stored, it is a draw from the other
tokens.

Shape legend: T tokens, K stored log-probabilities per token, N least probable tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from potstill.distributions import MAX_SQRT_ERROR, TokenDistributions
from potstill.schema import Conversation

Floats = NDArray[np.float64]

SMALLEST_MASS = 1e-7
"""Tail masses are clamped to this, so that rounding in float32 inputs never yields log(0)."""
NUM_LOWEST = 64
"""Number of the student's least probable tokens used for the upper bound of KL: with only one, the
bound was 20% looser for one of the preset general's students."""


@dataclass(frozen=True)
class _Rows:
    """Arrays whose first axis is the tokens."""

    def __getitem__(self, part: slice) -> Self:
        values = (getattr(self, field.name) for field in fields(self))
        return type(self)(*(None if value is None else value[part] for value in values))

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Join the tokens of parts that all have the same arrays."""
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class TeacherRows(_Rows):
    """The teacher's stored signal for T completion tokens; absent entries have id -1.

    K is 0 for tokens that the teacher did not predict: its text in a student's own tokens.
    """

    token_ids_T: NDArray[np.int64]
    top_token_ids_TK: NDArray[np.int64]
    """Most probable first: no token that is not stored is more probable than the last one."""
    top_logprobs_TK: Floats
    sampled_logprobs_T: Floats | None = None
    """Log-probabilities of the tokens themselves; None when K is 0."""

    @classmethod
    def from_signal(cls, token_ids_T: NDArray[np.int64], signal: TokenDistributions) -> Self:
        """Return a conversation's signal as rows; K is the largest number stored."""
        top_token_ids_TK, top_logprobs_TK = signal.padded()
        return cls(
            token_ids_T,
            top_token_ids_TK.astype(np.int64),
            top_logprobs_TK.astype(np.float64),
            signal.sampled_logprobs_T.astype(np.float64),
        )

    @classmethod
    def of(cls, conversation: Conversation) -> Self:
        """Return the signal of a conversation's answers."""
        token_ids_T = conversation.token_ids[conversation.positions_T].astype(np.int64)
        return cls.from_signal(token_ids_T, conversation.signal)


@dataclass(frozen=True)
class StudentRows(_Rows):
    """The student's distribution for the same T tokens, where the figures need it."""

    sampled_logprobs_T: Floats
    """Of the teacher's tokens."""
    top_logprobs_TK: Floats
    """Of the stored tokens."""
    argmax_ids_T: NDArray[np.int64]
    """The most probable tokens."""
    max_logprobs_T: Floats
    """Of those."""
    lowest_logprobs_TN: Floats
    """The NUM_LOWEST smallest of the vocabulary (all, if it has fewer), in ascending order."""


@dataclass(frozen=True)
class _Masses:
    """Probabilities of the stored tokens (0 where there is none) and of all others together."""

    p_TK: Floats
    q_TK: Floats
    log_ratio_TK: Floats
    """log p - log q; 0 where nothing is stored."""
    p_rest_T: Floats
    q_rest_T: Floats

    @classmethod
    def of(cls, teacher: TeacherRows, student: StudentRows) -> Self:
        stored_TK = (teacher.top_token_ids_TK >= 0) & (teacher.top_logprobs_TK > -np.inf)
        logp_TK = np.where(stored_TK, teacher.top_logprobs_TK, 0.0)
        logq_TK = np.where(stored_TK, student.top_logprobs_TK, 0.0)
        p_TK, q_TK = (np.where(stored_TK, np.exp(log_TK), 0.0) for log_TK in (logp_TK, logq_TK))
        p_rest_T, q_rest_T = (np.maximum(1.0 - x_TK.sum(-1), 0.0) for x_TK in (p_TK, q_TK))
        return cls(p_TK, q_TK, logp_TK - logq_TK, p_rest_T, q_rest_T)

    @property
    def head_kl_T(self) -> Floats:
        """The stored tokens' contribution to forward KL."""
        head_T: Floats = (self.p_TK * self.log_ratio_TK).sum(-1)
        return head_T


def bucket_kl_nats(teacher: TeacherRows, student: StudentRows) -> Floats:
    """Return the lower bound of KL(teacher‖student) per token [T]: one bucket for the tail.

    Source: sum_K p log(p/q) + (1-P) log((1-P)/(1-Q)), with P and Q the stored tokens' masses; lower
        bound by the data-processing inequality (Cover & Thomas 2006, theorem 2.8.1).
    """
    masses = _Masses.of(teacher, student)
    p_rest_T, q_rest_T = (
        np.maximum(rest_T, SMALLEST_MASS) for rest_T in (masses.p_rest_T, masses.q_rest_T)
    )
    result_T: Floats = masses.head_kl_T + p_rest_T * np.log(p_rest_T / q_rest_T)
    return result_T


def kl_upper_bound_nats(teacher: TeacherRows, student: StudentRows) -> Floats:
    """Return the upper bound of KL(teacher‖student) per token [T].

    It is the largest KL of any teacher that gives the stored tokens their stored probabilities and
    the others the remaining mass r, none of them more than the least probable stored one, c. KL is
    convex in the teacher, so the maximum is at a vertex: floor(r/c) tokens have c each and one has
    the rest, namely those that are least probable under the student. Tokens past the N least
    probable ones count as the N-th, and stored tokens among them are not left out: both can only
    raise the bound.

    Source: a convex function over a polytope is largest at a vertex (Rockafellar 1970, corollary
        32.3.4).
    """
    masses = _Masses.of(teacher, student)
    rest_T = masses.p_rest_T
    cap_T = np.where(masses.p_TK > 0.0, masses.p_TK, 1.0).min(-1)
    num_full_T = np.floor(rest_T / cap_T)
    left_T = np.maximum(rest_T - num_full_T * cap_T, 0.0)
    negentropy_T = num_full_T * cap_T * np.log(cap_T) + _x_log_x(left_T)
    lowest_TN = student.lowest_logprobs_TN
    taken_TN = cap_T[:, None] * np.arange(lowest_TN.shape[1])
    weights_TN = np.clip(rest_T[:, None] - taken_TN, 0.0, cap_T[:, None])
    weights_TN[:, -1] = np.maximum(rest_T - taken_TN[:, -1], 0.0)
    cross_entropy_T = -np.where(weights_TN > 0.0, weights_TN * lowest_TN, 0.0).sum(-1)
    result_T: Floats = masses.head_kl_T + negentropy_T + cross_entropy_T
    return result_T


def kl_estimate_nats(
    teacher: TeacherRows, student: StudentRows, sampled_logprobs_T: Floats
) -> Floats:
    """Return a draw per token [T] whose mean is the full KL(teacher‖student).

    The stored tokens' part is exact. That of the others, sum_v p_v log(p_v/q_v), is estimated by
    the token y that the teacher drew: 1[y not stored] log(p_y/q_y). The mass 1-P, which rounding of
    the stored probabilities may have made 0, is not needed.

    Source: importance sampling with the teacher as proposal (Owen 2013, "Monte Carlo theory,
        methods and examples", chapter 9), of the tail alone.
    """
    log_ratio_T = sampled_logprobs_T - student.sampled_logprobs_T
    head_T = _Masses.of(teacher, student).head_kl_T
    result_T: Floats = head_T + np.where(_is_stored(teacher), 0.0, log_ratio_T)
    return result_T


def bucket_reverse_kl_nats(teacher: TeacherRows, student: StudentRows) -> Floats:
    """Return the lower bound of KL(student‖teacher) per token [T]: one bucket for the tail.

    The teacher's tail mass is raised by the largest rounding error: a confident teacher's may be
    rounded to 0, with which the student's tail would count without bound. A larger tail mass only
    lowers the sum, and no KL is negative, so it is still a lower bound.

    Source: as `bucket_kl_nats`, with the roles exchanged.
    """
    masses = _Masses.of(teacher, student)
    stored_TK = masses.q_TK > 0.0
    head_T = -(masses.q_TK * np.where(stored_TK, masses.log_ratio_TK, 0.0)).sum(-1)
    p_rest_T = np.maximum(masses.p_rest_T, MAX_SQRT_ERROR)
    rest_T = _x_log_x(masses.q_rest_T) - masses.q_rest_T * np.log(p_rest_T)
    result_T: Floats = np.maximum(head_T + rest_T, 0.0)
    return result_T


def acceptance_bounds(teacher: TeacherRows, student: StudentRows) -> tuple[Floats, Floats]:
    """Return bounds of sum_v min(p_v, q_v) per token [T], over the whole vocabulary.

    The tail adds between zero and the smaller of both tails.

    Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding",
        theorem 3.5: the chance that the teacher accepts the student's draw.
    """
    masses = _Masses.of(teacher, student)
    lower_T: Floats = np.minimum(masses.p_TK, masses.q_TK).sum(-1)
    return lower_T, lower_T + np.minimum(masses.p_rest_T, masses.q_rest_T)


def acceptance_estimate(
    teacher: TeacherRows, student: StudentRows, sampled_logprobs_T: Floats
) -> Floats:
    """Return a draw per token [T] whose mean is sum_v min(p_v, q_v), as `kl_estimate_nats` does."""
    lower_T, _ = acceptance_bounds(teacher, student)
    ratio_T = np.exp(np.minimum(student.sampled_logprobs_T - sampled_logprobs_T, 0.0))
    result_T: Floats = lower_T + np.where(_is_stored(teacher), 0.0, ratio_T)
    return result_T


def _is_stored(teacher: TeacherRows) -> NDArray[np.bool_]:
    """Return where the teacher's own token [T] is among those stored."""
    stored_T: NDArray[np.bool_] = (teacher.top_token_ids_TK == teacher.token_ids_T[:, None]).any(-1)
    return stored_T


def _x_log_x(x_T: Floats) -> Floats:
    result_T: Floats = x_T * np.log(np.where(x_T > 0.0, x_T, 1.0))
    return result_T

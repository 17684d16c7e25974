"""Tails: the treatment of tokens whose probabilities are not stored.

In: the stored part of two distributions at C tokens. Out: outcomes that a divergence compares one
by one, and their weights; the weighted sum over outcomes is the loss of a token.

Shape legend: C tokens, K stored entries, O outcomes (K, or K and one for all others).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_LOGPROB = -80.0
"""Used for log 0: its exponential, and the inverse of that, are normal float32 numbers."""


@dataclass(frozen=True)
class Rows:
    """Log-probabilities of teacher (logp) and student (logq) at C tokens, in nats.

    The student's are normalized over the whole vocabulary. Where no entry is stored, both values
    are ignored.
    """

    stored_CK: Tensor
    """Whether there is an entry."""
    logp_CK: Tensor
    logq_CK: Tensor
    logq_rest_C: Tensor
    """Of all tokens that are not stored together; -inf where all are stored."""
    sampled_is_stored_C: Tensor
    """Whether the teacher's own token is among the stored ones."""
    logp_sampled_C: Tensor
    logq_sampled_C: Tensor


@dataclass(frozen=True)
class Outcomes:
    """Finite log-probabilities of the same outcomes, and the weight of each outcome."""

    logp_CO: Tensor
    logq_CO: Tensor
    weight_CO: Tensor


Tail = Callable[[Rows], Outcomes]


def bucket(rows: Rows, temperature: float = 1.0) -> Outcomes:
    """Merge all tokens that are not stored into one outcome.

    The weighted sum is a lower bound of any f-divergence over the whole vocabulary, at temperature
    1. At another, both distributions over K + 1 outcomes are flattened, and the sum is multiplied
    by the square of the temperature; with all tokens stored this is the tempered divergence itself.

    Args:
        temperature: Log-probabilities are divided by it, then normalized again.

    Source: data-processing inequality, Csiszár 1967; Cover & Thomas 2006, theorem 2.8.1, for KL.
        Temperature and its square: Hinton et al. 2015, section 2.
    """
    p_stored_C = rows.logp_CK.exp().masked_fill(~rows.stored_CK, 0.0).sum(-1)
    rounding = torch.finfo(p_stored_C.dtype).eps
    logp_rest_C = torch.log((1.0 - p_stored_C).clamp_min(rounding))
    exists_CO = torch.cat([rows.stored_CK, rows.logq_rest_C[:, None] > -torch.inf], dim=-1)
    logp_CO, logq_CO = (
        torch.cat([stored_CK, rest_C[:, None]], dim=-1)
        .masked_fill(~exists_CO, -torch.inf)
        .div(temperature)
        .log_softmax(-1)
        for stored_CK, rest_C in (
            (rows.logp_CK, logp_rest_C),
            (rows.logq_CK, rows.logq_rest_C),
        )
    )
    return _outcomes(logp_CO, logq_CO, exists_CO * temperature**2)


def sample(rows: Rows) -> Outcomes:
    """Add the teacher's own token, unless it is stored, weighted by one over its probability.

    Over draws of that token from the teacher, the mean of the weighted sum is the sum over the
    whole vocabulary, and so is the gradient's: sum_{i not stored} d_i = E_y[1[y not stored] d_y /
    p_y].

    Source: importance sampling with the teacher as proposal (Owen 2013, "Monte Carlo theory,
        methods and examples", chapter 9), of the tail alone.
    """
    drawn_C = ~rows.sampled_is_stored_C
    logp_sampled_C = rows.logp_sampled_C.clamp_min(LEAST_LOGPROB)
    return _outcomes(
        torch.cat([rows.logp_CK, logp_sampled_C[:, None]], dim=-1),
        torch.cat([rows.logq_CK, rows.logq_sampled_C[:, None]], dim=-1),
        torch.cat([rows.stored_CK, (drawn_C * torch.exp(-logp_sampled_C))[:, None]], dim=-1),
    )


def renormalize(rows: Rows) -> Outcomes:
    """Scale the teacher's stored tokens to mass 1; the student's stay unchanged.

    Biased: the optimum is a student that gives the stored tokens the whole mass.

    Source: the loss of axolotl's KD plugin.
    """
    logp_CK = rows.logp_CK.masked_fill(~rows.stored_CK, -torch.inf)
    total_C1 = torch.logsumexp(logp_CK, dim=-1, keepdim=True).clamp_min(LEAST_LOGPROB)
    return _outcomes(logp_CK - total_C1, rows.logq_CK, rows.stored_CK)


def truncate(rows: Rows) -> Outcomes:
    """Use the stored tokens unchanged and ignore the others.

    Biased towards over-confidence, and not bounded below by 0.

    Source: the loss of Megatron-LM's offline distillation.
    """
    return _outcomes(rows.logp_CK, rows.logq_CK, rows.stored_CK)


def _outcomes(logp_CO: Tensor, logq_CO: Tensor, weight_CO: Tensor) -> Outcomes:
    """Make all values finite, also those of outcomes without weight or with probability 0."""
    absent_CO = weight_CO == 0
    return Outcomes(
        logp_CO.masked_fill(absent_CO, 0.0).clamp_min(LEAST_LOGPROB),
        logq_CO.masked_fill(absent_CO | (logq_CO == -torch.inf), LEAST_LOGPROB),
        weight_CO,
    )

"""The losses of distillation: the registries of divergences and tails, and their mix by name.

In: the configuration. Out: the functions with which `chunked` computes the loss. Divergences and
tails do not depend on one another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from train.config import KDConfig
from train.losses.jsd import jsd
from train.losses.kl import forward_kl, reverse_kl
from train.losses.skew import skew_kl, skew_reverse_kl
from train.losses.tails import Tail, bucket, renormalize, sample, truncate

Divergence = Callable[[Tensor, Tensor], Tensor]
"""(logp, logq) -> each outcome's contribution; the sum over all outcomes is an f-divergence."""

DIVERGENCES: Mapping[str, Callable[[KDConfig], Divergence]] = {
    "forward_kl": lambda _: forward_kl,
    "reverse_kl": lambda _: reverse_kl,
    "jsd": lambda kd: jsd(kd.beta),
    "skew_kl": lambda kd: skew_kl(kd.skew),
    "skew_reverse_kl": lambda kd: skew_reverse_kl(kd.skew),
}

TAILS: Mapping[str, Callable[[KDConfig], Tail]] = {
    "bucket": lambda kd: functools.partial(bucket, temperature=kd.temperature),
    "sample": lambda _: sample,
    "renormalize": lambda _: renormalize,
    "truncate": lambda _: truncate,
}


@dataclass(frozen=True)
class Mix:
    """The two losses of token-level distillation and of cross-entropy, and how they are added."""

    divergence: Divergence
    tail: Tail
    weight: float
    """Share of the divergence; the rest is cross-entropy."""
    chunk_tokens: int
    """Tokens whose logits exist at once."""


def mix_of(kd: KDConfig) -> Mix:
    """Return the configured mix."""
    return Mix(DIVERGENCES[kd.divergence](kd), TAILS[kd.tail](kd), kd.weight, kd.chunk_tokens)

import math

import pytest
import torch

from train.losses.kl import forward_kl, reverse_kl

P, Q = (0.5, 0.3, 0.2), (0.1, 0.3, 0.6)


def test_both_directions_are_what_their_definition_says():
    logp, logq = (torch.tensor(one, dtype=torch.float64).log() for one in (P, Q))
    forward = sum(p * math.log(p / q) for p, q in zip(P, Q, strict=True))
    reverse = sum(q * math.log(q / p) for p, q in zip(P, Q, strict=True))
    assert float(forward_kl(logp, logq).sum()) == pytest.approx(forward, rel=1e-12)
    assert float(reverse_kl(logp, logq).sum()) == pytest.approx(reverse, rel=1e-12)


@pytest.mark.parametrize("divergence", [forward_kl, reverse_kl])
def test_each_outcome_has_its_own_value(divergence):
    logp, logq = torch.randn(2, 4, 3)
    assert divergence(logp, logq).shape == (4, 3)
    assert torch.equal(divergence(logp, logq)[1], divergence(logp[1], logq[1]))

import math

import pytest
import torch

from train.losses.jsd import jsd
from train.losses.kl import forward_kl, reverse_kl

P, Q = (0.5, 0.3, 0.2), (0.1, 0.3, 0.6)


def logs():
    return (torch.tensor(one, dtype=torch.float64).log() for one in (P, Q))


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.8])
def test_it_is_what_its_definition_says(beta):
    expected = 0.0
    for p, q in zip(P, Q, strict=True):
        m = beta * p + (1 - beta) * q
        expected += beta * p * math.log(p / m) + (1 - beta) * q * math.log(q / m)
    assert float(jsd(beta)(*logs()).sum()) == pytest.approx(expected, rel=1e-12)


def test_the_symmetric_one_is_symmetric():
    logp, logq = logs()
    torch.testing.assert_close(jsd(0.5)(logp, logq).sum(), jsd(0.5)(logq, logp).sum())


@pytest.mark.parametrize(("beta", "limit"), [(1e-6, forward_kl), (1 - 1e-6, reverse_kl)])
def test_its_ends_are_forward_and_reverse_kl(beta, limit):
    """Divided by beta (1 - beta), which it shrinks with."""
    logp, logq = logs()
    scaled = jsd(beta)(logp, logq).sum() / (beta * (1 - beta))
    torch.testing.assert_close(scaled, limit(logp, logq).sum(), rtol=1e-5, atol=0.0)

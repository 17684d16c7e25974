import math

import pytest
import torch

from train.losses.kl import forward_kl, reverse_kl
from train.losses.skew import skew_kl, skew_reverse_kl

P, Q = (0.5, 0.3, 0.2), (0.1, 0.3, 0.6)


def logs():
    return (torch.tensor(one, dtype=torch.float64).log() for one in (P, Q))


@pytest.mark.parametrize("skew", [0.1, 0.5, 0.9])
def test_both_are_what_their_definition_says(skew):
    forward = sum(p * math.log(p / (skew * p + (1 - skew) * q)) for p, q in zip(P, Q, strict=True))
    reverse = sum(q * math.log(q / ((1 - skew) * p + skew * q)) for p, q in zip(P, Q, strict=True))
    assert float(skew_kl(skew)(*logs()).sum()) == pytest.approx(forward, rel=1e-12)
    assert float(skew_reverse_kl(skew)(*logs()).sum()) == pytest.approx(reverse, rel=1e-12)


def test_without_skew_they_are_the_plain_ones():
    logp, logq = logs()
    for skewed, plain in ((skew_kl, forward_kl), (skew_reverse_kl, reverse_kl)):
        torch.testing.assert_close(
            skewed(1e-9)(logp, logq).sum(), plain(logp, logq).sum(), rtol=1e-6, atol=0.0
        )


def test_what_one_of_them_never_says_costs_a_bounded_amount():
    likely, impossible = torch.tensor([-0.1]), torch.tensor([-80.0])
    assert float(skew_kl(0.1)(likely, impossible)) < -math.log(0.1)
    assert float(skew_reverse_kl(0.1)(impossible, likely)) < -math.log(0.1)

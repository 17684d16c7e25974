"""Shape legend: C tokens, K stored entries, V vocabulary."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.config import KDConfig
from train.losses import DIVERGENCES, TAILS
from train.losses.tails import Rows, bucket, renormalize, sample, truncate

C, V = 5, 9


def distributions(seed=0, sharpness=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(2, C, V, generator=generator, dtype=dtype)
    return logits.log_softmax(-1).unbind()


def rows(logp_CV, logq_CV, k, sampled_C=None):
    """What is known of two whole distributions when the teacher's k likeliest are stored."""
    logp_CK, ids_CK = logp_CV.topk(k, -1)
    sampled_C = torch.zeros(len(logp_CV), dtype=torch.int64) if sampled_C is None else sampled_C
    others_CV = logq_CV.scatter(-1, ids_CK, -math.inf)
    return Rows(
        stored_CK=torch.ones_like(ids_CK, dtype=torch.bool),
        logp_CK=logp_CK,
        logq_CK=logq_CV.gather(-1, ids_CK),
        logq_rest_C=others_CV.logsumexp(-1),
        sampled_is_stored_C=(ids_CK == sampled_C[:, None]).any(-1),
        logp_sampled_C=logp_CV.gather(-1, sampled_C[:, None])[:, 0],
        logq_sampled_C=logq_CV.gather(-1, sampled_C[:, None])[:, 0],
    )


def divergence(name):
    return DIVERGENCES[name](KDConfig(divergence=name))


def losses(tail, name, known):
    """The loss of each token [C]."""
    outcomes = tail(known)
    return (outcomes.weight_CO * divergence(name)(outcomes.logp_CO, outcomes.logq_CO)).sum(-1)


every_divergence = pytest.mark.parametrize("name", DIVERGENCES)


@every_divergence
@given(seed=st.integers(0, 10_000), k=st.integers(1, V), sharpness=st.floats(0.0, 20.0))
@settings(max_examples=40)
def test_a_bucket_is_between_zero_and_the_whole_divergence(name, seed, k, sharpness):
    logp_CV, logq_CV = distributions(seed, sharpness)
    known = rows(logp_CV, logq_CV, k)
    tail_C = 1.0 - known.logp_CK.exp().sum(-1)
    exact_C = (tail_C > 1e-8) | (k == V)  # a smaller tail is lost in the rounding of 1 - P
    whole_C = divergence(name)(logp_CV, logq_CV).sum(-1)
    found_C = losses(bucket, name, known)
    assert (found_C >= -1e-9).all()
    assert (found_C <= whole_C + 1e-6)[exact_C].all()


@pytest.mark.parametrize("tail", TAILS)
@every_divergence
def test_with_all_tokens_stored_nothing_is_left_to_a_tail(name, tail):
    logp_CV, logq_CV = distributions()
    found_C = losses(TAILS[tail](KDConfig()), name, rows(logp_CV, logq_CV, V))
    torch.testing.assert_close(found_C, divergence(name)(logp_CV, logq_CV).sum(-1))


@every_divergence
@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_with_all_tokens_stored_a_temperature_is_the_whole_distributions(name, temperature):
    logp_CV, logq_CV = distributions()
    found_C = losses(lambda known: bucket(known, temperature), name, rows(logp_CV, logq_CV, V))
    flat = ((one / temperature).log_softmax(-1) for one in (logp_CV, logq_CV))
    expected_C = temperature**2 * divergence(name)(*flat).sum(-1)
    torch.testing.assert_close(found_C, expected_C)


def test_gradients_keep_their_size_at_high_temperature():
    """At high temperature they near (z_q - z_p) / V, whatever it is: Hinton et al., equation 4."""
    logp_CV, logq_CV = distributions(sharpness=0.1)
    for temperature in (30.0, 300.0):
        leaf_CV = logq_CV.clone().requires_grad_()
        known = rows(logp_CV, leaf_CV.log_softmax(-1), V)
        losses(lambda rows, by=temperature: bucket(rows, by), "forward_kl", known).sum().backward()
        centered = [one - one.mean(-1, keepdim=True) for one in (logq_CV, logp_CV)]
        torch.testing.assert_close(
            leaf_CV.grad, (centered[0] - centered[1]) / V, rtol=0.1, atol=2e-4
        )


@every_divergence
@pytest.mark.parametrize("k", [1, 4, 8])
def test_the_mean_over_sampled_tokens_is_the_whole_divergence(name, k):
    """The expectation over the teacher's tokens, taken exactly."""
    logp_CV, logq_CV = distributions()
    expected_C = divergence(name)(logp_CV, logq_CV).sum(-1)
    means = {
        tail: sum(
            logp_CV[:, y].exp() * losses(tail, name, rows(logp_CV, logq_CV, k, torch.full((C,), y)))
            for y in range(V)
        )
        for tail in (sample, truncate)
    }
    torch.testing.assert_close(means[sample], expected_C)
    assert not torch.allclose(means[truncate], expected_C, atol=1e-3)


def test_renormalized_the_teacher_gives_its_stored_tokens_all_mass():
    logp_CV, logq_CV = distributions()
    known = rows(logp_CV, logq_CV, 3)
    outcomes = renormalize(known)
    torch.testing.assert_close(outcomes.logp_CO.exp().sum(-1), torch.ones(C, dtype=torch.float64))
    assert torch.equal(outcomes.logq_CO, known.logq_CK)


HALF = math.log(0.5)
EDGES = {
    "nothing is stored": ([0, 0], [math.nan, math.inf], [math.nan, -math.inf], 0.0),
    "one entry is absent": ([1, 0], [HALF, math.nan], [HALF, math.nan], HALF),
    "the teacher's mass is over 1": ([1, 1], [math.log(0.9), math.log(0.11)], [HALF, -2.0], -1.0),
    "the teacher's mass is 1": ([1, 1], [HALF, HALF], [HALF, HALF], -60.0),
    "the teacher gives 0": ([1, 1], [-1e-3, -math.inf], [-1.0, -1.0], -1.3),
    "the student gives 0": ([1, 1], [-1.0, -1.0], [0.0, -math.inf], -30.0),
    "both give 0": ([1, 1], [0.0, -math.inf], [0.0, -math.inf], -100.0),
    "the student's tail is tiny": ([1, 1], [-1.0, -1.2], [-1e-7, -18.0], -90.0),
    "the student has no tail": ([1, 1], [-1.0, -1.2], [HALF, HALF], -math.inf),
}
"""Two entries each that rounding, masks and underflow bring about: which are stored, what teacher
and student give them, and the student's rest."""


@pytest.mark.parametrize("tail", [*TAILS, "tempered"])
@every_divergence
def test_every_edge_has_a_finite_loss_and_gradient(name, tail):
    stored, logp, logq, logq_rest = zip(*EDGES.values(), strict=True)
    leaves = [torch.tensor(one).requires_grad_() for one in (logq, logq_rest)]
    known = Rows(
        stored_CK=torch.tensor(stored, dtype=torch.bool),
        logp_CK=torch.tensor(logp),
        logq_CK=leaves[0],
        logq_rest_C=leaves[1],
        sampled_is_stored_C=torch.zeros(len(EDGES), dtype=torch.bool),
        logp_sampled_C=torch.full((len(EDGES),), -math.inf),
        logq_sampled_C=torch.full((len(EDGES),), -100.0),
    )
    made = (
        TAILS["bucket"](KDConfig(temperature=4.0))
        if tail == "tempered"
        else TAILS[tail](KDConfig())
    )
    loss_C = losses(made, name, known)
    loss_C.sum().backward()
    for index, key in enumerate(EDGES):
        assert torch.isfinite(loss_C[index]), key
        for leaf in leaves:
            assert leaf.grad is None or float(leaf.grad[index].abs().max()) < 500, key


def test_a_student_without_a_tail_is_pulled_back_to_one():
    """1 - Q in float32 would be 0 here, and its gradient with it."""
    leaf = torch.tensor([[0.0, -20.0]]).requires_grad_()
    logq = leaf.log_softmax(-1)
    known = Rows(
        stored_CK=torch.ones(1, 1, dtype=torch.bool),
        logp_CK=torch.tensor([[math.log(0.9)]]),
        logq_CK=logq[:, :1],
        logq_rest_C=logq[:, 1],
        sampled_is_stored_C=torch.tensor([True]),
        logp_sampled_C=torch.tensor([math.log(0.9)]),
        logq_sampled_C=logq[:, 0],
    )
    losses(bucket, "forward_kl", known).sum().backward()
    torch.testing.assert_close(leaf.grad, torch.tensor([[0.1, -0.1]]))

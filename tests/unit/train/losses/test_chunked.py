"""Shape legend: T tokens, K stored entries, V vocabulary, D width."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.config import KDConfig
from train.losses import DIVERGENCES
from train.losses.chunked import Mix, Targets, distillation_loss
from train.losses.forward_kl import forward_kl

T, V, D = 7, 11, 5


def problem(k=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(T, D, generator=generator, dtype=dtype)
    weight = torch.randn(V, D, generator=generator, dtype=dtype)
    logp = torch.log_softmax(2 * torch.randn(T, V, generator=generator, dtype=dtype), -1)
    top_logprobs, top_ids = logp.topk(k, -1)
    token_ids = torch.randint(0, V, (T,), generator=generator)
    return hidden, weight, logp, Targets(token_ids, top_ids, top_logprobs)


def mix(weight=0.7, chunk_tokens=3):
    return Mix(forward_kl, weight, chunk_tokens)


def slow_loss(hidden, weight, targets, alpha):
    """The mixed loss, token by token, in Python's own floats."""
    total = 0.0
    for t in range(hidden.shape[0]):
        logits = [
            sum(float(hidden[t, d]) * float(weight[v, d]) for d in range(hidden.shape[1]))
            for v in range(weight.shape[0])
        ]
        normaliser = math.log(sum(math.exp(logit) for logit in logits))
        kl, p_left, q_left = 0.0, 1.0, 1.0
        for token_id, logp in zip(
            targets.top_token_ids_TK[t], targets.top_logprobs_TK[t], strict=True
        ):
            if token_id >= 0:
                logq = logits[token_id] - normaliser
                kl += math.exp(logp) * (float(logp) - logq)
                p_left -= math.exp(logp)
                q_left -= math.exp(logq)
        kl += p_left * (math.log(p_left) - math.log(q_left))
        entropy = normaliser - logits[targets.token_ids_T[t]]
        total += alpha * kl + (1 - alpha) * entropy
    return total


def dense_loss(hidden, weight, logp_TV, targets, alpha):
    logq = torch.log_softmax(hidden @ weight.T, -1)
    kl = (logp_TV.exp() * (logp_TV - logq)).sum()
    return alpha * kl - (1 - alpha) * logq.gather(-1, targets.token_ids_T[:, None]).sum()


def with_holes(targets):
    ids = targets.top_token_ids_TK.clone()
    ids[2, 3:] = -1
    ids[4, 1:] = -1
    logprobs = targets.top_logprobs_TK.masked_fill(ids < 0, -math.inf)
    return dataclasses.replace(targets, top_token_ids_TK=ids, top_logprobs_TK=logprobs)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_equals_the_loop_over_tokens(alpha):
    hidden, weight, _, targets = problem()
    targets = with_holes(targets)
    sums = distillation_loss(hidden, weight, None, targets, mix(alpha))
    assert float(sums.total) == pytest.approx(slow_loss(hidden, weight, targets, alpha), rel=1e-12)
    assert sums.total.shape == sums.divergence.shape == sums.cross_entropy.shape == ()


@pytest.mark.parametrize("holes", [False, True])
def test_gradients_are_the_numerical_ones(holes):
    hidden, weight, _, targets = problem()
    targets = with_holes(targets) if holes else targets
    bias = torch.linspace(-1, 1, V, dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]
    assert torch.autograd.gradcheck(
        lambda h, w, b: distillation_loss(h, w, b, targets, mix()).total, inputs
    )


def test_all_tokens_stored_equals_dense_kl():
    hidden, weight, logp, targets = problem(k=V, dtype=torch.float32)
    gradients = []
    for loss in (
        lambda h: distillation_loss(h, weight, None, targets, mix(0.9)).total,
        lambda h: dense_loss(h, weight, logp, targets, 0.9),
    ):
        leaf = hidden.clone().requires_grad_()
        value = loss(leaf)
        value.backward()
        gradients.append((value.detach(), leaf.grad))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-5)


@given(seed=st.integers(0, 10_000), k=st.integers(1, V - 1))
@settings(max_examples=50, deadline=None)
def test_bucket_is_between_zero_and_dense_kl(seed, k):
    hidden, weight, logp, targets = problem(k, seed)
    dense = float(dense_loss(hidden, weight, logp, targets, 1.0))
    bucket = float(distillation_loss(hidden, weight, None, targets, mix(1.0)).total)
    assert -1e-9 <= bucket <= dense + 1e-9


def test_zero_where_the_student_is_the_teacher():
    hidden, weight, _, targets = problem()
    logq = torch.log_softmax(hidden @ weight.T, -1)
    top_logprobs, top_ids = logq.topk(3, -1)
    targets = Targets(targets.token_ids_T, top_ids, top_logprobs)
    leaf = hidden.requires_grad_()
    total = distillation_loss(leaf, weight, None, targets, mix(1.0)).total
    total.backward()
    assert float(total.detach()) == pytest.approx(0.0, abs=1e-9)
    assert float(leaf.grad.abs().max()) < 1e-9


@given(chunk_tokens=st.integers(1, T + 2), split=st.integers(1, T - 1), padding=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_invariant_to_chunks_batches_and_padding(chunk_tokens, split, padding):
    hidden, weight, _, targets = problem()

    def gradient(parts, chunk):
        leaf = hidden.clone().requires_grad_()
        for part in parts:
            ids = torch.nn.functional.pad(targets.top_token_ids_TK[part], (0, padding), value=-1)
            logprobs = torch.nn.functional.pad(targets.top_logprobs_TK[part], (0, padding))
            piece = Targets(targets.token_ids_T[part], ids, logprobs)
            distillation_loss(leaf[part], weight, None, piece, mix(0.7, chunk)).total.backward()
        return leaf.grad

    whole = gradient([slice(None)], T)
    pieces = gradient([slice(0, split), slice(split, None)], chunk_tokens)
    torch.testing.assert_close(pieces, whole, rtol=1e-12, atol=1e-12)


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, _, targets = problem()
    distillation_loss(hidden.requires_grad_(), weight, None, targets, mix()).total.backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_teacher_rows_shifted_by_one_change_the_loss():
    hidden, weight, _, targets = problem()
    shifted = dataclasses.replace(
        targets,
        top_token_ids_TK=targets.top_token_ids_TK.roll(1, 0),
        top_logprobs_TK=targets.top_logprobs_TK.roll(1, 0),
    )
    losses = [
        float(distillation_loss(hidden, weight, None, one, mix(1.0)).total)
        for one in (targets, shifted)
    ]
    assert abs(losses[0] - losses[1]) > 0.1


def test_every_configured_divergence_is_registered():
    names = KDConfig.model_fields["divergence"].annotation.__args__
    assert set(names) == set(DIVERGENCES)


def test_a_divergence_returns_one_value_per_token():
    student, teacher = torch.randn(2, T, 3).log_softmax(-1)
    assert forward_kl(student, teacher, torch.ones(T, 3, dtype=torch.bool)).shape == (T,)

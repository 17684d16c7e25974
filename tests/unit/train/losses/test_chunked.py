"""Shape legend: T tokens, K stored entries, V vocabulary, D width."""

import dataclasses
import math
from contextlib import nullcontext
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from train.config import KDConfig
from train.heads import Head
from train.losses import DIVERGENCES, TAILS, chunked, mix_of
from train.losses.chunked import Targets, distillation_loss

pytestmark = pytest.mark.usefixtures("one_thread")
nightly = pytest.mark.nightly

T, V, D = 7, 11, 5
HEADS = {
    "plain": {},
    "bias": {"bias_V": torch.linspace(-1, 1, V, dtype=torch.float64)},
    "Gemma's": {"softcap": 3.0},
    "Cohere's": {"scale": 0.25},
    "all at once": {
        "bias_V": torch.linspace(-1, 1, V, dtype=torch.float64),
        "softcap": 2.0,
        "scale": 3.0,
    },
}

every_divergence = pytest.mark.parametrize("name", DIVERGENCES)
every_tail = pytest.mark.parametrize("tail", TAILS)
every_combination = pytest.mark.parametrize(
    ("name", "tail", "head"),
    [
        pytest.param(
            name,
            tail,
            head,
            id=f"{name}-{tail}-{key}",
            marks=[] if key == "all at once" or (name, tail) == ("jsd", "bucket") else nightly,
        )
        for name, tail, (key, head) in product(DIVERGENCES, TAILS, HEADS.items())
    ],
)
"""By day each divergence and tail with all a head may have, and each kind of head once."""


def problem(k=4, seed=0, dtype=torch.float64):
    """Hidden states [T, D], weights [V, D], the teacher's log-probabilities [T, V], and targets."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(T, D, generator=generator, dtype=dtype)
    weight = torch.randn(V, D, generator=generator, dtype=dtype)
    logp = torch.log_softmax(2 * torch.randn(T, V, generator=generator, dtype=dtype), -1)
    token_ids = torch.randint(0, V, (T,), generator=generator)
    return hidden, weight, logp, targets_of(logp, token_ids, k)


def targets_of(logp, token_ids, k):
    top_logprobs, top_ids = logp.topk(k, -1)
    return Targets(token_ids, logp.gather(-1, token_ids[:, None])[:, 0], top_ids, top_logprobs)


def with_holes(targets):
    ids = targets.top_token_ids_TK.clone()
    ids[2, 1:] = -1
    ids[4, :] = -1
    logprobs = targets.top_logprobs_TK.masked_fill(ids < 0, math.nan)
    return dataclasses.replace(targets, top_token_ids_TK=ids, top_logprobs_TK=logprobs)


def mix(name="forward_kl", tail="bucket", weight=0.7, chunk_tokens=3, **settings):
    return mix_of(
        KDConfig(divergence=name, tail=tail, weight=weight, chunk_tokens=chunk_tokens, **settings)
    )


POINTWISE = {
    "forward_kl": lambda p, q: p * math.log(p / q) if p else 0.0,
    "reverse_kl": lambda p, q: q * math.log(q / p) if q else 0.0,
    "jsd": lambda p, q: (
        (
            (p * math.log(p / (p / 2 + q / 2)) if p else 0.0)
            + (q * math.log(q / (p / 2 + q / 2)) if q else 0.0)
        )
        / 2
    ),
    "skew_kl": lambda p, q: p * math.log(p / (0.1 * p + 0.9 * q)) if p else 0.0,
    "skew_reverse_kl": lambda p, q: q * math.log(q / (0.9 * p + 0.1 * q)) if q else 0.0,
}


def slow_sums(logits, targets, name, tail):
    """Divergence and cross-entropy, token by token, in Python's own floats."""
    d = POINTWISE[name]
    divergence = entropy = 0.0
    for t in range(len(logits)):
        largest = max(logits[t])
        normalizer = sum(math.exp(z - largest) for z in logits[t])
        q = [math.exp(z - largest) / normalizer for z in logits[t]]
        stored = {
            int(i): math.exp(logp)
            for i, logp in zip(targets.top_token_ids_TK[t], targets.top_logprobs_TK[t], strict=True)
            if i >= 0
        }
        y, p_y = int(targets.token_ids_T[t]), math.exp(targets.sampled_logprobs_T[t])
        entropy -= math.log(q[y])
        total = (tail == "renormalize" and sum(stored.values())) or 1.0
        divergence += sum(d(p / total, q[i]) for i, p in stored.items())
        if tail == "bucket" and len(stored) < len(q):
            q_rest = sum(one for i, one in enumerate(q) if i not in stored)
            divergence += d(max(1.0 - sum(stored.values()), 0.0), q_rest)
        if tail == "sample" and y not in stored:
            divergence += d(p_y, q[y]) / p_y
    return divergence, entropy


@every_divergence
@every_tail
@pytest.mark.parametrize("holes", [False, True])
def test_equals_the_loop_over_tokens(name, tail, holes):
    hidden, weight, _, targets = problem()
    targets = with_holes(targets) if holes else targets
    sums = distillation_loss(hidden, Head(weight), targets, mix(name, tail))
    divergence, entropy = slow_sums((hidden @ weight.T).tolist(), targets, name, tail)
    assert float(sums.divergence) == pytest.approx(divergence, rel=1e-9)
    assert float(sums.cross_entropy) == pytest.approx(entropy, rel=1e-12)
    assert float(sums.total) == pytest.approx(0.7 * divergence + 0.3 * entropy, rel=1e-9)
    assert sums.total.shape == sums.divergence.shape == sums.cross_entropy.shape == ()


@st.composite
def hostile_problems(draw):
    """Few tokens of any shape, with ties, absent entries, zero probability and great confidence."""
    num_tokens, vocab_size = draw(st.integers(1, 4)), draw(st.integers(2, 8))
    k = draw(st.integers(1, vocab_size))
    levels = st.sampled_from([-40.0, -9.0, -1.0, 0.0, 0.0, 1.0, 12.0])
    logits, logp, ids, logprobs, sampled = [], [], [], [], []
    for _ in range(num_tokens):
        logits.append(draw(st.lists(levels, min_size=vocab_size, max_size=vocab_size)))
        zeros = draw(st.lists(st.booleans(), min_size=vocab_size - 1, max_size=vocab_size - 1))
        scores = draw(st.lists(levels, min_size=vocab_size, max_size=vocab_size))
        scores = [s if keep else -math.inf for s, keep in zip(scores, [True, *zeros], strict=True)]
        logp.append(torch.tensor(scores, dtype=torch.float64).log_softmax(-1))
        order = sorted(range(vocab_size), key=lambda i, row=logp[-1]: -row[i])[:k]
        present = [draw(st.booleans()) for _ in order]
        ids.append([i if keep else -1 for i, keep in zip(order, present, strict=True)])
        logprobs.append([float(logp[-1][i]) for i in order])
        sampled.append(draw(st.sampled_from([i for i in range(vocab_size) if scores[i] > -50.0])))
    logp = torch.stack(logp)
    token_ids = torch.tensor(sampled)
    targets = Targets(
        token_ids,
        logp.gather(-1, token_ids[:, None])[:, 0],
        torch.tensor(ids),
        torch.tensor(logprobs, dtype=torch.float64),
    )
    return torch.tensor(logits, dtype=torch.float64), targets


@given(hostile_problems(), st.sampled_from(sorted(DIVERGENCES)), st.sampled_from(sorted(TAILS)))
def test_anything_that_is_stored_gives_the_loop_s_value_and_a_finite_gradient(given_, name, tail):
    logits, targets = given_
    for dtype in (torch.float32, torch.float64):
        leaf = logits.to(dtype).requires_grad_()
        head = Head(torch.eye(logits.shape[1], dtype=dtype))
        sums = distillation_loss(leaf, head, targets, mix(name, tail))
        sums.total.backward()
        assert torch.isfinite(sums.total)
        assert torch.isfinite(leaf.grad).all()
    if name != "reverse_kl":  # infinite where the teacher gives 0
        divergence, _ = slow_sums(logits.tolist(), targets, name, tail)
        assert float(sums.divergence) == pytest.approx(divergence, rel=1e-6, abs=2e-5)


@every_combination
def test_gradients_are_the_numerical_ones(name, tail, head):
    hidden, weight, _, targets = problem()
    targets = with_holes(targets)
    bias = head.get("bias_V", torch.zeros(V, dtype=torch.float64)).clone()
    inputs = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]
    kd = mix(name, tail, temperature=2.0 if tail == "bucket" else 1.0)
    assert torch.autograd.gradcheck(
        lambda h, w, b: (
            distillation_loss(
                h, Head(w, b, head.get("softcap"), head.get("scale", 1.0)), targets, kd
            ).total
        ),
        inputs,
        fast_mode=True,
    )


@every_combination
def test_all_tokens_stored_equals_the_dense_divergence(name, tail, head):
    """In float32, against plain autograd on whole logits, in loss and gradient."""
    hidden, weight, logp, targets = problem(k=V, dtype=torch.float32)
    head = {key: one.float() if key == "bias_V" else one for key, one in head.items()}
    kd = mix(name, tail, weight=0.9)

    def dense(h):
        z = h @ weight.T + head.get("bias_V", 0.0)
        z = z * head.get("scale", 1.0)
        if cap := head.get("softcap"):
            z = cap * torch.tanh(z / cap)
        logq = torch.log_softmax(z, -1)
        entropy = -logq.gather(-1, targets.token_ids_T[:, None]).sum()
        return 0.9 * kd.divergence(logp, logq).sum() + 0.1 * entropy

    results = []
    for loss in (lambda h: distillation_loss(h, Head(weight, **head), targets, kd).total, dense):
        leaf = hidden.clone().requires_grad_()
        value = loss(leaf)
        value.backward()
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_temperature_is_dense_and_scales_value_and_gradient_alike(temperature):
    hidden, weight, logp, targets = problem(k=V)
    kd = mix(weight=1.0, temperature=temperature)
    leaf, dense = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    total = distillation_loss(leaf, Head(weight), targets, kd).total
    flat_p = (logp / temperature).log_softmax(-1)
    flat_q = (dense @ weight.T / temperature).log_softmax(-1)
    expected = temperature**2 * (flat_p.exp() * (flat_p - flat_q)).sum()
    total.backward()
    expected.backward()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(leaf.grad, dense.grad)


@pytest.mark.parametrize(("tail", "unbiased"), [("sample", True), ("truncate", False)])
@pytest.mark.parametrize("name", ["forward_kl", "jsd"])
def test_over_many_draws_only_sample_has_the_dense_gradient(name, tail, unbiased):
    """Each of N rows is the same token with another draw of y, so a row's gradient is a draw's."""
    num_draws = 20_000
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(1, D, generator=generator, dtype=torch.float64)
    weight = torch.randn(V, D, generator=generator, dtype=torch.float64)
    logp = torch.randn(1, V, generator=generator, dtype=torch.float64).log_softmax(-1)
    drawn = torch.multinomial(logp[0].exp(), num_draws, replacement=True, generator=generator)
    kd = mix(name, tail, weight=1.0, chunk_tokens=num_draws)

    leaf = hidden.expand(num_draws, D).clone().requires_grad_()
    targets = targets_of(logp.expand(num_draws, V), drawn, 3)
    distillation_loss(leaf, Head(weight), targets, kd).total.backward()
    dense = hidden.clone().requires_grad_()
    kd.divergence(logp, torch.log_softmax(dense @ weight.T, -1)).sum().backward()

    error = leaf.grad.mean(0) - dense.grad[0]
    standard_error = leaf.grad.std(0) / math.sqrt(num_draws)
    within = float((error.abs() - 4.0 * standard_error).max()) < 1e-9
    assert within is unbiased


def test_sampled_draws_vary():
    """Otherwise the test above would hold for anything that equals the dense gradient."""
    hidden, weight, logp, _ = problem()
    totals = {
        float(
            distillation_loss(
                hidden[:1],
                Head(weight),
                targets_of(logp[:1], torch.tensor([y]), 3),
                mix(tail="sample", weight=1.0),
            ).total
        )
        for y in range(V)
    }
    assert len(totals) == V - 3 + 1, "one for each token not stored, one for those that are"


@given(seed=st.integers(0, 10_000), k=st.integers(1, V - 1))
def test_bucket_is_between_zero_and_dense_kl(seed, k):
    hidden, weight, logp, targets = problem(k, seed)
    kd = mix(weight=1.0)
    dense = float(kd.divergence(logp, torch.log_softmax(hidden @ weight.T, -1)).sum())
    bucket = float(distillation_loss(hidden, Head(weight), targets, kd).total)
    assert -1e-9 <= bucket <= dense + 1e-9


@pytest.mark.parametrize("name", DIVERGENCES)
def test_zero_where_the_student_is_the_teacher(name):
    hidden, weight, _, targets = problem()
    logq = torch.log_softmax(hidden @ weight.T, -1)
    leaf = hidden.requires_grad_()
    targets = targets_of(logq.detach(), targets.token_ids_T, 3)
    total = distillation_loss(leaf, Head(weight), targets, mix(name, weight=1.0)).total
    total.backward()
    assert float(total.detach()) == pytest.approx(0.0, abs=1e-9)
    assert float(leaf.grad.abs().max()) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(
    chunk_tokens=st.integers(1, T + 2),
    split=st.integers(1, T - 1),
    padding=st.integers(0, 3),
    tail=st.sampled_from(sorted(TAILS)),
)
@settings(max_examples=30)
def test_invariant_to_chunks_batches_and_padding(dtype, chunk_tokens, split, padding, tail):
    hidden, weight, _, targets = problem(dtype=dtype)

    def loss_and_gradient(parts, chunk, pad):
        leaf = hidden.clone().requires_grad_()
        total = 0.0
        for part in parts:
            piece = targets[part]
            piece = dataclasses.replace(
                piece,
                top_token_ids_TK=torch.nn.functional.pad(
                    piece.top_token_ids_TK, (0, pad), value=-1
                ),
                top_logprobs_TK=torch.nn.functional.pad(piece.top_logprobs_TK, (0, pad)),
            )
            value = distillation_loss(
                leaf[part], Head(weight), piece, mix(tail=tail, chunk_tokens=chunk)
            ).total
            value.backward()
            total += value.detach()
        return total, leaf.grad

    whole = loss_and_gradient([slice(None)], T, 0)
    pieces = loss_and_gradient([slice(0, split), slice(split, None)], chunk_tokens, padding)
    tolerance = 2e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(pieces, whole, rtol=tolerance, atol=tolerance)


def test_blocks_of_a_chunk_change_nothing(monkeypatch):
    hidden, weight, _, targets = problem()
    results = []
    for block_logits in (1, 2 * V, 10**6):
        monkeypatch.setattr("train.losses.chunked.BLOCK_LOGITS", block_logits)
        leaf = hidden.clone().requires_grad_()
        distillation_loss(leaf, Head(weight, softcap=3.0), targets, mix()).total.backward()
        results.append(leaf.grad)
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[1], results[2])


def test_shifting_the_teacher_s_rows_by_one_changes_the_loss():
    hidden, weight, _, targets = problem()
    shifted = dataclasses.replace(
        targets,
        top_token_ids_TK=targets.top_token_ids_TK.roll(1, 0),
        top_logprobs_TK=targets.top_logprobs_TK.roll(1, 0),
    )
    losses = [
        float(distillation_loss(hidden, Head(weight), one, mix(weight=1.0)).total)
        for one in (targets, shifted)
    ]
    assert abs(losses[0] - losses[1]) > 0.1


PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_}


class Recorder(TorchDispatchMode):
    """Counts matrix products, and keeps the size of the largest tensor that was made."""

    def __init__(self):
        super().__init__()
        self.num_products = 0
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.num_products += func.overloadpacket in PRODUCTS
        for one in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(one, torch.Tensor):
                self.largest = max(self.largest, one.numel())
        return made


@pytest.mark.parametrize("tail", TAILS)
def test_a_frozen_head_costs_two_products_and_a_trained_one_three(tail):
    hidden, weight, _, targets = problem()
    with Recorder() as frozen:
        total = distillation_loss(
            hidden.requires_grad_(), Head(weight), targets, mix(tail=tail, chunk_tokens=T)
        ).total
        total.backward()
    assert hidden.grad is not None
    assert weight.grad is None
    with Recorder() as trained:
        total = distillation_loss(
            hidden, Head(weight.requires_grad_()), targets, mix(tail=tail, chunk_tokens=T)
        ).total
        total.backward()
    assert weight.grad is not None
    assert (frozen.num_products, trained.num_products) == (2, 3)


def test_without_gradients_only_the_logits_are_computed():
    hidden, weight, _, targets = problem()
    head = Head(weight.requires_grad_())
    with torch.no_grad(), Recorder() as recorder:
        total = distillation_loss(hidden.requires_grad_(), head, targets, mix(chunk_tokens=T)).total
    assert recorder.num_products == 1
    assert not total.requires_grad
    with_gradients = distillation_loss(hidden, head, targets, mix(chunk_tokens=T)).total
    assert float(total) == float(with_gradients.detach())


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_logits_of_more_than_a_chunk_never_exist(softcap, precision):
    num_tokens, vocab_size, chunk_tokens = 64, 500, 8
    hidden = torch.randn(num_tokens, D, requires_grad=True)
    logp = torch.randn(num_tokens, vocab_size).log_softmax(-1)
    targets = targets_of(logp, torch.zeros(num_tokens, dtype=torch.int64), 4)
    head = Head(torch.randn(vocab_size, D), softcap=softcap)
    with (
        Recorder() as recorder,
        torch.autocast("cpu", dtype=precision, enabled=precision is not torch.float32),
    ):
        distillation_loss(hidden, head, targets, mix(chunk_tokens=chunk_tokens)).total.backward()
    assert recorder.largest == chunk_tokens * vocab_size


def test_without_weight_nothing_need_be_stored():
    hidden, weight, _, targets = problem()
    bare = Targets(
        targets.token_ids_T,
        torch.full((T,), math.nan),
        torch.zeros(T, 0, dtype=torch.int64),
        torch.zeros(T, 0),
    )
    results = []
    for one in (bare, targets):
        leaf = hidden.clone().requires_grad_()
        sums = distillation_loss(leaf, Head(weight), one, mix(weight=0.0))
        sums.total.backward()
        results.append((sums.total.detach(), sums.cross_entropy, leaf.grad))
        assert float(sums.divergence) == 0.0
    torch.testing.assert_close(*results, rtol=0.0, atol=0.0)
    leaf = hidden.clone().requires_grad_()
    torch.nn.functional.cross_entropy(
        leaf @ weight.T, targets.token_ids_T, reduction="sum"
    ).backward()
    torch.testing.assert_close(results[0][2], leaf.grad)


def test_a_batch_without_labels_adds_nothing():
    hidden, weight, _, targets = problem()
    leaf = hidden[:0].clone().requires_grad_()
    sums = distillation_loss(leaf, Head(weight), targets[:0], mix())
    sums.total.backward()
    assert float(sums.total.detach()) == 0.0
    assert leaf.grad.shape == (0, D)


@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("frozen", [True, False])
def test_bfloat16_is_float32_but_for_the_rounding_of_products(softcap, frozen):
    generator = torch.Generator().manual_seed(0)
    num_tokens, vocab_size, width = 96, 2000, 64
    hidden = torch.randn(num_tokens, width, generator=generator)
    weight = 0.3 * torch.randn(vocab_size, width, generator=generator)
    logp = (2 * torch.randn(num_tokens, vocab_size, generator=generator)).log_softmax(-1)
    targets = targets_of(logp, torch.multinomial(logp.exp(), 1, generator=generator)[:, 0], 16)
    results = []
    for enabled in (False, True):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_(not frozen)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            total = distillation_loss(
                h, Head(w, softcap=softcap), targets, mix(chunk_tokens=40)
            ).total
        total.backward()
        assert total.dtype == h.grad.dtype == torch.float32
        results.append([total.detach()] + [one.grad for one in (h, w) if one.grad is not None])
    for exact, rounded in zip(*results, strict=True):
        assert float((exact - rounded).norm() / exact.norm()) < 0.01


def test_a_bfloat16_model_gets_bfloat16_gradients():
    hidden, weight, _, targets = problem(dtype=torch.float32)
    h, w = (one.bfloat16().requires_grad_() for one in (hidden, weight))
    total = distillation_loss(h, Head(w), targets, mix()).total
    total.backward()
    assert total.dtype == torch.float32
    assert h.grad.dtype == w.grad.dtype == torch.bfloat16
    exact = hidden.clone().requires_grad_()
    distillation_loss(exact, Head(weight), targets, mix()).total.backward()
    torch.testing.assert_close(h.grad.float(), exact.grad, rtol=0.1, atol=0.05)


def test_a_compiled_model_has_the_same_loss_and_gradient():
    """A configuration of accelerate may compile the whole model, with the loss in its forward."""
    hidden, weight, _, targets = problem()

    def loss(hidden_TD):
        return 2.0 * distillation_loss(hidden_TD, Head(weight), targets, mix()).total

    results = []
    for one in (loss, torch.compile(loss, backend="aot_eager")):
        given = hidden.clone().requires_grad_()
        total = one(given)
        total.backward()
        results.append((total.detach(), given.grad))
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_whole_chunk_is_computed_at_once_on_other_devices(softcap, precision, monkeypatch):
    """torch's device `meta`, which computes shapes and types alone, stands in for a GPU."""
    K = 3
    # `meta` has no autocast: the product's precision is given instead.
    monkeypatch.setattr(chunked, "_product_dtype", lambda _: precision)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    hidden_TD = torch.empty(T, D, device="meta", requires_grad=True)
    weight_VD = torch.empty(V, D, device="meta", requires_grad=True)
    targets = Targets(
        torch.empty(T, dtype=torch.int64, device="meta"),
        torch.empty(T, device="meta"),
        torch.empty(T, K, dtype=torch.int64, device="meta"),
        torch.empty(T, K, device="meta"),
    )
    mix = mix_of(KDConfig(weight=0.5, chunk_tokens=4))
    sums = distillation_loss(hidden_TD, Head(weight_VD, softcap=softcap), targets, mix)
    sums.total.backward()
    assert hidden_TD.grad.shape == hidden_TD.shape
    assert weight_VD.grad.device.type == "meta"
    product_CV = torch.empty(4, V, dtype=precision, device="meta")
    assert chunked._block_rows(product_CV, torch.float32, Head(weight_VD, softcap=softcap)) == 4

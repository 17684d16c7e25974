"""Shape legend: T tokens, K stored log-probabilities per token, V vocabulary, N least probable."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from potstill import divergences
from potstill.distributions import MAX_SQRT_ERROR, TokenDistributions
from potstill.divergences import (
    SMALLEST_MASS,
    StudentRows,
    TeacherRows,
    acceptance_bounds,
    acceptance_estimate,
    bucket_kl_nats,
    bucket_reverse_kl_nats,
    kl_estimate_nats,
    kl_upper_bound_nats,
)

V = 9
ROUNDING = 2 * SMALLEST_MASS * abs(math.log(SMALLEST_MASS))
"""Largest effect of clamped tails."""

seeds = st.integers(0, 100_000)
scales = st.floats(0.0, 8.0)


def distributions(seed, num_tokens=4, scale=3.0):
    """Return log-probabilities [T][V] of a teacher and a student."""
    generator = np.random.default_rng(seed)
    shape = (2, num_tokens, V)
    return log_softmax(scale * generator.normal(size=shape), axis=-1)


def rows(teacher_TV, student_TV, k, token_ids=None):
    """Store the teacher's top k and what is needed of the student."""
    top_ids = np.argsort(-teacher_TV, axis=-1)[:, :k]
    sampled = np.zeros(len(teacher_TV), dtype=np.int64) if token_ids is None else token_ids
    teacher = TeacherRows(
        sampled,
        top_ids,
        np.take_along_axis(teacher_TV, top_ids, -1),
        np.take_along_axis(teacher_TV, sampled[:, None], -1)[:, 0],
    )
    student = StudentRows(
        sampled_logprobs_T=np.take_along_axis(student_TV, sampled[:, None], -1)[:, 0],
        top_logprobs_TK=np.take_along_axis(student_TV, top_ids, -1),
        argmax_ids_T=student_TV.argmax(-1),
        max_logprobs_T=student_TV.max(-1),
        lowest_logprobs_TN=np.sort(student_TV, -1)[:, : divergences.NUM_LOWEST],
    )
    return teacher, student


def dense_kl(teacher_TV, student_TV):
    return (np.exp(teacher_TV) * (teacher_TV - student_TV)).sum(-1)


def dense_acceptance(teacher_TV, student_TV):
    return np.exp(np.minimum(teacher_TV, student_TV)).sum(-1)


def test_one_value_per_token_matches_a_loop():
    teacher_TV, student_TV = distributions(seed=0)
    pair = rows(teacher_TV, student_TV, k=3, token_ids=np.array([0, 3, 5, 8]))
    kl_T, reverse_T = bucket_kl_nats(*pair), bucket_reverse_kl_nats(*pair)
    lower_T, upper_T = acceptance_bounds(*pair)
    sampled_T = pair[0].sampled_logprobs_T
    estimate_T = kl_estimate_nats(*pair, sampled_T)
    accepted_T = acceptance_estimate(*pair, sampled_T)
    assert kl_T.shape == (4,)
    seen = set()
    for t in range(4):
        top = sorted(range(V), key=lambda v: -teacher_TV[t, v])[:3]
        p = [math.exp(teacher_TV[t, v]) for v in top]
        q = [math.exp(student_TV[t, v]) for v in top]
        head = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        p_rest, q_rest = 1 - sum(p), 1 - sum(q)
        assert p_rest > MAX_SQRT_ERROR
        assert kl_T[t] == pytest.approx(head + p_rest * math.log(p_rest / q_rest), rel=1e-9)
        reverse = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
        reverse += q_rest * math.log(q_rest / p_rest)
        assert reverse_T[t] == pytest.approx(reverse, rel=1e-9)
        overlap = sum(map(min, p, q))
        assert lower_T[t] == pytest.approx(overlap)
        assert upper_T[t] == pytest.approx(overlap + min(p_rest, q_rest))
        y = pair[0].token_ids_T[t]
        p_y, q_y = math.exp(teacher_TV[t, y]), math.exp(student_TV[t, y])
        drawn = y not in top
        seen.add(drawn)
        assert estimate_T[t] == pytest.approx(head + drawn * math.log(p_y / q_y))
        assert accepted_T[t] == pytest.approx(overlap + drawn * min(1, q_y / p_y))
    assert seen == {True, False}


@given(seed=seeds, k=st.integers(1, V), scale=scales)
def test_bounds_hold(seed, k, scale):
    teacher_TV, student_TV = distributions(seed, scale=scale)
    pair = rows(teacher_TV, student_TV, k)
    kl_T, upper_T = bucket_kl_nats(*pair), kl_upper_bound_nats(*pair)
    dense_T = dense_kl(teacher_TV, student_TV)
    assert (kl_T >= -ROUNDING).all()
    assert (kl_T <= dense_T + ROUNDING).all()
    assert (dense_T <= upper_T + ROUNDING).all()
    reverse_T = bucket_reverse_kl_nats(*pair)
    assert (reverse_T >= 0).all()
    assert (reverse_T <= dense_kl(student_TV, teacher_TV) + ROUNDING).all()
    least_T, most_T = acceptance_bounds(*pair)
    accepted_T = dense_acceptance(teacher_TV, student_TV)
    assert (least_T <= accepted_T + 1e-12).all()
    assert (accepted_T <= most_T + 1e-12).all()


@given(seed=seeds, k=st.integers(1, 4), scale=st.floats(0.0, 3.0), num_lowest=st.integers(1, V))
def test_fewer_lowest_tokens_only_loosen_the_upper_bound(seed, k, scale, num_lowest):
    teacher_TV, student_TV = distributions(seed, scale=scale)
    teacher, student = rows(teacher_TV, student_TV, k)
    fewer = StudentRows(
        **vars(student) | {"lowest_logprobs_TN": student.lowest_logprobs_TN[:, :num_lowest]}
    )
    upper_T = kl_upper_bound_nats(teacher, student)
    assert (upper_T <= kl_upper_bound_nats(teacher, fewer) + 1e-9).all()


def test_the_upper_bound_is_that_of_the_worst_teacher():
    """All ways to share the rest among the student's least probable tokens, none of them worse."""
    logq_V = np.log([0.4, 0.3, 0.2, 0.05, 0.03, 0.015, 0.005])
    p_top = [0.55, 0.2]
    pair = rows(np.log([[*p_top, 0.13, 0.04, 0.04, 0.03, 0.01]]), logq_V[None], k=2)
    head = sum(p * (math.log(p) - logq_V[v]) for v, p in enumerate(p_top))
    worst = max(
        head + sum(p * (math.log(p) - logq_V[v]) for v, p in zip(ids, shares, strict=True))
        for shares in ([0.2, 0.05], [0.1, 0.1, 0.05], [0.15, 0.1], [0.05] * 5)
        for ids in itertools.permutations(range(2, 7), len(shares))
    )
    assert kl_upper_bound_nats(*pair) == pytest.approx([worst])


@given(seed=seeds, k=st.integers(1, V - 1))
def test_one_more_stored_token_never_loosens_a_bound(seed, k):
    pair_of = distributions(seed)
    fewer, more = (rows(*pair_of, n) for n in (k, k + 1))
    assert (bucket_kl_nats(*fewer) <= bucket_kl_nats(*more) + ROUNDING).all()
    for before_T, after_T in zip(acceptance_bounds(*fewer), acceptance_bounds(*more), strict=True):
        closer = np.abs(after_T - dense_acceptance(*pair_of))
        assert (closer <= np.abs(before_T - dense_acceptance(*pair_of)) + 1e-12).all()


@given(seed=seeds, k=st.integers(1, V), scale=scales)
def test_a_student_that_is_the_teacher(seed, k, scale):
    teacher_TV, _ = distributions(seed, scale=scale)
    pair = rows(teacher_TV, teacher_TV, k)
    assert bucket_kl_nats(*pair) == pytest.approx(0.0, abs=1e-12)
    assert bucket_reverse_kl_nats(*pair) == pytest.approx(0.0, abs=1e-12)
    assert acceptance_bounds(*pair)[1] == pytest.approx(1.0)


@given(seed=seeds)
def test_all_tokens_stored_leaves_nothing_unknown(seed):
    teacher_TV, student_TV = distributions(seed)
    pair = rows(teacher_TV, student_TV, V)
    dense_T = dense_kl(teacher_TV, student_TV)
    assert (dense_T > 1e-3).all()
    sampled_T = pair[0].sampled_logprobs_T
    for kl_T in (
        bucket_kl_nats(*pair),
        kl_upper_bound_nats(*pair),
        kl_estimate_nats(*pair, sampled_T),
    ):
        assert kl_T == pytest.approx(dense_T, abs=ROUNDING)
    reverse_T = dense_kl(student_TV, teacher_TV)
    assert bucket_reverse_kl_nats(*pair) == pytest.approx(reverse_T, abs=ROUNDING)
    for accepted_T in (*acceptance_bounds(*pair), acceptance_estimate(*pair, sampled_T)):
        assert accepted_T == pytest.approx(dense_acceptance(teacher_TV, student_TV), abs=1e-12)


@given(seed=seeds, k=st.integers(1, V))
def test_estimates_are_unbiased(seed, k):
    """Weighted by the teacher's probabilities, the estimates of all tokens sum to the truth."""
    teacher_TV, student_TV = distributions(seed, num_tokens=1)
    every_V = np.arange(V)
    pair = rows(np.repeat(teacher_TV, V, 0), np.repeat(student_TV, V, 0), k, token_ids=every_V)
    p_V = np.exp(teacher_TV[0])
    estimates_V = kl_estimate_nats(*pair, pair[0].sampled_logprobs_T)
    assert (p_V * estimates_V).sum() == pytest.approx(dense_kl(teacher_TV, student_TV)[0])
    accepted_V = acceptance_estimate(*pair, pair[0].sampled_logprobs_T)
    dense = dense_acceptance(teacher_TV, student_TV)[0]
    assert (p_V * accepted_V).sum() == pytest.approx(dense)


def test_draws_meet_the_full_kl_within_their_standard_error():
    num_draws = 20_000
    teacher_TV, student_TV = distributions(seed=3, num_tokens=1, scale=1.5)
    draws = np.random.default_rng(0).choice(V, size=num_draws, p=np.exp(teacher_TV[0]))
    repeated = (np.repeat(one_TV, num_draws, 0) for one_TV in (teacher_TV, student_TV))
    pair = rows(*repeated, k=3, token_ids=draws)
    found_T = kl_estimate_nats(*pair, pair[0].sampled_logprobs_T)
    error = found_T.std() / math.sqrt(num_draws)
    dense = dense_kl(teacher_TV, student_TV)[0]
    assert error < 0.02 * dense
    assert abs(found_T.mean() - dense) < 4 * error
    assert bucket_kl_nats(*pair).mean() < dense - 4 * error


@given(seed=seeds, k=st.integers(1, 4), padding=st.integers(1, 3), garbage=st.floats(-50, 0))
def test_invariant_to_padding(seed, k, padding, garbage):
    teacher, student = rows(*distributions(seed), k)
    padded_teacher = TeacherRows(
        teacher.token_ids_T,
        np.pad(teacher.top_token_ids_TK, ((0, 0), (0, padding)), constant_values=-1),
        np.pad(teacher.top_logprobs_TK, ((0, 0), (0, padding)), constant_values=-np.inf),
        teacher.sampled_logprobs_T,
    )
    filled = np.pad(student.top_logprobs_TK, ((0, 0), (0, padding)), constant_values=garbage)
    padded_student = StudentRows(**vars(student) | {"top_logprobs_TK": filled})
    for figure in (bucket_kl_nats, bucket_reverse_kl_nats, kl_upper_bound_nats, acceptance_bounds):
        padded = np.asarray(figure(padded_teacher, padded_student))
        assert padded == pytest.approx(np.asarray(figure(teacher, student)), rel=1e-12, abs=1e-15)


def test_rounding_to_float32_never_yields_a_log_of_zero():
    sure = np.array([[np.float64(np.float32(1e-7))]])
    teacher = TeacherRows(np.array([0]), np.array([[0]]), sure)
    student = StudentRows(np.array([0.0]), sure, np.array([0]), sure[0], np.array([[-40.0]]))
    assert bucket_kl_nats(teacher, student).tolist() == [0.0]
    assert bucket_reverse_kl_nats(teacher, student).tolist() == [0.0]


def test_a_teacher_that_rounding_made_sure_of_itself_does_not_raise_reverse_kl():
    """0.998 is stored as 1: the student's rest of 0.002 must not weigh as if the teacher had 0."""
    sure = np.log([[0.998]])
    signal = TokenDistributions.from_padded(np.array([[0]]), sure, sure[0])
    stored = TeacherRows.from_signal(np.array([0]), signal)
    rounded = TeacherRows(stored.token_ids_T, stored.top_token_ids_TK, np.zeros((1, 1)))
    student = StudentRows(sure[0], sure, np.array([0]), sure[0], np.array([[-40.0]]))
    assert bucket_reverse_kl_nats(rounded, student) == pytest.approx(0.0, abs=1e-4)


@pytest.mark.filterwarnings("error")
def test_a_stored_token_of_no_probability_adds_nothing():
    teacher = TeacherRows(np.array([0]), np.array([[0, 1]]), np.array([[0.0, -np.inf]]))
    student = StudentRows(
        np.array([-0.1]), np.log([[0.9, 0.05]]), np.array([0]), np.log([0.9]), np.array([[-40.0]])
    )
    for figure in (bucket_kl_nats, kl_upper_bound_nats):
        assert figure(teacher, student) == pytest.approx(-math.log(0.9), abs=1e-5)


@pytest.mark.parametrize("turns", [[(1, 3)], [(1, 1), (4, 2)]])
def test_ragged_rows_are_filled_up_with_absent_entries(make_conversation, turns):
    token_ids = [9, 4, 0, 6, 0, 6]
    entries = [[(4, 0.6), (1, 0.3)], [(0, 0.8)], [(6, 0.5), (2, 0.2), (3, 0.1)]]
    conversation = make_conversation(
        token_ids, turns, entries=entries, sampled_logprobs=[-1.0, -2.0, -3.0]
    )
    teacher = TeacherRows.of(conversation)
    assert teacher.token_ids_T.tolist() == [4, 0, 6]
    assert teacher.sampled_logprobs_T.tolist() == [-1.0, -2.0, -3.0]
    assert teacher.top_token_ids_TK.tolist() == [[4, 1, -1], [0, -1, -1], [6, 2, 3]]
    expected = [[0.6, 0.3, 0.0], [0.8, 0.0, 0.0], [0.5, 0.2, 0.1]]
    assert np.exp(teacher.top_logprobs_TK) == pytest.approx(np.array(expected), rel=1e-6)

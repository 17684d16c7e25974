"""Shape legend: T tokens, K stored log-probabilities per token, V vocabulary."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.fidelity import (
    SMALLEST_MASS,
    FidelityMeter,
    StudentRows,
    TeacherRows,
    bucket_kl_nats,
)

V = 9
ROUNDING = 2 * SMALLEST_MASS * abs(math.log(SMALLEST_MASS))
"""What clamped tails may add or take, at most."""

seeds = st.integers(0, 100_000)
scales = st.floats(0.0, 8.0)


def log_softmax(logits_TV):
    shifted = logits_TV - logits_TV.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def distributions(seed, num_tokens=4, scale=3.0):
    """Return log-probabilities [T][V] of a teacher and a student."""
    generator = np.random.default_rng(seed)
    shape = (2, num_tokens, V)
    return log_softmax(scale * generator.normal(size=shape))


def rows(teacher_TV, student_TV, k, token_ids=None):
    """Store the teacher's top k and gather the student at them."""
    top_ids = np.argsort(-teacher_TV, axis=-1)[:, :k]
    sampled = np.zeros(len(teacher_TV), dtype=np.int64) if token_ids is None else token_ids
    teacher = TeacherRows(sampled, top_ids, np.take_along_axis(teacher_TV, top_ids, -1))
    student = StudentRows(
        np.take_along_axis(student_TV, sampled[:, None], -1)[:, 0],
        np.take_along_axis(student_TV, top_ids, -1),
        student_TV.argmax(-1),
    )
    return teacher, student


def dense_kl(teacher_TV, student_TV):
    return (np.exp(teacher_TV) * (teacher_TV - student_TV)).sum(-1)


def test_one_value_per_token_matches_a_loop():
    teacher_TV, student_TV = distributions(seed=0)
    kl_T = bucket_kl_nats(*rows(teacher_TV, student_TV, k=3))
    assert kl_T.shape == (4,)
    for t in range(4):
        top = sorted(range(V), key=lambda v: -teacher_TV[t, v])[:3]
        p = [math.exp(teacher_TV[t, v]) for v in top]
        q = [math.exp(student_TV[t, v]) for v in top]
        expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        expected += (1 - sum(p)) * math.log((1 - sum(p)) / (1 - sum(q)))
        assert kl_T[t] == pytest.approx(expected, rel=1e-9)


@given(seed=seeds, k=st.integers(1, V), scale=scales)
def test_never_negative_and_never_above_the_dense_kl(seed, k, scale):
    teacher_TV, student_TV = distributions(seed, scale=scale)
    kl_T = bucket_kl_nats(*rows(teacher_TV, student_TV, k))
    assert (kl_T >= -ROUNDING).all()
    assert (kl_T <= dense_kl(teacher_TV, student_TV) + ROUNDING).all()


@given(seed=seeds, k=st.integers(1, V - 1))
def test_one_more_stored_token_never_lowers_it(seed, k):
    teacher_TV, student_TV = distributions(seed)
    fewer, more = (bucket_kl_nats(*rows(teacher_TV, student_TV, n)) for n in (k, k + 1))
    assert (fewer <= more + ROUNDING).all()


@given(seed=seeds, k=st.integers(1, V), scale=scales)
def test_zero_where_the_student_is_the_teacher(seed, k, scale):
    teacher_TV, _ = distributions(seed, scale=scale)
    assert bucket_kl_nats(*rows(teacher_TV, teacher_TV, k)) == pytest.approx(0.0, abs=1e-12)


@given(seed=seeds)
def test_all_tokens_stored_equals_the_dense_kl(seed):
    teacher_TV, student_TV = distributions(seed)
    kl_T = bucket_kl_nats(*rows(teacher_TV, student_TV, V))
    assert kl_T == pytest.approx(dense_kl(teacher_TV, student_TV), abs=ROUNDING)
    assert (kl_T > 1e-3).all()


@given(seed=seeds, k=st.integers(1, 4), padding=st.integers(1, 3), garbage=st.floats(-50, 0))
def test_invariant_to_padding(seed, k, padding, garbage):
    teacher, student = rows(*distributions(seed), k)
    padded_teacher = TeacherRows(
        teacher.token_ids_T,
        np.pad(teacher.top_token_ids_TK, ((0, 0), (0, padding)), constant_values=-1),
        np.pad(teacher.top_logprobs_TK, ((0, 0), (0, padding)), constant_values=-np.inf),
    )
    padded_student = StudentRows(
        student.sampled_logprobs_T,
        np.pad(student.top_logprobs_TK, ((0, 0), (0, padding)), constant_values=garbage),
        student.argmax_ids_T,
    )
    padded = bucket_kl_nats(padded_teacher, padded_student)
    assert padded == pytest.approx(bucket_kl_nats(teacher, student), rel=1e-12, abs=1e-15)


def test_rounding_to_float32_never_yields_a_log_of_zero():
    sure = np.array([[np.float64(np.float32(1e-7))]])
    teacher = TeacherRows(np.array([0]), np.array([[0]]), sure)
    student = StudentRows(np.array([0.0]), sure, np.array([0]))
    assert bucket_kl_nats(teacher, student).tolist() == [0.0]


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_stored_token_of_no_probability_adds_nothing():
    teacher = TeacherRows(np.array([0]), np.array([[0, 1]]), np.array([[0.0, -np.inf]]))
    student = StudentRows(np.array([-0.1]), np.log([[0.9, 0.05]]), np.array([0]))
    assert bucket_kl_nats(teacher, student) == pytest.approx(-math.log(0.9), abs=1e-5)


@pytest.mark.parametrize("turns", [[(1, 3)], [(1, 1), (4, 2)]])
def test_ragged_rows_are_filled_up_with_absent_entries(make_conversation, turns):
    token_ids = [9, 4, 0, 6, 0, 6]
    entries = [[(4, 0.6), (1, 0.3)], [(0, 0.8)], [(6, 0.5), (2, 0.2), (3, 0.1)]]
    conversation = make_conversation(token_ids, turns, entries=entries)
    teacher = TeacherRows.of(conversation)
    assert teacher.token_ids_T.tolist() == [4, 0, 6]
    assert teacher.top_token_ids_TK.tolist() == [[4, 1, -1], [0, -1, -1], [6, 2, 3]]
    expected = [[0.6, 0.3, 0.0], [0.8, 0.0, 0.0], [0.5, 0.2, 0.1]]
    assert np.exp(teacher.top_logprobs_TK) == pytest.approx(np.array(expected), rel=1e-6)


def meter_over(conversations):
    meter = FidelityMeter()
    for teacher, student in conversations:
        meter.add(teacher, student)
    return meter.result()


def conversations(num_conversations=5, seed=0):
    """Conversations of one, two, three … tokens whose fidelity differs."""
    generator = np.random.default_rng(seed)
    made = []
    for number in range(num_conversations):
        pair = distributions(seed + number, num_tokens=number + 1, scale=1.0 + number)
        made.append(rows(*pair, k=3, token_ids=generator.integers(0, V, size=number + 1)))
    return made


def test_means_are_over_tokens():
    made = conversations()
    result = meter_over(made)
    kl = np.concatenate([bucket_kl_nats(*one) for one in made])
    sampled = np.concatenate([student.sampled_logprobs_T for _, student in made])
    agrees = [
        student.argmax_ids_T[t] == teacher.top_token_ids_TK[t, 0]
        for teacher, student in made
        for t in range(len(teacher.token_ids_T))
    ]
    assert result.num_tokens == 15
    assert result.kl_nats == pytest.approx(kl.mean())
    assert result.nats_per_token == pytest.approx(-sampled.mean())
    assert result.top1_agreement == pytest.approx(sum(agrees) / 15)
    assert 0 < sum(agrees) < 15


def test_the_standard_error_is_that_of_a_ratio_over_conversations():
    made = conversations()
    sums = [sum(bucket_kl_nats(*one).tolist()) for one in made]
    counts = [len(teacher.token_ids_T) for teacher, _ in made]
    ratio = sum(sums) / sum(counts)
    squares = sum((s - ratio * n) ** 2 for s, n in zip(sums, counts, strict=True))
    mean_count = sum(counts) / len(counts)
    variance = squares / (len(counts) - 1) / len(counts) / mean_count**2
    assert meter_over(made).kl_standard_error == pytest.approx(math.sqrt(variance))


def test_the_standard_error_of_equal_lengths_is_that_of_a_mean():
    made = [rows(*distributions(seed, num_tokens=4), k=3) for seed in range(6)]
    means = [bucket_kl_nats(*one).mean() for one in made]
    expected = statistics.stdev(means) / math.sqrt(6)
    assert meter_over(made).kl_standard_error == pytest.approx(expected)


def test_one_conversation_has_no_standard_error_and_order_does_not_matter():
    made = conversations()
    assert meter_over(made[:1]).kl_standard_error == pytest.approx(0.0, abs=1e-12)
    forwards, backwards = meter_over(made), meter_over(reversed(made))
    assert vars(forwards) == pytest.approx(vars(backwards))

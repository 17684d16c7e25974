"""Shape legend: T tokens, K stored log-probabilities per token, V vocabulary."""

import json
import math
import statistics

import numpy as np
import pytest
from scipy.special import log_softmax

from potstill.divergences import (
    StudentRows,
    TeacherRows,
    acceptance_bounds,
    acceptance_estimate,
    bucket_kl_nats,
    bucket_reverse_kl_nats,
    kl_estimate_nats,
    kl_upper_bound_nats,
)
from potstill.fidelity import FidelityMeter
from tests.fixtures.facts import fidelity

V = 9


def rows(seed, num_tokens, k=3, scale=2.0):
    """Return rows of two random distributions and of random tokens."""
    generator = np.random.default_rng(seed)
    teacher_TV, student_TV = log_softmax(scale * generator.normal(size=(2, num_tokens, V)), axis=-1)
    token_ids_T = generator.integers(0, V, size=num_tokens)
    top_ids_TK = np.argsort(-teacher_TV, axis=-1)[:, :k]

    def at(logprobs_TV, ids_TK):
        return np.take_along_axis(logprobs_TV, ids_TK, -1)

    sampled_T1 = token_ids_T[:, None]
    teacher = TeacherRows(
        token_ids_T, top_ids_TK, at(teacher_TV, top_ids_TK), at(teacher_TV, sampled_T1)[:, 0]
    )
    return teacher, StudentRows(
        at(student_TV, sampled_T1)[:, 0],
        at(student_TV, top_ids_TK),
        student_TV.argmax(-1),
        student_TV.max(-1),
        np.sort(student_TV, -1),
    )


def conversations(num_conversations=5):
    """Conversations of one, two, three … tokens whose fidelity differs."""
    return [rows(n, num_tokens=n + 1, scale=1.0 + n) for n in range(num_conversations)]


def meter_over(made, drawn=True):
    meter = FidelityMeter(drawn=drawn)
    for teacher, student in made:
        meter.add(teacher, student)
    return meter.result()


def per_token(figure, made):
    return np.concatenate([figure(teacher, student) for teacher, student in made])


def at_draws(figure):
    return lambda teacher, student: figure(teacher, student, teacher.sampled_logprobs_T)


FIGURES = {
    "kl_nats": bucket_kl_nats,
    "kl_upper_bound_nats": kl_upper_bound_nats,
    "kl_estimate_nats": at_draws(kl_estimate_nats),
    "reverse_kl_nats": bucket_reverse_kl_nats,
    "acceptance_lower_bound": lambda *pair: acceptance_bounds(*pair)[0],
    "acceptance_upper_bound": lambda *pair: acceptance_bounds(*pair)[1],
    "acceptance_estimate": at_draws(acceptance_estimate),
    "nats_per_token": lambda _, student: -student.sampled_logprobs_T,
    "top1_agreement": lambda teacher, student: (
        student.argmax_ids_T == teacher.top_token_ids_TK[:, 0]
    ),
}
ERRORS = {
    "kl_standard_error": "kl_nats",
    "kl_estimate_standard_error": "kl_estimate_nats",
    "reverse_kl_standard_error": "reverse_kl_nats",
    "acceptance_standard_error": "acceptance_estimate",
    "top1_standard_error": "top1_agreement",
    "nats_standard_error": "nats_per_token",
}


@pytest.mark.parametrize("name", FIGURES)
def test_means_are_over_tokens(name):
    made = conversations()
    result = meter_over(made)
    expected = per_token(FIGURES[name], made)
    assert result.num_tokens == len(expected) == 15
    assert 0 < expected.mean() != expected[0]
    assert getattr(result, name) == pytest.approx(expected.mean())


@pytest.mark.parametrize("name", ERRORS)
def test_a_standard_error_is_that_of_a_ratio_over_conversations(name):
    made = conversations()
    sums = [float(per_token(FIGURES[ERRORS[name]], [one]).sum()) for one in made]
    counts = [len(teacher.token_ids_T) for teacher, _ in made]
    ratio = sum(sums) / sum(counts)
    squares = sum((s - ratio * n) ** 2 for s, n in zip(sums, counts, strict=True))
    mean_count = sum(counts) / len(counts)
    variance = squares / (len(counts) - 1) / len(counts) / mean_count**2
    assert getattr(meter_over(made), name) == pytest.approx(math.sqrt(variance))


def test_the_standard_error_of_equal_lengths_is_that_of_a_mean():
    made = [rows(seed, num_tokens=4) for seed in range(6)]
    means = [bucket_kl_nats(*one).mean() for one in made]
    expected = statistics.stdev(means) / math.sqrt(6)
    assert meter_over(made).kl_standard_error == pytest.approx(expected)


def test_one_conversation_has_no_standard_error_and_order_does_not_matter():
    made = conversations()
    assert meter_over(made[:1]).kl_standard_error == pytest.approx(0.0, abs=1e-12)
    forwards, backwards = meter_over(made), meter_over(reversed(made))
    assert vars(forwards) == pytest.approx(vars(backwards))


def test_nothing_is_estimated_of_tokens_that_are_no_draws():
    drawn, given = (meter_over(conversations(), drawn=d).model_dump() for d in (True, False))
    estimates = {name for name in drawn if "estimate" in name} | {"acceptance_standard_error"}
    assert {name for name, value in given.items() if value is None} == estimates
    assert None not in drawn.values()
    assert {**drawn, **dict.fromkeys(estimates)} == given


def test_a_student_with_other_tokens_has_nats_and_calibration_only():
    made = [
        (
            TeacherRows(
                teacher.token_ids_T, teacher.top_token_ids_TK[:, :0], teacher.top_logprobs_TK[:, :0]
            ),
            StudentRows(**vars(student) | {"top_logprobs_TK": student.top_logprobs_TK[:, :0]}),
        )
        for teacher, student in conversations()
    ]
    whole, result = meter_over(conversations()), meter_over(made)
    known = {name: value for name, value in vars(result).items() if value is not None}
    names = {"nats_per_token", "nats_standard_error", "num_tokens", "calibration_error"}
    assert set(known) == names
    assert known.items() <= vars(whole).items()


def test_the_held_out_loss_is_kl_where_it_is_known():
    known = fidelity(0.3, nats_per_token=2.0)
    assert known.loss_nats == 0.3
    assert known.model_copy(update={"kl_nats": None}).loss_nats == 2.0


def test_an_infinite_upper_bound_is_none_and_the_rest_is_json():
    teacher, student = rows(0, num_tokens=3)
    masked = np.pad(student.lowest_logprobs_TN, ((0, 0), (1, 0)), constant_values=-np.inf)
    result = meter_over([(teacher, StudentRows(**vars(student) | {"lowest_logprobs_TN": masked}))])
    assert result.kl_upper_bound_nats is None
    json.dumps(result.model_dump(), allow_nan=False)


def student_sure_of(confidence, num_tokens, hits):
    """Return rows whose most probable token has the confidence and is right `hits` times."""
    token_ids_T = (np.arange(num_tokens) >= hits).astype(np.int64)
    nothing_TK = np.empty((num_tokens, 0))
    logprobs_T = np.full(num_tokens, math.log(confidence))
    return (
        TeacherRows(token_ids_T, nothing_TK.astype(np.int64), nothing_TK),
        StudentRows(
            logprobs_T, nothing_TK, np.zeros_like(token_ids_T), logprobs_T, logprobs_T[:, None]
        ),
    )


def test_a_calibrated_student_has_no_calibration_error():
    made = [student_sure_of(hits / 20, num_tokens=20, hits=hits) for hits in range(1, 21)]
    assert meter_over(made).calibration_error == pytest.approx(0.0, abs=1e-12)


def test_an_over_confident_student_has_its_excess_as_calibration_error():
    made = [
        student_sure_of(0.9, num_tokens=10, hits=6),
        student_sure_of(0.9, num_tokens=10, hits=8),
        student_sure_of(0.3, num_tokens=20, hits=10),
    ]
    expected = (20 * abs(0.7 - 0.9) + 20 * abs(0.5 - 0.3)) / 40
    assert meter_over(made).calibration_error == pytest.approx(expected)


@pytest.mark.parametrize(("confidence", "same_bin"), [(0.39, True), (0.41, False)])
def test_confidences_are_gathered_in_fifteenths(confidence, same_bin):
    """Within a bin gaps of either sign offset each other: 6/15 = 0.4 is where the next begins."""
    made = [
        student_sure_of(0.35, num_tokens=20, hits=7 + 2),
        student_sure_of(confidence, num_tokens=100, hits=round(100 * confidence) - 10),
    ]
    excess = 20 * 0.1, 100 * 0.1
    expected = abs(excess[0] - excess[1]) if same_bin else sum(excess)
    assert meter_over(made).calibration_error == pytest.approx(expected / 120)

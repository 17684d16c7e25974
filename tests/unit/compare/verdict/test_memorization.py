import pytest

from compare.measurement.memorization import Completed, Memorized, Planted
from compare.verdict.memorization import MOST_LISTED, memorization_of


def rows(num_completed, number, *, num_before=None, num_by_teacher=0):
    return tuple(
        Completed(
            conversation_id=f"c{index}",
            cluster_id=str(index),
            by_student=index < num_completed,
            by_untrained=None if num_before is None else index < num_before,
            by_teacher=index < num_by_teacher,
        )
        for index in range(number)
    )


def found(trained=(), held_out=(), ranks=(), num_verbatim=0):
    canaries = tuple(
        Planted(rank=rank, num_candidates=128, is_verbatim=index < num_verbatim)
        for index, rank in enumerate(ranks)
    )
    memorized = Memorized(num_distinct=500, trained=trained, held_out=held_out, canaries=canaries)
    return memorization_of(memorized, 20, alpha=0.05)


def test_shares_have_the_bounds_of_their_own_and_the_surplus_those_of_both():
    result = found(rows(30, 100, num_before=10), rows(5, 80))
    assert [result.trained.share.value, result.untrained.share.value] == [0.3, 0.1]
    assert result.learned.value == pytest.approx(0.2)
    assert result.held_out.share.value == 5 / 80
    assert result.surplus.value == pytest.approx(0.3 - 5 / 80)
    assert result.surplus.lower < result.trained.share.lower - result.held_out.share.upper
    assert result.surplus.upper > result.trained.share.upper - result.held_out.share.lower
    assert len(result.verbatim) == MOST_LISTED


def test_a_hundred_answers_of_each_show_a_surplus_below_four_percent():
    assert found(rows(0, 100), rows(0, 100)).surplus.upper < 0.04


def test_completed_answers_that_the_teacher_does_not_write_are_named_first():
    result = found(rows(5, 100, num_by_teacher=3))
    assert result.num_by_teacher == 3
    assert result.verbatim == ("c3", "c4", "c0", "c1", "c2")
    assert result.exceeds(0.04)


def test_without_held_out_answers_nothing_is_taken_off():
    result = found(rows(3, 100))
    assert result.surplus == result.trained.share
    assert result.held_out is result.untrained is result.learned is None


def test_without_training_answers_only_canaries_are_left():
    result = found(ranks=[1, 64, 128], num_verbatim=1)
    assert result.trained is result.surplus is None
    assert result.canaries.exposures_bits == (7.0, 1.0, 0.0)
    assert result.canaries.num_verbatim == 1
    assert memorization_of(None, 20, alpha=0.05) is None


def test_ranks_by_chance_are_no_evidence_and_first_ranks_are():
    uniform = [1 + 128 * index // 10 for index in range(10)]
    assert found(ranks=uniform).canaries.p_value > 0.05
    assert found(ranks=[1]).canaries.p_value == pytest.approx(1 / 128)
    assert found(ranks=[1] * 10).canaries.p_value < 1e-10

import pytest

from compare.cost_config import ApiPrice, CostConfig
from compare.measurement.cost import Running, dollars_per_million_tokens, price

CONFIG = CostConfig(
    machine_dollars_per_hour=0.05,
    utilization=0.2,
    apis=(
        ApiPrice(
            name="cheap",
            dollars_per_million_output_tokens=0.5,
            dollars_per_million_input_tokens=0.1,
        ),
        ApiPrice(name="free", dollars_per_million_output_tokens=0.0),
    ),
)


def test_price_is_the_machines_over_what_it_writes():
    assert dollars_per_million_tokens(0.05, 20.0, 1.0) == pytest.approx(0.694, abs=1e-3)
    assert dollars_per_million_tokens(0.05, 20.0, 0.2) == pytest.approx(3.472, abs=1e-3)


def test_rows_are_compared_with_the_student():
    cost = price(CONFIG, Running("s", 20.0, True, 89, 300), Running("t", 5.0), 2.0)
    student, teacher, cheap, free = cost.rows
    assert student.dollars_per_million_output_tokens == pytest.approx(3.472, abs=1e-3)
    assert student.at_full_use == pytest.approx(0.694, abs=1e-3)
    assert (student.bytes, student.peak_memory_bytes) == (89, 300)
    assert student.break_even_utilization is None
    assert teacher.ratio_to_student == pytest.approx(4.0)
    assert teacher.break_even_utilization == pytest.approx(0.05)
    assert cheap.dollars_per_million_output_tokens == pytest.approx(0.5 + 2 * 0.1)
    assert cheap.break_even_utilization == pytest.approx(0.694 / 0.7, abs=1e-2)
    tokens = cheap.break_even_tokens_per_month
    assert tokens == pytest.approx(cheap.break_even_utilization * 730 * 3600 * 20)
    assert tokens / 1e6 * 0.7 == pytest.approx(0.05 * 730)
    assert free.break_even_utilization is None


def test_without_a_price_of_the_machine_speed_and_memory_are_told():
    cost = price(
        CostConfig(apis=CONFIG.apis), Running("s", 20.0, True, 89, 300), Running("t", 5.0), 2
    )
    student, teacher, cheap, _ = cost.rows
    assert (student.tokens_per_second, student.bytes, student.peak_memory_bytes) == (20.0, 89, 300)
    assert teacher.dollars_per_million_output_tokens is None
    assert cheap.dollars_per_million_output_tokens == pytest.approx(0.7)
    assert cheap.break_even_utilization is None


def test_teacher_on_a_machine_of_its_own_has_its_price():
    config = CONFIG.model_copy(update={"teacher_dollars_per_hour": 3.0})
    for is_here in (True, False):
        teacher = price(config, Running("s", 20.0), Running("t", 50.0, is_here), 2.0).rows[1]
        assert teacher.at_full_use == pytest.approx(3e6 / (50 * 3600))
    student, teacher, *_ = price(CONFIG, Running("s", 20.0), Running("t", 5.0, False), 2.0).rows
    assert student.dollars_per_million_output_tokens
    assert teacher.dollars_per_million_output_tokens is None, "nobody knows what it stands on"


def test_model_whose_speed_is_unknown_has_no_price():
    student, teacher, cheap, _ = price(CONFIG, Running("s", None), Running("t", 5.0), 2.0).rows
    assert student.at_full_use is None
    assert teacher.ratio_to_student is None
    assert cheap.ratio_to_student is None

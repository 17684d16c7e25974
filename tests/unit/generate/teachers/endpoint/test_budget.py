from concurrent.futures import ThreadPoolExecutor

import pytest

from generate.teachers.endpoint.budget import Budget
from generate.teachers.endpoint.config import EndpointConfig


def budget_of(**prices) -> Budget:
    settings = {"prompt_price": 2.0, "completion_price": 8.0, **prices}
    return Budget(EndpointConfig(base_url="http://a/v1", model="m", tokenizer="t", **settings))


def test_prices_are_by_the_million_tokens():
    assert budget_of().cost(500_000, 250_000) == pytest.approx(1.0 + 2.0)
    assert budget_of(completion_price=0.0).cost(1, 10**9) == pytest.approx(2e-6)


def test_what_is_held_back_counts_until_it_is_settled():
    budget = budget_of(max_cost=10.0)
    assert budget.hold(6.0)
    assert not budget.hold(5.0)
    budget.settle(6.0, 1.0)
    assert budget.spent == 1.0
    assert budget.hold(9.0)
    assert not budget.hold(0.5)


def test_a_lost_attempt_is_paid_and_another_needs_room():
    budget = budget_of(max_cost=10.0)
    assert budget.hold(4.0)
    assert budget.lose(4.0)
    assert not budget.lose(4.0)
    budget.settle(4.0, 0.0)
    assert budget.spent == 8.0


def test_without_a_cap_everything_fits():
    assert budget_of().hold(1e12)


def test_threads_cannot_break_the_cap():
    budget = budget_of(max_cost=100.0)

    def spend(_: int) -> bool:
        held = budget.hold(1.0)
        if held:
            budget.settle(1.0, 1.0)
        return held

    with ThreadPoolExecutor(8) as pool:
        held = list(pool.map(spend, range(1000)))
    assert sum(held) == budget.spent == 100.0

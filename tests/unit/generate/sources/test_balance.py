from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from generate.sources.balance import Balance
from generate.sources.raw_prompt import RawPrompt
from potstill.schema import Message


def written(count: int, weights: dict[str, float], rates: dict[str, float]) -> Counter[str]:
    """Let every category fail at its own rate, in rounds; return what is chosen."""
    balance, made = Balance(weights, count, seed=3), {}
    chosen: list[RawPrompt] = []
    first = 0
    seen: Counter[str] = Counter()
    while len(chosen) < count and first < 40 * count:
        numbers = range(first, first + count - len(chosen) + 3)
        balance.plan(numbers, made)
        for number in numbers:
            name = balance.category(number)
            seen[name] += 1
            # The share of attempts that succeed is the rate, evenly spread.
            if int(seen[name] * rates[name]) > int((seen[name] - 1) * rates[name]):
                question = Message(role="user", content=f"{name} {number}")
                made[number] = RawPrompt((question,), name)
        first = numbers.stop
        chosen = balance.choose(made)
    assert len(chosen) <= count
    return Counter(one.source for one in chosen)


def test_categories_that_fail_more_often_are_asked_for_more_often():
    counts = written(90, {"a": 1, "b": 1, "c": 1}, {"a": 1.0, "b": 0.3, "c": 0.7})
    assert counts == {"a": 30, "b": 30, "c": 30}


def test_shares_are_kept():
    assert written(80, {"a": 3, "b": 1}, {"a": 0.5, "b": 0.9}) == {"a": 60, "b": 20}


def test_an_exhausted_category_leaves_its_share_to_the_others():
    counts = written(60, {"a": 1, "b": 1, "c": 1}, {"a": 1.0, "b": 0.0, "c": 1.0})
    assert counts == {"a": 30, "c": 30}
    few = written(60, {"a": 1, "b": 1}, {"a": 1.0, "b": 0.1})
    assert few.total() == 60
    assert 0 < few["b"] < 30


@given(st.dictionaries(st.sampled_from("abcde"), st.floats(0.1, 9), min_size=1), st.integers(1, 60))
def test_the_first_round_has_the_wanted_shares(weights, count):
    balance = Balance(weights, count, seed=0)
    balance.plan(range(count), {})
    counts = Counter(balance.category(number) for number in range(count))
    for name, weight in weights.items():
        assert abs(counts[name] - count * weight / sum(weights.values())) < len(weights)

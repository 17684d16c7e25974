from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.quantization.planner import Option, choose, total

sizes = st.lists(
    st.tuples(st.integers(1, 60), st.floats(0, 1, allow_nan=False)), min_size=1, max_size=4
)
instances = st.lists(sizes, min_size=1, max_size=4)


def named(instance):
    return {
        f"tensor {index}": [Option(f"type {at}", *pair) for at, pair in enumerate(of_tensor)]
        for index, of_tensor in enumerate(instance)
    }


def best(options, max_bytes):
    """Try everything."""
    fitting = [
        total(combination)[1]
        for combination in product(*options.values())
        if total(combination)[0] <= max_bytes
    ]
    return min(fitting)


@given(instances, st.integers(0, 120))
def test_the_choice_fits_and_is_optimal_for_its_size(instance, spare):
    options = named(instance)
    smallest = sum(min(one.num_bytes for one in of_tensor) for of_tensor in options.values())
    chosen = choose(options, smallest + spare)
    num_bytes, kl_nats = total(chosen.values())
    assert chosen.keys() == options.keys()
    assert num_bytes <= smallest + spare
    largest_step = max(
        max(one.num_bytes for one in of_tensor) - min(one.num_bytes for one in of_tensor)
        for of_tensor in options.values()
    )
    # What the greedy choice misses is what the last step would have bought.
    assert kl_nats <= best(options, max(smallest + spare - largest_step, smallest)) + 1e-9


def test_bytes_are_spent_where_they_save_the_most_kl():
    options = {
        "sensitive": [Option("Q4", 40, 0.9), Option("Q8", 80, 0.1)],
        "robust": [Option("Q4", 40, 0.02), Option("Q8", 80, 0.01)],
    }
    chosen = choose(options, 125)
    assert {name: one.type for name, one in chosen.items()} == {"sensitive": "Q8", "robust": "Q4"}


def test_a_larger_type_without_lower_kl_is_never_chosen():
    options = {"tensor": [Option("Q4", 40, 0.5), Option("bad", 50, 0.6), Option("Q8", 80, 0.1)]}
    assert choose(options, 60)["tensor"].type == "Q4"


def test_too_few_bytes_are_refused():
    with pytest.raises(ValueError, match="1 bytes more than 39"):
        choose({"tensor": [Option("Q4", 40, 0.5)]}, 39)

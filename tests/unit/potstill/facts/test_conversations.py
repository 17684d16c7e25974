import pytest

from tests.fixtures.facts import conversations_facts


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"generation_temperature": 0.7}, False),
        ({"generation_top_p": 0.9}, False),
        ({"num_kept_per_prompt": 2, "num_sampled_per_prompt": 2}, True),
        ({"num_sampled_per_prompt": 4}, False),
        ({"generation_temperature": None, "generation_top_p": None}, False),
    ],
)
def test_draws_are_what_was_sampled_as_it_is_and_not_chosen(changes, expected):
    assert conversations_facts(**changes).tokens_are_draws is expected

"""FlatLogprobs as vLLM lays them out, without vLLM."""

from types import SimpleNamespace

import numpy as np
import pytest

from generate.teachers.flat_logprobs import to_distributions

POSITIONS = [
    [(9, -5.0), (4, -0.5), (5, -1.0), (6, -2.0)],
    [(4, -0.25), (4, -0.25), (7, -1.5), (8, -3.0)],
    [(7, -2.5), (5, -0.125), (7, -2.5), (1, -4.0)],
]
"""Of each: the token itself, then the top 3 by rank."""


def flat(positions) -> SimpleNamespace:
    """Lay positions out as vLLM's FlatLogprobs does; the first of a prompt has no entries."""
    one = SimpleNamespace(start_indices=[], end_indices=[], token_ids=[], logprobs=[])
    for position in positions:
        one.start_indices.append(len(one.token_ids))
        one.token_ids += [token_id for token_id, _ in position]
        one.logprobs += [logprob for _, logprob in position]
        one.end_indices.append(len(one.token_ids))
    return one


def check(found, positions, k) -> None:
    """Check that each position has its own token's log-probability and the top k."""
    ids_TK, logprobs_TK = found.padded()
    assert found.counts_T.tolist() == [k] * len(positions)
    assert ids_TK.tolist() == [[token for token, _ in one[1 : 1 + k]] for one in positions]
    assert logprobs_TK.tolist() == [[logprob for _, logprob in one[1 : 1 + k]] for one in positions]
    assert found.sampled_logprobs_T.tolist() == [one[0][1] for one in positions]


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("num_tokens", [1, 3])
def test_the_positions_of_a_completion_are_the_token_itself_and_the_top(k, num_tokens):
    positions = POSITIONS[:num_tokens]
    check(to_distributions(flat(positions), k), positions, k)


@pytest.mark.parametrize("start", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 3])
def test_the_positions_of_a_prompt_are_read_from_a_position_on(start, k):
    expected = POSITIONS[start - 1 :]
    check(to_distributions(flat([[], *POSITIONS]), k, start), expected, k)


def test_a_token_of_no_probability_is_no_entry():
    """vLLM gives minus infinity where a vocabulary has fewer tokens than were asked for."""
    position = [(9, -5.0), (4, -0.5), (5, -1.0), (0, -np.inf)]
    found = to_distributions(flat([position, POSITIONS[0]]), 3)
    assert found.counts_T.tolist() == [2, 3]
    assert found.top_token_ids_N.tolist() == [4, 5, 4, 5, 6]

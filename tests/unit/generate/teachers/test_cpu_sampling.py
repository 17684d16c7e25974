"""What is drawn and what is gathered from a step's logits."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from generate.teachers.cpu_sampling import (
    BLOCK_COLUMNS,
    draw,
    gather_logprobs,
    install,
    top_values,
)

NUM_DRAWS = 200_000


def frequencies(logits, num_draws=NUM_DRAWS):
    torch.manual_seed(0)
    drawn = draw(logits.expand(num_draws, -1).clone(), {})
    return np.bincount(drawn.numpy(), minlength=logits.shape[-1])


@pytest.mark.parametrize("vocabulary", [3, 16, 17, 100, 160, 173])
def test_tokens_are_drawn_as_often_as_they_are_probable(vocabulary):
    """Pearson's statistic over many draws stays within five standard deviations of its mean."""
    logits = 2 * torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(vocabulary))
    expected = NUM_DRAWS * logits.double().softmax(-1)[0].numpy()
    statistic = ((frequencies(logits) - expected) ** 2 / expected).sum()
    assert abs(statistic - (vocabulary - 1)) < 5 * np.sqrt(2 * (vocabulary - 1))


def test_a_wrong_distribution_would_be_noticed():
    logits = torch.zeros(1, 100)
    counts = frequencies(logits)
    expected = NUM_DRAWS * (logits + 0.05 * (torch.arange(100) < 50)).softmax(-1)[0].numpy()
    assert ((counts - expected) ** 2 / expected).sum() > 99 + 5 * np.sqrt(198)


@pytest.mark.parametrize("vocabulary", [20, 160, 1_003])
def test_what_is_impossible_is_never_drawn(vocabulary):
    possible = torch.tensor([0, BLOCK_COLUMNS - 1, vocabulary - 1])
    logits = torch.full((1, vocabulary), -torch.inf).index_fill(1, possible, 0.0)
    counts = frequencies(logits, 5_000)
    assert set(np.flatnonzero(counts)) == set(possible.tolist())


def test_one_certain_token_is_always_drawn():
    logits = torch.full((4, 49_152), -200.0)
    ids = torch.tensor([0, 777, 3_071, 49_151])
    assert draw(logits.scatter_(1, ids[:, None], 100.0), {}).tolist() == ids.tolist()


def test_a_request_with_a_seed_draws_the_same_in_any_batch():
    torch.manual_seed(0)
    logits = torch.randn(5, 1_000)

    def drawn(rows, position):
        generator = torch.Generator().manual_seed(7)
        first = draw(logits[rows].clone(), {position: generator})[position]
        return int(first), int(draw(logits[rows].clone(), {position: generator})[position])

    alone = drawn([3], 0)
    assert alone == drawn([0, 3, 4], 1) == drawn([1, 2, 3], 2)
    assert len({alone, drawn([2], 0)}) == 2


@pytest.mark.parametrize("vocabulary", [5, 64, 65, 500, 1003, 49_152])
@pytest.mark.parametrize("k", [1, 4, 5])
def test_the_greatest_values_are_those_of_topk(vocabulary, k):
    torch.manual_seed(vocabulary)
    values = torch.randn(7, vocabulary).log_softmax(-1)
    wanted = values.topk(k)
    found, columns = top_values(values, k)
    assert torch.equal(found, wanted.values)
    assert torch.equal(columns, wanted.indices)


def test_equal_values_are_taken_once_each():
    values = torch.zeros(3, 400).index_fill(1, torch.tensor([7, 399]), 1.0)
    found, columns = top_values(values, 6)
    assert found.tolist() == [[1, 1, 0, 0, 0, 0]] * 3
    assert all(len(set(row)) == 6 and {7, 399} <= set(row) for row in columns.tolist())
    assert torch.equal(values.gather(1, columns), found)


@pytest.mark.parametrize(("k", "p"), [(None, 0.9), (5, None), (None, None)])
def test_a_workers_sampler_keeps_its_own_way_for_top_k_and_top_p(k, p):
    own = SimpleNamespace(forward=lambda _, *rest: ("its own", *rest))
    sampler = SimpleNamespace(topk_topp_sampler=own)
    install(SimpleNamespace(model_runner=SimpleNamespace(sampler=sampler)))
    assert sampler.gather_logprobs is gather_logprobs
    found = own.forward(torch.tensor([[-torch.inf, 0.0]]), {}, k, p)
    if k is p is None:
        assert (found[0].tolist(), found[1]) == ([1], None)
    else:
        assert found == ("its own", {}, k, p)

"""The arrays and FlatLogprobs as vLLM lays them out, without vLLM."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from generate.teachers import vllm_arrays
from generate.teachers.vllm_arrays import (
    STEPS_PER_BLOCK,
    keep_arrays,
    prompt_distributions,
    sampled_distributions,
    vllms_own_objects,
)

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


def block(positions) -> tuple[np.ndarray, np.ndarray]:
    """Lay positions out as `keep_arrays` keeps them."""
    ids = [[token_id for token_id, _ in position] for position in positions]
    logprobs = [[logprob for _, logprob in position] for position in positions]
    return np.array(ids, dtype=np.int32), np.array(logprobs, dtype=np.float32)


def steps(positions) -> list[tuple[np.ndarray, np.ndarray]]:
    return [block([position]) for position in positions]


def check(found, positions, k) -> None:
    """Check that each position has its own token's log-probability and the top k."""
    ids_TK, logprobs_TK = found.padded()
    assert found.counts_T.tolist() == [k] * len(positions)
    assert ids_TK.tolist() == [[token for token, _ in one[1 : 1 + k]] for one in positions]
    assert logprobs_TK.tolist() == [[logprob for _, logprob in one[1 : 1 + k]] for one in positions]
    assert found.sampled_logprobs_T.tolist() == [one[0][1] for one in positions]


@pytest.mark.parametrize("lay_out", [steps, flat])
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("num_tokens", [1, 3])
def test_a_completions_rows_are_split_into_the_token_itself_and_the_top(lay_out, k, num_tokens):
    positions = POSITIONS[:num_tokens]
    check(sampled_distributions(lay_out(positions), k), positions, k)


@pytest.mark.parametrize("start", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 3])
def test_a_prompts_rows_are_taken_from_a_position_on(start, k):
    """Nothing predicts the first token, so row t of the blocks is position t + 1."""
    expected = POSITIONS[start - 1 :]
    check(prompt_distributions(flat([[], *POSITIONS]), start, k), expected, k)
    check(prompt_distributions([None, block(POSITIONS)], start, k), expected, k)


@pytest.mark.parametrize("sizes", [(1, 2), (2, 1), (1, 1, 1)])
def test_a_prompt_may_come_in_several_blocks(sizes):
    ends = np.cumsum(sizes)
    blocks = [block(POSITIONS[end - size : end]) for end, size in zip(ends, sizes, strict=True)]
    check(prompt_distributions([None, *blocks], 2, 3), POSITIONS[1:], 3)


def test_a_token_of_no_probability_is_no_entry():
    """vLLM gives minus infinity where a vocabulary has fewer tokens than were asked for."""
    position = [(9, -5.0), (4, -0.5), (5, -1.0), (0, -np.inf)]
    found = sampled_distributions(steps([position, POSITIONS[0]]), 3)
    assert found.counts_T.tolist() == [2, 3]
    assert found.top_token_ids_N.tolist() == [4, 5, 4, 5, 6]


class LogprobsProcessor:
    """vLLM's: its two methods that make lists."""

    def __init__(self) -> None:
        self.logprobs: list = []
        self.prompt_logprobs: list = [None]

    def _update_sample_logprobs(self, _):
        self.logprobs.append("a list")

    def _update_prompt_logprobs(self, _):
        self.prompt_logprobs.append("a list")


@pytest.fixture
def processor(monkeypatch) -> LogprobsProcessor:
    """A processor of a vLLM that keeps arrays from now on."""
    module = ModuleType("vllm.v1.engine.logprobs")
    module.LogprobsProcessor = type("LogprobsProcessor", (), dict(vars(LogprobsProcessor)))
    platforms = ModuleType("vllm.platforms")
    platforms.current_platform = SimpleNamespace(is_cpu=lambda: False)
    for name in ("vllm", "vllm.v1", "vllm.v1.engine"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for one in (module, platforms):
        monkeypatch.setitem(sys.modules, one.__name__, one)
    monkeypatch.setattr(vllm_arrays, "_VLLMS_OWN", {})
    keep_arrays()
    return module.LogprobsProcessor()


def test_the_steps_of_a_completion_are_kept(processor):
    for position in POSITIONS:
        processor._update_sample_logprobs((*block([position]), np.array([0]), None))
    check(sampled_distributions(processor.logprobs, 3), POSITIONS, 3)


def test_a_request_keeps_the_steps_of_the_whole_batch_for_a_while_only(processor):
    """vLLM hands out views into what all requests of a step got."""
    positions = (2 * POSITIONS * STEPS_PER_BLOCK)[: 2 * STEPS_PER_BLOCK + 1]
    for position in positions:
        ids, logprobs = block([position, position])
        processor._update_sample_logprobs((ids[:1], logprobs[:1], None, None))
    lengths = [len(ids) for ids, _ in processor.logprobs]
    assert lengths == [STEPS_PER_BLOCK, STEPS_PER_BLOCK, 1]
    assert all(ids.base is logprobs.base is None for ids, logprobs in processor.logprobs[:2])
    check(sampled_distributions(processor.logprobs, 3), positions, 3)


def test_the_blocks_of_a_prompt_are_kept(processor):
    for positions in (POSITIONS[:2], POSITIONS[2:]):
        processor._update_prompt_logprobs((*block(positions), np.zeros(len(positions)), None))
    check(prompt_distributions(processor.prompt_logprobs, 1, 3), POSITIONS, 3)


def test_vllms_own_way_can_be_had_for_a_while(processor):
    keep_arrays()
    with vllms_own_objects():
        processor._update_sample_logprobs((*block(POSITIONS[:1]), None, None))
    processor._update_sample_logprobs((*block(POSITIONS[:1]), None, None))
    assert processor.logprobs[0] == "a list"
    check(sampled_distributions(processor.logprobs[1:], 3), POSITIONS[:1], 3)

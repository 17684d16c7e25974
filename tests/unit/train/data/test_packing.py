"""Bins of conversations: all of them once, none too full, the same for the same seed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Lfm2Config, Lfm2ForCausalLM, LlamaConfig, LlamaForCausalLM

from potstill.errors import TrainingError
from train.data.batches import Collator
from train.data.cache import load_split
from train.data.packing import (
    CONVERSATIONS_PER_GROUP,
    best_fit_decreasing,
    pack,
    pack_split,
)
from train.students.checks import refuse_mixed_rows


def members(bins):
    return [one.tolist() for one in bins["conversations"][:]]


def test_each_conversation_is_in_one_bin_and_no_bin_holds_too_much():
    lengths = np.random.default_rng(0).integers(2, 513, size=3 * CONVERSATIONS_PER_GROUP + 7)
    bins = pack(lengths.astype(np.int32), 512, seed=1)
    assert sorted(number for one in members(bins) for number in one) == list(range(len(lengths)))
    sums = [int(lengths[one].sum()) for one in members(bins)]
    assert bins["length"][:].tolist() == sums
    assert max(sums) <= 512
    assert sum(sums) / (512 * len(bins)) > 0.95


def test_bins_are_decided_by_the_seed():
    lengths = np.random.default_rng(0).integers(2, 65, size=300).astype(np.int32)
    first, again, other = (members(pack(lengths, 64, seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_who_shares_a_bin_is_a_matter_of_chance():
    """If all conversations were packed at once, those of one length would stay in order."""
    lengths = np.full(4 * CONVERSATIONS_PER_GROUP, 32, dtype=np.int32)
    pairs = np.array(members(pack(lengths, 64, seed=0)))
    assert np.abs(pairs[:, 0] - pairs[:, 1]).mean() > CONVERSATIONS_PER_GROUP


@pytest.mark.parametrize(
    ("lengths", "bins"),
    [
        ([5, 4, 3, 2], [[0], [1], [2, 3]]),
        ([2, 4, 2, 2], [[1], [0, 2], [3]]),
        ([3, 2, 1, 1, 3], [[0, 1], [4, 2, 3]]),
        ([5], [[0]]),
    ],
)
def test_the_longest_come_first_and_go_where_they_fit_best(lengths, bins):
    found = best_fit_decreasing(np.array(lengths, dtype=np.int32), 5)
    assert sorted(map(sorted, found)) == sorted(map(sorted, bins))


def test_the_fullest_bin_with_room_is_taken():
    """First fit would put the 2 into the bin of the 6; of the 7 it leaves less."""
    found = best_fit_decreasing(np.array([7, 6, 4, 3, 2], dtype=np.int32), 10)
    assert sorted(map(sorted, found)) == [[0, 3], [1, 2], [4]]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=40), st.integers(20, 30))
def test_no_two_bins_could_be_one(lengths, capacity):
    lengths = np.array(lengths, dtype=np.int32)
    sums = sorted(int(lengths[one].sum()) for one in best_fit_decreasing(lengths, capacity))
    assert sum(sums) == lengths.sum()
    assert sums[-1] <= capacity
    assert len(sums) < 2 or sums[0] + sums[1] > capacity


def test_a_split_is_packed_by_the_lengths_that_are_left_of_it(stored):
    split = load_split(stored, "train", 5, stored / "scratch")
    bins, collator = pack_split(split, Collator(5, pad_token_id=0), seed=0)
    assert sorted(bins["length"][:]) == [4, 4, 5]
    assert collator(bins.__getitems__([0, 1, 2]))["input_ids"].shape == (3, 5)


def build(**settings):
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    return settings.pop("config")(**sizes, **settings)


@pytest.mark.parametrize("indices", [[0, 1, 2], [2]])
def test_a_model_that_keeps_conversations_apart_is_taken(stored, indices):
    model = LlamaForCausalLM(
        build(config=LlamaConfig, num_attention_heads=4, initializer_range=0.3)
    ).train()
    split = load_split(stored, "train", 9, stored / "scratch").select(indices)
    _, collator = pack_split(split, Collator(9, pad_token_id=0), seed=0)
    refuse_mixed_rows(model, collator)
    assert model.training


def test_a_model_that_runs_on_from_one_conversation_to_the_next_is_refused(stored):
    model = Lfm2ForCausalLM(
        build(
            config=Lfm2Config,
            initializer_range=0.3,
            num_attention_heads=4,
            num_key_value_heads=4,
            layer_types=["conv", "full_attention"],
        )
    )
    split = load_split(stored, "train", 9, stored / "scratch")
    _, collator = pack_split(split, Collator(9, pad_token_id=0), seed=0)
    with pytest.raises(TrainingError, match="mixes conversations"):
        refuse_mixed_rows(model, collator)

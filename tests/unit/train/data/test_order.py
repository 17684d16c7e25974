"""The order of conversations: similar lengths together, the same for the same seed and epoch."""

import numpy as np

from train.data.order import SimilarLengths


def test_batches_hold_similar_lengths_in_an_order_of_seed_and_epoch():
    lengths = np.random.default_rng(0).integers(1, 500, size=203)
    sampler = SimilarLengths(lengths, batch_size=4, seed=1)
    first, again = list(sampler), list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert first == again != second
    assert sorted(first) == sorted(second) == list(range(203))
    padded = sum(4 * lengths[first[i : i + 4]].max() for i in range(0, 200, 4))
    assert lengths.sum() / padded > 0.9

import numpy as np
import pytest
import torch

from quantize.quantization.layout import find_layout

ORIGINAL = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1])
def test_reordered_weights_are_put_back(axis):
    original = torch.tensor(ORIGINAL).half()
    order = np.random.default_rng(1).permutation(ORIGINAL.shape[axis])
    place = find_layout(original, original.float().numpy().take(order, axis))
    assert place is not None
    assert np.array_equal(place(ORIGINAL.take(order, axis)), ORIGINAL)


def test_equal_rows_keep_their_order():
    original = torch.zeros(3, 2)
    place = find_layout(original, np.zeros((3, 2), np.float32))
    assert place is not None
    changed = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    assert np.array_equal(place(changed), changed)


@pytest.mark.parametrize("converted", [ORIGINAL + 1, ORIGINAL[:5], ORIGINAL.reshape(4, 6)])
def test_other_weights_have_no_layout(converted):
    assert find_layout(torch.tensor(ORIGINAL), converted) is None

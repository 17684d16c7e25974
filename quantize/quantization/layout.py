"""Where a file's weights are in the checkpoint: its converter may reorder rows or columns.

Shape legend: R rows of a matrix, C columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Weights = NDArray[np.float32]


def find_layout(original: Tensor, converted_RC: Weights) -> Callable[[Weights], Weights] | None:
    """Return what brings a file's weights into the checkpoint's order.

    Args:
        original: The checkpoint's weights.
        converted_RC: The same in a file of F16 or finer.

    Returns:
        None if they are not the same weights in another order of rows or of columns.
    """
    original_RC, halved_RC = original.half().numpy(), converted_RC.astype(np.float16)
    if original_RC.shape != halved_RC.shape:
        return None
    if (order_R := _order(original_RC, halved_RC)) is not None:
        return lambda weights_RC: weights_RC[np.argsort(order_R)]
    if (order_C := _order(original_RC.T, halved_RC.T)) is not None:
        return lambda weights_RC: weights_RC[:, np.argsort(order_C)]
    return None


def _order(original: NDArray[Any], converted: NDArray[Any]) -> NDArray[np.intp] | None:
    """Return the original's row of each converted row; None if one has no counterpart."""
    rows: dict[bytes, list[int]] = defaultdict(list)
    for index in reversed(range(len(original))):
        rows[original[index].tobytes()].append(index)
    found = [rows[row.tobytes()].pop() for row in converted if rows.get(row.tobytes())]
    return np.array(found) if len(found) == len(original) else None

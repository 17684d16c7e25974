"""A GGUF file's parts, read within its bounds.

In: a path. Out: what the gguf package reads. Knows nothing of what should be there.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from gguf import GGUFReader
from numpy.typing import DTypeLike, NDArray


class BoundedReader(GGUFReader):  # type: ignore[misc]
    """The gguf package's reader, which looks for values beyond the end if a damaged count says so.

    Raises:
        ValueError: The file is none, or a part of it would lie beyond its end.
    """

    def _get(
        self,
        offset: int,
        dtype: DTypeLike,
        count: int = 1,
        override_order: Literal["I", "S", "<"] | None = None,
    ) -> NDArray[Any]:
        end = int(offset) + np.dtype(dtype).itemsize * int(count)
        if end > len(self.data):
            raise ValueError(f"a part up to byte {end} of {len(self.data)}")
        values: NDArray[Any] = super()._get(offset, dtype, count, override_order)
        return values

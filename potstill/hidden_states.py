"""Final hidden states in eight bits: the teacher's whole distribution, for whoever has its head.

In: the vectors that the teacher's output head multiplies, float32. Out: two Parquet columns, D + 2
bytes a token before compression, and back. Knows nothing of models.

Dimensions differ in size by orders of magnitude, so each is measured in its own root mean square
over the data set; positions differ little, by a scale of their own.

Shapes: T tokens, D width of the hidden state.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from potstill.errors import ArtifactError

Floats = npt.NDArray[np.float32]

MAX_LEVEL = 127
HIDDEN_STATE_COLUMNS = ("hidden_states", "hidden_state_scales")
"""Names of the columns: a conversation's int8 levels, D bytes for each token, and a float16 scale
for each token. The levels are one binary cell, because Parquet lists take four bytes a number."""
ROOT_MEAN_SQUARES = b"root_mean_squares"
"""Key in the first column's metadata: base64 of D little-endian float32."""
ERROR_BOUND = (
    "A stored hidden state is off by at most half a level, which is 1/127 or little more of the "
    "position's greatest value, each dimension measured in its root mean square."
)
_SMALLEST_SCALE = np.float16(2.0**-14)


@dataclass(frozen=True)
class HiddenStateCodec:
    """How a data set's hidden states are stored."""

    root_mean_squares_D: Floats
    """The unit of each dimension, above 0."""

    @classmethod
    def fit(cls, hidden_states: Iterable[Floats]) -> Self:
        """Measure the dimensions on a sample, arrays [T, D]: some thousand tokens are enough.

        Other states than those of the sample are stored as well; one that is greater in a dimension
        than any of them is stored with coarser levels.

        Raises:
            ValueError: There are no states, or a value is no finite number.
        """
        num_tokens, squares_D = 0, np.zeros(1)
        for hidden_TD in hidden_states:
            num_tokens += len(hidden_TD)
            squares_D = squares_D + np.square(hidden_TD, dtype=np.float64).sum(axis=0)
        if num_tokens == 0 or not np.isfinite(squares_D).all():
            raise ValueError(f"cannot measure {num_tokens} hidden states: none, or not all finite")
        units_D = np.sqrt(squares_D / num_tokens).astype(np.float32)
        return cls(np.where(units_D > 0, units_D, np.float32(1)))

    @classmethod
    def from_schema(cls, schema: pa.Schema) -> Self:
        """Read the units from the schema of a file that has the columns of `fields`.

        Raises:
            ArtifactError: They are not there.
        """
        try:
            stored = schema.field(HIDDEN_STATE_COLUMNS[0]).metadata[ROOT_MEAN_SQUARES]
            units_D = np.frombuffer(base64.b64decode(stored, validate=True), dtype="<f4")
            if len(units_D) == 0 or not (np.isfinite(units_D) & (units_D > 0)).all():
                raise ValueError("a unit is not above 0")
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise ArtifactError(
                "stored hidden states have no units",
                where=f"metadata of column {HIDDEN_STATE_COLUMNS[0]}",
                expected=ROOT_MEAN_SQUARES.decode(),
                found=error,
                hint="restore the file, or make the stage again with --force",
            ) from error
        return cls(units_D.astype(np.float32))

    def fields(self) -> list[pa.Field]:
        """Return the Parquet columns of hidden states, with the units in their metadata."""
        units = base64.b64encode(self.root_mean_squares_D.astype("<f4").tobytes())
        levels, scales = HIDDEN_STATE_COLUMNS
        return [
            pa.field(levels, pa.binary(), metadata={ROOT_MEAN_SQUARES: units}),
            pa.field(scales, pa.list_(pa.float16())),
        ]

    def encode(self, hidden_states: Sequence[Floats]) -> dict[str, pa.Array]:
        """Lay hidden states out as the columns of `fields`.

        Args:
            hidden_states: One array [T, D] for each conversation.

        Raises:
            ValueError: A width is not the codec's, or a value is no finite number.
        """
        hidden_TD = np.concatenate(hidden_states) / self.root_mean_squares_D
        if not np.isfinite(hidden_TD).all():
            raise ValueError("a hidden state is not finite")
        wanted_T = np.abs(hidden_TD).max(axis=1) / MAX_LEVEL
        scales_T = wanted_T.astype(np.float16)
        # Rounded up, so that the greatest value keeps a level.
        scales_T = np.where(
            scales_T < wanted_T, np.nextafter(scales_T, np.float16(np.inf)), scales_T
        )
        scales_T = np.maximum(scales_T, _SMALLEST_SCALE)
        levels_TD = np.rint(hidden_TD / scales_T[:, None].astype(np.float32)).astype(np.int8)
        ends = np.cumsum([0, *(len(part) for part in hidden_states)])
        levels, scales = HIDDEN_STATE_COLUMNS
        return {
            levels: pa.array(
                [part.tobytes() for part in np.split(levels_TD, ends[1:-1])], pa.binary()
            ),
            scales: pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(scales_T)),
        }

    def decode(self, batch: pa.RecordBatch) -> list[Floats]:
        """Return the hidden states [T, D] of each row of a batch with the columns of `fields`.

        Raises:
            ArtifactError: The columns of a row do not fit one another.
        """
        width = len(self.root_mean_squares_D)
        cells, scales = (batch.column(name) for name in HIDDEN_STATE_COLUMNS)
        num_bytes = pc.binary_length(cells).fill_null(0).to_numpy()
        lengths = scales.value_lengths().fill_null(0).to_numpy().astype(np.int64)
        if cells.null_count or (num_bytes != lengths * width).any():
            raise ArtifactError(
                "stored hidden states do not fit one another",
                expected=f"{width} bytes for each scale",
                found=f"{num_bytes.tolist()} bytes, {lengths.tolist()} scales",
                hint="restore the file, or make the stage again with --force",
            )
        scales_T: npt.NDArray[np.float16] = scales.flatten().to_numpy(zero_copy_only=False)
        return [
            np.frombuffer(cell.as_buffer(), np.int8).reshape(-1, width)
            * scales_T[end - length : end, None].astype(np.float32)
            * self.root_mean_squares_D
            for cell, length, end in zip(cells, lengths, np.cumsum(lengths), strict=True)
        ]

"""The teacher's next-token distributions along sampled tokens, and their Parquet columns.

In: the most probable tokens of each position with their log-probabilities, in nats.
Out: four ragged list columns of a few bytes per entry, and back.

A probability p is stored as the level round(255 * sqrt(p)): equal steps of sqrt(p) are, to first
order, equal steps of KL, which near p is 2 * (change of sqrt(p))^2. From one entry to the next the
levels only fall, so their drops are small numbers that compress well.

Shapes: T tokens, K entries at a padded position, N entries of all positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from potstill.errors import ArtifactError

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]

MAX_LEVEL = 255
"""Level of probability 1. Level 0 is not used: an entry below 1.5 / 255 in sqrt(p) has level 1."""

MAX_ENTRIES = 255
"""Most entries a position may keep; their number is stored in one byte."""

MAX_SQRT_ERROR = 1 / MAX_LEVEL
"""Bound of |sqrt(decoded p) - sqrt(p)|: half of it, but a whole step at positions whose nearest
levels would sum to more than probability 1."""

MAX_RELATIVE_ERROR = 2.0**-10
"""Bound of the relative error of a decoded log-probability of a sampled token."""

MAX_UINT16_VOCABULARY = 1 << 16
"""Token ids of larger vocabularies take four bytes before compression."""

ERROR_BOUNDS = (
    f"The square root of a stored probability is off by at most 1/{MAX_LEVEL}: a probability near "
    f"1 by at most {2 * MAX_SQRT_ERROR:.3f}, one of 0.01 by {0.2 * MAX_SQRT_ERROR:.4f}. The "
    "sampled token's log-probability is off by at most "
    f"{MAX_RELATIVE_ERROR:.1%} of itself."
)
"""The bounds in words, for cards."""

_DROPPED_BITS = 14
_MASS_OF_1 = MAX_LEVEL**2
SIGNAL_COLUMNS = ("sampled_logprobs", "num_top_logprobs", "top_token_ids", "top_probability_drops")
"""Names of the columns that `signal_fields` describes."""


@dataclass(frozen=True)
class TokenDistributions:
    """The teacher's raw next-token distributions along T >= 1 sampled tokens.

    Raises:
        ValueError: Shapes disagree, a position has no entry or its entries are not in order.
    """

    sampled_logprobs_T: Floats
    """Log-probability of the sampled token, which may not be among the entries."""
    counts_T: Counts
    """Entries kept at each position, at least one."""
    top_token_ids_N: npt.NDArray[np.int32]
    """Their token ids, position after position, most probable first."""
    top_logprobs_N: Floats
    """Their log-probabilities."""

    def __post_init__(self) -> None:
        num_tokens, num_entries = len(self.sampled_logprobs_T), len(self.top_token_ids_N)
        if num_tokens == 0 or len(self.counts_T) != num_tokens:
            raise ValueError(
                f"{num_tokens} sampled tokens but {len(self.counts_T)} positions, expected as "
                "many and at least one"
            )
        if self.counts_T.min() < 1:
            raise ValueError(f"position {self.counts_T.argmin()} has no entry")
        if not num_entries == len(self.top_logprobs_N) == self.counts_T.sum():
            raise ValueError(
                f"{self.counts_T.sum()} entries are counted but there are {num_entries} token ids "
                f"and {len(self.top_logprobs_N)} log-probabilities"
            )
        falls_N = np.ones(num_entries, dtype=bool)
        # Written so that NaN, for which every comparison is false, is found too.
        falls_N[1:] = self.top_logprobs_N[1:] <= self.top_logprobs_N[:-1]
        falls_N[self.starts_T] = ~np.isnan(self.top_logprobs_N[self.starts_T])
        if not falls_N.all() or np.isnan(self.sampled_logprobs_T).any():
            raise ValueError("log-probabilities must fall within a position and be numbers")

    @property
    def starts_T(self) -> Counts:
        """Index of each position's first entry."""
        return np.cumsum(self.counts_T) - self.counts_T

    @property
    def tail_mass_T(self) -> Floats:
        """Probability of all tokens without an entry, at least 0."""
        mass_T = np.add.reduceat(np.exp(self.top_logprobs_N.astype(np.float64)), self.starts_T)
        tail_T: Floats = np.maximum(1 - mass_T, 0).astype(np.float32)
        return tail_T

    def cut(self, *, top_mass: float, min_probability: float) -> Self:
        """Keep the smallest set of entries that reaches a mass, without improbable ones.

        Args:
            top_mass: Probability to reach; 1 keeps all entries.
            min_probability: Entries below it are left out; the first entry always stays.
        """
        probabilities_N = np.exp(self.top_logprobs_N.astype(np.float64))
        starts_T = self.starts_T
        before_N = np.cumsum(probabilities_N) - probabilities_N
        before_N -= np.repeat(before_N[starts_T], self.counts_T)
        kept_N = (before_N < top_mass) & (probabilities_N >= min_probability)
        kept_N[starts_T] = True
        return type(self)(
            self.sampled_logprobs_T,
            np.add.reduceat(kept_N, starts_T, dtype=np.int64),
            self.top_token_ids_N[kept_N],
            self.top_logprobs_N[kept_N],
        )

    @classmethod
    def from_padded(
        cls,
        token_ids_TK: npt.NDArray[Any],
        logprobs_TK: npt.NDArray[Any],
        sampled_logprobs_T: npt.NDArray[Any],
    ) -> Self:
        """Take a rectangle of entries, in any order within a position.

        Args:
            token_ids_TK: Token ids; -1 where there is no entry.
            logprobs_TK: Log-probabilities; entries of -inf are left out.

        Raises:
            ValueError: Shapes disagree, a position has no entry or a log-probability is NaN.
        """
        absent_TK = (token_ids_TK < 0) | np.isneginf(logprobs_TK)
        keys_TK = np.where(absent_TK, np.inf, -logprobs_TK)
        if (keys_TK[:, 1:] < keys_TK[:, :-1]).any():
            order_TK = np.argsort(keys_TK, axis=1, kind="stable")
            token_ids_TK, logprobs_TK, absent_TK = (
                np.take_along_axis(values_TK, order_TK, axis=1)
                for values_TK in (token_ids_TK, logprobs_TK, absent_TK)
            )
        if not absent_TK.any():
            num_tokens, num_entries = token_ids_TK.shape
            return cls(
                sampled_logprobs_T.astype(np.float32),
                np.full(num_tokens, num_entries),
                token_ids_TK.reshape(-1).astype(np.int32),
                logprobs_TK.reshape(-1).astype(np.float32),
            )
        return cls(
            sampled_logprobs_T.astype(np.float32),
            (~absent_TK).sum(axis=1, dtype=np.int64),
            token_ids_TK[~absent_TK].astype(np.int32),
            logprobs_TK[~absent_TK].astype(np.float32),
        )

    @classmethod
    def certain(cls, token_ids: npt.ArrayLike) -> Self:
        """Return distributions that give each token probability 1.

        Args:
            token_ids: [T].
        """
        token_ids_T = np.asarray(token_ids, dtype=np.int32)
        certain_T = np.zeros(len(token_ids_T), dtype=np.float32)
        return cls(certain_T, np.ones(len(token_ids_T), dtype=np.int64), token_ids_T, certain_T)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Join the positions of one or more parts, in order."""
        return cls(
            np.concatenate([part.sampled_logprobs_T for part in parts]),
            np.concatenate([part.counts_T for part in parts]),
            np.concatenate([part.top_token_ids_N for part in parts]),
            np.concatenate([part.top_logprobs_N for part in parts]),
        )

    def slice(self, start: int, end: int) -> Self:
        """Return positions `start` up to `end`, at least one."""
        starts_T = np.append(self.starts_T, len(self.top_token_ids_N))
        entries = slice(starts_T[start], starts_T[end])
        return type(self)(
            self.sampled_logprobs_T[start:end],
            self.counts_T[start:end],
            self.top_token_ids_N[entries],
            self.top_logprobs_N[entries],
        )

    def padded(self) -> tuple[npt.NDArray[np.int32], Floats]:
        """Return token ids [T, K], -1 where there is no entry, and log-probabilities, -inf there.

        K is the largest number of entries at a position.
        """
        present_TK = np.arange(self.counts_T.max()) < self.counts_T[:, None]
        token_ids_TK = np.full(present_TK.shape, -1, dtype=np.int32)
        logprobs_TK = np.full(present_TK.shape, -np.inf, dtype=np.float32)
        token_ids_TK[present_TK] = self.top_token_ids_N
        logprobs_TK[present_TK] = self.top_logprobs_N
        return token_ids_TK, logprobs_TK

    def split(self, lengths: Iterable[int]) -> list[Self]:
        """Undo `concatenate`: cut the positions into parts of the given lengths in tokens."""
        ends = np.cumsum(np.fromiter(lengths, dtype=np.int64))[:-1]
        entry_ends = np.concatenate([[0], np.cumsum(self.counts_T)])[ends]
        parts = zip(
            np.split(self.sampled_logprobs_T, ends),
            np.split(self.counts_T, ends),
            np.split(self.top_token_ids_N, entry_ends),
            np.split(self.top_logprobs_N, entry_ends),
            strict=True,
        )
        return [type(self)(*part) for part in parts]


def token_id_type(vocab_size: int) -> pa.DataType:
    """Return the narrowest type that holds a vocabulary's token ids."""
    return pa.uint16() if vocab_size <= MAX_UINT16_VOCABULARY else pa.uint32()


def signal_fields(vocab_size: int) -> list[pa.Field]:
    """Return the Parquet columns that hold a conversation's distributions."""
    types = (pa.float32(), pa.uint8(), token_id_type(vocab_size), pa.uint8())
    return [
        pa.field(name, pa.list_(type_)) for name, type_ in zip(SIGNAL_COLUMNS, types, strict=True)
    ]


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """Return the options for writing a table with the columns of `signal_fields`.

    The result goes to `pyarrow.parquet.write_table` or `ParquetWriter`. BYTE_STREAM_SPLIT stores
    the high bytes of all numbers side by side, which zstd compresses better.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    leaves = pq.ParquetFile(sink.getvalue()).schema
    paths = [leaves.column(index).path for index in range(len(leaves))]
    split = [path for path in paths if path.partition(".")[0] in SIGNAL_COLUMNS]
    return {
        "compression": "zstd",
        "use_dictionary": [path for path in paths if path not in split],
        "column_encoding": dict.fromkeys(split, "BYTE_STREAM_SPLIT"),
    }


def encode(distributions: Sequence[TokenDistributions], vocab_size: int) -> dict[str, pa.Array]:
    """Return distributions as the columns of `signal_fields`, one row each.

    Raises:
        ValueError: A token id is outside the vocabulary, or a position has too many entries.
    """
    whole = TokenDistributions.concatenate(distributions)
    low, high = whole.top_token_ids_N.min(), whole.top_token_ids_N.max()
    if low < 0 or high >= vocab_size:
        raise ValueError(f"token ids {low} to {high} are outside a vocabulary of {vocab_size}")
    if whole.counts_T.max() > MAX_ENTRIES:
        raise ValueError(f"{whole.counts_T.max()} entries at a position, at most {MAX_ENTRIES}")
    token_ends = np.cumsum([0, *(len(part.counts_T) for part in distributions)])
    entry_ends = np.cumsum([0, *(len(part.top_token_ids_N) for part in distributions)])
    columns: tuple[tuple[Counts, npt.NDArray[Any]], ...] = (
        (token_ends, _rounded(whole.sampled_logprobs_T)),
        (token_ends, whole.counts_T),
        (entry_ends, whole.top_token_ids_N),
        (entry_ends, _to_drops(_to_levels(whole), whole)),
    )
    return {
        field.name: pa.ListArray.from_arrays(
            pa.array(ends, pa.int32()),
            pa.array(values.astype(field.type.value_type.to_pandas_dtype())),
        )
        for field, (ends, values) in zip(signal_fields(vocab_size), columns, strict=True)
    }


def decode(batch: pa.RecordBatch) -> list[TokenDistributions]:
    """Return the distributions of each row of a batch that has the columns of `signal_fields`.

    Raises:
        ArtifactError: The columns of a row are inconsistent.
    """
    columns = [batch.column(name) for name in SIGNAL_COLUMNS]
    values = {
        name: column.flatten().to_numpy(zero_copy_only=False)
        for name, column in zip(SIGNAL_COLUMNS, columns, strict=True)
    }
    if batch.num_rows == 0:
        return []
    try:
        lengths = _row_lengths(columns, values["num_top_logprobs"].astype(np.int64))
        return decode_row(values).split(lengths)
    except ValueError as error:
        raise ArtifactError(
            "stored log-probabilities are inconsistent",
            expected=f"columns as signal_fields lays them out: {', '.join(SIGNAL_COLUMNS)}",
            found=error,
            hint="restore the file, or make the stage again with --force",
        ) from error


def decode_row(row: Mapping[str, npt.NDArray[Any]]) -> TokenDistributions:
    """Return the distributions of one row, whose columns are arrays.

    Raises:
        ValueError: The columns are inconsistent.
    """
    sampled_T, counts_T, token_ids_N, drops_N = (row[name] for name in SIGNAL_COLUMNS)
    counts_T = counts_T.astype(np.int64)
    starts_T = np.cumsum(counts_T) - counts_T
    fallen_N = np.cumsum(drops_N, dtype=np.int64)
    levels_N = MAX_LEVEL - fallen_N + np.repeat((fallen_N - drops_N)[starts_T], counts_T)
    if levels_N.min() < 1:
        raise ValueError("the drops of a position sum to a level below 1")
    logprobs_N = 2 * np.log(levels_N / MAX_LEVEL)
    return TokenDistributions(
        sampled_T, counts_T, token_ids_N.astype(np.int32), logprobs_N.astype(np.float32)
    )


def _row_lengths(columns: Sequence[pa.Array], counts_T: Counts) -> Counts:
    """Return each row's tokens, after a check that its columns agree."""
    if any(column.null_count for column in columns):
        raise ValueError("a row has no log-probabilities")
    sampled, counted, ids, drops = (
        column.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64) for column in columns
    )
    if len(counts_T) == 0 or min(sampled.min(), counts_T.min()) < 1:
        raise ValueError("a row has no tokens, or a token no entries")
    if (sampled != counted).any() or (ids != drops).any():
        raise ValueError("the lists of a row differ in length")
    entries = np.add.reduceat(counts_T, np.cumsum(counted) - counted)
    if (entries != ids).any():
        raise ValueError("a row has more or fewer entries than are counted")
    lengths: Counts = sampled
    return lengths


def _rounded(values_T: Floats) -> Floats:
    """Round float32 to 9 bits after the leading one: the low bytes become zeros."""
    bits_T = values_T.astype(np.float32).view(np.uint32) + np.uint32(1 << (_DROPPED_BITS - 1))
    return (bits_T >> _DROPPED_BITS << _DROPPED_BITS).view(np.float32)


def _to_levels(whole: TokenDistributions) -> Counts:
    """Return the nearest levels [N], lower ones where the nearest would sum to more than mass 1.

    All levels of a position are lowered equally, which keeps their order, and as little as
    possible. Entries of level 1 are not counted in the sum: they can be a whole level above their
    probability, and lowering the other levels for them would add more error than it removes.
    """
    scaled_N = MAX_LEVEL * np.exp(np.minimum(whole.top_logprobs_N.astype(np.float64), 0) / 2)
    levels_N = np.rint(scaled_N)
    for lowered_by in (1 / 8, 1 / 4, 3 / 8, 1 / 2):
        mass_T = np.add.reduceat(np.where(levels_N > 1, levels_N**2, 0), whole.starts_T)
        over_N = np.repeat(mass_T > _MASS_OF_1, whole.counts_T)
        levels_N = np.where(over_N, np.floor(scaled_N + 1 / 2 - lowered_by), levels_N)
    found_N: Counts = np.maximum(levels_N, 1).astype(np.int64)
    return found_N


def _to_drops(levels_N: Counts, whole: TokenDistributions) -> Counts:
    """Return the drop of each level from the one before; of a position's first, from 255."""
    before_N = np.roll(levels_N, 1)
    before_N[whole.starts_T] = MAX_LEVEL
    return before_N - levels_N

"""The encodings that `codec.py` compares: potstill's, and others re-implemented from descriptions.

In: the most probable tokens at all positions. Out: how many bytes they take in Parquet, and what is
decoded from them. Knows nothing of how that is compared.

Shapes: T positions, K entries, N draws, V vocabulary, D width, B bytes of a position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from potstill.distributions import TokenDistributions, decode, encode, parquet_options

OURS = "potstill"
DISTILLKIT_BUDGET, DISTILLKIT_RECOMMENDED = "DistillKit budget", "DistillKit recommended"
DISTILLKIT = {
    DISTILLKIT_BUDGET: (50, 1, (0, 1, 0.5)),
    DISTILLKIT_RECOMMENDED: (128, 16, (0, 1, 2, 3, 4, 0.5)),
}
"""Entries, how many of them exact in bfloat16, and the powers of rank that fit the others."""
RANDOM_SAMPLING_ENTRIES, RANDOM_SAMPLING_BYTES, MAX_DRAWS = 12, 3, 400


@dataclass(frozen=True)
class Answers:
    """Sampled answers, and the hidden states that predicted their tokens."""

    hidden_TD: torch.Tensor
    sampled_T: torch.Tensor
    lengths: list[int]
    tested_T: np.ndarray
    head_VD: torch.Tensor


@dataclass(frozen=True)
class Top:
    """The most probable tokens of all positions at one sharpness."""

    ids_TK: np.ndarray
    logprobs_TK: np.ndarray
    sampled_T: np.ndarray
    entropy_bits: float


@dataclass(frozen=True)
class Stored:
    """The answers in an encoding."""

    name: str
    num_bytes: float
    """Of all answers."""
    ids_TK: np.ndarray
    """-1 where there is no entry."""
    probabilities_TK: np.ndarray
    is_estimate: bool = False
    """Only tested positions are stored, and tokens that are not stored have probability 0."""


def written(table: pa.Table, **options: Any) -> tuple[int, pa.RecordBatch]:  # noqa: ANN401
    """Write a table to Parquet; return the file's size, and what is read from it."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **({"compression": "zstd"} | options))
    data = sink.getvalue()
    (batch,) = pq.read_table(pa.BufferReader(data)).combine_chunks().to_batches()
    return data.size, batch


def listed(values: np.ndarray, answers: Answers) -> pa.Array:
    """Return a list column, a row for each conversation, of values [T, ...]."""
    ends = np.cumsum([0, *answers.lengths]) * (values.size // len(values))
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(values.reshape(-1)))


def ours(top: Top, answers: Answers, min_probability: float, k: int) -> Stored:
    """Store as the generate stage does."""
    whole = TokenDistributions.from_padded(
        top.ids_TK[:, :k], top.logprobs_TK[:, :k], top.sampled_T
    ).cut(top_mass=1.0, min_probability=min_probability)
    table = pa.table(encode(whole.split(answers.lengths), len(answers.head_VD)))
    num_bytes, batch = written(table, **parquet_options(table.schema))
    ids_TK, logprobs_TK = TokenDistributions.concatenate(decode(batch)).padded()
    name = f"{OURS} p >= {min_probability:.3g}, k <= {k}"
    return Stored(name, num_bytes, ids_TK, np.exp(logprobs_TK.astype(np.float64)))


def ours_within(top: Top, answers: Answers, bytes_per_token: float, k: int) -> Stored:
    """Store as many entries as fit into a number of bytes."""
    low, high = 1e-5, 1e-1
    for _ in range(8):
        middle = (low * high) ** 0.5
        fits = ours(top, answers, middle, k).num_bytes <= bytes_per_token * len(top.ids_TK)
        low, high = (low, middle) if fits else (middle, high)
    return ours(top, answers, high, k)


def plain(top: Top, answers: Answers, k: int) -> Stored:
    """Store token ids and log-probabilities as they are."""
    ids_TK, logprobs_TK = top.ids_TK[:, :k].astype(np.int32), top.logprobs_TK[:, :k]
    columns = {"ids": listed(ids_TK, answers), "logprobs": listed(logprobs_TK, answers)}
    num_bytes, _ = written(pa.table(columns))
    return Stored(f"top-{k}, int32 + float32", num_bytes, ids_TK, np.exp(logprobs_TK))


def distillkit(top: Top, answers: Answers, name: str) -> Stored:
    """Store some ranks exactly and a curve through the others."""
    k, num_exact, powers = DISTILLKIT[name]
    ids_TK, logprobs_TK = top.ids_TK[:, :k], top.logprobs_TK[:, :k].astype(np.float64)
    exact = torch.from_numpy(logprobs_TK[:, :num_exact]).to(torch.bfloat16)
    curves = np.stack([np.arange(k - num_exact, dtype=float) ** power for power in powers], axis=1)
    terms = np.linalg.lstsq(curves, logprobs_TK[:, num_exact:].T)[0].T.astype(np.float32)
    # The vocabulary needs 16 bits an id, so that its bit-packing is that of uint16.
    assert len(answers.head_VD).bit_length() == 16
    packed = [ids_TK.astype(np.uint16), exact.view(torch.uint16).numpy(), terms]
    blob_TB = np.concatenate([np.ascontiguousarray(one).view(np.uint8) for one in packed], axis=1)
    cells = np.split(blob_TB, np.cumsum(answers.lengths)[:-1])
    blobs = pa.array([cell.tobytes() for cell in cells], pa.binary())
    num_bytes, _ = written(pa.table({"blob": blobs}), use_dictionary=False)
    decoded_TK = np.concatenate([exact.double().numpy(), terms.astype(float) @ curves.T], axis=1)
    return Stored(f"{name} ({blob_TB.shape[1]} B)", num_bytes, ids_TK, np.exp(decoded_TK))


def random_sampling(probabilities_TV: Iterator[torch.Tensor], num_tokens: int) -> Stored:
    """Store the counts of tokens drawn from the teacher, as many as make 36 bytes on average."""
    torch.manual_seed(1)
    draws_TN = torch.cat([one.multinomial(MAX_DRAWS, replacement=True) for one in probabilities_TV])
    is_new_TN = np.zeros(draws_TN.shape)
    for row, draws in enumerate(draws_TN.numpy()):
        is_new_TN[row, np.unique(draws, return_index=True)[1]] = 1
    num_unique_N = is_new_TN.mean(axis=0).cumsum()
    num_draws = int(np.abs(num_unique_N - RANDOM_SAMPLING_ENTRIES).argmin()) + 1
    ids_TK = np.full((len(draws_TN), num_draws), -1)
    probabilities_TK = np.zeros(ids_TK.shape)
    for row, draws in enumerate(draws_TN[:, :num_draws].numpy()):
        ids, counts = np.unique(draws, return_counts=True)
        ids_TK[row, : len(ids)] = ids
        probabilities_TK[row, : len(ids)] = counts / num_draws
    return Stored(
        f"random sampling, {num_draws} draws",
        RANDOM_SAMPLING_BYTES * num_unique_N[num_draws - 1] * num_tokens,
        ids_TK,
        probabilities_TK,
        is_estimate=True,
    )

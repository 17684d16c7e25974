"""The decoding state of one model: a llama.cpp context, one batch, many sequences.

In: chunks of tokens of several sequences. Out: logits rows. One thread owns it.
Knows nothing of requests, sampling or scheduling. Checks first what would abort the process in C.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt

from potstill.errors import BackendError
from serve.engine.model import GgufModel

KV_TYPE = 30
"""GGML_TYPE_BF16 of ggml.h, the number format of keys and values. With f16, llama.cpp's CPU flash
attention sums in another order for 64 or more tokens, and for a lone token after 512: an answer
would depend on its neighbours. With bf16 it has one order only, so Q4_0, Q4_1 and Q8_0 models
answer the same at any load."""

CELL_BLOCK = 256
"""llama.cpp rounds the cells per sequence down to a multiple of this."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive tokens of one sequence, to be decoded in one step."""

    sequence_id: int
    start: int
    """Position of the first token: the number of tokens the sequence holds already."""
    token_ids: Sequence[int]
    wants_logits: bool
    """Whether the distribution after the last token is needed."""


class DecodeContext:
    """Key-value memory for `num_sequences` sequences of at most `context_tokens` tokens each.

    Every sequence has cells of its own, filled in order of position. In memory that all sequences
    share (kv_unified) a sequence's cells lie where others have left room, attention sums over them
    in that order, and the last bits of an answer would depend on what ran before it.

    Raises:
        BackendError: llama.cpp cannot make the context, mostly for want of memory.
    """

    def __init__(
        self,
        model: GgufModel,
        *,
        num_sequences: int,
        context_tokens: int,
        max_batch_tokens: int,
        threads: int,
    ) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = num_sequences * -(-context_tokens // CELL_BLOCK) * CELL_BLOCK
        params.n_seq_max = num_sequences
        params.n_outputs_max = num_sequences
        params.kv_unified = False
        params.type_k = params.type_v = KV_TYPE
        params.n_batch = params.n_ubatch = max_batch_tokens
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        self.pointer = llama_cpp.llama_init_from_model(model.pointer, params)
        if not self.pointer:
            raise BackendError(
                "no decoding context can be made",
                where=model.path,
                found=f"{params.n_ctx} tokens of key-value memory asked for",
                hint="lower serve.max_parallel or serve.context_tokens",
            )
        self._memory = llama_cpp.llama_get_memory(self.pointer)
        self._vocab_size = model.vocab_size
        self._num_sequences = num_sequences
        self._allocate_batch(max_batch_tokens)

    def close(self) -> None:
        """Free the memory; samplers that read from this context must be freed before."""
        llama_cpp.llama_free(self.pointer)

    def decode(self, chunks: Sequence[Chunk]) -> list[int]:
        """Run the model over all chunks at once.

        Returns:
            For each chunk the index of its last token, to read logits by.

        Raises:
            BackendError: llama.cpp refused the batch. The chunks' sequences must then be cut back
                with `forget` to what they held before.
        """
        end = 0
        last_indices = []
        for chunk in chunks:
            begin, end = end, end + len(chunk.token_ids)
            if not begin < end <= len(self._tokens):
                raise BackendError("a batch must have 1 to max_batch_tokens tokens", found=end)
            self._tokens[begin:end] = chunk.token_ids
            self._positions[begin:end] = np.arange(chunk.start, chunk.start + end - begin)
            self._sequence_ids[begin:end] = chunk.sequence_id
            self._wants_logits[begin:end] = 0
            self._wants_logits[end - 1] = chunk.wants_logits
            last_indices.append(end - 1)
        self._batch.n_tokens = end
        status = llama_cpp.llama_decode(self.pointer, self._batch)
        if status != 0:
            raise BackendError("llama_decode failed", found=f"status {status}")
        return last_indices

    def logits(self, index: int) -> npt.NDArray[np.float32]:
        """Copy the raw logits [V] after the batch token at `index`, which must have wanted them."""
        pointer = llama_cpp.llama_get_logits_ith(self.pointer, index)
        return np.ctypeslib.as_array(pointer, (self._vocab_size,)).copy()

    def forget(self, sequence_id: int, start: int) -> None:
        """Drop a sequence's tokens from position `start` on."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence_id, start, -1)

    def copy(self, source_id: int, target_id: int) -> None:
        """Let a sequence hold what another one holds; the bytes move before the next decode."""
        llama_cpp.llama_memory_seq_cp(self._memory, source_id, target_id, -1, -1)

    def _allocate_batch(self, capacity: int) -> None:
        """Lay the batch over numpy arrays, which a chunk then fills with one write each."""
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._sequence_ids = np.zeros(capacity, np.int32)
        self._counts = np.ones(capacity, np.int32)
        self._wants_logits = np.zeros(capacity, np.int8)
        int_pointer = ctypes.POINTER(ctypes.c_int32)
        rows = range(
            self._sequence_ids.ctypes.data, self._sequence_ids.ctypes.data + 4 * capacity, 4
        )
        self._row_pointers = (int_pointer * capacity)(
            *(ctypes.cast(row, int_pointer) for row in rows)
        )
        self._batch = llama_cpp.llama_batch(
            n_tokens=0,
            token=self._tokens.ctypes.data_as(int_pointer),
            embd=None,
            pos=self._positions.ctypes.data_as(int_pointer),
            n_seq_id=self._counts.ctypes.data_as(int_pointer),
            seq_id=self._row_pointers,
            logits=self._wants_logits.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )


def physical_cores() -> int:
    """Count the physical cores this process may run on; hyper-threads count once."""
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text() if siblings.is_file() else str(cpu))
    return len(cores)

"""The decoding state of one model: a llama.cpp context, one batch, many sequences.

In: chunks of tokens of several sequences. Out: rows of logits, or of hidden states. Only one thread
may use it.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt

from potstill.errors import BackendError
from potstill.processor import usable_cpus
from serve.engine.model import GgufModel

HALF, BRAIN_HALF = 1, 30
"""GGML_TYPE_F16 and GGML_TYPE_BF16 of ggml.h, number formats of keys and values. With both in f16,
llama.cpp's CPU flash attention sums in another order for 64 or more tokens, and for a single token
after 512 (`ggml_compute_forward_flash_attn_ext_f16` in ggml's ops.cpp): an answer would depend on
concurrent requests. With keys in bf16 the order is always the same, so Q4_0, Q4_1 and Q8_0 models
answer the same at any load; prompts of 1,000 tokens take 1.3 times as long. Values in f16, too, are
added without a conversion: with those in bf16 a token took 1.05 times as long."""

KV_TYPES = {"q8_0": 8}
"""Smaller ones by their names, GGML_TYPE_Q8_0 of ggml.h."""

CELL_BLOCK = 256
"""llama.cpp rounds the cells per sequence down to a multiple of this."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive tokens of one sequence, to be decoded in one step."""

    sequence_id: int
    start: int
    """Position of the first token: the number of tokens the sequence holds already."""
    token_ids: Sequence[int]
    num_outputs: int
    """Number of last tokens that get a row of outputs, from 0 to all."""


class DecodeContext:
    """Key-value memory for `num_sequences` sequences of at most `context_tokens` tokens each.

    Every sequence has its own cells, filled in order of position. In memory shared by all sequences
    (kv_unified) the order of a sequence's cells depends on free space, attention sums over them in
    that order, and the last bits of an answer would depend on earlier requests.

    llama.cpp decodes such sequences together only if their numbers are consecutive, and as many
    tokens of each as the shortest chunk has: the rest is decoded in further passes.

    Args:
        max_outputs: Largest number of output rows per batch; None is one per sequence.
        reproducible: Compute each sequence in the same order in any batch, if llama.cpp can do so
            with this model.
        kv_cache: A key of `KV_TYPES`, for keys and values in place of 16 bits.
        embeddings: Output final hidden states instead of logits. All sequences then share the
            memory of one, and chunks of any length are decoded in one pass.

    Raises:
        BackendError: llama.cpp cannot create the context, mostly for lack of memory.
    """

    def __init__(
        self,
        model: GgufModel,
        *,
        num_sequences: int,
        context_tokens: int,
        max_batch_tokens: int,
        threads: int,
        max_outputs: int | None = None,
        reproducible: bool = True,
        kv_cache: str | None = None,
        embeddings: bool = False,
    ) -> None:
        self.max_outputs = max_outputs or num_sequences
        self.decode_seconds = 0.0
        self.can_cut = model.can_forget_a_tail
        """Whether `forget` can drop the last tokens of a sequence alone."""
        params = llama_cpp.llama_context_default_params()
        num_cells = -(-context_tokens // CELL_BLOCK) * CELL_BLOCK
        params.n_ctx = num_cells if embeddings else num_sequences * num_cells
        params.n_seq_max = num_sequences
        params.n_outputs_max = self.max_outputs
        params.kv_unified = embeddings
        params.swa_full = True  # Windows slide, and nothing that has left one is dropped.
        params.embeddings = embeddings
        ordered = reproducible and model.is_reproducible
        params.type_k, params.type_v = BRAIN_HALF if ordered else HALF, HALF
        if kv_cache:
            params.type_k = params.type_v = KV_TYPES[kv_cache]
        params.n_batch = params.n_ubatch = max_batch_tokens
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        if embeddings:
            params.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE
        self.pointer = llama_cpp.llama_init_from_model(model.pointer, params)
        if not self.pointer:
            raise BackendError(
                "the decoding context cannot be created",
                where=model.path,
                found=f"{params.n_ctx} tokens of key-value memory requested",
                hint="lower serve.max_parallel or serve.context_tokens"
                + (f"; not every model can have serve.kv_cache = {kv_cache}" if kv_cache else ""),
            )
        model.apply_adapter(self.pointer)
        self._memory = llama_cpp.llama_get_memory(self.pointer)
        self._width = model.embedding_width if embeddings else model.vocab_size
        self._read = llama_cpp.llama_get_embeddings if embeddings else llama_cpp.llama_get_logits
        self._allocate_batch(max_batch_tokens)

    def close(self) -> None:
        """Free the memory."""
        llama_cpp.llama_free(self.pointer)

    def decode(self, chunks: Sequence[Chunk]) -> list[npt.NDArray[np.float32]]:
        """Run the model over all chunks at once.

        Returns:
            For each chunk its rows of outputs, [num_outputs, V] raw logits or [num_outputs, width]
            hidden states, as a view that is valid until the next call.

        Raises:
            BackendError: llama.cpp refused the batch. The chunks' sequences must then be cut back
                with `forget` to what they held before.
        """
        num_outputs = sum(chunk.num_outputs for chunk in chunks)
        if num_outputs > self.max_outputs:
            raise BackendError("a batch must have at most max_outputs outputs", found=num_outputs)
        order = sorted(range(len(chunks)), key=lambda number: chunks[number].sequence_id)
        self._fill([chunks[number] for number in order])
        begin = time.perf_counter()
        status = llama_cpp.llama_decode(self.pointer, self._batch)
        self.decode_seconds += time.perf_counter() - begin
        if status != 0:
            raise BackendError("llama_decode failed", found=f"status {status}")
        return self._outputs(chunks, order, num_outputs)

    def forget(self, sequence_id: int, start: int) -> None:
        """Drop a sequence's tokens from position `start` on; see `can_cut`."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence_id, start, -1)

    def state_of(self, sequence_id: int) -> bytes:
        """Return what a sequence holds beside keys and values: the states of recurrent layers."""
        arguments = self.pointer, sequence_id, llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
        size = llama_cpp.llama_state_seq_get_size_ext(*arguments)
        state = (ctypes.c_uint8 * size)()
        llama_cpp.llama_state_seq_get_data_ext(arguments[0], state, size, *arguments[1:])
        return bytes(state)

    def set_state(self, sequence_id: int, state: bytes) -> None:
        """Set a sequence to what `state_of` returned; `forget` must then drop the later tokens.

        Raises:
            BackendError: llama.cpp refused it.
        """
        content = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        flags = llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
        if not llama_cpp.llama_state_seq_set_data_ext(
            self.pointer, content, len(state), sequence_id, flags
        ):
            raise BackendError("the state of a sequence cannot be restored", found=len(state))

    def copy(self, source_id: int, target_id: int) -> None:
        """Copy the tokens of a sequence to another; the bytes move before the next decode."""
        llama_cpp.llama_memory_seq_cp(self._memory, source_id, target_id, -1, -1)

    def clear(self) -> None:
        """Drop all tokens of all sequences."""
        llama_cpp.llama_memory_clear(self._memory, False)

    def _fill(self, chunks: Sequence[Chunk]) -> None:
        end = 0
        for chunk in chunks:
            begin, end = end, end + len(chunk.token_ids)
            if not begin < end <= len(self._tokens):
                raise BackendError("a batch must have 1 to max_batch_tokens tokens", found=end)
            self._tokens[begin:end] = chunk.token_ids
            self._positions[begin:end] = np.arange(chunk.start, chunk.start + end - begin)
            self._sequence_ids[begin:end] = chunk.sequence_id
            self._wants_output[begin:end] = 0
            self._wants_output[end - chunk.num_outputs : end] = 1
        self._batch.n_tokens = end

    def _outputs(
        self, chunks: Sequence[Chunk], order: Sequence[int], num_outputs: int
    ) -> list[npt.NDArray[np.float32]]:
        if num_outputs == 0:
            return [np.empty((0, self._width), np.float32) for _ in chunks]
        rows = np.ctypeslib.as_array(self._read(self.pointer), (num_outputs, self._width))
        ends = np.cumsum([chunks[number].num_outputs for number in order]).tolist()
        end_of = dict(zip(order, ends, strict=True))
        return [
            rows[end_of[number] - chunk.num_outputs : end_of[number]]
            for number, chunk in enumerate(chunks)
        ]

    def _allocate_batch(self, capacity: int) -> None:
        """Create the batch over numpy arrays, so that a chunk fills each with one write."""
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._sequence_ids = np.zeros(capacity, np.int32)
        self._counts = np.ones(capacity, np.int32)
        self._wants_output = np.zeros(capacity, np.int8)
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
            logits=self._wants_output.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )


def physical_cores() -> int:
    """Count the physical cores this process may run on; hyper-threads count once."""
    cores = set()
    for cpu in usable_cpus():
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text() if siblings.is_file() else str(cpu))
    return len(cores)

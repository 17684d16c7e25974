"""Logits of a GGUF file, computed with the same settings wherever a figure is reported.

Shape legend: T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from potstill.errors import BackendError, ContextLengthError
from potstill.llama.library import forget_errors, quoted_errors
from potstill.llama.model import LlamaModel
from potstill.processor import usable_threads

BATCH_TOKENS = 128
"""Tokens per forward pass of a measurement, whose logits [BATCH_TOKENS, V] are held at a time."""


class Context:
    """Memory of keys and values for one sequence of tokens; a context manager that frees it.

    Args:
        params: A `llama_context_params`, such as `measuring_params` returns.

    Raises:
        BackendError: There is no memory, or the settings do not suit the file.
    """

    def __init__(self, model: LlamaModel, params: Any) -> None:  # noqa: ANN401  (a ctypes struct)
        forget_errors()
        self.model = model
        self._context_tokens = int(params.n_ctx)
        self._pointer = llama_cpp.llama_init_from_model(model.pointer, params)
        if not self._pointer:
            raise self._refusal(
                f"no context of {params.n_ctx} tokens can be made: {quoted_errors()}"
            )
        model.apply_adapter(self._pointer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        llama_cpp.llama_free(self._pointer)

    def logits(
        self, token_ids: Sequence[int], start: int, kept: int = 0
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the logits [T, V] that follow positions `start` to the last, batch by batch.

        Args:
            kept: Number of first tokens, at most `start`, that are those of the call before and are
                not evaluated again where the model's memory allows it.

        Raises:
            ContextLengthError: The sequence is longer than the context.
            BackendError: llama.cpp fails.
        """
        if len(token_ids) > self._context_tokens:
            raise ContextLengthError(
                "a sequence does not fit the context",
                where=self.model.path,
                expected=f"at most {self._context_tokens} tokens",
                found=len(token_ids),
            )
        for first in range(self._keep(kept), len(token_ids), BATCH_TOKENS):
            batch = token_ids[first : first + BATCH_TOKENS]
            self.decode(batch, first, start)
            num_wanted = first + len(batch) - max(first, start)
            if num_wanted > 0:
                pointer = llama_cpp.llama_get_logits(self._pointer)
                yield np.ctypeslib.as_array(pointer, (num_wanted, self.model.vocab_size)).copy()

    def greedy(self, prompt_ids: Sequence[int], num_tokens: int) -> list[int]:
        """Return the most probable tokens after a prompt, up to one that ends generation.

        Raises:
            ContextLengthError: The prompt is longer than the context.
            BackendError: llama.cpp fails.
        """
        *_, logits_1V = self.logits(prompt_ids, len(prompt_ids) - 1)
        found = [int(logits_1V.argmax())]
        while len(found) < num_tokens and not self.model.ends_generation(found[-1]):
            position = len(prompt_ids) + len(found) - 1
            self.decode(found[-1:], position, position)
            pointer = llama_cpp.llama_get_logits(self._pointer)
            found.append(int(np.ctypeslib.as_array(pointer, (self.model.vocab_size,)).argmax()))
        return found

    def decode(self, token_ids: Sequence[int], first: int, start: int) -> None:
        """Evaluate tokens at positions from `first` on; logits are kept from `start` on.

        Raises:
            BackendError: llama.cpp fails.
        """
        self._evaluate(
            (token_id, first + index, 0, first + index >= start)
            for index, token_id in enumerate(token_ids)
        )

    def decode_side_by_side(self, token_ids: Sequence[int], position: int) -> None:
        """Evaluate one token of each sequence of the context, with its logits.

        Args:
            token_ids: As many as the context has sequences, or fewer.

        Raises:
            BackendError: llama.cpp fails.
        """
        self._evaluate(
            (token_id, position, index, True) for index, token_id in enumerate(token_ids)
        )

    def _evaluate(self, tokens: Iterable[tuple[int, int, int, bool]]) -> None:
        """Evaluate tokens, each with its position, its sequence, and whether it has logits."""
        rows = list(tokens)
        batch = llama_cpp.llama_batch_init(len(rows), 0, 1)
        try:
            batch.n_tokens = len(rows)
            for index, (token_id, position, sequence, has_logits) in enumerate(rows):
                batch.token[index] = token_id
                batch.pos[index] = position
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = sequence
                batch.logits[index] = has_logits
            code = llama_cpp.llama_decode(self._pointer, batch)
        finally:
            llama_cpp.llama_batch_free(batch)
        if code != 0:
            raise self._refusal(f"llama_decode returned {code}")

    def _keep(self, num_tokens: int) -> int:
        """Drop all but the first tokens; return how many are left, none in recurrent models."""
        memory = llama_cpp.llama_get_memory(self._pointer)
        if num_tokens and llama_cpp.llama_memory_seq_rm(memory, 0, num_tokens, -1):
            return num_tokens
        self.clear()
        return 0

    def clear(self) -> None:
        """Drop all tokens."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._pointer), True)

    def synchronize(self) -> None:
        """Wait until everything requested is computed."""
        llama_cpp.llama_synchronize(self._pointer)

    def _refusal(self, found: str) -> BackendError:
        return BackendError(
            "llama.cpp cannot run a GGUF file",
            where=self.model.path,
            found=found,
            hint="close other programs to free memory, or make the gguf stage again with --force",
        )


def measuring_params(context_tokens: int, num_threads: int | None) -> Any:  # noqa: ANN401
    """Return the settings of every measurement: float32 keys and values, plain attention, no GPU.

    llama.cpp's defaults round keys and values to float16, and its flash attention sums in an order
    that depends on the batch. Both are properties of a server, not of the file that is measured.

    Args:
        num_threads: 0 and None stand for all that this process may use.
    """
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = context_tokens
    params.n_batch = params.n_ubatch = params.n_outputs_max = BATCH_TOKENS
    params.n_threads = params.n_threads_batch = usable_threads(num_threads)
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.offload_kqv = params.op_offload = False
    params.no_perf = True
    return params


@contextmanager
def measuring(
    path: Path, context_tokens: int, num_threads: int | None, adapter_path: Path | None = None
) -> Iterator[Context]:
    """Load a file and give it a context for measurements, freed at the end.

    Args:
        adapter_path: The adapter that is measured with the file; None: none.

    Raises:
        ArtifactError: llama.cpp cannot load the file or the adapter.
        BackendError: There is no memory for the context.
    """
    params = measuring_params(context_tokens, num_threads)
    with LlamaModel(path, for_measurement=True) as base:
        model = base if adapter_path is None else base.adapted(adapter_path)
        with Context(model, params) as context:
            yield context


def log_softmax(logits_TV: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return log-probabilities [T, V], or [V] of [V], in nats, in double precision."""
    shifted = logits_TV.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted

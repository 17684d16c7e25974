"""A GGUF file as a function from token ids to next-token logits.

In: a file and token ids. Out: logits in numpy, a chunk of positions at a time, so that memory does
not grow with the length. Knows nothing of teachers, students or text.

Shape legend: T positions asked for, V vocabulary.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from potstill.errors import BackendError, ContextLengthError
from potstill.processor import has_amx

CHUNK_TOKENS = 128


class GgufModel:
    """A loaded GGUF file with room for one sequence; a context manager that frees it.

    Args:
        context_tokens: Length of the longest sequence that will be asked for.
        num_threads: CPU threads; None takes as many as the process may use.

    Raises:
        BackendError: llama.cpp refuses the file.
    """

    def __init__(self, path: Path, context_tokens: int, num_threads: int | None = None) -> None:
        logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)
        llama_cpp.llama_backend_init()
        self._path, self._context_tokens = path, context_tokens
        self._context: Any = None
        self._batch: Any = None
        params = llama_cpp.llama_model_default_params()
        params.use_extra_bufts = not has_amx()
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if self._model is None:
            raise self._refusal("the file cannot be loaded")
        self._context = llama_cpp.llama_init_from_model(
            self._model, self._context_params(num_threads)
        )
        if self._context is None:
            self.close()
            raise self._refusal(f"no memory for a context of {context_tokens} tokens")
        self._batch = llama_cpp.llama_batch_init(CHUNK_TOKENS, 0, 1)
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self.vocab_size: int = llama_cpp.llama_vocab_n_tokens(self._vocabulary)

    def logits(self, token_ids: Sequence[int], start: int) -> Iterator[NDArray[np.float32]]:
        """Yield the logits [T, V] that follow positions `start` to the last, in chunks of T.

        Raises:
            ContextLengthError: The sequence is longer than the context.
            BackendError: llama.cpp fails.
        """
        if len(token_ids) > self._context_tokens:
            raise ContextLengthError(
                "a sequence does not fit the context",
                where=self._path,
                expected=f"at most {self._context_tokens} tokens",
                found=len(token_ids),
            )
        memory = llama_cpp.llama_get_memory(self._context)
        llama_cpp.llama_memory_clear(memory, True)
        for offset in range(0, len(token_ids), CHUNK_TOKENS):
            num_wanted = self._fill(token_ids[offset : offset + CHUNK_TOKENS], offset, start)
            code = llama_cpp.llama_decode(self._context, self._batch)
            if code != 0:
                raise self._refusal(f"llama_decode returned {code}")
            if num_wanted:
                pointer = llama_cpp.llama_get_logits(self._context)
                yield np.ctypeslib.as_array(pointer, (num_wanted, self.vocab_size)).copy()

    def tokenize(self, text: str) -> list[int]:
        """Return a text's token ids; text that looks like a control token stays text."""
        content = text.encode()
        ids = (llama_cpp.llama_token * (len(content) + 1))()
        count = llama_cpp.llama_tokenize(
            self._vocabulary, content, len(content), ids, len(ids), False, False
        )
        if count < 0:
            raise self._refusal(f"a text of {len(content)} bytes has {-count} tokens")
        return list(ids[:count])

    @property
    def end_of_turn(self) -> int:
        """The id of the token that ends an answer.

        llama.cpp guesses one by its looks among several; the chat template knows which it writes.
        """
        guess = int(llama_cpp.llama_vocab_eot(self._vocabulary))
        end = int(llama_cpp.llama_vocab_eos(self._vocabulary))
        template = llama_cpp.llama_model_chat_template(self._model, None) or b""
        if guess >= 0 and llama_cpp.llama_vocab_get_text(self._vocabulary, guess) in template:
            return guess
        return end if end >= 0 else guess

    def close(self) -> None:
        """Free the memory; harmless when done twice."""
        if self._batch is not None:
            llama_cpp.llama_batch_free(self._batch)
        if self._context is not None:
            llama_cpp.llama_free(self._context)
        if self._model is not None:
            llama_cpp.llama_model_free(self._model)
        self._batch = self._context = self._model = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _context_params(self, num_threads: int | None) -> Any:  # noqa: ANN401  (a ctypes struct)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = self._context_tokens
        params.n_batch = params.n_ubatch = CHUNK_TOKENS
        params.n_threads = params.n_threads_batch = num_threads or len(os.sched_getaffinity(0))
        return params

    def _fill(self, token_ids: Sequence[int], offset: int, start: int) -> int:
        batch = self._batch
        batch.n_tokens = len(token_ids)
        for index, token_id in enumerate(token_ids):
            batch.token[index] = token_id
            batch.pos[index] = offset + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = offset + index >= start
        return sum(batch.logits[index] for index in range(len(token_ids)))

    def _refusal(self, found: str) -> BackendError:
        return BackendError(
            "llama.cpp cannot run a GGUF file",
            where=self._path,
            found=found,
            hint="close other programs to free memory, or make the gguf stage again with --force",
        )

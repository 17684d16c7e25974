"""A GGUF file opened with llama.cpp: its tokenizer, its template, its log-probabilities.

In: a path. Out: token ids, metadata and numpy arrays. Knows nothing of Hugging Face checkpoints.

llama.cpp ends the whole process on broken invariants (GGML_ABORT): only `worker`, which runs in a
process of its own, imports this module.

Shape legend: T tokens, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import llama_cpp
import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from potstill.processor import has_amx
from potstill.templates import compile_template, render_template

BATCH_TOKENS = 256
"""Tokens per forward pass; bounds the logits held at a time to BATCH_TOKENS x V."""


class GgufModel:
    """A loaded file; a context manager, because llama.cpp's memory is freed by hand."""

    def __init__(self, path: Path) -> None:
        """Load the file, every tensor's blocks checked for validity.

        Raises:
            RuntimeError: llama.cpp cannot read it; its log says why.
        """
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        params.check_tensors = True
        params.use_extra_bufts = not has_amx()
        self.pointer = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.pointer:
            raise RuntimeError("the file cannot be loaded")
        self.vocab = llama_cpp.llama_model_get_vocab(self.pointer)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self._longest_piece = 64
        self.trained_context_tokens = llama_cpp.llama_model_n_ctx_train(self.pointer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        llama_cpp.llama_model_free(self.pointer)

    def describe(self) -> dict[str, Any]:
        """Return sizes, special token ids (-1 where there is none) and the chat template."""
        vocab = self.vocab
        return {
            "num_parameters": llama_cpp.llama_model_n_params(self.pointer),
            "tensor_bytes": llama_cpp.llama_model_size(self.pointer),
            "vocab_size": self.vocab_size,
            "eos": llama_cpp.llama_vocab_eos(vocab),
            "eog": [i for i in range(self.vocab_size) if llama_cpp.llama_vocab_is_eog(vocab, i)],
            "adds_bos": bool(llama_cpp.llama_vocab_get_add_bos(vocab)),
            "chat_template": self._chat_template(),
        }

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """Render a chat prompt with the file's own template, up to the assistant's turn.

        Raises:
            RuntimeError: The template is missing or cannot be rendered.
        """
        source = self._chat_template()
        if source is None:
            raise RuntimeError("the file has no chat template")
        ids = {
            "bos_token": llama_cpp.llama_vocab_bos(self.vocab),
            "eos_token": llama_cpp.llama_vocab_eos(self.vocab),
            "pad_token": llama_cpp.llama_vocab_pad(self.vocab),
        }
        named_tokens = {name: self._text(token) for name, token in ids.items() if token >= 0}
        try:
            return render_template(compile_template(source), messages, named_tokens)
        except TemplateError as error:
            raise RuntimeError(f"the file's chat template cannot be rendered: {error}") from error

    def tokenize(self, text: str) -> list[int]:
        """Return token ids; special tokens in the text are recognized, none are added."""
        encoded = text.encode()
        room = len(encoded) + 1
        tokens = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(
            self.vocab, encoded, len(encoded), tokens, room, False, True
        )
        if count < 0:
            raise RuntimeError(f"a text of {len(encoded)} bytes needs {-count} tokens")
        return list(tokens[:count])

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, each as it is streamed to a reader, special ones too."""
        return b"".join(map(self._piece, token_ids)).decode(errors="replace")

    def _chat_template(self) -> str | None:
        template = llama_cpp.llama_model_chat_template(self.pointer, None)
        return None if template is None else template.decode()

    def _piece(self, token_id: int) -> bytes:
        room = self._longest_piece
        buffer = ctypes.create_string_buffer(room)
        count = llama_cpp.llama_token_to_piece(self.vocab, token_id, buffer, room, 0, True)
        if count < 0:
            self._longest_piece = -count
            return self._piece(token_id)
        return buffer.raw[:count]

    def _text(self, token_id: int) -> str:
        return str(llama_cpp.llama_vocab_get_text(self.vocab, token_id).decode())


class Context:
    """A loaded file's state of evaluation: one sequence of tokens at a time."""

    def __init__(self, model: GgufModel, params: Any) -> None:  # noqa: ANN401  (a ctypes struct)
        """Take memory for the sequence.

        Raises:
            RuntimeError: There is none, or the settings do not suit the file; llama.cpp's log says
                why.
        """
        self._vocab, self._vocab_size = model.vocab, model.vocab_size
        self._pointer = llama_cpp.llama_init_from_model(model.pointer, params)
        if not self._pointer:
            raise RuntimeError("no context can be made for the file")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        llama_cpp.llama_free(self._pointer)

    def clear(self) -> None:
        """Forget all tokens."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._pointer), True)

    def logprobs(self, token_ids: Sequence[int], start: int) -> Iterator[NDArray[np.float64]]:
        """Yield log-probabilities [V] of the token after each position from `start` on, in order.

        Raises:
            RuntimeError: llama.cpp cannot evaluate the tokens.
        """
        self.clear()
        for first in range(0, len(token_ids), BATCH_TOKENS):
            chunk = token_ids[first : first + BATCH_TOKENS]
            self.decode(chunk, first, start)
            for index in range(max(start - first, 0), len(chunk)):
                logits_V = self._logits(index).astype(np.float64)
                logits_V -= logits_V.max()
                yield logits_V - np.log(np.exp(logits_V).sum())

    def greedy(self, prompt_ids: Sequence[int], num_tokens: int) -> list[int]:
        """Return the most probable tokens after a prompt, each fed back, up to where it stops.

        Raises:
            RuntimeError: llama.cpp cannot evaluate the tokens.
        """
        self.clear()
        for first in range(0, len(prompt_ids), BATCH_TOKENS):
            chunk = prompt_ids[first : first + BATCH_TOKENS]
            self.decode(chunk, first, len(prompt_ids) - 1)
        found = [int(self._logits(-1).argmax())]
        while len(found) < num_tokens and not llama_cpp.llama_vocab_is_eog(self._vocab, found[-1]):
            position = len(prompt_ids) + len(found) - 1
            self.decode(found[-1:], position, position)
            found.append(int(self._logits(-1).argmax()))
        return found

    def decode(self, token_ids: Sequence[int], first: int, start: int) -> None:
        """Evaluate tokens at positions from `first` on; logits are kept from `start` on.

        Raises:
            RuntimeError: llama.cpp cannot evaluate the tokens.
        """
        batch = llama_cpp.llama_batch_init(len(token_ids), 0, 1)
        try:
            batch.n_tokens = len(token_ids)
            for index, token in enumerate(token_ids):
                batch.token[index] = token
                batch.pos[index] = first + index
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = 0
                batch.logits[index] = first + index >= start
            code = llama_cpp.llama_decode(self._pointer, batch)
        finally:
            llama_cpp.llama_batch_free(batch)
        if code != 0:
            raise RuntimeError(f"llama_decode returned {code}")

    def synchronize(self) -> None:
        """Wait until what was asked for is computed."""
        llama_cpp.llama_synchronize(self._pointer)

    def _logits(self, index: int) -> NDArray[np.float32]:
        pointer = llama_cpp.llama_get_logits_ith(self._pointer, index)
        return np.ctypeslib.as_array(pointer, (self._vocab_size,))


def exact_params(num_threads: int, context_tokens: int) -> Any:  # noqa: ANN401  (a ctypes struct)
    """Ask for a float32 cache and exact attention: the file is measured, not the cache."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = context_tokens
    params.n_batch = params.n_ubatch = params.n_outputs_max = BATCH_TOKENS
    params.n_threads = params.n_threads_batch = num_threads
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return params

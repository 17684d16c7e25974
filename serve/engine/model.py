"""A GGUF model in llama.cpp: weights and vocabulary, without any conversation state.

In: a path. Out: tokens, pieces, metadata. Everything here may be called from any thread.
Knows nothing of batches, sampling or HTTP.
"""

from __future__ import annotations

import ctypes
import logging
from collections import deque
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import llama_cpp
from llama_cpp._ggml import libggml

from potstill.errors import ArtifactError
from potstill.processor import has_amx

logger = logging.getLogger(__name__)

LOG_LEVEL_ERROR = 4
"""GGML_LOG_LEVEL_ERROR of ggml.h."""

REPRODUCIBLE_TYPES = frozenset({"f32", "q4_0", "q4_1", "q8_0"})
"""Formats of weights whose products do not depend on the size of the batch."""


class _GgufInitParams(ctypes.Structure):
    """`struct gguf_init_params` of gguf.h."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


_last_errors: deque[str] = deque(maxlen=3)


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _log(level: int, text: bytes, _user_data: Any) -> None:  # noqa: ANN401  (a C pointer)
    line = text.decode(errors="replace").strip()
    logger.debug("%s", line)
    if level == LOG_LEVEL_ERROR:
        _last_errors.append(line)


@dataclass(frozen=True)
class LoraAdapter:
    """A loaded adapter, freed with its model."""

    pointer: object
    scale: float


class GgufModel:
    """One model file, loaded once and shared by whatever decodes with it.

    Args:
        path: A GGUF file; split files are not supported.

    Raises:
        ArtifactError: It is missing or llama.cpp cannot load it.
    """

    def __init__(self, path: Path) -> None:
        llama_cpp.llama_log_set(_log, None)
        llama_cpp.llama_backend_init()
        if not path.is_file():
            raise ArtifactError("the model file does not exist", where=path)
        _last_errors.clear()
        self.path = path
        params = llama_cpp.llama_model_default_params()
        params.use_extra_bufts = not has_amx()
        self.pointer = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.pointer:
            raise ArtifactError(
                "the model cannot be loaded",
                where=path,
                expected="an intact GGUF file",
                found="; ".join(_last_errors) or "llama.cpp gave no reason",
                hint="make the file again",
            )
        self.vocab = llama_cpp.llama_model_get_vocab(self.pointer)
        self.vocab_size = int(llama_cpp.llama_vocab_n_tokens(self.vocab))
        self.training_context_tokens = int(llama_cpp.llama_model_n_ctx_train(self.pointer))
        self.embedding_width = int(llama_cpp.llama_model_n_embd_out(self.pointer))
        self.adapter: LoraAdapter | None = None
        """What changes the weights in every context made from this model."""
        self._pieces: dict[int, bytes] = {}

    def adapted(self, path: Path, scale: float) -> GgufModel:
        """Return the model as a LoRA adapter changes it; the weights are shared.

        Raises:
            ArtifactError: The file is missing, or no adapter for this model.
        """
        _last_errors.clear()
        pointer = None
        if path.is_file():
            pointer = llama_cpp.llama_adapter_lora_init(self.pointer, str(path).encode())
        if not pointer:
            raise ArtifactError(
                "the adapter cannot be loaded",
                where=path,
                expected=f"a LoRA adapter in GGUF for {self.path.name}",
                found="; ".join(_last_errors) or "no such file",
            )
        changed = copy(self)
        changed.adapter = LoraAdapter(pointer, scale)
        return changed

    def close(self) -> None:
        """Free the weights; nothing made from this model may be used afterwards."""
        llama_cpp.llama_model_free(self.pointer)

    @property
    def can_forget_a_tail(self) -> bool:
        """Whether part of a sequence can be dropped or shared (not with recurrent or SWA state)."""
        return not (
            llama_cpp.llama_model_is_recurrent(self.pointer)
            or llama_cpp.llama_model_is_hybrid(self.pointer)
            or llama_cpp.llama_model_n_swa(self.pointer) > 0
        )

    @property
    def can_embed(self) -> bool:
        """Whether texts can be given vectors: with any model that decodes, not with encoders."""
        return bool(llama_cpp.llama_model_has_decoder(self.pointer))

    @cached_property
    def tensor_types(self) -> frozenset[str]:
        """Number formats of the weights, in the names of ggml, such as "q8_0" and "f32"."""
        params = _GgufInitParams(no_alloc=True, ctx=None)
        libggml.gguf_init_from_file.restype = ctypes.c_void_p
        libggml.gguf_get_n_tensors.restype = ctypes.c_int64
        libggml.ggml_type_name.restype = ctypes.c_char_p
        header = ctypes.c_void_p(libggml.gguf_init_from_file(str(self.path).encode(), params))
        try:
            types = {
                libggml.gguf_get_tensor_type(header, ctypes.c_int64(number))
                for number in range(libggml.gguf_get_n_tensors(header))
            }
            return frozenset(libggml.ggml_type_name(number).decode() for number in types)
        finally:
            libggml.gguf_free(header)

    @property
    def is_reproducible(self) -> bool:
        """Whether equal seeds can give equal tokens at any load, chunking and reuse of prefixes.

        llama.cpp multiplies these formats in one order at any batch size; k-quants have kernels of
        their own for batches, which round otherwise.
        """
        return (
            self.tensor_types <= REPRODUCIBLE_TYPES
            and self.can_forget_a_tail
            and self.adapter is None
        )

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the model's chat template; None when the file has none."""
        source = llama_cpp.llama_model_chat_template(self.pointer, None)
        return None if source is None else source.decode()

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """Return the token ids of `text`; nothing is added at its start or end.

        With `parse_special` the text of a control token, such as `<|im_end|>`, becomes that token;
        otherwise it is text like any other.
        """
        content = text.encode()
        capacity = len(content) + 16
        tokens = (ctypes.c_int32 * capacity)()
        count = llama_cpp.llama_tokenize(
            self.vocab, content, len(content), tokens, capacity, False, parse_special
        )
        if count < 0:
            capacity = -count
            tokens = (ctypes.c_int32 * capacity)()
            count = llama_cpp.llama_tokenize(
                self.vocab, content, len(content), tokens, capacity, False, parse_special
            )
        return tokens[:count]

    def piece(self, token_id: int) -> bytes:
        """Return the bytes a token writes: maybe a part of a character; none for control tokens."""
        if token_id not in self._pieces:
            self._pieces[token_id] = self._piece(token_id, special=False)
        return self._pieces[token_id]

    def ends_generation(self, token_id: int) -> bool:
        """Whether the token ends an answer (end of turn, end of text)."""
        return bool(llama_cpp.llama_vocab_is_eog(self.vocab, token_id))

    @property
    def start_tokens(self) -> tuple[int, ...]:
        """The tokens that a text without a chat template begins with: one or none."""
        begins = llama_cpp.llama_vocab_get_add_bos(self.vocab)
        return (llama_cpp.llama_vocab_bos(self.vocab),) if begins else ()

    @cached_property
    def end_tokens(self) -> tuple[int, ...]:
        """Ids of the tokens that end an answer."""
        return tuple(filter(self.ends_generation, range(self.vocab_size)))

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """Text and id of the tokens that only a chat template may write."""
        mask = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
        return {
            text: token_id
            for token_id in range(self.vocab_size)
            if llama_cpp.llama_vocab_get_attr(self.vocab, token_id) & mask
            and (text := self._piece(token_id, special=True).decode(errors="replace"))
        }

    @cached_property
    def named_tokens(self) -> dict[str, str]:
        """Texts of the tokens a chat template refers to by name, such as `bos_token`."""
        ids = {
            "bos_token": llama_cpp.llama_vocab_bos(self.vocab),
            "eos_token": llama_cpp.llama_vocab_eos(self.vocab),
            "pad_token": llama_cpp.llama_vocab_pad(self.vocab),
        }
        return {
            name: self._piece(token_id, special=True).decode(errors="replace")
            for name, token_id in ids.items()
            if token_id >= 0
        }

    def _piece(self, token_id: int, *, special: bool) -> bytes:
        capacity = 64
        while True:
            buffer = ctypes.create_string_buffer(capacity)
            length = llama_cpp.llama_token_to_piece(
                self.vocab, token_id, buffer, capacity, 0, special
            )
            if length >= 0:
                return buffer.raw[:length]
            capacity = -length

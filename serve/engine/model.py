"""A GGUF model as the engine needs it: with the limits of decoding it."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import llama_cpp
from llama_cpp._ggml import libggml

from potstill.files import file_version
from potstill.llama.model import LlamaModel
from potstill.thinking import FORMATS, ThinkFormat

REPRODUCIBLE_TYPES = frozenset({"f32", "q4_0", "q4_1", "q8_0"})
"""Formats of weights whose products do not depend on the size of the batch."""

MAX_RUN_CHARACTERS = 4096
MAX_CONTROL_CHARACTERS = 256
_RUNS = re.compile(r"\w+|\s+|[^\w\s]+")


def _pieces(text: str, control: re.Pattern[str]) -> Iterator[str]:
    """Split a text inside its long runs, but not inside a control token."""
    start = 0
    for run in _RUNS.finditer(text):
        for cut in range(run.start() + MAX_RUN_CHARACTERS, run.end(), MAX_RUN_CHARACTERS):
            near = max(start, cut - MAX_CONTROL_CHARACTERS)
            spans = (
                match.span() for match in control.finditer(text, near, cut + MAX_CONTROL_CHARACTERS)
            )
            cut = next((a for a, b in spans if a < cut < b), cut)
            yield text[start:cut]
            start = cut
    yield text[start:]


class _GgufInitParams(ctypes.Structure):
    """`struct gguf_init_params` of gguf.h."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


class GgufModel(LlamaModel):
    """One model file, loaded once and shared by whatever decodes with it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._version = file_version(path)

    @property
    def has_changed(self) -> bool:
        """Whether somebody writes to the file, whose pages are this process's memory.

        Another file in its place is no harm.
        """
        former, now = self._version, file_version(self.path)
        if former is None or now is None:
            return False
        return former[:2] == now[:2] and former != now

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """Return the token ids of `text`; see `LlamaModel.tokenize`.

        Long runs of letters, spaces or other characters are tokenized in pieces: llama.cpp matches
        them by recursion, and 50,000 letters overflow the stack with some vocabularies.
        """
        if len(text) <= MAX_RUN_CHARACTERS or not self._splits_by_patterns:
            return super().tokenize(text, parse_special=parse_special)
        token_ids: list[int] = []
        for part in _pieces(text, self._control_pattern):
            token_ids += super().tokenize(part, parse_special=parse_special)
        return token_ids

    @cached_property
    def _splits_by_patterns(self) -> bool:
        return bool(llama_cpp.llama_vocab_type(self.vocab) == llama_cpp.LLAMA_VOCAB_TYPE_BPE)

    @cached_property
    def _control_pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self.control_tokens)) or "(?!)")

    @property
    def can_forget_a_tail(self) -> bool:
        """Whether a sequence's last tokens can be dropped: not where a state sums up all of them.

        With sliding windows they can: `DecodeContext` keeps the keys and values of all tokens.
        """
        return not (
            llama_cpp.llama_model_is_recurrent(self.pointer)
            or llama_cpp.llama_model_is_hybrid(self.pointer)
        )

    @property
    def can_embed(self) -> bool:
        """Whether the model can embed texts: any that decodes can, encoders cannot."""
        return bool(llama_cpp.llama_model_has_decoder(self.pointer))

    @property
    def embedding_width(self) -> int:
        """Number of values in a final hidden state."""
        return int(llama_cpp.llama_model_n_embd_out(self.pointer))

    @property
    def kv_bytes_per_token(self) -> int:
        """Size of a token's keys and values in 16 bits, in bytes; hybrid models take less."""
        heads = int(llama_cpp.llama_model_n_head(self.pointer))
        width = int(llama_cpp.llama_model_n_embd(self.pointer)) // max(1, heads)
        kind = self._metadata("general.architecture")
        given = [self._metadata(f"{kind}.attention.{one}_length") for one in ("key", "value")]
        widths = [int(one) if one else width for one in given]
        kv_heads = int(llama_cpp.llama_model_n_head_kv(self.pointer))
        layers = int(llama_cpp.llama_model_n_layer(self.pointer))
        return max(1, 2 * layers * kv_heads * sum(widths))

    def _metadata(self, key: str) -> str:
        """Return a value of the file's header; "" if it has none."""
        text = ctypes.create_string_buffer(64)
        llama_cpp.llama_model_meta_val_str(self.pointer, key.encode(), text, len(text))
        return text.value.decode()

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

        llama.cpp multiplies these formats in one order at any batch size; k-quants have separate
        kernels for batches, which round differently, and so do builds for GPUs.
        """
        return (
            not llama_cpp.llama_supports_gpu_offload()
            and self.tensor_types <= REPRODUCIBLE_TYPES
            and self.can_forget_a_tail
            and llama_cpp.llama_model_n_swa(self.pointer) == 0
            and self.adapter is None
        )

    @property
    def start_tokens(self) -> tuple[int, ...]:
        """The tokens that a text without a chat template begins with: one or none."""
        return (llama_cpp.llama_vocab_bos(self.vocab),) if self.adds_bos else ()

    @cached_property
    def think_format(self) -> ThinkFormat | None:
        """The tags of thinking that are tokens of the vocabulary; None without any."""
        return ThinkFormat.of_vocabulary(
            [one.closing for one in FORMATS if len(self._ids_of(one.closing)) == 1]
        )

    def show_tags(self, think_format: ThinkFormat) -> None:
        """Let the tags of thinking be text, also where they consist of control tokens."""
        for tag in think_format.tags:
            for token_id in filter(self.is_control, self._ids_of(tag)):
                self._pieces[token_id] = self.full_piece(token_id)

    def _ids_of(self, tag: str) -> list[int]:
        return self.tokenize(tag, parse_special=True)

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """Text and id of the tokens that only a chat template may write."""
        mask = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
        return {
            text: token_id
            for token_id in range(self.vocab_size)
            if llama_cpp.llama_vocab_get_attr(self.vocab, token_id) & mask
            and (text := self.detokenize([token_id]))
        }

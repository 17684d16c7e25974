"""A GGUF file in llama.cpp: its weights, with an adapter or without, vocabulary and template."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import llama_cpp

from potstill.errors import ArtifactError
from potstill.llama.library import forget_errors, initialize, model_params, quoted_errors


@dataclass(frozen=True)
class LoraAdapter:
    """A loaded adapter, freed with its model."""

    pointer: object
    scale: float


class LlamaModel:
    """A loaded file. Its methods may be called from any thread.

    Args:
        path: A GGUF file; split files are not supported.
        for_measurement: See `model_params`, as for `repacks`.
        vocabulary_only: Load only the vocabulary and the chat template, no weights: nothing can be
            evaluated.

    Raises:
        ArtifactError: It is missing or llama.cpp cannot load it.
    """

    adapter: LoraAdapter | None = None
    """Changes the weights in every context made from this model."""

    def __init__(
        self,
        path: Path,
        *,
        for_measurement: bool = False,
        repacks: bool = True,
        vocabulary_only: bool = False,
    ) -> None:
        initialize()
        if not path.is_file():
            raise ArtifactError("the model file does not exist", where=path)
        forget_errors()
        self.path = path
        params = model_params(for_measurement=for_measurement, repacks=repacks)
        params.vocab_only = vocabulary_only
        self.pointer = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.pointer:
            raise ArtifactError(
                "the model cannot be loaded",
                where=path,
                expected="an intact GGUF file",
                found=quoted_errors(),
                hint="make the file again",
            )
        self.vocab = llama_cpp.llama_model_get_vocab(self.pointer)
        self.vocab_size = int(llama_cpp.llama_vocab_n_tokens(self.vocab))
        self.training_context_tokens = int(llama_cpp.llama_model_n_ctx_train(self.pointer))
        self._pieces: dict[int, bytes] = {}

    def adapted(self, path: Path, scale: float = 1.0) -> Self:
        """Return the model as a LoRA adapter changes it; the weights are shared.

        Raises:
            ArtifactError: The file is missing, or no adapter for this model.
        """
        forget_errors()
        pointer = None
        if path.is_file():
            pointer = llama_cpp.llama_adapter_lora_init(self.pointer, str(path).encode())
        if not pointer:
            raise ArtifactError(
                "the adapter cannot be loaded",
                where=path,
                expected=f"a LoRA adapter in GGUF for {self.path.name}",
                found=quoted_errors() if path.is_file() else "no such file",
            )
        changed = copy(self)
        changed.adapter = LoraAdapter(pointer, scale)
        return changed

    def apply_adapter(self, context: object) -> None:
        """Let a context of llama.cpp compute with the adapter, if there is one."""
        if self.adapter is not None:
            adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(self.adapter.pointer)
            scales = (ctypes.c_float * 1)(self.adapter.scale)
            llama_cpp.llama_set_adapters_lora(context, adapters, 1, scales)

    def close(self) -> None:
        """Free the weights; nothing made from this model may be used afterwards."""
        llama_cpp.llama_model_free(self.pointer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the model's chat template; None when the file has none."""
        source = llama_cpp.llama_model_chat_template(self.pointer, None)
        return None if source is None else source.decode()

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """Return the token ids of `text`; nothing is added at its start or end.

        Args:
            parse_special: Whether the text of a control token, such as `<|im_end|>`, becomes that
                token; otherwise it is text like any other.
        """
        content = text.encode()
        capacity = len(content) + 16
        while True:
            tokens = (llama_cpp.llama_token * capacity)()
            count = llama_cpp.llama_tokenize(
                self.vocab, content, len(content), tokens, capacity, False, parse_special
            )
            if count >= 0:
                return list(tokens[:count])
            capacity = -count

    def piece(self, token_id: int) -> bytes:
        """Return the bytes of a token, perhaps part of a character; none for a control token."""
        if token_id not in self._pieces:
            self._pieces[token_id] = self._piece(token_id, special=False)
        return self._pieces[token_id]

    def full_piece(self, token_id: int) -> bytes:
        """Return the bytes of a token, those of a control token included."""
        return self._piece(token_id, special=True)

    def detokenize(self, token_ids: Iterable[int]) -> str:
        """Return the text of tokens, control tokens included."""
        return b"".join(map(self.full_piece, token_ids)).decode(errors="replace")

    def is_control(self, token_id: int) -> bool:
        """Return whether the token is never text, such as `<|im_end|>`."""
        attributes = int(llama_cpp.llama_vocab_get_attr(self.vocab, token_id))
        return bool(attributes & llama_cpp.LLAMA_TOKEN_ATTR_CONTROL)

    def ends_generation(self, token_id: int) -> bool:
        """Return whether the token ends an answer (end of turn, end of text)."""
        return bool(llama_cpp.llama_vocab_is_eog(self.vocab, token_id))

    @cached_property
    def end_tokens(self) -> tuple[int, ...]:
        """Ids of the tokens that end an answer."""
        return tuple(filter(self.ends_generation, range(self.vocab_size)))

    @property
    def end_of_turn(self) -> int:
        """The id of the token that ends an answer; -1 when there is none.

        llama.cpp guesses it from the texts of tokens; the guess is used if the chat template
        contains that token.
        """
        guess = int(llama_cpp.llama_vocab_eot(self.vocab))
        end = int(llama_cpp.llama_vocab_eos(self.vocab))
        if guess >= 0 and self.detokenize([guess]) in (self.chat_template or ""):
            return guess
        return end if end >= 0 else guess

    @property
    def adds_bos(self) -> bool:
        """Whether a text without a chat template begins with the token `bos`."""
        return bool(llama_cpp.llama_vocab_get_add_bos(self.vocab))

    @cached_property
    def named_tokens(self) -> dict[str, str]:
        """Texts of the tokens a chat template refers to by name, such as `bos_token`."""
        ids = {
            "bos_token": llama_cpp.llama_vocab_bos(self.vocab),
            "eos_token": llama_cpp.llama_vocab_eos(self.vocab),
            "pad_token": llama_cpp.llama_vocab_pad(self.vocab),
        }
        return {
            name: self.detokenize([token_id]) for name, token_id in ids.items() if token_id >= 0
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

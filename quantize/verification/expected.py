"""What a checkpoint's tokenizer answers, which every GGUF file's tokenizer must answer too.

In: a checkpoint's tokenizer and chats. Out: token ids of chats and of hostile texts, special
tokens, chat template. Knows nothing of weights or GGUF.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potstill.chat import render_prompt
from potstill.schema import Message
from quantize.conversion.vocabulary import SpecialTokens, adds_bos, read_special_tokens
from quantize.verification.hostile_texts import HOSTILE_TEXTS


@dataclass(frozen=True)
class Expected:
    """What a GGUF file of the checkpoint must do."""

    vocab_size: int
    chat_template: str | None
    special: SpecialTokens
    adds_bos: bool
    chats: list[list[Message]]
    chat_token_ids: list[list[int]]
    texts: list[str]
    text_token_ids: list[list[int]]


def read_expected(
    tokenizer: Any,  # noqa: ANN401  (a transformers tokenizer)
    checkpoint_dir: Path,
    vocab_size: int,
    chats: Sequence[list[Message]],
) -> Expected:
    """Ask the checkpoint's tokenizer for what a file's tokenizer must answer.

    llama.cpp applies no Unicode normalisation: for tokenizers that do (NFC) the texts are compared
    in normal form.
    """
    normalizer = tokenizer.backend_tokenizer.normalizer
    texts = [*HOSTILE_TEXTS, *(f"a{token}b {token}" for token in tokenizer.get_added_vocab())]
    if normalizer is not None:
        texts = [unicodedata.normalize("NFC", text) for text in texts]
        chats = [
            [
                one.model_copy(update={"content": unicodedata.normalize("NFC", one.content)})
                for one in chat
            ]
            for chat in chats
        ]
    return Expected(
        vocab_size=vocab_size,
        chat_template=tokenizer.chat_template,
        special=read_special_tokens(tokenizer, checkpoint_dir),
        adds_bos=adds_bos(tokenizer),
        chats=list(chats),
        chat_token_ids=[render_prompt(tokenizer, messages) for messages in chats],
        texts=texts,
        text_token_ids=[tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts],
    )

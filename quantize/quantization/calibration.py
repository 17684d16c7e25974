"""The training conversations that importance matrices and mixes are computed on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potstill.errors import ConversionError
from quantize.tokenized import read_tokenized


@dataclass(frozen=True)
class Calibration:
    """Training conversations, of which only the last one may be cut.

    Attributes:
        sequences: Token ids of each conversation, the chat template's included.
    """

    sequences: Sequence[list[int]]

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(map(len, self.sequences))


def read_calibration(
    conversations_dir: Path,
    max_tokens: int,
    max_length: int,
    *,
    skip_tokens: int = 0,
    tokenizer: Any = None,  # noqa: ANN401  (a transformers tokenizer)
) -> Calibration:
    """Take training conversations in stored order until there are `max_tokens` tokens.

    Args:
        max_length: Tokens after which a conversation is cut: the model's context.
        skip_tokens: Skip the conversations that hold the first so many tokens, unless none would
            be left.
        tokenizer: See `read_tokenized`.

    Raises:
        ConversionError: There are none.
    """
    sequences: list[list[int]] = []
    skipped: list[list[int]] = []
    missing = max_tokens
    for _, token_ids, _ in read_tokenized(conversations_dir, "train", tokenizer):
        if sum(map(len, skipped)) < skip_tokens:
            skipped.append(token_ids[:max_length])
            continue
        sequences.append(token_ids[: min(max_length, missing)])
        missing -= len(sequences[-1])
        if not missing:
            break
    if not sequences and skipped:
        return read_calibration(conversations_dir, max_tokens, max_length, tokenizer=tokenizer)
    if not sequences:
        raise ConversionError(
            "there are no training conversations to compute an importance matrix on",
            where=conversations_dir,
            expected="conversations of split train",
            hint='generate from more prompts, or set quantize.imatrix="never"',
        )
    return Calibration(sequences)

"""What a model is quantised for: the training conversations, as tokens.

In: the stored conversations. Out: sequences of token ids. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from potstill.chat import render_text, tokenise
from potstill.errors import ConversionError
from potstill.schema import Conversation
from potstill.tables import conversation_paths, read_conversations


@dataclass(frozen=True)
class Calibration:
    """Training conversations, whole but for the last one.

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
        skip_tokens: Pass over the conversations that hold the first so many tokens, unless none
            would be left.
        tokenizer: That of a model with other tokens than the teacher's, which the text is put into;
            conversations that its chat template refuses are left out. None: as they are stored.

    Raises:
        ConversionError: There are none.
    """
    sequences: list[list[int]] = []
    skipped: list[list[int]] = []
    missing = max_tokens
    for token_ids in _token_ids(conversations_dir, tokenizer):
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
            "there are no training conversations to quantise the model for",
            where=conversations_dir,
            expected="conversations of split train",
            hint='generate from more prompts, or set quantize.imatrix="never"',
        )
    return Calibration(sequences)


def _token_ids(conversations_dir: Path, tokenizer: Any) -> Iterator[list[int]]:  # noqa: ANN401
    paths = conversation_paths(conversations_dir, "train")
    for conversation in chain.from_iterable(map(read_conversations, paths)):
        if tokenizer is None:
            yield conversation.token_ids.tolist()
            continue
        try:
            yield _retokenised(conversation, tokenizer)
        except TemplateError:
            continue


def _retokenised(conversation: Conversation, tokenizer: Any) -> list[int]:  # noqa: ANN401
    messages, tools = [*conversation.given, *conversation.completion], conversation.prompt.tools
    text = render_text(tokenizer, messages, tools=tools, add_generation_prompt=False)
    return tokenise(tokenizer, text)

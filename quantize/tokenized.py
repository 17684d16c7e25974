"""The stored conversations in a model's tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError

from potstill.chat import render_prompt, render_text, tokenize
from potstill.schema import Message, Split
from potstill.tables import conversation_paths, read_conversations


class Tokenized(NamedTuple):
    """A conversation in tokens.

    Attributes:
        given: The messages of the prompt.
        start: Where the first answer begins.
    """

    given: tuple[Message, ...]
    token_ids: list[int]
    start: int


def read_tokenized(
    conversations_dir: Path,
    split: Split,
    tokenizer: Any = None,  # noqa: ANN401  (a transformers tokenizer)
) -> Iterator[Tokenized]:
    """Yield a split's conversations in stored order.

    Args:
        tokenizer: Tokenizer of a student that does not share the teacher's, to tokenize the text
            with; conversations that its chat template refuses are left out. None yields the stored
            ids.
    """
    paths = conversation_paths(conversations_dir, split)
    for one in chain.from_iterable(map(read_conversations, paths)):
        if tokenizer is None:
            yield Tokenized(one.given, one.token_ids.tolist(), one.turns[0].start)
            continue
        try:
            yield in_tokens_of(tokenizer, one.given, one.completion, one.prompt.tools)
        except TemplateError:
            continue


def in_tokens_of(
    tokenizer: Any,  # noqa: ANN401  (a transformers tokenizer)
    given: tuple[Message, ...],
    completion: Sequence[Message],
    tools: str | None,
) -> Tokenized:
    """Return a conversation in a tokenizer's tokens.

    Raises:
        jinja2.TemplateError: The chat template refuses it.
    """
    messages = [*given, *completion]
    text = render_text(tokenizer, messages, tools=tools, add_generation_prompt=False)
    start = len(render_prompt(tokenizer, given, tools))
    return Tokenized(given, tokenize(tokenizer, text), start)

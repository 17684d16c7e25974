"""The results of a checkpoint's tokenizer, which every GGUF file's tokenizer must return too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from potstill.chat import render_prompt
from potstill.llama.hostile_texts import HOSTILE_CHATS, HOSTILE_TEXTS, unicode_form
from potstill.schema import Message
from quantize.conversion.vocabulary import (
    SpecialTokens,
    adds_bos,
    read_special_tokens,
    templates,
    text_anchor,
)


@dataclass(frozen=True)
class Expected:
    """The expected behavior of the checkpoint's GGUF files.

    Attributes:
        num_held_out: The first chats are prompts of held-out conversations, the others are hostile.
        encoded, decoded: Token ids, and their text.
    """

    vocab_size: int
    chat_template: str | None
    special: SpecialTokens
    adds_bos: bool
    num_held_out: int
    chats: list[list[Message]]
    chat_token_ids: list[list[int]]
    texts: list[str]
    text_token_ids: list[list[int]]
    encoded: list[list[int]]
    decoded: list[str]


def read_expected(
    tokenizer: Any,  # noqa: ANN401  (a transformers tokenizer)
    checkpoint_dir: Path,
    vocab_size: int,
    chats: Sequence[list[Message]],
) -> Expected:
    """Return the expected tokens of chats, hostile texts and added tokens.

    Texts are in the form that `unicode_form` gives them.
    """
    form, num_held_out = unicode_form(tokenizer), len(chats)
    chats = [*chats, *(chat for chat in HOSTILE_CHATS if _renders(tokenizer, chat))]
    chats = [
        [one.model_copy(update={"content": form(one.content)}) for one in chat] for chat in chats
    ]
    added = (f"a{token}b {token} c" for token in tokenizer.get_added_vocab())
    anchor = text_anchor(tokenizer)
    texts = [anchor + form(text) for text in (*HOSTILE_TEXTS, *added)]
    text_token_ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    # At the start of a text transformers removes the space that some tokenizers put there.
    before = [token for token in (tokenizer.eos_token_id,) if token is not None]
    encoded = [before + ids for ids in text_token_ids]
    return Expected(
        vocab_size=vocab_size,
        chat_template=templates(tokenizer).get("default"),
        special=read_special_tokens(tokenizer, checkpoint_dir),
        adds_bos=adds_bos(tokenizer),
        num_held_out=num_held_out,
        chats=chats,
        chat_token_ids=[render_prompt(tokenizer, messages) for messages in chats],
        texts=texts,
        text_token_ids=text_token_ids,
        encoded=encoded,
        decoded=[tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in encoded],
    )


def _renders(tokenizer: Any, chat: list[Message]) -> bool:  # noqa: ANN401
    """Return whether the chat template accepts a chat: some refuse system messages."""
    if tokenizer.chat_template is None:
        return False
    try:
        render_prompt(tokenizer, chat)
    except TemplateError:
        return False
    return True

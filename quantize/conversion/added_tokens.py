"""Tokens added to the vocabulary, which are searched for in a text before anything else.

In: a tokenizer as the JSON of the tokenizers library. Out: their texts and types for llama.cpp.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from potstill.errors import ConversionError

if TYPE_CHECKING:
    from gguf import TokenType

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""Stands for a space in tokens of SentencePiece tokenizers."""

BAR = r"(?:\||\N{FULLWIDTH VERTICAL LINE})"

STRIPPING_NAME = re.compile("(phi)-?(3)", re.IGNORECASE)
"""The model name by which llama.cpp decides to strip white space after special tokens (commit
0c1e57098, llama_vocab::impl::load, "Handle per token attributes")."""

NEVER_STRIPPING = ("<unk>", "<s>", "<|endoftext|>")
"""Special tokens after which llama.cpp keeps white space even then."""


def token_type(token: dict[str, Any]) -> TokenType:
    """Return the type of an added token: whether it may be shown to the user.

    Source: llama.cpp conversion/base.py, does_token_look_special (commit 0c1e57098).
    """
    from gguf import TokenType

    text = token["content"]
    looks_special = (
        text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        or re.fullmatch(f"<{BAR}.*{BAR}>|<unused.*>", text, re.DOTALL) is not None
    )
    return TokenType.CONTROL if token["special"] or looks_special else TokenType.USER_DEFINED


def token_text(token: dict[str, Any]) -> str:
    """Return an added token's text, with ordinary spaces, as it is searched for."""
    text = str(token["content"])
    return text.replace(SPACE, " ") if token["normalized"] else text


def name_for_stripping(tokenizer: Any, name: str) -> str:  # noqa: ANN401
    """Return a model's name with which llama.cpp strips white space as the tokenizer does.

    llama.cpp strips white space after special tokens if the model's name contains Phi-3. So the
    name must contain it exactly when the tokenizer strips.
    """
    if strips_white_space(tokenizer):
        return name if STRIPPING_NAME.search(name) else f"{name} (phi-3)"
    return STRIPPING_NAME.sub(r"\1 \2", name)


def strips_white_space(tokenizer: Any) -> bool:  # noqa: ANN401
    """Return whether special tokens strip the white space after them, as llama.cpp does for Phi-3.

    Raises:
        ConversionError: They strip in a way that llama.cpp cannot.
    """
    added = tokenizer.added_tokens_decoder.values()
    stripping = {token.content for token in added if token.rstrip}
    if not stripping and not any(token.lstrip for token in added):
        return False
    wanted = {token.content for token in added if token.content not in NEVER_STRIPPING}
    if stripping == wanted and "</s>" in stripping and not any(token.lstrip for token in added):
        return True
    raise ConversionError(
        "special tokens of this tokenizer strip white space in a way that llama.cpp cannot",
        where=tokenizer.name_or_path,
        expected="none, or all but " + " ".join(NEVER_STRIPPING) + " strip what follows them",
        found=", ".join(sorted(stripping | {token.content for token in added if token.lstrip})),
    )

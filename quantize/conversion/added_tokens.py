"""Tokens beside the vocabulary that are found in a text before anything else.

In: a tokenizer as the JSON of the tokenizers library. Out: their texts and types in llama.cpp's
terms. Knows nothing of the vocabulary they are added to.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from potstill.errors import ConversionError

if TYPE_CHECKING:
    from gguf import TokenType

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What stands for a space in tokens of the SentencePiece kind."""

BAR = r"(?:\||\N{FULLWIDTH VERTICAL LINE})"

STRIPPING_NAME = re.compile("(phi)-?(3)", re.IGNORECASE)
"""The model name by which llama.cpp decides to strip white space behind special tokens (commit
0c1e57098, llama_vocab::impl::load, "Handle per token attributes")."""

NEVER_STRIPPING = ("<unk>", "<s>", "<|endoftext|>")
"""Special tokens behind which llama.cpp keeps white space even then."""


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
    """Return an added token's text as it is looked for in a text with spaces as they are."""
    text = str(token["content"])
    return text.replace(SPACE, " ") if token["normalized"] else text


def name_for_stripping(tokenizer: Any, name: str) -> str:  # noqa: ANN401
    """Return a model's name by which llama.cpp strips white space where the tokenizer does.

    llama.cpp reads from a model's name whether white space behind special tokens belongs to them,
    as it does with Phi-3. So a name must say Phi-3 where that is so, and nowhere else.
    """
    if strips_white_space(tokenizer):
        return name if STRIPPING_NAME.search(name) else f"{name} (phi-3)"
    return STRIPPING_NAME.sub(r"\1 \2", name)


def strips_white_space(tokenizer: Any) -> bool:  # noqa: ANN401
    """Tell whether special tokens take the white space behind them, as llama.cpp does for Phi-3.

    Raises:
        ConversionError: Some do in a way that llama.cpp has no equal for.
    """
    added = tokenizer.added_tokens_decoder.values()
    stripping = {token.content for token in added if token.rstrip}
    if not stripping and not any(token.lstrip for token in added):
        return False
    wanted = {token.content for token in added if token.content not in NEVER_STRIPPING}
    if stripping == wanted and "</s>" in stripping and not any(token.lstrip for token in added):
        return True
    raise ConversionError(
        "special tokens of this tokenizer take the white space around them, as llama.cpp cannot",
        where=tokenizer.name_or_path,
        expected="none, or all but " + " ".join(NEVER_STRIPPING) + " take that behind them",
        found=", ".join(sorted(stripping | {token.content for token in added if token.lstrip})),
    )

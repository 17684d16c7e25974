"""The tokens that end a checkpoint's answers."""

from __future__ import annotations

from typing import Any


def read_end_token_ids(name: str, tokenizer: Any) -> frozenset[int]:  # noqa: ANN401
    """Return the token ids that end a checkpoint's answers, as its generation config names them."""
    from transformers import GenerationConfig

    try:
        named = GenerationConfig.from_pretrained(name).eos_token_id
    except OSError:
        named = None
    ends = tokenizer.eos_token_id if named is None else named
    return frozenset(ends if isinstance(ends, list) else [ends])

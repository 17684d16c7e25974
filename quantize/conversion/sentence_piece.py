"""SentencePiece BPE, the tokenizer of Gemma, Mistral and Llama 2, as GGUF keys.

In: a tokenizer as the JSON of the tokenizers library. Out: scores instead of merges, and whether a
text is prefixed with a space.

llama.cpp merges the adjacent pair whose union has the highest score, the tokenizers library the
pair that comes first in a list of merges. That list was made from scores, with all pairs of a token
in one place, so its order yields scores that give the same tokens.
"""

from __future__ import annotations

import json
from typing import Any

from potstill.errors import ConversionError
from quantize.conversion.added_tokens import SPACE

_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_NO_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}


def is_sentence_piece(content: dict[str, Any]) -> bool:
    """Return whether the tokenizer is of this kind: unknown characters become bytes."""
    return content["model"]["type"] == "BPE" and bool(content["model"].get("byte_fallback"))


def token_scores(content: dict[str, Any], tokens: list[str]) -> list[float]:
    """Return the score of each token; one that is not merged from others has the lowest."""
    scores = merge_scores(content["model"]["merges"])
    lowest = -float(len(scores) + 1)
    return [scores.get(token, lowest) for token in tokens]


def merge_scores(merges: list[Any]) -> dict[str, float]:
    """Return a score for each token that is merged from others: 0, -1, -2, … in order of merges."""
    merged = ("".join(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges)
    return {token: -float(rank) for rank, token in enumerate(dict.fromkeys(merged))}


def find_space_rule(content: dict[str, Any], where: object) -> str:
    """Return when a space is put before a piece of text: never, first (of a text) or always.

    llama.cpp has no `first` and does not put one, which makes no difference to a text that begins
    with a special token, as rendered chats do.

    Raises:
        ConversionError: Spaces are treated in another way.
    """
    normalizer, pre = content.get("normalizer"), content.get("pre_tokenizer")
    rules = {
        _shape(None, None): "never",
        _shape(_REPLACE, None): "never",
        _shape(_REPLACE, _NO_SPLIT): "never",
        _shape(_sequence({"type": "Prepend", "prepend": SPACE}, _REPLACE), None): "always",
        _shape(None, _metaspace("never")): "never",
        _shape(None, _metaspace("first")): "first",
    }
    shape = _shape(normalizer, pre)
    if shape not in rules:
        raise ConversionError(
            "this tokenizer treats spaces in a way that llama.cpp cannot",
            where=where,
            expected=" | ".join(rules),
            found=shape,
        )
    return rules[shape]


def _shape(normalizer: dict[str, Any] | None, pre: dict[str, Any] | None) -> str:
    """Describe how spaces are treated, without settings that do not change the tokens."""
    if pre is not None:
        pre = {key: value for key, value in pre.items() if key not in ("split", "invert")}
    return json.dumps([normalizer, pre], sort_keys=True, ensure_ascii=False)


def _sequence(*normalizers: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(normalizers)}


def _metaspace(scheme: str) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme}

"""BPE of the SentencePiece kind, as of Gemma, Mistral and Llama 2, in llama.cpp's terms.

In: a tokenizer as the JSON of the tokenizers library. Out: scores in place of merges, and whether a
space is put before a text. Knows nothing of special tokens.

llama.cpp merges the pair of neighbors whose union has the highest score, the tokenizers library
the pair that comes first in a list of merges. That list was once made from scores, a token's pairs
all in one place: so its order gives scores back that make the same tokens.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from potstill.errors import ConversionError
from quantize.conversion.added_tokens import SPACE

if TYPE_CHECKING:
    from gguf import GGUFWriter

_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_NO_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}


def is_sentence_piece(content: dict[str, Any]) -> bool:
    """Tell whether unknown characters become bytes, which is what marks this kind."""
    return content["model"]["type"] == "BPE" and bool(content["model"].get("byte_fallback"))


def add_sentence_piece(
    writer: GGUFWriter, content: dict[str, Any], tokens: list[str], where: object
) -> None:
    """Write kind, scores and treatment of spaces.

    Args:
        tokens: Texts of all tokens, by id.

    Raises:
        ConversionError: llama.cpp cannot treat spaces as this tokenizer does.
    """
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    scores = merge_scores(content["model"]["merges"])
    lowest = -float(len(scores) + 1)
    writer.add_token_scores([scores.get(token, lowest) for token in tokens])
    writer.add_add_space_prefix(find_space_rule(content, where) == "always")


def merge_scores(merges: list[Any]) -> dict[str, float]:
    """Return a score for each token that is merged from others: 0 for the first, then falling."""
    merged = ("".join(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges)
    return {token: -float(rank) for rank, token in enumerate(dict.fromkeys(merged))}


def find_space_rule(content: dict[str, Any], where: object) -> str:
    """Return when a space is put before a text: never, first (where a text begins) or always.

    llama.cpp knows no `first`: there it behaves as if it were `never`, which is the same wherever a
    text begins with a special token, as chat templates do.

    Raises:
        ConversionError: Spaces are treated otherwise.
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
            "this tokenizer treats spaces in a way that llama.cpp has no equal for",
            where=where,
            expected=" | ".join(rules),
            found=shape,
        )
    return rules[shape]


def _shape(normalizer: dict[str, Any] | None, pre: dict[str, Any] | None) -> str:
    """Describe how spaces are treated, without what makes no difference to the tokens."""
    if pre is not None:
        pre = {key: value for key, value in pre.items() if key not in ("split", "invert")}
    return json.dumps([normalizer, pre], sort_keys=True, ensure_ascii=False)


def _sequence(*normalizers: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(normalizers)}


def _metaspace(scheme: str) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme}

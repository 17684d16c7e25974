"""Byte-level BPE: llama.cpp's name for its pre-tokenizer.

In: a tokenizer as the JSON of the tokenizers library. llama.cpp's converter recognizes a
pre-tokenizer by the ids of one text, which only the original tokenizers return.
"""

from __future__ import annotations

import json
from typing import Any

from potstill.errors import ConversionError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN_3_5 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

PRE_TOKENIZERS = {
    ("ByteLevel:regex",): "gpt-2",
    ("Digits:individual", "ByteLevel:regex"): "smollm",
    (f"Split:{_CONTRACTIONS}\\p{{N}}{{1,3}}{_REST}", "ByteLevel"): "llama-bpe",
    (f"Split:{_CONTRACTIONS}\\p{{N}}{_REST}", "ByteLevel"): "qwen2",
    (f"Split:{_QWEN_3_5}", "ByteLevel"): "qwen35",
    (f"Split:{_TEKKEN}", "ByteLevel"): "tekken",
}
"""llama.cpp's name of each pre-tokenizer, by its steps in the tokenizers library's JSON."""

MERGES_IGNORED = ("llama-bpe", "tekken")
"""Pre-tokenizers with which llama.cpp keeps a word that is a token, whatever the merges."""


def find_pre_tokenizer(content: dict[str, Any], where: object) -> str:
    """Return llama.cpp's name for the pre-tokenizer of a tokenizer.

    Raises:
        ConversionError: llama.cpp has no known equivalent.
    """
    normalizer = (content.get("normalizer") or {}).get("type", "none")
    if normalizer not in ("none", "NFC"):
        raise ConversionError(
            "this kind of tokenizer cannot be converted to GGUF",
            where=where,
            expected="byte-level BPE with normalizer none or NFC",
            found=f"normalizer {normalizer}",
        )
    steps = content.get("pre_tokenizer") or {}
    described = tuple(map(_describe, steps.get("pretokenizers", [steps])))
    if described not in PRE_TOKENIZERS:
        raise ConversionError(
            "this pre-tokenizer has no known equivalent in llama.cpp",
            where=where,
            expected="that of " + " | ".join(PRE_TOKENIZERS.values()),
            found=" + ".join(described),
        )
    name = PRE_TOKENIZERS[described]
    if content["model"].get("ignore_merges") and name not in MERGES_IGNORED:
        raise ConversionError(
            "this tokenizer keeps words that are tokens (ignore_merges), which llama.cpp does not",
            where=where,
            expected=f"ignore_merges with the pre-tokenizer of {' | '.join(MERGES_IGNORED)} only",
            found=f"ignore_merges with that of {name}",
        )
    return name


def _describe(step: dict[str, Any]) -> str:
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return "ByteLevel:regex" if step.get("use_regex", True) else "ByteLevel"
        case {"type": "Digits", "individual_digits": True}:
            return "Digits:individual"
        case {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated"}:
            return f"Split:{regex}"
    return json.dumps(step)

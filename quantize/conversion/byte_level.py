"""Byte-level BPE, the tokenizer of GPT-2, Llama 3, Qwen and SmolLM, as GGUF keys.

In: a tokenizer as the JSON of the tokenizers library. Out: llama.cpp's name of its pre-tokenizer,
its merges.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from potstill.errors import ConversionError

if TYPE_CHECKING:
    from gguf import GGUFWriter

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

PRE_TOKENIZERS = {
    ("ByteLevel:regex",): "gpt-2",
    ("Digits:individual", "ByteLevel:regex"): "smollm",
    (f"Split:{_CONTRACTIONS}\\p{{N}}{{1,3}}{_REST}", "ByteLevel"): "llama-bpe",
    (f"Split:{_CONTRACTIONS}\\p{{N}}{_REST}", "ByteLevel"): "qwen2",
}
"""llama.cpp's name of each pre-tokenizer, by its steps in the tokenizers library's JSON."""

MERGES_IGNORED = ("llama-bpe",)
"""Pre-tokenizers with which llama.cpp keeps a word that is a token, whatever the merges."""


def add_byte_level(writer: GGUFWriter, content: dict[str, Any], where: object) -> None:
    """Write kind, pre-tokenizer and merges.

    Raises:
        ConversionError: llama.cpp has no known equivalent.
    """
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(find_pre_tokenizer(content, where))
    merges = content["model"]["merges"]
    writer.add_token_merges(
        [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    )


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

"""A byte-level BPE tokenizer as GGUF keys.

In: a checkpoint's tokenizer. Out: tokens, types, merges, special ids and chat template in
llama.cpp's terms. Knows nothing of weights. That llama.cpp then yields the same token ids is not
believed here but proved after conversion (see verify).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
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


@dataclass(frozen=True)
class SpecialTokens:
    """Special token ids; None where the tokenizer has none.

    Attributes:
        eot: The token with which the chat template ends the assistant's turn.
        eog: Every token at which generation must stop.
    """

    bos: int | None
    eos: int | None
    eot: int | None
    pad: int | None
    eog: frozenset[int]


def read_special_tokens(tokenizer: Any, checkpoint_dir: Path) -> SpecialTokens:  # noqa: ANN401
    """Gather special tokens from the tokenizer, the chat template and generation_config.json."""
    path = checkpoint_dir / "generation_config.json"
    generation = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    stops = generation.get("eos_token_id")
    stops = stops if isinstance(stops, list) else [stops]
    eot = _end_of_turn(tokenizer)
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else stops[0]
    return SpecialTokens(
        bos=tokenizer.bos_token_id,
        eos=eos,
        eot=eot,
        pad=tokenizer.pad_token_id,
        eog=frozenset(token for token in (eos, eot, *stops) if token is not None),
    )


def adds_bos(tokenizer: Any) -> bool:  # noqa: ANN401
    """Tell whether the tokenizer puts the beginning-of-sequence token before plain text."""
    first: int = tokenizer("a")["input_ids"][0]
    return tokenizer.bos_token_id is not None and first == tokenizer.bos_token_id


def add_vocabulary(
    writer: GGUFWriter,
    tokenizer: Any,  # noqa: ANN401
    checkpoint_dir: Path,
    vocab_size: int,
) -> None:
    """Write the tokenizer into the GGUF header.

    Args:
        vocab_size: Rows of the embedding; ids beyond the tokenizer's become unused tokens.

    Raises:
        ConversionError: The tokenizer is of another kind than byte-level BPE.
    """
    content = read_tokenizer(tokenizer, checkpoint_dir)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(find_pre_tokenizer(content, checkpoint_dir))
    tokens, types = _tokens(content, vocab_size, checkpoint_dir)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(
        [
            merge if isinstance(merge, str) else " ".join(merge)
            for merge in content["model"]["merges"]
        ]
    )
    special = read_special_tokens(tokenizer, checkpoint_dir)
    for name in ("bos", "eos", "eot", "pad"):
        if (token_id := getattr(special, name)) is not None:
            getattr(writer, f"add_{name}_token_id")(token_id)
    writer.add_add_bos_token(adds_bos(tokenizer))
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)


def read_tokenizer(tokenizer: Any, where: object) -> dict[str, Any]:  # noqa: ANN401
    """Return a tokenizer as the JSON of the tokenizers library, as transformers has loaded it.

    The loaded one counts, not tokenizer.json: transformers 5.19 replaces the pre-tokenizer for some
    model types, and the model was trained on what it loads.

    Raises:
        ConversionError: It is not of that library.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ConversionError(
            "this kind of tokenizer cannot be converted to GGUF",
            where=where,
            expected="a tokenizer with a tokenizer.json",
            found=type(tokenizer).__name__,
        )
    return dict(json.loads(backend.to_str()))


def find_pre_tokenizer(content: dict[str, Any], where: object) -> str:
    """Return llama.cpp's name for the pre-tokenizer of a tokenizer.

    Raises:
        ConversionError: The tokenizer is no byte-level BPE, or llama.cpp's equal is not known here.
    """
    model, normalizer = content["model"], content.get("normalizer") or {}
    kind = (model["type"], bool(model.get("byte_fallback")), normalizer.get("type", "none"))
    steps = content.get("pre_tokenizer") or {}
    described = tuple(map(_describe, steps.get("pretokenizers", [steps])))
    if kind[:2] != ("BPE", False) or kind[2] not in ("none", "NFC"):
        raise ConversionError(
            "this kind of tokenizer cannot be converted to GGUF",
            where=where,
            expected="byte-level BPE, normalizer none or NFC",
            found=f"{kind[0]}{' with byte fallback' if kind[1] else ''}, normalizer {kind[2]}",
        )
    if described not in PRE_TOKENIZERS:
        raise ConversionError(
            "this pre-tokenizer has no known equal in llama.cpp",
            where=where,
            expected="that of " + " | ".join(PRE_TOKENIZERS.values()),
            found=" + ".join(described),
        )
    return PRE_TOKENIZERS[described]


def _describe(step: dict[str, Any]) -> str:
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return "ByteLevel:regex" if step.get("use_regex", True) else "ByteLevel"
        case {"type": "Digits", "individual_digits": True}:
            return "Digits:individual"
        case {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated"}:
            return f"Split:{regex}"
    return json.dumps(step)


def _tokens(content: dict[str, Any], vocab_size: int, where: object) -> tuple[list[str], list[int]]:
    from gguf import TokenType

    texts = {token_id: text for text, token_id in content["model"]["vocab"].items()}
    types = dict.fromkeys(texts, TokenType.NORMAL)
    for token in content["added_tokens"]:
        texts[token["id"]] = token["content"]
        types[token["id"]] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    if max(texts) >= vocab_size:
        raise ConversionError(
            "the tokenizer has more tokens than the model",
            where=where,
            expected=f"token ids below {vocab_size}, the rows of the embedding",
            found=max(texts),
        )
    ids = range(vocab_size)
    return (
        [texts.get(token_id, f"[PAD{token_id}]") for token_id in ids],
        [int(types.get(token_id, TokenType.UNUSED)) for token_id in ids],
    )


def _end_of_turn(tokenizer: Any) -> int | None:  # noqa: ANN401
    """Return the special token that follows the assistant's words in the chat template."""
    if tokenizer.chat_template is None:
        return None
    marker = "\N{LEFT WHITE SQUARE BRACKET}answer\N{RIGHT WHITE SQUARE BRACKET}"
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": marker}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False)
    rest = tokenizer(text.partition(marker)[2], add_special_tokens=False)["input_ids"]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return rest[0] if rest and rest[0] in special else None

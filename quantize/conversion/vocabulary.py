"""A tokenizer as GGUF keys.

In: a checkpoint's tokenizer. Out: tokens, types, special ids, chat templates, and what its kind of
BPE needs. `verification` checks that llama.cpp then returns the same token ids.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.errors import ConversionError
from quantize.conversion.added_tokens import token_text, token_type
from quantize.conversion.byte_level import add_byte_level
from quantize.conversion.sampling import read_stops
from quantize.conversion.sentence_piece import (
    add_sentence_piece,
    find_space_rule,
    is_sentence_piece,
)

if TYPE_CHECKING:
    from gguf import GGUFWriter


@dataclass(frozen=True)
class SpecialTokens:
    """Special token ids; None where the tokenizer has none.

    Attributes:
        eot: The token with which the chat template ends the assistant's turn.
        eom: One further token at which generation stops, if any.
        eog: Every token at which generation must stop.
    """

    bos: int | None
    eos: int | None
    eot: int | None
    eom: int | None
    unk: int | None
    pad: int | None
    eog: frozenset[int]


def read_special_tokens(tokenizer: Any, checkpoint_dir: Path) -> SpecialTokens:  # noqa: ANN401
    """Gather special tokens from the tokenizer, the chat template and generation_config.json."""
    stops = read_stops(checkpoint_dir)
    eot = _end_of_turn(tokenizer)
    eos = tokenizer.eos_token_id
    if eos is None and stops:
        eos = stops[0]
    return SpecialTokens(
        bos=tokenizer.bos_token_id,
        eos=eos,
        eot=eot,
        eom=next((stop for stop in stops if stop not in (eos, eot)), None),
        unk=tokenizer.unk_token_id,
        pad=tokenizer.pad_token_id,
        eog=frozenset(token for token in (eos, eot, *stops) if token is not None),
    )


def adds_bos(tokenizer: Any) -> bool:  # noqa: ANN401
    """Return whether the tokenizer puts the token `bos` before plain text."""
    first: int = tokenizer("a")["input_ids"][0]
    return tokenizer.bos_token_id is not None and first == tokenizer.bos_token_id


def templates(tokenizer: Any) -> dict[str, str]:  # noqa: ANN401
    """Return the chat templates by name; `default` is the one for chats without tools."""
    template = tokenizer.chat_template
    if template is None:
        return {}
    return {"default": template} if isinstance(template, str) else dict(template)


def text_anchor(tokenizer: Any) -> str:  # noqa: ANN401
    """Return a prefix with which both libraries tokenize the beginning of a text in the same way.

    It is a special token if a space is put before a text's first word only; otherwise empty.
    """
    content = read_tokenizer(tokenizer, tokenizer.name_or_path)
    if not is_sentence_piece(content) or find_space_rule(content, "the tokenizer") != "first":
        return ""
    return str(tokenizer.bos_token or tokenizer.eos_token)


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
        ConversionError: The tokenizer is not BPE, or llama.cpp has no equivalent.
    """
    content = read_tokenizer(tokenizer, checkpoint_dir)
    tokens, types = _tokens(content, vocab_size, checkpoint_dir)
    if is_sentence_piece(content):
        add_sentence_piece(writer, content, tokens, checkpoint_dir)
    else:
        add_byte_level(writer, content, checkpoint_dir)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    special = read_special_tokens(tokenizer, checkpoint_dir)
    for name in ("bos", "eos", "eot", "eom", "unk", "pad"):
        if (token_id := getattr(special, name)) is not None:
            getattr(writer, f"add_{name}_token_id")(token_id)
    writer.add_add_bos_token(adds_bos(tokenizer))
    if named := templates(tokenizer):
        writer.add_chat_template(
            [{"name": name, "template": template} for name, template in named.items()]
        )


def read_tokenizer(tokenizer: Any, where: object) -> dict[str, Any]:  # noqa: ANN401
    """Return a loaded tokenizer as the JSON of the tokenizers library.

    It may differ from tokenizer.json: transformers 5.19 replaces the pre-tokenizer for some model
    types, and the model was trained with what transformers loads.

    Raises:
        ConversionError: It is not of that library, or not BPE.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = {} if backend is None else dict(json.loads(backend.to_str()))
    if content.get("model", {}).get("type") != "BPE":
        raise ConversionError(
            "this kind of tokenizer cannot be converted to GGUF",
            where=where,
            expected="BPE, byte-level or with byte fallback, in a tokenizer.json",
            found=content["model"]["type"] if content else type(tokenizer).__name__,
        )
    return content


def _tokens(content: dict[str, Any], vocab_size: int, where: object) -> tuple[list[str], list[int]]:
    from gguf import TokenType

    model = content["model"]
    texts = {token_id: text for text, token_id in model["vocab"].items()}
    types = dict.fromkeys(texts, TokenType.NORMAL)
    sentence_piece = is_sentence_piece(content)
    if sentence_piece:
        for token_id, text in texts.items():
            if re.fullmatch("<0x[0-9A-F]{2}>", text):
                types[token_id] = TokenType.BYTE
            elif text == model["unk_token"]:
                types[token_id] = TokenType.UNKNOWN
    for token in content["added_tokens"]:
        texts[token["id"]] = token_text(token) if sentence_piece else token["content"]
        types[token["id"]] = token_type(token)
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

"""A tokenizer as GGUF keys.

In: a checkpoint's tokenizer. Out: special ids, chat templates, and what llama.cpp's converter does
not find in a loaded tokenizer. `verification` checks that llama.cpp returns the same token ids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from potstill.errors import ConversionError
from quantize.conversion.added_tokens import token_text, token_type
from quantize.conversion.byte_level import find_pre_tokenizer
from quantize.conversion.sentence_piece import (
    find_space_rule,
    is_sentence_piece,
    token_scores,
)
from quantize.conversion.stops import read_stops

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


@dataclass(frozen=True)
class Vocabulary:
    """What takes the place of methods of llama.cpp's converter of text models.

    Attributes:
        content: The loaded tokenizer, as the JSON of the tokenizers library.
        recognize: The converter's own way to find the name of a pre-tokenizer.
        write_byte_level: The converter's own way to write a byte-level tokenizer.
    """

    tokenizer: Any
    content: dict[str, Any]
    recognize: Callable[[Any, Any], str]
    write_byte_level: Callable[[Any], None]

    @classmethod
    def of(cls, tokenizer: Any, text_model: Any) -> Self:  # noqa: ANN401
        """Return the vocabulary of a tokenizer, with the converter's base class of text models."""
        content = read_tokenizer(tokenizer, tokenizer.name_or_path)
        return cls(tokenizer, content, text_model.get_vocab_base_pre, text_model._set_vocab_gpt2)

    @property
    def is_sentence_piece(self) -> bool:
        """Whether it is SentencePiece BPE; otherwise it is byte-level BPE."""
        return is_sentence_piece(self.content)

    def pre_tokenizer(self, model: Any, tokenizer: Any) -> str:  # noqa: ANN401
        """Return llama.cpp's name for the pre-tokenizer, by its steps or by the converter.

        Raises:
            ConversionError: Neither knows it.
        """
        try:
            return find_pre_tokenizer(self.content, model.dir_model)
        except ConversionError as unknown:
            try:
                return self.recognize(model, tokenizer)
            except NotImplementedError:
                raise unknown from None

    def sentence_piece(self, model: Any) -> tuple[list[bytes], list[float], list[int]]:  # noqa: ANN401
        """Return texts, scores and types of the tokens, which transformers 5 saves as JSON only.

        Raises:
            FileNotFoundError: It is byte-level BPE, which the converter writes then.
        """
        if not self.is_sentence_piece:
            raise FileNotFoundError("tokenizer.model")
        size = model.hparams["vocab_size"]
        tokens, types = tokens_with_types(self.content, size, model.dir_model)
        scores = token_scores(self.content, tokens)
        return [token.encode() for token in tokens], scores, types

    def write(self, model: Any) -> None:  # noqa: ANN401
        """Write the tokenizer as the kind of BPE that it is, whatever the converter expects."""
        if self.is_sentence_piece:
            model._set_vocab_sentencepiece()
        else:
            self.write_byte_level(model)

    def write_in_own_way(self, write_own: Callable[[], None], model: Any) -> None:  # noqa: ANN401
        """Let a converter write the tokenizer in its own way, if it finds the files for it."""
        try:
            write_own()
        except (FileNotFoundError, ValueError):
            self.write(model)

    def add_to(self, writer: GGUFWriter, checkpoint_dir: Path, vocab_size: int) -> None:
        """Write what the converter guesses: sizes, spaces, special tokens and templates."""
        writer.add_vocab_size(vocab_size)
        if self.is_sentence_piece:
            rule = find_space_rule(self.content, checkpoint_dir)
            writer.add_add_space_prefix(rule == "always")
        _add_special_tokens(writer, self.tokenizer, checkpoint_dir)


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


def tokens_with_types(
    content: dict[str, Any], vocab_size: int, where: object
) -> tuple[list[str], list[int]]:
    """Return the texts and types of all tokens, by id; ids without a token get an unused one."""
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


def _add_special_tokens(
    writer: GGUFWriter,
    tokenizer: Any,  # noqa: ANN401
    checkpoint_dir: Path,
) -> None:
    special = read_special_tokens(tokenizer, checkpoint_dir)
    for name in ("bos", "eos", "eot", "eom", "unk", "pad"):
        if (token_id := getattr(special, name)) is not None:
            getattr(writer, f"add_{name}_token_id")(token_id)
    writer.add_add_bos_token(adds_bos(tokenizer))
    if named := templates(tokenizer):
        writer.add_chat_template(
            [{"name": name, "template": template} for name, template in named.items()]
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

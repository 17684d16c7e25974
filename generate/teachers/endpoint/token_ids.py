"""Token ids by the bytes of tokens, for servers that return only bytes.

In: a tokenizer of the `tokenizers` library. Out: the id of the only token with the given bytes.
"""

from __future__ import annotations

import json
import re
from typing import Any

from potstill.errors import TeacherError

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
"""A single byte in a SentencePiece vocabulary."""
AMBIGUOUS = -1


class TokenIds:
    """Token ids by the bytes of tokens, and of control tokens by the bytes of their text.

    Args:
        backend: A `tokenizers.Tokenizer`.

    Raises:
        TeacherError: The kind of tokenizer is not supported.
    """

    def __init__(self, backend: Any) -> None:  # noqa: ANN401  (compiled library)
        content = json.loads(backend.to_str())
        added = {token["id"]: token["content"].encode() for token in content["added_tokens"]}
        to_bytes = _byte_level if _is_byte_level(content["decoder"]) else _sentence_piece
        self._ids: dict[bytes, int] = {}
        for token, token_id in backend.get_vocab(with_added_tokens=True).items():
            piece = added[token_id] if token_id in added else to_bytes(token)
            self._ids[piece] = AMBIGUOUS if piece in self._ids else token_id

    def find(self, piece: bytes) -> int | None:
        """Return the id of the token with these bytes; None for none or several."""
        token_id = self._ids.get(piece, AMBIGUOUS)
        return None if token_id == AMBIGUOUS else token_id


def _is_byte_level(decoder: Any) -> bool:  # noqa: ANN401  (JSON)
    """Return whether the vocabulary is byte-level BPE's, else SentencePiece's, by the decoder."""
    decoder = decoder or {}
    steps = decoder.get("decoders", [decoder])
    kinds = {step.get("type") for step in steps}
    if "ByteLevel" in kinds:
        return True
    if kinds & {"Metaspace", "ByteFallback", "Replace"}:
        return False
    raise TeacherError(
        "this tokenizer's token ids cannot be derived from the text of tokens",
        expected="byte-level BPE or SentencePiece",
        found=f"decoder {', '.join(map(str, kinds))}",
        hint="use a server that returns token ids, such as vLLM",
    )


def _byte_level(token: str) -> bytes:
    return bytes(_BYTES[letter] for letter in token)


def _sentence_piece(token: str) -> bytes:
    if byte := BYTE_TOKEN.fullmatch(token):
        return bytes.fromhex(byte[1])
    return token.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()


def _letters_of_bytes() -> dict[str, int]:
    """Return the byte that each letter of a byte-level vocabulary stands for.

    Printable Latin-1 stands for itself, the other bytes for letters from U+0100 on.
    Source: `bytes_to_unicode` of GPT-2's encoder.py.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTES = _letters_of_bytes()

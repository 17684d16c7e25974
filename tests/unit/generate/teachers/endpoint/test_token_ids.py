import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from generate.teachers.endpoint.token_ids import TokenIds
from potstill.errors import TeacherError


def test_every_byte_level_token_is_found_by_what_it_writes(toy_tokenizer):
    backend = toy_tokenizer.backend_tokenizer
    ids = TokenIds(backend)
    text = "the rain in Spain: grüße, 你好 🎉\n\t"
    encoded = toy_tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = [bytes_of(toy_tokenizer, token_id) for token_id in encoded]
    assert b"".join(pieces) == text.encode()
    assert any(len(piece.decode(errors="ignore").encode()) < len(piece) for piece in pieces)
    assert [ids.find(piece) for piece in pieces] == encoded
    everyone = range(len(toy_tokenizer))
    assert [ids.find(bytes_of(toy_tokenizer, one)) for one in everyone] == list(everyone)
    assert ids.find(b"never seen") is None


def bytes_of(tokenizer, token_id: int) -> bytes:
    """Return a token's bytes, each by its position in a text that begins with all bytes."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    token = tokenizer.convert_ids_to_tokens(token_id)
    if token_id in tokenizer.added_tokens_decoder:
        return token.encode()
    return bytes(
        {letter: byte for byte, letter in bytes_to_unicode().items()}[one] for one in token
    )


def sentence_piece(vocabulary: list[str]) -> Tokenizer:
    pieces = [(piece, -1.0) for piece in vocabulary]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    backend.add_special_tokens([AddedToken("<end>", special=True)])
    return backend


def test_sentence_piece_spells_spaces_and_bytes_in_its_own_way():
    backend = sentence_piece(["<unk>", "<0x0A>", "<0xE4>", "▁the", "in", "▁"])
    ids = TokenIds(backend)
    assert ids.find(b" the") == 3
    assert ids.find(b"in") == 4
    assert ids.find(b"\n") == 1
    assert ids.find(b"\xe4") == 2
    assert ids.find(b"<end>") == backend.token_to_id("<end>")
    assert ids.find(b"the") is None


def test_bytes_of_two_tokens_belong_to_neither():
    ids = TokenIds(sentence_piece(["<unk>", "<0x20>", "▁", "a", "<0x61>"]))
    assert ids.find(b" ") is None
    assert ids.find(b"a") is None


def test_a_vocabulary_of_another_kind_is_refused():
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "##a": 1}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    with pytest.raises(TeacherError, match="decoder WordPiece"):
        TokenIds(backend)

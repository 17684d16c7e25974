from __future__ import annotations

import json

import pytest
from gguf import GGUFReader, TokenType

from potstill.errors import ConversionError
from quantize.conversion.checkpoint import Checkpoint
from quantize.conversion.convert import write_base_gguf
from quantize.conversion.vocabulary import read_special_tokens, read_tokenizer
from quantize.loading import load_tokenizer


def test_a_tokenizer_larger_than_the_model_is_refused(make_checkpoint, tmp_path):
    directory = make_checkpoint(vocab_size=300)
    with pytest.raises(ConversionError, match="more tokens than the model"):
        write_base_gguf(
            Checkpoint(directory), load_tokenizer(directory), tmp_path / "m.gguf", "F16", "tiny"
        )


def test_rows_beyond_the_tokenizer_are_unused_tokens(make_checkpoint, tmp_path):
    directory, path = make_checkpoint(), tmp_path / "model.gguf"
    tokenizer = load_tokenizer(directory)
    write_base_gguf(Checkpoint(directory), tokenizer, path, "F16", "tiny")
    fields = GGUFReader(path).fields
    tokens, types = (
        fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type")
    )
    assert len(tokens) == len(types) == 1280
    assert tokens[-1] == "[PAD1279]"
    assert types[len(tokenizer) :] == [TokenType.UNUSED] * (1280 - len(tokenizer))
    assert TokenType.UNUSED not in types[: len(tokenizer)]


def test_tokenizers_other_than_bpe_are_refused():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordPiece()))
    with pytest.raises(ConversionError, match="kind of tokenizer") as caught:
        read_tokenizer(tokenizer, "here")
    assert caught.value.found == "WordPiece"


def test_stops_come_from_tokenizer_template_and_generation_config(make_checkpoint):
    directory = make_checkpoint()
    tokenizer = load_tokenizer(directory)
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    special = read_special_tokens(tokenizer, directory)
    assert (special.eos, special.eot, special.eom, special.eog) == (2, 2, 0, {0, 2})
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<|endoftext|>")
    special = read_special_tokens(tokenizer, directory)
    assert (special.eot, special.eom) == (0, None)

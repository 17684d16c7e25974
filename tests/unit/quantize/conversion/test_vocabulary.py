import json

import pytest

from potstill.errors import ConversionError
from quantize.conversion.vocabulary import read_special_tokens, read_tokenizer
from quantize.loading import load_tokenizer


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

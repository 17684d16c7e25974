from __future__ import annotations

import json

import pytest

from potstill.errors import ConversionError
from quantize.conversion.byte_level import find_pre_tokenizer
from tests.fixtures.tiny_checkpoints import PRE_TOKENIZERS


@pytest.fixture
def content(tokenizer_dir):
    return json.loads((tokenizer_dir / "tokenizer.json").read_text())


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_known_steps_have_llama_cpps_name(content, name):
    steps = {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS[name]}
    assert find_pre_tokenizer(content | {"pre_tokenizer": steps}, "here") == name


def test_a_single_step_needs_no_sequence(content):
    (step,) = PRE_TOKENIZERS["gpt-2"]
    assert find_pre_tokenizer(content | {"pre_tokenizer": step}, "here") == "gpt-2"


def test_whole_words_are_tokens_as_they_are_only_where_llama_cpp_takes_them_so(content):
    content["model"]["ignore_merges"] = True
    steps = {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS["llama-bpe"]}
    assert find_pre_tokenizer(content | {"pre_tokenizer": steps}, "here") == "llama-bpe"
    with pytest.raises(ConversionError, match="words that are tokens as they are"):
        find_pre_tokenizer(content, "here")


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "Whitespace"),
        ({"pre_tokenizer": None}, "{}"),
        ({"normalizer": {"type": "Lowercase"}}, "normalizer Lowercase"),
    ],
)
def test_others_are_refused_with_what_they_are(content, changes, found):
    with pytest.raises(ConversionError, match="tokenizer") as caught:
        find_pre_tokenizer(content | changes, "here")
    assert found in str(caught.value.found)

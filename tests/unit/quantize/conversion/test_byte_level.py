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


def test_ignored_merges_are_refused_unless_llama_cpp_ignores_them(content):
    content["model"]["ignore_merges"] = True
    steps = {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS["llama-bpe"]}
    assert find_pre_tokenizer(content | {"pre_tokenizer": steps}, "here") == "llama-bpe"
    with pytest.raises(ConversionError, match="keeps words that are tokens"):
        find_pre_tokenizer(content, "here")


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "Whitespace"),
        ({"pre_tokenizer": None}, "{}"),
        ({"normalizer": {"type": "Lowercase"}}, "normalizer Lowercase"),
    ],
)
def test_other_pre_tokenizers_are_refused_by_name(content, changes, found):
    with pytest.raises(ConversionError, match="tokenizer") as caught:
        find_pre_tokenizer(content | changes, "here")
    assert found in str(caught.value.found)

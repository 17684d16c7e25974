import pytest

from potstill.errors import ConversionError
from quantize.conversion.sentence_piece import find_space_rule, is_sentence_piece, merge_scores

REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
PREPEND = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, REPLACE]}
SPLIT = {
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}


def metaspace(scheme):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}


def test_earlier_merges_have_higher_scores_however_they_are_written():
    scores = merge_scores([["a", "b"], "c d", ["ab", "c"], ["a", "bc"]])
    assert scores == {"ab": 0.0, "cd": -1.0, "abc": -2.0}


@pytest.mark.parametrize(
    ("normalizer", "pre", "rule"),
    [
        (REPLACE, SPLIT, "never"),
        (PREPEND, None, "always"),
        (None, metaspace("first"), "first"),
        (None, metaspace("never"), "never"),
    ],
    ids=["Gemma", "Phi 3", "Llama 2", "Mistral"],
)
def test_the_rule_for_spaces_before_a_text_is_found(normalizer, pre, rule):
    content = {"normalizer": normalizer, "pre_tokenizer": pre}
    assert find_space_rule(content, "here") == rule


def test_other_treatments_of_spaces_are_refused():
    content = {"normalizer": None, "pre_tokenizer": metaspace("always")}
    with pytest.raises(ConversionError, match="treats spaces"):
        find_space_rule(content, "here")


@pytest.mark.parametrize(
    ("model", "is_one"),
    [
        ({"type": "BPE", "byte_fallback": True}, True),
        ({"type": "BPE", "byte_fallback": False}, False),
        ({"type": "Unigram", "byte_fallback": True}, False),
    ],
)
def test_byte_fallback_marks_sentence_piece(model, is_one):
    assert is_sentence_piece({"model": model}) == is_one

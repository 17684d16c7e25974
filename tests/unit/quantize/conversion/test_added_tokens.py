import pytest
from gguf import TokenType
from tokenizers import AddedToken

from potstill.errors import ConversionError
from quantize.conversion.added_tokens import name_for_stripping, token_text, token_type
from quantize.loading import load_tokenizer


@pytest.fixture
def tokenizer(tokenizer_dir):
    """A tokenizer whose three special tokens take no white space."""
    return load_tokenizer(tokenizer_dir)


@pytest.mark.parametrize(
    ("content", "special", "kind"),
    [
        ("<tool_call>", False, TokenType.USER_DEFINED),
        ("<tool_call>", True, TokenType.CONTROL),
        ("<|python_tag|>", False, TokenType.CONTROL),
        ("<pad>", False, TokenType.CONTROL),
        ("<|not closed", False, TokenType.USER_DEFINED),
    ],
)
def test_tokens_that_look_special_are_control_tokens(content, special, kind):
    assert token_type({"content": content, "special": special}) is kind


def test_normalized_added_tokens_have_ordinary_spaces():
    assert token_text({"content": "▁▁x", "normalized": True}) == "  x"
    assert token_text({"content": "▁▁x", "normalized": False}) == "▁▁x"


@pytest.mark.parametrize(
    ("name", "wanted"), [("student", "student"), ("Phi-3-mini", "Phi 3-mini"), ("phi3", "phi 3")]
)
def test_a_name_does_not_make_llama_cpp_strip_white_space(tokenizer, name, wanted):
    assert name_for_stripping(tokenizer, name) == wanted


def test_a_name_makes_llama_cpp_strip_white_space_as_the_tokenizer_does(tokenizer):
    others = (token for token in tokenizer.added_tokens_decoder.values() if not token.special)
    texts = ["</s>", "<|im_start|>", "<|im_end|>", *(token.content for token in others)]
    tokens = [AddedToken(text, rstrip=True, normalized=False, special=True) for text in texts]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    tokenizer.bos_token, tokenizer.eos_token = tokens[1:3]
    assert name_for_stripping(tokenizer, "student") == "student (phi-3)"
    assert name_for_stripping(tokenizer, "Phi-3-mini") == "Phi-3-mini"


def test_stripping_that_llama_cpp_lacks_is_refused(tokenizer):
    token = AddedToken("<mask>", lstrip=True, normalized=False, special=True)
    tokenizer.add_special_tokens({"additional_special_tokens": [token]})
    with pytest.raises(ConversionError, match="strip white space") as caught:
        name_for_stripping(tokenizer, "student")
    assert caught.value.found == "<mask>"

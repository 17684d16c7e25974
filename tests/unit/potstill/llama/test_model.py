"""A tiny random model with SmolLM2's vocabulary, as llama.cpp reads it."""

import pytest

from potstill.errors import ArtifactError
from potstill.llama.model import LlamaModel


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with LlamaModel(tiny_gguf) as opened:
        yield opened


def test_control_tokens_are_parsed_on_request_only(model):
    text = "<|im_start|>user\nGrüße, café<|im_end|>"
    parsed, plain = (model.tokenize(text, parse_special=one) for one in (True, False))
    assert model.detokenize(parsed) == model.detokenize(plain) == text
    assert parsed[-1] == model.end_of_turn
    assert model.end_of_turn not in plain
    assert model.ends_generation(model.end_of_turn)
    assert model.end_of_turn in model.end_tokens
    assert b"".join(map(model.piece, parsed)).decode() == "user\nGrüße, café"


def test_names_of_tokens_are_those_that_templates_use(model):
    assert model.named_tokens["eos_token"] == "<|im_end|>"
    assert "<|im_start|>" in model.chat_template


def test_a_vocabulary_is_the_same_without_the_weights(model, tiny_gguf):
    with LlamaModel(tiny_gguf, vocabulary_only=True) as vocabulary:
        assert vocabulary.chat_template == model.chat_template
        assert vocabulary.end_tokens == model.end_tokens
        for token_id in range(model.vocab_size):
            assert vocabulary.full_piece(token_id) == model.full_piece(token_id)
            assert vocabulary.is_control(token_id) == model.is_control(token_id)


def test_control_tokens_have_a_text_that_no_answer_shows(model):
    assert model.is_control(model.end_of_turn)
    assert model.full_piece(model.end_of_turn) == b"<|im_end|>"
    assert model.piece(model.end_of_turn) == b""


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"GGUX" + content[4:], "invalid magic"),
        (lambda content: content[: len(content) // 2], "not within the file bounds"),
    ],
)
def test_llama_cpps_own_words_are_in_the_error(tiny_gguf, tmp_path, capfd, damage, message):
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damage(tiny_gguf.read_bytes()))
    with pytest.raises(ArtifactError, match="cannot be loaded") as caught:
        LlamaModel(path)
    assert message in str(caught.value.found)
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist") as caught:
        LlamaModel(tmp_path / "missing.gguf")
    assert caught.value.where == tmp_path / "missing.gguf"

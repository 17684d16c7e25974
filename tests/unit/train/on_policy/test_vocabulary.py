from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from potstill.errors import TrainingError
from train.heads import output_head
from train.on_policy.vocabulary import fit_vocabulary

TOKENIZER = SimpleNamespace(get_vocab=lambda: {"a": 0, "b": 1, "c": 9})


def teacher(tied):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def logprobs(model):
    """Of the head that the losses see, after a few tokens."""
    hidden = model.base_model(torch.tensor([[0, 1, 9]])).last_hidden_state[0]
    return output_head(model).logits(hidden).log_softmax(-1)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("num_rows", [10, 16, 40])
def test_tokens_keep_their_probabilities_and_padding_gets_none(tied, num_rows):
    model = teacher(tied)
    expected = logprobs(model)
    fit_vocabulary(model, num_rows, TOKENIZER)
    assert model.config.vocab_size == num_rows
    found = logprobs(model)
    assert found.shape[-1] == num_rows
    shared = min(num_rows, 16)
    torch.testing.assert_close(
        found[:, :shared].log_softmax(-1), expected[:, :shared].log_softmax(-1)
    )
    if num_rows > 16:
        torch.testing.assert_close(found[:, :16], expected)
        assert found[:, 16:].exp().sum() < 1e-12


def test_a_student_that_lacks_tokens_is_refused():
    with pytest.raises(TrainingError, match="lacks some of its tokens") as caught:
        fit_vocabulary(teacher(tied=True), 9, TOKENIZER)
    assert "10 rows" in str(caught.value)

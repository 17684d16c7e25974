import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from train.trainer import compile_layers, targets_of


@pytest.mark.slow
def test_compiling_keeps_the_names_of_parameters():
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    model = LlamaForCausalLM(config)
    names = set(model.state_dict())
    compile_layers(model)
    assert set(model.state_dict()) == names
    assert [layer._compiled_call_impl is not None for layer in model.model.layers] == [True, True]


def test_row_t_of_the_targets_is_the_t_th_label_after_the_first_position():
    batch = {
        "labels": torch.tensor([[5, -100, 7, 8], [-100, 9, -100, -100]]),
        "sampled_logprobs": torch.zeros(3),
        "top_token_ids": torch.zeros(3, 2, dtype=torch.int64),
        "top_logprobs": torch.zeros(3, 2),
    }
    assert targets_of(batch).token_ids_T.tolist() == [7, 8, 9]

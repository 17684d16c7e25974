import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from train.trainer import SHORT, choose_attention, compile_layers, targets_of


def tiny_model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    return LlamaForCausalLM(config)


@pytest.mark.parametrize(
    ("length", "bf16", "kind"),
    [(SHORT, True, "eager"), (SHORT + 1, True, "sdpa"), (SHORT, False, "sdpa")],
)
def test_attention_is_multiplied_out_for_short_conversations_in_bfloat16(length, bf16, kind):
    model = tiny_model()
    token_ids = torch.tensor([[1, 2, 3]])
    before = model(token_ids).logits
    choose_attention(model, [length, length], bf16=bf16)
    assert model.config._attn_implementation == kind
    torch.testing.assert_close(model(token_ids).logits, before)


@pytest.mark.slow
def test_compiling_keeps_the_names_of_parameters():
    model = tiny_model()
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

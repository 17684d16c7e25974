"""Shape legend: B rows, L length, T labeled tokens, V vocabulary."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed
from torch.distributed.tensor import DTensor
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    HyperCLOVAXConfig,
    LlamaConfig,
    PhiConfig,
)

from potstill.errors import TrainingError
from train.config import KDConfig
from train.data.batches import IGNORED_LABEL
from train.heads import Head, labeled_hidden_states, output_head
from train.losses import mix_of
from train.losses.chunked import Targets, distillation_loss
from train.students.checks import refuse_unknown_head

V = 64
SIZES = {
    "vocab_size": V,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    "initializer_range": 0.5,
}
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "gemma2": Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=2.0),
    "cohere": CohereConfig(**SIZES, logit_scale=0.25),
    "granite": GraniteConfig(**SIZES, logits_scaling=8.0),
    "hyperclovax": HyperCLOVAXConfig(**SIZES, logits_scaling=3.0),
    "phi": PhiConfig(**SIZES),
}


def tiny(config, seed=0):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    if (bias := model.get_output_embeddings().bias) is not None:
        torch.nn.init.normal_(bias)
    return model


def batch(rows=2, length=6):
    input_ids = torch.randint(3, V, (rows, length), generator=torch.Generator().manual_seed(0))
    labels = input_ids.masked_fill(torch.arange(length) < 2, IGNORED_LABEL)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[0, 4:] = 0
    labels[0, 4:] = IGNORED_LABEL
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_loss_and_gradients_are_those_of_the_model_s_own_logits(config):
    """The dense mixed loss on `model(...).logits`, by plain autograd, in every parameter."""
    model, given = tiny(config), batch()
    shifted = given["labels"][:, 1:] != IGNORED_LABEL
    token_ids = given["labels"][:, 1:][shifted]
    logp = torch.randn(len(token_ids), V).log_softmax(-1)
    gradients = []

    output = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"])
    logq = output.logits[:, :-1][shifted].float().log_softmax(-1)
    entropy = -logq.gather(-1, token_ids[:, None]).sum()
    dense = 0.9 * (logp.exp() * (logp - logq)).sum() + 0.1 * entropy
    dense.backward()
    gradients.append({name: one.grad for name, one in model.named_parameters()})

    model.zero_grad()
    top_logprobs, top_ids = logp.topk(V, -1)
    sampled = logp.gather(-1, token_ids[:, None])[:, 0]
    total = distillation_loss(
        labeled_hidden_states(model, given),
        output_head(model),
        Targets(token_ids, sampled, top_ids, top_logprobs),
        mix_of(KDConfig(weight=0.9, chunk_tokens=3)),
    ).total
    total.backward()
    gradients.append({name: one.grad for name, one in model.named_parameters()})

    torch.testing.assert_close(total, dense, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_logits_are_the_model_s(config):
    model, given = tiny(config), batch()
    input_ids = given["input_ids"]
    hidden = model.base_model(input_ids=input_ids).last_hidden_state
    with torch.no_grad():
        expected = model(input_ids=input_ids).logits
    found = output_head(model).logits(hidden.flatten(0, 1))
    torch.testing.assert_close(found, expected.flatten(0, 1), rtol=1e-5, atol=1e-5)
    assert not found.requires_grad


def test_a_narrow_head_s_logits_are_float32():
    head = Head(torch.randn(4, 3, dtype=torch.bfloat16), torch.zeros(4, dtype=torch.bfloat16))
    assert head.logits(torch.randn(2, 3, dtype=torch.bfloat16)).dtype == torch.float32


def test_sharded_weights_are_gathered(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        model = tiny(FAMILIES["phi"])
        plain = output_head(model)
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        torch.distributed.tensor.distribute_module(model.get_output_embeddings(), mesh)
        assert isinstance(model.get_output_embeddings().weight, DTensor)
        found = output_head(model)
        assert not isinstance(found.weight_VD, DTensor)
        assert torch.equal(found.weight_VD, plain.weight_VD)
        assert torch.equal(found.bias_V, plain.bias_V)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_packed_rows_have_the_hidden_states_of_padded_ones(config):
    model, padded = tiny(config), batch()
    expected = labeled_hidden_states(model, padded)
    keep = padded["attention_mask"].bool()
    starts = padded["labels"].clone()
    starts[:, 0] = IGNORED_LABEL
    positions = torch.arange(keep.shape[1]).expand_as(keep)
    packed = {
        "input_ids": padded["input_ids"][keep][None],
        "position_ids": positions[keep][None],
        "labels": starts[keep][None],
    }
    torch.testing.assert_close(labeled_hidden_states(model, packed), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_known_heads_are_accepted(config):
    model = tiny(config).train()
    refuse_unknown_head(model, Path("somewhere"))
    assert model.training, "it is left as it was"


@pytest.mark.parametrize("setting", ["final_logit_softcapping", "logit_scale"])
def test_a_head_with_more_to_it_than_is_known_is_refused(setting):
    """Here the settings differ from the model; the check cannot decide which is wrong."""
    model = tiny(FAMILIES["llama"])
    setattr(model.config, setting, 0.5)
    with pytest.raises(TrainingError, match="transforms its logits") as caught:
        refuse_unknown_head(model, Path("checkpoint"))
    assert caught.value.where == Path("checkpoint/config.json")


def test_a_model_that_computes_nan_is_refused():
    model = tiny(FAMILIES["llama"])
    torch.nn.init.constant_(model.get_output_embeddings().weight, math.nan)
    with pytest.raises(TrainingError, match="transforms its logits"):
        refuse_unknown_head(model, Path("checkpoint"))

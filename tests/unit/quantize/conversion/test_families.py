"""What each architecture refuses, and where a window bounds the context."""

from __future__ import annotations

import pytest
from gguf import GGUFWriter
from transformers import AutoConfig

from potstill.errors import ConversionError
from quantize.conversion.families.gemma import GEMMA3
from quantize.conversion.families.llama import LLAMA, MISTRAL, QWEN2, QWEN3, SMOLLM3
from quantize.conversion.families.phi import PHI, PHI3

BASE = {"hidden_size": 64, "num_attention_heads": 4, "head_dim": 16, "num_hidden_layers": 6}
GEMMA = {"query_pre_attn_scalar": 16}
UNTIED = {"tie_word_embeddings": False}


def rope(rope_type, **settings):
    return {
        "rope_parameters": {"rope_type": rope_type, "rope_theta": 1e4, "factor": 4.0} | settings
    }


YARN = {"original_max_position_embeddings": 32}
LLAMA3 = YARN | {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
ACCEPTED = {
    "llama": (LLAMA, {}),
    "mistral": (MISTRAL, {}),
    "smollm3": (SMOLLM3, {}),
    "qwen2": (QWEN2, rope("yarn", **YARN)),
    "qwen3": (QWEN3, {}),
    "gemma3_text": (GEMMA3, GEMMA),
    "phi": (PHI, UNTIED),
    "phi3": (PHI3, {}),
}
REFUSED = [
    ("llama", LLAMA, {"hidden_act": "gelu"}, "hidden_act"),
    ("llama", LLAMA, {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    ("llama", LLAMA, rope("dynamic"), "rope_type"),
    ("llama", LLAMA, rope("yarn", beta_fast=64, **YARN), "beta_fast"),
    ("llama", LLAMA, rope("yarn", truncate=False, **YARN), "truncate"),
    ("smollm3", SMOLLM3, {"no_rope_layers": [1, 0, 1, 1, 1, 1]}, "no_rope_layers"),
    ("smollm3", SMOLLM3, {"attention_bias": True}, "attention_bias"),
    ("qwen2", QWEN2, {"use_sliding_window": True}, "use_sliding_window"),
    ("qwen2", QWEN2, rope("llama3", **LLAMA3), "rope_type"),
    ("qwen3", QWEN3, {"attention_bias": True}, "attention_bias"),
    ("gemma3_text", GEMMA3, {"query_pre_attn_scalar": 17}, "query_pre_attn_scalar"),
    ("gemma3_text", GEMMA3, GEMMA | {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    ("phi", PHI, UNTIED | {"qk_layernorm": True}, "qk_layernorm"),
    ("phi", PHI, {"tie_word_embeddings": True}, "tie_word_embeddings"),
]


def config_of(model_type, settings):
    sizes = dict(BASE)
    if model_type in ("phi", "phi3"):
        del sizes["head_dim"]
    return AutoConfig.for_model(model_type, **sizes | settings)


@pytest.mark.parametrize("model_type", ACCEPTED)
def test_plain_models_are_accepted(model_type):
    family, settings = ACCEPTED[model_type]
    family.refuse_unsupported(config_of(model_type, settings), "here")


@pytest.mark.parametrize(
    ("model_type", "family", "settings", "key"),
    REFUSED,
    ids=[f"{model_type} {key}" for model_type, _, _, key in REFUSED],
)
def test_a_setting_that_gguf_would_lose_is_refused(model_type, family, settings, key):
    with pytest.raises(ConversionError, match=key):
        family.refuse_unsupported(config_of(model_type, settings), "here")


@pytest.mark.parametrize(("window", "context"), [(None, 512), (128, 128), (4096, 512)])
@pytest.mark.parametrize(("model_type", "family"), [("mistral", MISTRAL), ("phi3", PHI3)])
def test_a_window_is_the_longest_context(model_type, family, window, context):
    settings = {"sliding_window": window, "max_position_embeddings": 512}
    writer = GGUFWriter(None, family.gguf_arch)
    family.add_hyperparameters(writer, config_of(model_type, settings))
    (values,) = writer.kv_data
    assert values[f"{family.gguf_arch}.context_length"].value == context

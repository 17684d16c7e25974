"""Scalings of rotary embeddings compared with transformers' own formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from gguf import GGUFWriter
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from quantize.conversion.rope import add_rope, rope_tensors

HEAD_DIM = 64
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
FACTORS = {"short_factor": [1.0] * 32, "long_factor": [2.0] * 32}
LONGROPE = {"rope_type": "longrope", "original_max_position_embeddings": 256, **FACTORS}


def config_of(settings):
    rope = {"rope_theta": 10000.0} | settings
    return AutoConfig.for_model(
        "llama",
        head_dim=HEAD_DIM,
        hidden_size=2 * HEAD_DIM,
        num_attention_heads=2,
        max_position_embeddings=1024,
        rope_parameters=rope,
    )


def keys_of(config):
    writer = GGUFWriter(None, "llama")
    add_rope(writer, config, HEAD_DIM)
    prefix, values = "llama.rope.", writer.kv_data[0]
    return {key.removeprefix(prefix): values[key].value for key in values if prefix in key}


def transformers_own(config):
    """Return frequencies and what queries and keys are multiplied by."""
    rope_type = config.rope_parameters["rope_type"]
    frequencies, scale = ROPE_INIT_FUNCTIONS[rope_type](config, "cpu")
    return frequencies.numpy(), scale


def test_llama_3_frequencies_are_divided_as_transformers_does():
    config = config_of(LLAMA3)
    divisors = rope_tensors(config, HEAD_DIM)["rope_freqs.weight"]
    plain = 1 / 10000.0 ** (np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    np.testing.assert_allclose(plain / divisors, transformers_own(config)[0], rtol=1e-6)
    assert {1.0, 8.0} < set(divisors.tolist()), "some as they are, some scaled, some between"


@pytest.mark.parametrize(
    ("settings", "own_scale"),
    [
        (YARN, 1 + 0.1 * math.log(4)),
        (YARN | {"attention_factor": 1.5}, 1 + 0.1 * math.log(4)),
        (YARN | {"mscale": 0.7, "mscale_all_dim": 1.3}, 1 + 0.1 * math.log(4)),
        (LONGROPE, 1.0),
        (LONGROPE | {"attention_factor": 1.25}, 1.0),
    ],
    ids=["yarn", "yarn, explicit", "yarn, mscale", "longrope", "longrope, explicit"],
)
def test_attention_is_scaled_as_transformers_does(settings, own_scale):
    """llama.cpp multiplies by `own_scale` itself."""
    config = config_of(settings)
    written = keys_of(config).get("scaling.attn_factor", 1.0)
    assert written * own_scale == pytest.approx(transformers_own(config)[1])


def test_longrope_has_both_lists_of_factors():
    tensors = rope_tensors(config_of(LONGROPE), HEAD_DIM)
    assert {name: one.tolist() for name, one in tensors.items()} == {
        "rope_factors_long.weight": FACTORS["long_factor"],
        "rope_factors_short.weight": FACTORS["short_factor"],
    }


def test_plain_rotary_embeddings_have_a_base_and_nothing_else():
    config = config_of({"rope_type": "default"})
    assert keys_of(config) == {"dimension_count": HEAD_DIM, "freq_base": 10000.0}
    assert rope_tensors(config, HEAD_DIM) == {}

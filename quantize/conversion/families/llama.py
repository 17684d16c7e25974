"""Llama and similar architectures: Mistral, SmolLM3, Qwen2 and Qwen3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quantize.conversion.families.family import Family, Settings, add_shape_within_window

if TYPE_CHECKING:
    from torch import Tensor

SMOLLM3_NO_ROPE_INTERVAL = 4
"""llama.cpp leaves every fourth layer of SmolLM3 without rotary embedding (commit 0c1e57098,
src/models/smollm3.cpp)."""


def permute_query_key(name: str, weights: Tensor, config: Any) -> Tensor:  # noqa: ANN401
    """Reorder the rows of query and key projections from rotary halves to rotary pairs.

    Source: llama.cpp conversion/llama.py, LlamaModel.permute (commit 0c1e57098).
    """
    num_heads = {
        "q_proj": config.num_attention_heads,
        "k_proj": config.num_key_value_heads,
    }.get(name.split(".")[-2])
    if num_heads is None:
        return weights
    halves = weights.reshape(num_heads, 2, weights.shape[0] // num_heads // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def no_sliding_window(config: Any) -> Settings:  # noqa: ANN401
    """Refuse sliding windows, which llama.cpp ignores in this architecture."""
    return {"use_sliding_window": (getattr(config, "use_sliding_window", False), (False, None))}


def without_biases(config: Any) -> Settings:  # noqa: ANN401
    """Refuse biases too: llama.cpp has none for the attention's output."""
    return {
        **no_sliding_window(config),
        "attention_bias": (config.attention_bias, (False,)),
        "mlp_bias": (getattr(config, "mlp_bias", False), (False,)),
    }


def smollm3_settings(config: Any) -> Settings:  # noqa: ANN401
    """Refuse layers without rotary embedding other than every fourth."""
    regular = [
        int((layer + 1) % SMOLLM3_NO_ROPE_INTERVAL != 0)
        for layer in range(config.num_hidden_layers)
    ]
    found = list(map(int, config.no_rope_layers[: config.num_hidden_layers]))
    return {**without_biases(config), "no_rope_layers": (found, (regular,))}


LLAMA = Family("llama", permute_query_key, rope_types=("default", "linear", "yarn", "llama3"))
MISTRAL = Family("llama", permute_query_key, add_shape_within_window, rope_types=LLAMA.rope_types)
SMOLLM3 = Family("smollm3", permute_query_key, settings=smollm3_settings)
QWEN2 = Family("qwen2", settings=no_sliding_window)
QWEN3 = Family("qwen3", settings=without_biases)

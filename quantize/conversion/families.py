"""The architectures that can become GGUF: one row each.

In: a Hugging Face configuration and weights. Out: GGUF hyperparameters, tensor names and weights in
the layout llama.cpp expects. Knows nothing of files, tokenizers or quantisation.

To add an architecture: a row in FAMILIES, a weight transform if its layout differs, and a case in
the test that compares logits with the Hugging Face model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from potstill.errors import ConversionError

if TYPE_CHECKING:
    from gguf import GGUFWriter

Weights = NDArray[np.float32]
ROPE_FREQUENCIES_NAME = "rope_freqs.weight"
ROPE_TYPES = ("default", "linear", "llama3")


def permute_query_key(name: str, weights: Weights, config: Any) -> Weights:  # noqa: ANN401
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


def keep_as_is(name: str, weights: Weights, config: Any) -> Weights:  # noqa: ANN401, ARG001
    """Return the weights unchanged: llama.cpp uses the checkpoint's own layout."""
    return weights


@dataclass(frozen=True)
class Family:
    """How one architecture is laid out in GGUF.

    Attributes:
        gguf_arch: Its name in llama.cpp.
        transform: Called with a tensor's checkpoint name, weights and configuration.
    """

    gguf_arch: str
    transform: Callable[[str, Weights, Any], Weights]


FAMILIES = {
    "LlamaForCausalLM": Family("llama", permute_query_key),
    "Qwen2ForCausalLM": Family("qwen2", keep_as_is),
    "Qwen3ForCausalLM": Family("qwen3", keep_as_is),
}


def find_family(architecture: str | None, where: object) -> Family:
    """Return the row of an architecture.

    Raises:
        ConversionError: There is none.
    """
    if architecture not in FAMILIES:
        raise ConversionError(
            "this architecture cannot be converted to GGUF",
            where=where,
            expected=" | ".join(FAMILIES),
            found=architecture,
            hint="choose a teacher or student of a supported architecture",
        )
    return FAMILIES[architecture]


def refuse_unsupported(config: Any, where: object) -> None:  # noqa: ANN401
    """Refuse settings that llama.cpp would ignore silently.

    Raises:
        ConversionError: The configuration asks for one of them.
    """
    rope = config.rope_parameters
    checks = {
        "hidden_act": (config.hidden_act, ("silu",)),
        "rope_type": (rope.get("rope_type", "default"), ROPE_TYPES),
        "partial_rotary_factor": (rope.get("partial_rotary_factor", 1.0), (1.0,)),
        "use_sliding_window": (getattr(config, "use_sliding_window", False), (False, None)),
    }
    for key, (found, supported) in checks.items():
        if found not in supported:
            raise ConversionError(
                f"the model's {key} cannot be expressed in GGUF by this converter",
                where=where,
                expected=" | ".join(map(str, supported)),
                found=found,
            )


def head_dim(config: Any) -> int:  # noqa: ANN401
    """Return the number of dimensions of one attention head."""
    explicit = getattr(config, "head_dim", None)
    return int(explicit or config.hidden_size // config.num_attention_heads)


def add_hyperparameters(writer: GGUFWriter, config: Any) -> None:  # noqa: ANN401
    """Write the model's shape and rotary embedding into the GGUF header."""
    rope = config.rope_parameters
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim(config))
    writer.add_value_length(head_dim(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_dim(config))
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope.get("rope_type") == "linear":
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])


def rope_frequency_factors(config: Any) -> Weights | None:  # noqa: ANN401
    """Return the divisors [head_dim / 2] of llama3 rope scaling; None for other rope types.

    Source: transformers 5.19 modeling_rope_utils._compute_llama3_parameters, as quotients of the
    unscaled and the scaled inverse frequencies.
    """
    rope = config.rope_parameters
    if rope.get("rope_type") != "llama3":
        return None
    factor, original = rope["factor"], rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    dim = head_dim(config)
    wavelengths = 2 * math.pi * rope["rope_theta"] ** (np.arange(0, dim, 2) / dim)
    smooth = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
    factors: Weights = (1.0 / ((1.0 - smooth) / factor + smooth)).astype(np.float32)
    return factors

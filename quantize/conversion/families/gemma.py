"""Gemma 3's text model, whose layers alternate between sliding-window and full attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quantize.conversion.families.family import Family, Settings, add_shape

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from torch import Tensor

LAYERS_OF_27B = 62
"""The number of layers by which llama.cpp recognizes Gemma 3 27B, whose attention is not scaled by
the size of a head (commit 0c1e57098, src/models/gemma3.cpp)."""


def add_one_to_norms(name: str, weights: Tensor, config: Any) -> Tensor:  # noqa: ANN401, ARG001
    """Add the 1 that Gemma adds to the scale of a norm during evaluation.

    Source: transformers 5.19, Gemma3RMSNorm.forward.
    """
    return weights.float() + 1 if name.endswith("norm.weight") else weights


def add_gemma3_shape(writer: GGUFWriter, config: Any) -> None:  # noqa: ANN401
    """Write the sizes, and which layers have a sliding window."""
    add_shape(writer, config)
    is_local = [layer_type == "sliding_attention" for layer_type in config.layer_types]
    if any(is_local):
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern(is_local)
    if config.final_logit_softcapping:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def gemma3_settings(config: Any) -> Settings:  # noqa: ANN401
    """Refuse an attention scale other than llama.cpp's, and features that llama.cpp lacks."""
    scaled_by = (
        config.hidden_size // config.num_attention_heads
        if config.num_hidden_layers == LAYERS_OF_27B
        else config.head_dim
    )
    return {
        "query_pre_attn_scalar": (config.query_pre_attn_scalar, (scaled_by,)),
        "attn_logit_softcapping": (config.attn_logit_softcapping, (None,)),
        "use_bidirectional_attention": (config.use_bidirectional_attention, (False, None)),
        "attention_bias": (config.attention_bias, (False,)),
    }


GEMMA3 = Family(
    "gemma3",
    add_one_to_norms,
    add_gemma3_shape,
    activations=("gelu_pytorch_tanh",),
    rope_types=("default", "linear"),
    settings=gemma3_settings,
)

"""Microsoft's Phi: Phi-1 to Phi-2, and Phi-3 and Phi-4, whose projections are fused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quantize.conversion.families.family import Family, Settings, add_shape_within_window

if TYPE_CHECKING:
    from gguf import GGUFWriter


def add_phi3_shape(writer: GGUFWriter, config: Any) -> None:  # noqa: ANN401
    """Write the sizes; without a sliding window, 0, which llama.cpp reads as none."""
    add_shape_within_window(writer, config)
    writer.add_sliding_window(config.sliding_window or 0)


def phi_settings(config: Any) -> Settings:  # noqa: ANN401
    """Refuse normalized queries and keys, and tied embeddings."""
    return {
        "qk_layernorm": (config.qk_layernorm, (False,)),
        "tie_word_embeddings": (config.tie_word_embeddings, (False,)),
    }


PHI = Family(
    "phi2",
    activations=("gelu_new",),
    rope_types=("default", "linear"),
    settings=phi_settings,
    needs_head=True,
)
PHI3 = Family("phi3", add_hyperparameters=add_phi3_shape, rope_types=("default", "longrope"))

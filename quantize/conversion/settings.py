"""Settings of a checkpoint that llama.cpp's converter of this version misses.

Out: metadata of the file. Everything else is the converter's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguf import GGUFWriter

FORMER_LAYER_TYPES = {"linear_attention": "mamba", "full_attention": "attention"}
"""What transformers 4 called the layers of hybrid models, and the converter of Granite still does
(llama.cpp 0c1e57098, conversion/granite.py, get_attn_layers)."""
FORMERLY_NAMED = ("granitemoehybrid",)
"""Types of models with these names."""
ASSUMED_PATTERNS = ("gemma3",)
"""Architectures whose converter omits which layers have a sliding window; llama.cpp then assumes
five of six (0c1e57098, src/models/gemma3.cpp)."""


def use_former_layer_types(settings: dict[str, Any]) -> dict[str, Any]:
    """Return a model's settings with its types of layers as the converter names them."""
    if settings.get("model_type") in FORMERLY_NAMED:
        layers = settings["layer_types"]
        settings["layer_types"] = [FORMER_LAYER_TYPES.get(one, one) for one in layers]
    return settings


def add_sliding_window(writer: GGUFWriter, settings: Mapping[str, Any]) -> None:
    """Write which layers have a sliding window; where llama.cpp has none, limit the context to it.

    llama.cpp ignores a window that all layers have, which makes no difference up to its length.
    """
    layers, window = settings.get("layer_types") or [], settings.get("sliding_window")
    is_local = [layer == "sliding_attention" for layer in layers]
    if not window or (layers and not any(is_local)):
        return
    if writer.arch in ASSUMED_PATTERNS:
        writer.add_sliding_window_pattern(is_local)
    if all(is_local) or f"{writer.arch}.attention.sliding_window" not in writer.kv_data[0]:
        writer.add_context_length(min(window, settings.get("max_position_embeddings", window)))

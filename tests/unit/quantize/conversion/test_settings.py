"""Where a sliding window bounds the context, and what a converter is told beyond its own."""

import pytest
from gguf import GGUFWriter

from quantize.conversion.settings import add_sliding_window, use_former_layer_types

LOCAL, FULL = "sliding_attention", "full_attention"
SIZE = {"max_position_embeddings": 512}


@pytest.mark.parametrize(
    ("architecture", "has_window", "settings", "context"),
    [
        ("llama", False, {"sliding_window": None}, None),
        ("llama", False, {"sliding_window": 128}, 128),
        ("llama", False, {"sliding_window": 4096}, 512),
        ("phi3", True, {"sliding_window": 128}, 128),
        ("qwen2", False, {"sliding_window": 128, "layer_types": [FULL, LOCAL]}, 128),
        ("qwen2", False, {"sliding_window": 128, "layer_types": [FULL, FULL]}, None),
        ("gemma3", True, {"sliding_window": 128, "layer_types": [FULL, LOCAL]}, None),
    ],
)
def test_a_window_that_llama_cpp_ignores_is_the_longest_context(
    architecture, has_window, settings, context
):
    writer = GGUFWriter(None, architecture)
    if has_window:
        writer.add_sliding_window(settings["sliding_window"])
    add_sliding_window(writer, SIZE | settings)
    (values,) = writer.kv_data
    found = values.get(f"{architecture}.context_length")
    assert (None if found is None else found.value) == context


def test_the_layers_of_gemma3_with_a_window_are_named():
    writer = GGUFWriter(None, "gemma3")
    writer.add_sliding_window(16)
    add_sliding_window(writer, SIZE | {"sliding_window": 16, "layer_types": [LOCAL, FULL, LOCAL]})
    pattern = writer.kv_data[0]["gemma3.attention.sliding_window_pattern"]
    assert pattern.value == [True, False, True]


def test_only_granites_hybrids_get_their_former_names_of_layers():
    layers = ["linear_attention", FULL]
    granite = use_former_layer_types({"model_type": "granitemoehybrid", "layer_types": layers})
    assert granite["layer_types"] == ["mamba", "attention"]
    qwen = use_former_layer_types({"model_type": "qwen3_5_text", "layer_types": layers})
    assert qwen["layer_types"] == layers

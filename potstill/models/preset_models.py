"""Sizes of the checkpoints that presets name, for an estimate before they are on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BYTES_PER_PARAMETER = 2
"""All of them are published in bfloat16."""


@dataclass(frozen=True)
class PresetModel:
    """A checkpoint on the Hugging Face hub."""

    config: Mapping[str, Any]
    """What its config.json says about its sizes."""
    num_parameters: int
    layer_parameters: int
    """Parameters of all layers."""

    @property
    def num_bytes(self) -> int:
        """Size of its weights."""
        return BYTES_PER_PARAMETER * self.num_parameters


PRESET_MODELS = {
    "Qwen/Qwen2.5-0.5B-Instruct": PresetModel(
        {
            "architectures": ["Qwen2ForCausalLM"],
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_attention_heads": 14,
            "num_hidden_layers": 24,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "vocab_size": 151_936,
        },
        num_parameters=494_032_768,
        layer_parameters=357_897_216,
    ),
    "Qwen/Qwen2.5-7B-Instruct": PresetModel(
        {
            "architectures": ["Qwen2ForCausalLM"],
            "hidden_size": 3584,
            "intermediate_size": 18_944,
            "num_attention_heads": 28,
            "num_hidden_layers": 28,
            "num_key_value_heads": 4,
            "tie_word_embeddings": False,
            "vocab_size": 152_064,
        },
        num_parameters=7_615_616_512,
        layer_parameters=6_525_618_176,
    ),
    "Qwen/Qwen2.5-72B-Instruct": PresetModel(
        {
            "architectures": ["Qwen2ForCausalLM"],
            "hidden_size": 8192,
            "intermediate_size": 29_568,
            "num_attention_heads": 64,
            "num_hidden_layers": 80,
            "num_key_value_heads": 8,
            "tie_word_embeddings": False,
            "vocab_size": 152_064,
        },
        num_parameters=72_706_203_648,
        layer_parameters=70_214_778_880,
    ),
}
"""By name. A test counts the parameters with transformers; the models' cards say 0.49, 7.61 and
72.7 billion."""

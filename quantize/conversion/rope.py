"""Rotary embeddings in GGUF: their base, and how they are scaled for longer contexts.

In: a Hugging Face configuration. Out: GGUF keys, and the tensors that some scalings need. Which
scalings an architecture supports is in its row of `families/registry.py`.

All formulas are those of transformers 5.19, modeling_rope_utils.py. llama.cpp reads the keys in
src/llama-model.cpp and src/llama-context.cpp (commit 0c1e57098).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from torch import Tensor

YARN_BETAS = {"beta_fast": (32, None), "beta_slow": (1, None)}
"""The bounds of YaRN's ramp that llama.cpp uses whatever the file contains."""


def rope_settings(
    config: Any,  # noqa: ANN401
    rope_types: tuple[str, ...],
) -> dict[str, tuple[object, tuple[object, ...]]]:
    """Return the configuration's rotary settings, each with the values llama.cpp supports.

    Args:
        rope_types: The scalings that the architecture can have.
    """
    rope, local = _parameters(config), _local_parameters(config)
    settings: dict[str, tuple[object, tuple[object, ...]]] = {
        "rope_type": (rope.get("rope_type", "default"), rope_types),
        "rope_type of local layers": (local.get("rope_type", "default"), ("default",)),
    }
    if rope.get("rope_type") == "yarn":
        settings |= {key: (rope.get(key), can) for key, can in YARN_BETAS.items()}
        settings["truncate"] = (rope.get("truncate", True), (True,))
    return settings


def add_rope(writer: GGUFWriter, config: Any, head_dim: int) -> None:  # noqa: ANN401
    """Write the rotary embedding's keys."""
    from gguf import RopeScalingType

    rope, local = _parameters(config), _local_parameters(config)
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(rope["rope_theta"])
    if local:
        writer.add_rope_freq_base_swa(local["rope_theta"])
    rope_type = rope.get("rope_type")
    if rope_type in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType(rope_type))
        writer.add_rope_scaling_factor(_factor(config))
    if rope_type in ("yarn", "longrope"):
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if (attention_factor := _attention_factor(config)) != 1.0:
            writer.add_rope_scaling_attn_factors(attention_factor)


def rope_tensors(config: Any, head_dim: int) -> dict[str, Tensor]:  # noqa: ANN401
    """Return divisors of the frequencies [rotary dimensions / 2] by tensor name; most need none."""
    import torch

    rope = _parameters(config)
    if rope.get("rope_type") == "llama3":
        return {"rope_freqs.weight": _llama3_divisors(rope, head_dim)}
    if rope.get("rope_type") == "longrope":
        return {
            f"rope_factors_{length}.weight": torch.tensor(rope[f"{length}_factor"])
            for length in ("long", "short")
        }
    return {}


def _llama3_divisors(rope: Mapping[str, Any], head_dim: int) -> Tensor:
    """Source: _compute_llama3_parameters, as quotients of unscaled and scaled frequencies."""
    import torch

    factor, original = rope["factor"], rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    frequencies = 1.0 / rope["rope_theta"] ** (torch.arange(0, head_dim, 2).float() / head_dim)
    wavelengths = 2 * math.pi / frequencies
    smooth = (original / wavelengths - low) / (high - low)
    divisors = 1.0 / ((1.0 - smooth) / factor + smooth)
    divisors = torch.where(wavelengths < original / high, 1.0, divisors)
    return torch.where(wavelengths > original / low, float(factor), divisors)


def _attention_factor(config: Any) -> float:  # noqa: ANN401
    """Return the factor of queries and keys, relative to the one llama.cpp applies itself.

    Source: attention_factor of _compute_yarn_parameters and _compute_longrope_parameters. With
    YaRN, llama.cpp multiplies by 1 + 0.1 ln(factor).
    """
    rope, factor = _parameters(config), _factor(config)
    own = _yarn_scale(factor) if rope["rope_type"] == "yarn" else 1.0
    if (explicit := rope.get("attention_factor")) is not None:
        return float(explicit / own)
    if rope["rope_type"] == "longrope":
        original = rope["original_max_position_embeddings"]
        return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    scale, scale_all = rope.get("mscale"), rope.get("mscale_all_dim")
    if scale and scale_all:
        return _yarn_scale(factor, scale) / _yarn_scale(factor, scale_all) / own
    return 1.0


def _yarn_scale(factor: float, scale: float = 1.0) -> float:
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _factor(config: Any) -> float:  # noqa: ANN401
    rope = _parameters(config)
    if rope.get("factor") is not None:
        return float(rope["factor"])
    return float(config.max_position_embeddings / rope["original_max_position_embeddings"])


def _parameters(config: Any) -> Mapping[str, Any]:  # noqa: ANN401
    """Return the settings of layers with full attention, in most architectures all."""
    rope: Mapping[str, Any] = config.rope_parameters
    return rope.get("full_attention") or rope


def _local_parameters(config: Any) -> Mapping[str, Any]:  # noqa: ANN401
    return config.rope_parameters.get("sliding_attention") or {}

"""Low-rank adapters: PEFT's configuration, and the checked merge into the weights.

In: the config; a model with trained adapters. Out: PEFT's config; the merged model, which computes
the same as the one with adapters.
"""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, PeftModel

from train.config import LoRAConfig
from train.students.checks import logits_of, refuse_other_logits


def adapter_config(config: LoRAConfig) -> LoraConfig:
    """Return adapters on every linear layer but the head."""
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def merge_adapters(model: PeftModel, token_ids: list[int]) -> Any:  # noqa: ANN401
    """Return the model with its adapters merged into the weights, in float32.

    Args:
        model: The trained model, which cannot be used afterwards.
        token_ids: A conversation on which the logits before and after are compared.

    Raises:
        TrainingError: The merged model's logits differ from those with adapters.
    """
    model.float()
    expected_LV = logits_of(model, token_ids)
    merged = model.merge_and_unload(safe_merge=True)
    refuse_other_logits(
        logits_of(merged, token_ids),
        expected_LV,
        "the merged model does not compute the same as the model with adapters",
        f"{type(merged).__name__} after {type(model).__name__}.merge_and_unload",
    )
    return merged

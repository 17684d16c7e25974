"""Low-rank adapters: PEFT's configuration, their files, and the checked merge into the weights.

In: the config; a model with trained adapters. Out: PEFT's config; a directory with the adapter; the
merged model, which computes the same as the one with adapters.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel

from potstill.files import disk_errors
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


def save_adapter(model: PeftModel, directory: Path) -> None:
    """Write the adapter as PEFT does, with its scale as the plain ratio of alpha and rank.

    Raises:
        ArtifactError: The disk is full.
    """
    config = model.peft_config["default"]
    if config.use_rslora:
        config.use_rslora, config.lora_alpha = False, config.lora_alpha * math.sqrt(config.r)
    with disk_errors("saving the adapter", directory):
        model.save_pretrained(directory, save_embedding_layers=False)
    # PEFT writes an empty model card.
    (directory / "README.md").unlink(missing_ok=True)


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

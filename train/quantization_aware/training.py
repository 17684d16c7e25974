"""Quantization-aware training: steps and measurements use the weights that a file will hold.

In: a trainer of the stored conversations. Out: the same trainer, which updates weights in full
precision by gradients at their quantized values.
"""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from typing import Any

from transformers import TrainerCallback

from potstill.errors import TrainingError
from train.config import FreezeConfig, QuantizationAwareConfig, TrainConfig
from train.quantization_aware.weights import Quantization
from train.students.plan import freeze


def phase_settings(config: TrainConfig, aware: QuantizationAwareConfig) -> TrainConfig:
    """Return the settings of training with this phase's own in place of the first one's."""
    own = {name: getattr(aware, name) for name in ("num_epochs", "max_steps", "learning_rate")}
    return config.model_copy(update=own)


def mark_trained(model: Any, freeze_config: FreezeConfig) -> None:  # noqa: ANN401
    """Turn gradients on for all parameters except frozen embeddings.

    Layers that were frozen so far are trained too, because quantization changes all of them.
    """
    model.requires_grad_(True)
    freeze(model, freeze_config, removed_layers=())


def quantize_in_training(trainer: Any, file_type: str, save_dtype: str) -> None:  # noqa: ANN401
    """Make a trainer train and measure its model with quantized weights.

    Weights that are not trained are quantized permanently.

    Raises:
        TrainingError: The model's weights cannot be quantized so, or DeepSpeed trains it.
    """
    if trainer.is_deepspeed_enabled:
        raise TrainingError(
            "DeepSpeed changes the weights in its backward pass, while they are quantized",
            where="train.launch",
            expected="ddp or fsdp2 with train.quantization_aware",
        )
    model = trainer.model
    every = Quantization.of(model, file_type, save_dtype)
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    every.without(trained).replace_weights(model)
    quantization = every.without(every.types.keys() - trained)
    trainer.add_callback(QuantizedSteps(quantization))
    trainer.held_out = dataclasses.replace(trainer.held_out, around=quantization.applied)


class QuantizedSteps(TrainerCallback):  # type: ignore[misc]
    """Quantizes the weights for the forward and backward passes of each optimizer step."""

    def __init__(self, quantization: Quantization) -> None:
        self._quantization = quantization
        self._stack = ExitStack()

    def on_step_begin(self, *_: Any, model: Any, **_rest: Any) -> None:  # noqa: ANN401
        """Replace the weights by quantized ones."""
        self._stack.enter_context(self._quantization.applied(model))

    def on_pre_optimizer_step(self, *_: Any, **_rest: Any) -> None:  # noqa: ANN401
        """Restore the weights in full precision, which the optimizer updates."""
        self._stack.close()

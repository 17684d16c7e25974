"""Training with quantised weights: every step and measurement sees what a file will hold.

In: a trainer of the stored conversations. Out: the same one, which keeps the weights in full
precision and finds those whose quantisation is good. Knows nothing of run directories.
"""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from typing import Any

from transformers import TrainerCallback

from potstill.errors import TrainingError
from train.config import FreezeConfig, QuantisationAwareConfig, TrainConfig
from train.quantisation_aware.weights import Quantisation
from train.students.plan import freeze


def phase_settings(config: TrainConfig, aware: QuantisationAwareConfig) -> TrainConfig:
    """Return the settings of training with this phase's own in place of the first one's."""
    own = {name: getattr(aware, name) for name in ("num_epochs", "max_steps", "learning_rate")}
    return config.model_copy(update=own)


def mark_trained(model: Any, freeze_config: FreezeConfig) -> None:  # noqa: ANN401
    """Turn gradients on for what this phase trains: all but embeddings, if they are frozen.

    Layers that were frozen so far are trained too: once quantised, none is the teacher's own.
    """
    model.requires_grad_(True)
    freeze(model, freeze_config, removed_layers=())


def quantise_in_training(trainer: Any, file_type: str, save_dtype: str) -> None:  # noqa: ANN401
    """Let a trainer, equipped to measure its model, train and measure it with quantised weights.

    Weights that are not trained are quantised for good.

    Raises:
        TrainingError: The model's weights cannot be quantised so, or DeepSpeed trains it.
    """
    if trainer.is_deepspeed_enabled:
        raise TrainingError(
            "DeepSpeed changes the weights in its backward pass, while they are quantised",
            where="train.launch",
            expected="ddp or fsdp2 with train.quantisation_aware",
        )
    model = trainer.model
    every = Quantisation.of(model, file_type, save_dtype)
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    every.without(trained).replace_weights(model)
    quantisation = every.without(every.types.keys() - trained)
    trainer.add_callback(QuantisedSteps(quantisation))
    trainer.held_out = dataclasses.replace(trainer.held_out, around=quantisation.applied)


class QuantisedSteps(TrainerCallback):  # type: ignore[misc]
    """Quantises the weights for the forward and backward passes of each optimizer step."""

    def __init__(self, quantisation: Quantisation) -> None:
        self._quantisation = quantisation
        self._stack = ExitStack()

    def on_step_begin(self, *_: Any, model: Any, **_rest: Any) -> None:  # noqa: ANN401
        """Put quantised weights in."""
        self._stack.enter_context(self._quantisation.applied(model))

    def on_pre_optimizer_step(self, *_: Any, **_rest: Any) -> None:  # noqa: ANN401
        """Put the full ones back, which the optimizer changes."""
        self._stack.close()

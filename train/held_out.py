"""The student measured on held-out conversations while it trains, and the best one kept.

In: a trainer at a step, the validation split. Out: figures for its log, and the weights of the step
with the lowest held-out loss. Knows nothing of how training is done.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate.utils import broadcast_object_list
from peft import PeftModel

from train.batches import Collator
from train.config import TrainConfig
from train.evaluation import measure_fidelity


@dataclass(frozen=True)
class HeldOut:
    """What to measure, and where to keep the best student."""

    config: TrainConfig
    split: datasets.Dataset
    collator: Collator
    tokens_are_draws: bool
    best_path: Path

    def measure(self, model: Any, step: int) -> dict[str, float]:  # noqa: ANN401  (untyped library)
        """Return the figures of a student, the held-out loss among them, as `eval_*`."""
        fidelity = measure_fidelity(
            model,
            self.split,
            self.collator,
            max_conversations=self.config.evaluation.max_conversations,
            batch_size=self.config.batch_size,
            label=f"measuring at step {step}",
            drawn=self.tokens_are_draws,
        )
        figures = {"loss": fidelity.loss_nats, **dataclasses.asdict(fidelity)}
        return {f"eval_{name}": value for name, value in figures.items() if value is not None}


class MeasuresHeldOut:
    """What a transformers trainer is mixed with to measure `held_out` where it would evaluate."""

    held_out: HeldOut
    accelerator: Any
    args: Any
    callback_handler: Any
    control: Any
    model: Any
    state: Any

    def evaluate(self, *_arguments: Any, **_options: Any) -> dict[str, float]:  # noqa: ANN401
        """Measure the student in every process, log the figures, keep the weights if it is best."""
        figures: dict[str, float]
        with torch.compiler.set_stance("force_eager"):
            figures = self.held_out.measure(without_adapters(self.model), self.state.global_step)
        (figures,) = broadcast_object_list([figures])  # one process decides for all
        best = self.state.best_metric
        if best is None or figures["eval_loss"] < best:
            self.save_trained(self.held_out.best_path)  # type: ignore[attr-defined]
        self.log(dict(figures))  # type: ignore[attr-defined]
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, figures
        )
        return figures


def without_adapters(model: Any) -> Any:  # noqa: ANN401  (untyped library)
    """Return the model inside a PeftModel, or the model itself; adapters stay in its layers."""
    return model.get_base_model() if isinstance(model, PeftModel) else model

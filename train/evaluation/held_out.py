"""The student measured on held-out conversations while it trains, and the best one kept.

In: a trainer at a step, the validation split. Out: figures for its log, answers to read, and the
weights of the step with the lowest held-out loss.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import datasets
import torch
from accelerate.utils import broadcast_object_list
from peft import PeftModel

from train.config import TrainConfig
from train.data.batches import Collator
from train.evaluation.fidelity import measure_fidelity
from train.evaluation.generations import write_generations

Result = TypeVar("Result")


@dataclass(frozen=True)
class HeldOut:
    """The measurement, and where its results are written."""

    config: TrainConfig
    split: datasets.Dataset
    collator: Collator
    tokenizer: Any
    tokens_are_draws: bool
    generations_path: Path
    best_path: Path | None = None
    """For the weights of the best student; None does not keep them."""
    steps_before: int = 0
    """Optimizer steps of earlier phases."""
    around: Callable[[Any], AbstractContextManager[object]] = nullcontext
    """Context manager that the model is measured in."""

    def measure(self, model: Any, step: int, *, writes: bool) -> dict[str, float]:  # noqa: ANN401
        """Return a student's figures as `eval_*`, the held-out loss among them; write its answers.

        Args:
            writes: Whether this process writes the answers; one of several does.
        """
        evaluation = self.config.evaluation
        fidelity = measure_fidelity(
            model,
            self.split,
            self.collator,
            max_conversations=evaluation.max_conversations,
            batch_size=self.config.batch_size,
            label=f"measuring at step {step}",
            drawn=self.tokens_are_draws,
        )
        write_generations(
            self.generations_path if writes else Path(os.devnull),
            model,
            self.tokenizer,
            self.split,
            step=self.steps_before + step,
            num_prompts=evaluation.num_generations,
            max_new_tokens=evaluation.max_new_tokens,
        )
        figures = {"loss": fidelity.loss_nats, **fidelity.model_dump()}
        return {f"eval_{name}": value for name, value in figures.items() if value is not None}


class MeasuresHeldOut:
    """Mixin for a transformers trainer that evaluates by measuring `held_out`."""

    held_out: HeldOut
    accelerator: Any
    args: Any
    callback_handler: Any
    control: Any
    is_fsdp_enabled: bool
    model: Any
    state: Any

    def evaluate(self, *_arguments: Any, **_options: Any) -> dict[str, float]:  # noqa: ANN401
        """Measure the student in every process, log the figures, keep the best weights."""

        def measure() -> dict[str, float]:
            return self.held_out.measure(
                without_adapters(self.model),
                self.state.global_step,
                writes=self.args.should_save,
            )

        around = self.held_out.around(without_adapters(self.model))
        with torch.compiler.set_stance("force_eager"), around:
            measured = inside_forward(self.model, measure) if self.is_fsdp_enabled else measure()
        figures: dict[str, float]
        (figures,) = broadcast_object_list([measured])  # one process decides for all
        best, path = self.state.best_metric, self.held_out.best_path
        if path is not None and (best is None or figures["eval_loss"] < best):
            self.save_trained(path)  # type: ignore[attr-defined]
        self.log(dict(figures))  # type: ignore[attr-defined]
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, figures
        )
        return figures


def without_adapters(model: Any) -> Any:  # noqa: ANN401  (untyped library)
    """Return the model inside a PeftModel, or the model itself; adapters stay in its layers."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def inside_forward(model: Any, function: Callable[[], Result]) -> Result:  # noqa: ANN401
    """Call a function inside a model's forward, where FSDP has gathered the weights.

    The function itself may call the model.
    """
    before = {name: value for name, value in vars(model).items() if name == "forward"}

    def forward() -> Result:
        _put_back(model, before)
        return function()

    model.forward = forward
    try:
        result: Result = model()
    finally:
        _put_back(model, before)
    return result


def _put_back(model: Any, before: dict[str, Any]) -> None:  # noqa: ANN401
    vars(model).pop("forward", None)
    vars(model).update(before)

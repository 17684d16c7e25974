"""Progress of training, and its lines of metrics.

In: a transformers trainer's events. Out: a progress bar and lines of `metrics.jsonl`, both from the
first process only.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from potstill.progress import append_metrics, track
from train.job import Phase

LABELS: dict[Phase, str] = {
    "offline": "training",
    "on_policy": "training on the student's own answers",
    "quantization_aware": "quantization-aware training",
}
UNREPORTED = {"epoch", "num_input_tokens_seen", "num_tokens", "step_time"}
"""Logged values that add nothing to `step` and `tokens_per_second`."""


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Shows steps, tokens per second and the time left; appends each logged line to the metrics."""

    def __init__(self, phase: Phase, metrics_path: Path, steps_before: int) -> None:
        self._phase = phase
        self._metrics_path = metrics_path
        self._steps_before = steps_before
        self._stack = ExitStack()

    def __enter__(self) -> ProgressCallback:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:  # noqa: ANN401
        """Open the progress; steps of an earlier process count as done."""
        self._started = time.monotonic()
        self._num_tokens_before = state.num_input_tokens_seen
        self._progress = None
        if state.is_world_process_zero:
            shown = track(LABELS[self._phase], state.max_steps, "steps")
            self._progress = self._stack.enter_context(shown)
            self._progress.resume_from(state.global_step)

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:  # noqa: ANN401
        """Count one optimizer step."""
        if self._progress:
            self._progress.advance(note=f"{self._tokens_per_second(state):.0f} tokens/s")

    def on_log(
        self,
        _args: Any,  # noqa: ANN401
        state: Any,  # noqa: ANN401
        _control: Any,  # noqa: ANN401
        logs: dict[str, Any] | None = None,
        **_: Any,  # noqa: ANN401
    ) -> None:
        """Append a line to `metrics.jsonl`: of training, or of an intermediate measurement."""
        if not state.is_world_process_zero or not logs or not {"loss", "eval_loss"} & logs.keys():
            return
        speed = {"tokens_per_second": round(self._tokens_per_second(state), 1)}
        append_metrics(
            self._metrics_path,
            "student",
            phase=self._phase,
            step=self._steps_before + state.global_step,
            **(speed if "loss" in logs else {}),
            **{name: value for name, value in logs.items() if _is_worth_a_line(name, value)},
        )

    def _tokens_per_second(self, state: Any) -> float:  # noqa: ANN401
        fresh: int = state.num_input_tokens_seen - self._num_tokens_before
        return fresh / max(time.monotonic() - self._started, 1e-9)


def _is_worth_a_line(name: str, value: Any) -> bool:  # noqa: ANN401
    return (
        isinstance(value, int | float) and name not in UNREPORTED and not name.startswith("train_")
    )

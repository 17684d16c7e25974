"""TRL's SFTTrainer with the distillation loss, and training states that survive kill -9.

In: a model, a dataset and a collator. Out: the model, trained in place. Knows nothing of run
directories or of how the student came to be.

Shape legend: B conversations, L padded length, T labelled tokens, K stored entries, D width.
"""

from __future__ import annotations

import functools
import shutil
import time
import types
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME, ModelOutput
from trl import SFTConfig, SFTTrainer

from potstill.errors import ArtifactError
from potstill.files import disk_errors
from potstill.progress import append_metrics, track
from train.batches import IGNORED_LABEL, Collator
from train.heads import labelled_hidden_states, output_head
from train.losses import Mix
from train.losses.chunked import Targets, distillation_loss
from train.order import SimilarLengths

WHOLE_NAME = "whole"
"""Written into a training state last: without it the state is a part of one."""
TARGET_COLUMNS = ("top_token_ids", "top_logprobs")


@dataclass
class DistillationOutput(ModelOutput):  # type: ignore[misc]
    """Sums over the batch's labelled tokens, in nats."""

    loss: Tensor | None = None
    kd: Tensor | None = None
    ce: Tensor | None = None


class DistillationTrainer(SFTTrainer):  # type: ignore[misc]
    """Trains on the mix of token-level and sequence-level distillation."""

    def __init__(
        self,
        *,
        model: Any,  # noqa: ANN401  (untyped library)
        args: SFTConfig,
        mix: Mix,
        train_dataset: datasets.Dataset,
        collator: Collator,
        processing_class: Any,  # noqa: ANN401
        peft_config: Any = None,  # noqa: ANN401
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            data_collator=collator,
            processing_class=processing_class,
            peft_config=peft_config,
        )
        base = self.model.get_base_model() if peft_config is not None else self.model
        _add_distillation_forward(base, mix)
        self.remove_callback(PrinterCallback)
        self._sums = np.zeros(3)

    def compute_loss(
        self,
        model: Any,  # noqa: ANN401
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:  # noqa: ANN401
        """Return the mean loss over all labelled tokens of the optimizer step's batches."""
        output = model(**inputs)
        num_tokens = (inputs["labels"][:, 1:] != IGNORED_LABEL).sum()
        divisor = num_tokens if num_items_in_batch is None else num_items_in_batch
        loss = output.loss / torch.as_tensor(divisor, device=output.loss.device).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        self._sums += np.array([float(output.kd), float(output.ce), float(num_tokens)])
        return (loss, output) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of both losses since the last line, in nats per labelled token."""
        kd, ce, num_tokens = self._sums.tolist()
        if num_tokens:
            logs |= {"kd_nats": kd / num_tokens, "ce_nats": ce / num_tokens}
        self._sums[:] = 0.0
        super().log(logs, start_time)

    def create_model_card(self, *_arguments: Any, **_options: Any) -> None:  # noqa: ANN401
        """Write none: a training state is not published."""

    def finished_model(self) -> Any:  # noqa: ANN401
        """Return the trained model, adapters merged, without what training wrapped around it."""
        model = self.model
        if isinstance(model, PeftModel):
            model = model.merge_and_unload()
        model.__dict__.pop("forward", None)
        return model

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:  # noqa: ANN401
        dataset = self.train_dataset if train_dataset is None else train_dataset
        return SimilarLengths(
            dataset["length"][:], self.args.per_device_train_batch_size, self.args.seed
        )

    def _save(self, output_dir: str, state_dict: dict[str, Tensor] | None = None) -> None:
        """Save the trained weights only: a resumed run makes all else anew."""
        if isinstance(self.model, PeftModel):
            self.model.save_pretrained(output_dir, state_dict=state_dict)
            return
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        trained = {
            name: parameter.detach().contiguous()
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }
        save_file(trained, Path(output_dir) / SAFE_WEIGHTS_NAME, metadata={"format": "pt"})

    def _issue_warnings_after_load(self, load_result: Any) -> None:  # noqa: ANN401
        """Say nothing: frozen weights are missing from a training state by design."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:  # noqa: ANN401
        state_dir = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with disk_errors("saving the training state", state_dir):
            try:
                super()._save_checkpoint(model, trial)
            except (RuntimeError, SafetensorError) as error:
                raise ArtifactError(
                    "the training state cannot be saved",
                    where=state_dir,
                    found=str(error).splitlines()[0],
                    hint="free disk space, then run the same command again",
                ) from error
            (state_dir / WHOLE_NAME).touch()


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Shows steps, tokens per second and what is left; appends each logged line to the metrics."""

    def __init__(self, trainer: DistillationTrainer, metrics_path: Path) -> None:
        self._trainer = trainer
        self._metrics_path = metrics_path
        self._stack = ExitStack()

    def __enter__(self) -> ProgressCallback:
        self._trainer.add_callback(self)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:  # noqa: ANN401
        """Open the progress; steps of an earlier process count as done."""
        self._progress = self._stack.enter_context(track("training", state.max_steps, "steps"))
        self._progress.resume_from(state.global_step)
        self._started = time.monotonic()
        self._num_tokens_before = state.num_input_tokens_seen

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:  # noqa: ANN401
        """Count one optimizer step."""
        self._progress.advance(note=f"{self._tokens_per_second(state):.0f} tokens/s")

    def on_log(
        self,
        _args: Any,  # noqa: ANN401
        state: Any,  # noqa: ANN401
        _control: Any,  # noqa: ANN401
        logs: dict[str, float] | None = None,
        **_: Any,  # noqa: ANN401
    ) -> None:
        """Append a line to `metrics.jsonl`."""
        if logs and "kd_nats" in logs:
            names = ("loss", "kd_nats", "ce_nats", "grad_norm", "learning_rate")
            append_metrics(
                self._metrics_path,
                "student",
                step=state.global_step,
                tokens_per_second=round(self._tokens_per_second(state), 1),
                **{name: float(logs[name]) for name in names if name in logs},
            )

    def _tokens_per_second(self, state: Any) -> float:  # noqa: ANN401
        fresh: int = state.num_input_tokens_seen - self._num_tokens_before
        return fresh / max(time.monotonic() - self._started, 1e-9)


def newest_whole_state(states_dir: Path) -> Path | None:
    """Return the newest training state that was wholly written; remove the others."""
    found = sorted(
        states_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*"),
        key=lambda path: int(path.name.rpartition("-")[2]),
    )
    whole = [path for path in found if (path / WHOLE_NAME).is_file()]
    newest = whole[-1] if whole else None
    for path in found:
        if path != newest:
            shutil.rmtree(path)
    return newest


def _add_distillation_forward(model: Any, mix: Mix) -> None:  # noqa: ANN401  (untyped library)
    """Make `model(**batch)` return a DistillationOutput when the batch has the teacher's rows.

    The loss is computed inside the model's forward so that autocast, which wraps exactly that,
    covers it.
    """
    original = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if TARGET_COLUMNS[0] not in kwargs:
            return original(*args, **kwargs)
        hidden_TD = labelled_hidden_states(self, kwargs)
        shifted_BL = kwargs["labels"][:, 1:]
        targets = Targets(
            token_ids_T=shifted_BL[shifted_BL != IGNORED_LABEL],
            sampled_logprobs_T=kwargs["sampled_logprobs"],
            top_token_ids_TK=kwargs["top_token_ids"],
            top_logprobs_TK=kwargs["top_logprobs"],
        )
        sums = distillation_loss(hidden_TD, output_head(self), targets, mix)
        return DistillationOutput(loss=sums.total, kd=sums.divergence, ce=sums.cross_entropy)

    model.forward = types.MethodType(forward, model)

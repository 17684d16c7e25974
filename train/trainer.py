"""TRL's SFTTrainer with the distillation loss.

In: a model, a dataset and a collator. Out: the model, trained in place.

Shape legend: B rows, L padded length, T labeled tokens, K stored entries, D width.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PrinterCallback
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput
from trl import SFTConfig, SFTTrainer

from potstill.errors import TrainingError
from train.data.batches import Collator, PackedCollator, labeled_token_ids, num_tokens
from train.data.order import SimilarLengths
from train.evaluation.held_out import MeasuresHeldOut, without_adapters
from train.heads import labeled_hidden_states, output_head
from train.losses import Mix
from train.losses.chunked import Targets, distillation_loss
from train.states import TrainedStates

SHORT = 160
"""Mean tokens up to which attention without the fused kernel is faster in bfloat16 on a CPU: the
kernel's backward pass takes as long for 72 tokens as for 500 (benchmarks/train/attention.py)."""
TARGET_COLUMNS = ("sampled_logprobs", "top_token_ids", "top_logprobs")


@dataclass
class DistillationOutput(ModelOutput):  # type: ignore[misc]
    """Sums over the batch's labeled tokens, in nats."""

    loss: Tensor | None = None
    kd: Tensor | None = None
    ce: Tensor | None = None


class DistillationTrainer(MeasuresHeldOut, TrainedStates, SFTTrainer):  # type: ignore[misc]
    """Trains on the mix of token-level and sequence-level distillation."""

    def __init__(
        self,
        *,
        model: Any,  # noqa: ANN401  (untyped library)
        args: SFTConfig,
        mix: Mix,
        train_dataset: datasets.Dataset,
        collator: Collator | PackedCollator,
        processing_class: Any,  # noqa: ANN401
        eval_dataset: datasets.Dataset | None = None,
        callbacks: list[Any] | None = None,
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=collator,
            processing_class=processing_class,
            callbacks=callbacks,
        )
        add_distillation_forward(without_adapters(self.model), mix)
        self.remove_callback(PrinterCallback)
        self._mix = mix
        # Apple's GPUs have no float64.
        exact = torch.float32 if self.args.device.type == "mps" else torch.float64
        self._sums = torch.zeros(3, dtype=exact, device=self.args.device)
        if self.is_fsdp_enabled:
            _keep_sums_exact(self.accelerator.state.fsdp_plugin)

    def compute_loss(
        self,
        model: Any,  # noqa: ANN401
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:  # noqa: ANN401
        """Return the mean loss over all labeled tokens of the optimizer step's batches.

        The step is that of all processes together: the mean of their losses is the step's loss.
        """
        targets = targets_of(inputs)
        batch = {name: tensor for name, tensor in inputs.items() if name not in TARGET_COLUMNS}
        output = model(**batch, targets=targets)
        num_labeled = targets.token_ids_T.numel()
        divisor = num_labeled if num_items_in_batch is None else num_items_in_batch
        loss = output.loss / torch.as_tensor(divisor, device=output.loss.device).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        sums = torch.stack([output.kd, output.ce]).detach()
        self._sums += torch.cat([sums, sums.new_tensor([num_labeled])])
        return (loss, output) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of both losses since the last line, in nats per labeled token.

        Raises:
            TrainingError: The loss is not a number.
        """
        if "loss" in logs:
            kd, ce, num_labeled = self.accelerator.reduce(self._sums).tolist()
            self._sums.zero_()
            logs["ce_nats"] = ce / num_labeled
            if self._mix.weight > 0.0:
                logs["kd_nats"] = kd / num_labeled
            if not math.isfinite(logs["loss"]):
                raise TrainingError(
                    "the loss is not a number",
                    where=f"step {self.state.global_step}",
                    found=logs["loss"],
                    hint="lower train.learning_rate or train.max_grad_norm, then run again with "
                    "--force",
                )
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:  # noqa: ANN401
        """Order by length the conversations of all processes: they wait for the slowest."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        at_once = self.args.per_device_train_batch_size * self.accelerator.num_processes
        self._order = SimilarLengths(dataset["length"][:], at_once, self.args.seed)
        return self._order

    def _run_epoch(self, *, epoch: int, **rest: Any) -> None:  # noqa: ANN401
        """Set the sampler's epoch: accelerate 1.15 does not reach it behind two wrappers."""
        self._order.set_epoch(epoch)
        super()._run_epoch(epoch=epoch, **rest)

    def _track_num_input_tokens(self, inputs: dict[str, Tensor]) -> None:
        self.state.num_input_tokens_seen += int(self.accelerator.reduce(num_tokens(inputs)))


def targets_of(batch: dict[str, Tensor]) -> Targets:
    """Return the teacher's signal for the labeled tokens of a batch."""
    return Targets(
        token_ids_T=labeled_token_ids(batch),
        sampled_logprobs_T=batch["sampled_logprobs"],
        top_token_ids_TK=batch["top_token_ids"],
        top_logprobs_TK=batch["top_logprobs"],
    )


def compile_layers(model: Any) -> None:  # noqa: ANN401  (untyped library)
    """Compile each decoder layer at its first run; parameters keep their names.

    All layers of a kind share one compilation, for any length.
    """
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile(dynamic=True)


def choose_attention(model: Any, lengths: Sequence[int], *, bf16: bool) -> None:  # noqa: ANN401
    """Multiply out attention matrices on a CPU where conversations are short (`SHORT`).

    Args:
        model: With PyTorch's fused attention, the default of transformers; any other stays.
        lengths: Tokens of each conversation.
        bf16: Whether products are made in bfloat16; in float32 the fused kernel is faster.
    """
    fused = model.config._attn_implementation == "sdpa"
    if model.device.type == "cpu" and fused and bf16 and np.mean(lengths) <= SHORT:
        model.set_attn_implementation("eager")


def add_distillation_forward(model: Any, mix: Mix) -> None:  # noqa: ANN401  (untyped library)
    """Make `model(**batch, targets=targets)` return a DistillationOutput.

    The loss is computed inside the model's forward, because that is what wrappers of a model wrap:
    autocast, and FSDP, which gathers sharded weights there. The targets come as one object, whose
    log-probabilities FSDP does not round to the precision of products.
    """
    original = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, targets: Targets | None = None, **batch: Any) -> Any:  # noqa: ANN401
        if targets is None:
            return original(*args, **batch)
        hidden_TD = labeled_hidden_states(self, batch)
        sums = distillation_loss(hidden_TD, output_head(self), targets, mix)
        return DistillationOutput(loss=sums.total, kd=sums.divergence, ce=sums.cross_entropy)

    model.forward = types.MethodType(forward, model)


def _keep_sums_exact(plugin: Any) -> None:  # noqa: ANN401  (untyped library)
    """Make FSDP round only matrix products, not the loss and the sums of gradients."""
    policy = plugin.mixed_precision_policy
    if hasattr(policy, "output_dtype"):
        plugin.mixed_precision_policy = dataclasses.replace(
            policy, reduce_dtype=torch.float32, output_dtype=None
        )

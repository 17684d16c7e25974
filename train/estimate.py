"""What the train stage will cost.

In: its config and the conversations' estimate. Out: an estimate, and the student's shape. Loads no
model.
"""

from __future__ import annotations

from dataclasses import replace

from potstill.checkpoints import ModelShape
from potstill.plan import Estimate, Workload
from train.config import TrainConfig

SHARE_OF_PEAK = 1.1
"""More than one: bfloat16 products are faster than the float32 ones the peak is measured with."""
FIXED_SECONDS = 60.0
FLOPS_PER_PARAMETER = 6.0
"""Forward 2, backward 4 (Kaplan et al. 2020, section 2.1)."""
NUM_MEASUREMENTS = 2
"""Of fidelity: before and after."""
OPTIMIZER_BYTES = 16.0
"""Of float32 weight, gradient and two moments, per trained parameter."""
ADAPTER_SHARE = 0.03
"""Trained share of the parameters with low-rank adapters."""
ACTIVATION_BYTES = 70.0
"""Per token, layer and unit of width, kept for the backward pass."""
PROCESS_BYTES = 1.5e9


def estimate(config: TrainConfig, workload: Workload) -> tuple[Estimate, Workload]:
    """Estimate training and both measurements.

    Raises:
        ConfigError: A student that is named is not on this machine.
    """
    shape = _student_shape(config, workload.teacher)
    length = min(workload.prompt_tokens + workload.completion_tokens, config.max_length)
    per_step = config.batch_size * config.gradient_accumulation_steps
    num_trained = (
        config.max_steps * per_step
        if config.max_steps
        else config.num_epochs * workload.num_conversations * (1.0 - workload.test_share)
    )
    num_measured = NUM_MEASUREMENTS * min(
        config.evaluation.max_conversations, workload.test_share * workload.num_conversations
    )
    trained, measured = num_trained * length, num_measured * length
    num_updated = shape.num_parameters * (ADAPTER_SHARE if config.method == "lora" else 1.0)
    activations = config.batch_size * length * shape.hidden_size * shape.num_layers
    cost = Estimate(
        stage="train",
        tokens=trained + measured,
        flops=shape.num_parameters * (FLOPS_PER_PARAMETER * trained + 2.0 * measured),
        share_of_peak=SHARE_OF_PEAK,
        fixed_seconds=FIXED_SECONDS,
        disk_bytes=4.0 * shape.num_parameters + 2 * 12.0 * num_updated,
        memory_bytes=4.0 * shape.num_parameters
        + OPTIMIZER_BYTES * num_updated
        + ACTIVATION_BYTES * activations
        + PROCESS_BYTES,
    )
    return cost, replace(workload, student=shape)


def _student_shape(config: TrainConfig, teacher: ModelShape) -> ModelShape:
    if config.student.checkpoint is None:
        return teacher.with_layers(config.student.num_layers)
    return ModelShape.find(config.student.checkpoint, "train.student.checkpoint")

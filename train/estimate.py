"""The estimated cost of the train stage.

In: its config and the conversations' estimate. Out: an estimate, and the student's shape. No model
is loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from potstill.checkpoints import ModelShape
from potstill.plan import Estimate, Workload
from train.config import QuantizationAwareConfig, TrainConfig
from train.data.signal_checks import refuse_missing_teacher
from train.students.sizes import student_sizes

SHARE_OF_PEAK = 0.9
"""Share of the FLOP/s of training an MLP. Measured with one thread on a Xeon with AMX, as processor
time of steps of 500 and 1,000 tokens of SmolLM2-135M: 0.7 to 0.8 in bfloat16, 1.1 to 1.2 in
float32."""
FIXED_SECONDS = 60.0
FORWARD_FLOPS = 2.0
"""Per parameter and token; the same again for the gradient of a layer's input, and for that of each
trained weight (Kaplan et al. 2020, section 2.1)."""
WEIGHT_BYTES = 6.0
"""Bytes of a float32 weight and its bfloat16 copy for the products."""
OPTIMIZER_BYTES = 12.0
"""Bytes of the float32 gradient and two moments, per trained parameter."""
STEP_BYTES = 29.0
"""Bytes moved by a step of AdamW per trained parameter, measured on the same machine."""
STATE_BYTES = 2 * 12.0
"""Bytes of the two kept training states: weight and two moments, per trained parameter."""
FLOAT32_BYTES = 4.0
ACTIVATION_BYTES = 70.0
"""Bytes per token, layer and unit of width, kept for the backward pass."""
CHECKPOINTED_BYTES = 8.0
"""The same with gradient checkpointing: the input of each layer, and its gradient."""
PROCESS_BYTES = 1.5e9
"""A process, or on a GPU CUDA's context and buffers."""
MEASUREMENTS_OF_FILES = 3
"""Before quantized training, in full precision and quantized, and quantized after it."""


@dataclass(frozen=True)
class _Tokens:
    """Tokens that the student processes."""

    trained: float
    measured: float
    sampled: float
    """Generations during training, and its own answers in the on-policy phase."""
    decoding_steps: float
    """Decoding steps for these, each with one token of every answer of a batch."""
    corrected: float
    """Tokens of the on-policy phase that student and teacher read, prompts included."""


def estimate(config: TrainConfig, workload: Workload) -> tuple[Estimate, Workload]:
    """Estimate training and all measurements.

    Raises:
        ConfigError: A student that is named is not on this machine.
        TrainingError: The teacher cannot be pruned to the configured sizes.
    """
    if workload.text_only:
        refuse_missing_teacher(config)
    shape = _student_shape(config, workload.teacher)
    tokens, num_steps = _tokens(config, workload)
    num_trained = _trained_parameters(config, shape)
    per_trained_token = FORWARD_FLOPS * (2 * shape.num_parameters + num_trained)
    if config.gradient_checkpointing:
        per_trained_token += FORWARD_FLOPS * shape.num_parameters
    trained_flops = per_trained_token * (tokens.trained + tokens.corrected)
    other_flops = FORWARD_FLOPS * shape.num_parameters * (tokens.measured + tokens.sampled)
    if config.on_policy.teacher is None:
        other_flops += FORWARD_FLOPS * workload.teacher.num_parameters * tokens.corrected
    is_fast = config.dtype != "float32"
    own_bytes = _own_bytes(config, workload, shape)
    state_bytes = WEIGHT_BYTES * shape.num_parameters + OPTIMIZER_BYTES * num_trained
    is_sharded = config.launch not in (None, "ddp")
    cost = Estimate(
        stage="train",
        tokens=tokens.trained + tokens.measured + tokens.sampled + tokens.corrected,
        fast_flops=trained_flops if is_fast else 0.0,
        float32_flops=other_flops + (0.0 if is_fast else trained_flops),
        moved_bytes=STEP_BYTES * num_trained * num_steps
        + FLOAT32_BYTES * shape.num_parameters * tokens.decoding_steps,
        share_of_peak=SHARE_OF_PEAK,
        fixed_seconds=FIXED_SECONDS,
        disk_bytes=FLOAT32_BYTES * shape.num_parameters + STATE_BYTES * num_trained,
        memory_bytes=own_bytes + state_bytes,
        num_cards=1 if config.launch is None else None,
        card_bytes=own_bytes + (0.0 if is_sharded else state_bytes),
        sharded_bytes=state_bytes if is_sharded else 0.0,
        first_card_bytes=_first_card_bytes(config, workload, shape),
        bytes_to_fetch=0.0 if config.student.checkpoint is None else shape.bytes_to_fetch,
    )
    return cost, replace(workload, student=shape)


def _student_shape(config: TrainConfig, teacher: ModelShape) -> ModelShape:
    if config.student.checkpoint is not None:
        return ModelShape.find(config.student.checkpoint, "train.student.checkpoint")
    return teacher.pruned(
        *student_sizes(config.student, teacher.num_layers, teacher.intermediate_size)
    )


def _length(config: TrainConfig, workload: Workload) -> float:
    """Return the mean length of a conversation."""
    return min(workload.prompt_tokens + workload.completion_tokens, config.max_length)


def _row_tokens(config: TrainConfig, workload: Workload) -> float:
    """Return the tokens in a row of a batch: a conversation, or as many as are packed into it."""
    return config.max_length if config.packing else _length(config, workload)


def _tokens(config: TrainConfig, workload: Workload) -> tuple[_Tokens, float]:
    """Return the tokens, and the number of optimizer steps."""
    evaluation, length = config.evaluation, _length(config, workload)
    held_out = workload.test_share * workload.num_conversations
    per_step = config.batch_size * config.gradient_accumulation_steps
    per_step_tokens = per_step * _row_tokens(config, workload)
    epoch_tokens = workload.num_conversations * (1.0 - workload.test_share) * length
    trained, num_measurements = 0.0, 2
    phases: list[TrainConfig | QuantizationAwareConfig] = [config]
    if config.quantization_aware is not None:
        phases.append(config.quantization_aware)
        num_measurements += MEASUREMENTS_OF_FILES
    for phase in phases:
        steps_tokens = (phase.max_steps or 0) * per_step_tokens
        trained += steps_tokens or phase.num_epochs * epoch_tokens
    num_steps = math.ceil(trained / max(per_step_tokens, 1.0))
    on_the_way = num_steps // evaluation.every_steps if evaluation.every_steps else 0
    answered = config.on_policy.max_steps * config.on_policy.batch_size
    longest = config.on_policy.max_completion_tokens
    tokens = _Tokens(
        trained=trained,
        measured=(num_measurements + on_the_way)
        * min(evaluation.max_conversations, held_out)
        * length,
        sampled=on_the_way * evaluation.num_generations * evaluation.max_new_tokens
        + answered * longest,
        decoding_steps=on_the_way * evaluation.max_new_tokens
        + config.on_policy.max_steps * longest,
        corrected=answered * (workload.prompt_tokens + longest),
    )
    return tokens, num_steps + config.on_policy.max_steps


def _trained_parameters(config: TrainConfig, shape: ModelShape) -> float:
    if config.method == "full" or config.quantization_aware is not None:
        return shape.layer_parameters if config.freeze.embeddings else shape.num_parameters
    neurons = shape.intermediate_size or 4 * shape.hidden_size
    rows_and_columns = 4 * 2 * shape.hidden_size + 3 * (shape.hidden_size + neurons)
    return float(config.lora.rank * shape.num_layers * rows_and_columns)


def _own_bytes(config: TrainConfig, workload: Workload, shape: ModelShape) -> float:
    """Return what every training process holds besides weights and the state of their optimizer.

    The teacher is among it in the on-policy phase.
    """
    row_tokens = config.batch_size * _row_tokens(config, workload)
    per_token = CHECKPOINTED_BYTES if config.gradient_checkpointing else ACTIVATION_BYTES
    in_memory = config.on_policy.max_steps and config.on_policy.teacher is None
    teacher_parameters = workload.teacher.num_parameters if in_memory else 0
    return (
        per_token * row_tokens * shape.hidden_size * shape.num_layers
        + FLOAT32_BYTES * teacher_parameters
        + PROCESS_BYTES
    )


def _first_card_bytes(config: TrainConfig, workload: Workload, shape: ModelShape) -> float:
    """Return what one process holds besides training, in float32.

    That is the whole student while it is measured, and twice where it is saved and read back; of a
    teacher that is pruned all of it.
    """
    pruned = workload.teacher.num_parameters if config.student.checkpoint is None else 0
    return FLOAT32_BYTES * max(2 * shape.num_parameters, pruned) + PROCESS_BYTES

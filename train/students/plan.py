"""The student before training: a pruned teacher or a given checkpoint, checked.

In: the config and the conversations. Out: a plan, measured once and small enough to be kept as
JSON, and the float32 model that every process builds from it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from potstill.checkpoints import find_checkpoint
from potstill.errors import TrainingError
from potstill.progress import track
from train.config import FreezeConfig, StudentConfig, TrainConfig
from train.students.checkpoints import load_model
from train.students.pruning.agreement import refuse_other_config
from train.students.pruning.layers import (
    block_influence,
    decoder_layers,
    evenly_spread,
    keep_layers,
    most_influential,
)
from train.students.pruning.width import (
    gated_mlps,
    keep_neurons,
    most_important,
    neuron_importance,
    warn_of_odd_size,
)
from train.students.sizes import student_sizes

logger = logging.getLogger(__name__)


class StudentPlan(BaseModel):
    """The parts of the student; building it always gives the same model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint_dir: Path
    """The teacher's, or that of a given student."""
    removed_layers: tuple[int, ...] = ()
    """Ascending numbers of the checkpoint's layers that are left out."""
    kept_neurons: tuple[tuple[int, ...], ...] | None = None
    """Ascending numbers of the MLP's neurons that stay, for each layer that stays. None: all."""


def plan_student(
    config: TrainConfig, teacher_dir: Path, validation: datasets.Dataset
) -> StudentPlan:
    """Choose the parts of the student; measure the teacher if needed.

    Args:
        config: The settings.
        teacher_dir: The teacher's checkpoint.
        validation: Conversations, `token_ids` each, over which its layers and neurons are measured.

    Raises:
        TrainingError: The settings do not fit the teacher, or its architecture cannot be pruned.
    """
    if config.student.checkpoint is not None:
        return StudentPlan(checkpoint_dir=find_checkpoint(config.student.checkpoint))
    teacher = load_model(teacher_dir)
    _refuse_impossible_sizes(config.student, teacher)
    if config.keeps_adapter:
        _refuse_incomplete_base(config.student, len(decoder_layers(teacher)))
    teacher.to(device())
    kept = _layers_to_keep(config, teacher, validation)
    removed = [index for index in range(len(decoder_layers(teacher))) if index not in kept]
    neurons = None
    size = config.student.intermediate_size
    if size is not None:
        warn_of_odd_size(size)
        with _calibration(config, validation, "measuring activations") as conversations:
            importance = neuron_importance(teacher, conversations)
        neurons = tuple(tuple(most_important(importance[layer], size)) for layer in kept)
    logger.info(
        "student: %d of the teacher's %d layers, without %s%s",
        len(kept),
        len(kept) + len(removed),
        ", ".join(map(str, removed)) or "none",
        "" if size is None else f"; {size} neurons in each MLP",
    )
    return StudentPlan(
        checkpoint_dir=teacher_dir,
        removed_layers=tuple(removed),
        kept_neurons=neurons,
    )


def build_student(plan: StudentPlan) -> Any:  # noqa: ANN401  (untyped library)
    """Return the planned student in float32, on the CPU; the same one in every process.

    Raises:
        TrainingError: The checkpoint cannot be loaded, or its architecture cannot be pruned
            faithfully.
    """
    model = load_model(plan.checkpoint_dir)
    if plan.removed_layers:
        removed = set(plan.removed_layers)
        keep_layers(model, [one for one in range(len(decoder_layers(model))) if one not in removed])
    if plan.kept_neurons is not None:
        keep_neurons(model, plan.kept_neurons)
    if plan.removed_layers or plan.kept_neurons is not None:
        refuse_other_config(model)
    return model


def refuse_small_vocabulary(model: Any, largest_token_id: int) -> None:  # noqa: ANN401
    """Check that the student can represent every stored token.

    Raises:
        TrainingError: An id lies outside its embedding.
    """
    vocab_size = model.get_input_embeddings().weight.shape[0]
    if largest_token_id >= vocab_size:
        raise TrainingError(
            "the student's vocabulary is smaller than the teacher's",
            where="train.student.checkpoint",
            expected=f"more than {largest_token_id} embedding rows",
            found=vocab_size,
            hint="use a student with at least the teacher's vocabulary",
        )


def freeze(model: Any, config: FreezeConfig, removed_layers: Sequence[int]) -> None:  # noqa: ANN401
    """Turn off the gradients of the parameters that full fine-tuning does not change."""
    if config.embeddings:
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            _turn_off(module.parameters())
    if config.layers_below_removed and removed_layers:
        _turn_off(model.get_input_embeddings().parameters())
        for layer in decoder_layers(model)[: removed_layers[0]]:
            _turn_off(layer.parameters())


def device() -> str:
    """Return the device that models are computed on: NVIDIA's or Apple's GPU if there is one."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def fast_dtype(wanted: str) -> torch.dtype:
    """Resolve `train.dtype`: "auto" is bfloat16 where the device multiplies it natively.

    On Apple's GPUs it is float32: bfloat16 was not tried there.
    """
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    native = False
    if device() == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device() == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def _refuse_impossible_sizes(config: StudentConfig, teacher: Any) -> None:  # noqa: ANN401
    num_neurons = 0
    if config.intermediate_size is not None:
        num_neurons = gated_mlps(teacher)[0].num_neurons
    student_sizes(config, len(decoder_layers(teacher)), num_neurons)


def _refuse_incomplete_base(config: StudentConfig, num_layers: int) -> None:
    kept = len(config.layers) if isinstance(config.layers, list) else config.num_layers
    if kept < num_layers:
        raise TrainingError(
            "an adapter cannot be kept on a base that no checkpoint holds",
            where="train.lora.merge",
            expected=f"all {num_layers} layers of the teacher, or train.student.checkpoint",
            found=f"{kept} layers",
            hint="name a checkpoint as train.student.checkpoint, or merge the adapter",
        )


def _layers_to_keep(
    config: TrainConfig,
    teacher: Any,  # noqa: ANN401  (untyped library)
    validation: datasets.Dataset,
) -> list[int]:
    total, num_kept = len(decoder_layers(teacher)), config.student.num_layers
    if isinstance(config.student.layers, list):
        return sorted(config.student.layers)
    if config.student.layers == "even" or num_kept == total:
        return evenly_spread(total, num_kept)
    with _calibration(config, validation, "measuring block influence") as conversations:
        influence = block_influence(teacher, conversations)
    return most_influential(influence, num_kept)


@contextmanager
def _calibration(
    config: TrainConfig, validation: datasets.Dataset, label: str
) -> Iterator[Iterator[Tensor]]:
    """Yield the token ids [L] of validation conversations, with progress."""
    num_conversations = min(config.student.max_calibration_conversations, len(validation))
    with track(label, num_conversations, "conversations") as progress:

        def token_ids() -> Iterator[Tensor]:
            for index in range(num_conversations):
                token_ids = validation[index]["token_ids"][: config.max_length]
                yield torch.as_tensor(token_ids).long()
                progress.advance()

        yield token_ids()


def _turn_off(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.requires_grad_(False)

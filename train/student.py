"""What the student is before training: a pruned teacher or a given checkpoint, checked.

In: the teacher's checkpoint, the config, validation conversations. Out: a float32 model and the
indices of the teacher's layers that were removed. Knows nothing of losses.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor

from potstill.checkpoints import find_checkpoint
from potstill.errors import TrainingError
from potstill.progress import track
from train.batches import Collator
from train.checkpoints import load_model, refuse_other_tokenizer
from train.config import FreezeConfig, StudentConfig

from train.pruning import (
    block_influence,
    decoder_layers,
    least_influential,
    remove_layers,
)

logger = logging.getLogger(__name__)

def removable_layers(
    teacher: Any,  # noqa: ANN401  (untyped library)
    validation: datasets.Dataset,
    collator: Collator,
    config: StudentConfig,
) -> list[int]:
    """Return the layers of the teacher with the least influence on the validation split.

    Raises:
        TrainingError: `num_layers` does not fit the teacher.
    """
    least_influential([0.0] * len(decoder_layers(teacher)), config.num_layers)
    teacher.eval()
    num_conversations = min(config.max_calibration_conversations, len(validation))
    with track("measuring block influence", num_conversations, "conversations") as progress:

        def batches() -> Iterator[dict[str, Tensor]]:
            for row in validation.select(range(num_conversations)):
                yield {name: tensor.to(teacher.device) for name, tensor in collator([row]).items()}
                progress.advance()

        influence = block_influence(teacher, batches())
    return least_influential(influence, config.num_layers)

def load_given_student(checkpoint: str, tokenizer_sha256: str) -> Any:  # noqa: ANN401
    """Load a checkpoint that shares the teacher's tokenizer.

    Raises:
        ManifestMismatchError: It has another tokenizer.
        TrainingError: It cannot be loaded.
    """
    checkpoint_dir: Path = find_checkpoint(checkpoint)
    refuse_other_tokenizer(checkpoint_dir, tokenizer_sha256)
    return load_model(checkpoint_dir)

def prune(model: Any, removed: list[int]) -> None:  # noqa: ANN401  (untyped library)
    """Remove layers and say which."""
    total = len(decoder_layers(model))
    remove_layers(model, removed)
    logger.info(
        "student: %d of the teacher's %d layers, without %s",
        total - len(removed),
        total,
        ", ".join(map(str, removed)),
    )

def refuse_small_vocabulary(model: Any, largest_token_id: int) -> None:  # noqa: ANN401
    """Make sure that the student can represent every stored token.

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

def freeze(model: Any, config: FreezeConfig, removed: list[int]) -> None:  # noqa: ANN401
    """Turn off the gradients of what full fine-tuning leaves as it is."""
    if config.embeddings:
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            _turn_off(module.parameters())
    if config.layers_below_removed and removed:
        _turn_off(model.get_input_embeddings().parameters())
        for layer in decoder_layers(model)[: removed[0]]:
            _turn_off(layer.parameters())

def _turn_off(parameters: Any) -> None:  # noqa: ANN401  (an iterator of tensors)
    parameter: Tensor
    for parameter in parameters:
        parameter.requires_grad_(False)

def fast_dtype(wanted: str) -> torch.dtype:
    """Resolve `train.dtype`: "auto" is bfloat16 where the device multiplies it natively."""
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32

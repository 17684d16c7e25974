"""A checkpoint's model and tokenizer, as transformers loads them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from potstill.errors import ConversionError, first_line

logger = logging.getLogger(__name__)


def device() -> str:
    """Return the device that checkpoints are evaluated on: NVIDIA's GPU if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(checkpoint_dir: Path) -> Any:  # noqa: ANN401  (a transformers model)
    """Load a checkpoint in float32 for evaluation, on the GPU if there is one that holds it.

    Raises:
        ConversionError: transformers cannot load it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(checkpoint_dir, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        raise _refusal("model", checkpoint_dir, error) from error
    try:
        return model.eval().to(device())
    except torch.OutOfMemoryError:
        logger.info("%s does not fit the GPU: it is evaluated on the processor", checkpoint_dir)
        return model.to("cpu")


def load_tokenizer(checkpoint_dir: Path) -> Any:  # noqa: ANN401  (a transformers tokenizer)
    """Load a checkpoint's tokenizer.

    Raises:
        ConversionError: transformers cannot load it.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(checkpoint_dir)
    except (OSError, ValueError) as error:
        raise _refusal("tokenizer", checkpoint_dir, error) from error


def _refusal(what: str, checkpoint_dir: Path, error: Exception) -> ConversionError:
    return ConversionError(
        f"the checkpoint's {what} cannot be loaded",
        where=checkpoint_dir,
        found=first_line(error),
        hint="restore the checkpoint, or make the stage that wrote it again with --force",
    )

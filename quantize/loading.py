"""A checkpoint's model and tokenizer, as transformers loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from potstill.errors import ConversionError


def load_model(checkpoint_dir: Path) -> Any:  # noqa: ANN401  (a transformers model)
    """Load a checkpoint in float32 for evaluation, on the GPU if there is one.

    Raises:
        ConversionError: transformers cannot load it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = AutoModelForCausalLM.from_pretrained(checkpoint_dir, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        raise _refusal("model", checkpoint_dir, error) from error
    return model.eval().to(device)


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
        found=str(error).splitlines()[0],
        hint="restore the checkpoint, or make the stage that wrote it again with --force",
    )

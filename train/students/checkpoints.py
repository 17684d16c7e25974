"""Hugging Face checkpoints: loaded, checked against the conversations, saved and reloaded.

In: directories. Out: float32 models, and a student directory whose tokenizer files are
those it was trained with, byte for byte.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from potstill.errors import TrainingError, first_line
from potstill.files import disk_errors
from train.students.checks import logits_of, refuse_other_logits, refuse_unknown_head

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)


def load_model(checkpoint_dir: Path) -> Any:  # noqa: ANN401  (untyped library)
    """Load a causal language model in float32.

    Raises:
        TrainingError: A file is missing or damaged, or weights do not fit the config.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            checkpoint_dir, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise TrainingError(
            "the checkpoint cannot be loaded",
            where=checkpoint_dir,
            expected="config.json and complete safetensors files that fit it",
            found=first_line(error),
            hint="copy or download the checkpoint again",
        ) from error
    if info["missing_keys"]:
        raise TrainingError(
            "the checkpoint lacks weights that its config requires",
            where=checkpoint_dir,
            found=f"no {', '.join(sorted(info['missing_keys'])[:3])} …",
            hint="copy or download the checkpoint again",
        )
    refuse_unknown_head(model, checkpoint_dir)
    return model


def save_student(
    model: Any,  # noqa: ANN401  (untyped library)
    directory: Path,
    tokenizer_dir: Path,
    dtype: torch.dtype,
    template: str | None = None,
) -> None:
    """Write weights, config and the tokenizer's files; the weights keep the dtype.

    Args:
        tokenizer_dir: The checkpoint whose tokenizer the student was trained with.
        template: The chat template that it was trained with, if it is another one.

    Raises:
        ArtifactError: The disk is full or cannot be written.
    """
    from safetensors import SafetensorError

    with disk_errors("saving the student", directory):
        for parameter in model.parameters():  # Not `model.to`: it would round rotary frequencies.
            parameter.data = parameter.data.to(dtype)
        try:
            model.save_pretrained(directory)
        except SafetensorError as error:
            raise OSError(str(error)) from error
        for name in (*TOKENIZER_FILES, "generation_config.json"):
            if (tokenizer_dir / name).is_file():
                shutil.copyfile(tokenizer_dir / name, directory / name)
        if template is not None:
            (directory / "chat_template.jinja").write_text(template, encoding="utf-8")


def reload_student(directory: Path, model: Any, token_ids: list[int]) -> Any:  # noqa: ANN401
    """Load a saved student and check that it computes the same as the trained model.

    Raises:
        TrainingError: Its logits differ, or those of the trained model are not finite.
    """
    expected_LV = logits_of(model, token_ids)
    if not expected_LV.isfinite().all():
        raise TrainingError(
            "training diverged: the student's logits are not finite",
            where=directory,
            hint="lower train.learning_rate or train.max_grad_norm, and train again with --force",
        )
    reloaded = load_model(directory).to(model.device)
    refuse_other_logits(
        logits_of(reloaded, token_ids),
        expected_LV,
        "the saved student does not compute the same as the trained one",
        directory,
    )
    return reloaded

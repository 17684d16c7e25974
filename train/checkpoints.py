"""Hugging Face checkpoints: loaded, checked against the conversations, saved and reloaded.

In: directories. Out: float32 models, and a student directory whose tokenizer files
are the teacher's, byte for byte. Knows nothing of losses or of training.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from potstill.chat import tokenizer_sha256
from potstill.errors import ManifestMismatchError, TrainingError
from potstill.files import disk_errors
from train.heads import refuse_unknown_head

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
LOGITS_TOLERANCE = 1e-3
"""Largest difference between a model's logits and those of its saved and reloaded self."""


def refuse_other_tokenizer(checkpoint_dir: Path, expected_sha256: str) -> None:
    """Make sure that a checkpoint shares the tokenizer the conversations were made with.

    Raises:
        ManifestMismatchError: It has another one.
        ArtifactError: It has none that can be read.
    """
    found = tokenizer_sha256(checkpoint_dir)
    if found != expected_sha256:
        raise ManifestMismatchError(
            "the checkpoint has another tokenizer than the conversations",
            where=checkpoint_dir,
            expected=f"tokenizer_sha256 {expected_sha256} (conversations)",
            found=f"tokenizer_sha256 {found}",
            hint="use a student of the teacher's family, or make the conversations again",
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
            expected="config.json and whole safetensors files that fit it",
            found=str(error).splitlines()[0],
            hint="copy or download the checkpoint again",
        ) from error
    if info["missing_keys"]:
        raise TrainingError(
            "the checkpoint lacks weights that its config asks for",
            where=checkpoint_dir,
            found=f"no {', '.join(sorted(info['missing_keys'])[:3])} …",
            hint="copy or download the checkpoint again",
        )
    refuse_unknown_head(model, checkpoint_dir)
    return model


def save_student(
    model: Any,  # noqa: ANN401  (untyped library)
    directory: Path,
    teacher_dir: Path,
    dtype: torch.dtype,
) -> None:
    """Write weights, config and the teacher's tokenizer files; the model keeps the dtype.

    Raises:
        ArtifactError: The disk is full or cannot be written.
    """
    from safetensors import SafetensorError

    with disk_errors("saving the student", directory):
        try:
            model.to(dtype).save_pretrained(directory)
        except SafetensorError as error:
            raise OSError(str(error)) from error
        for name in (*TOKENIZER_FILES, "generation_config.json"):
            if (teacher_dir / name).is_file():
                shutil.copyfile(teacher_dir / name, directory / name)


@torch.no_grad()
def logits_of(model: Any, token_ids: list[int]) -> torch.Tensor:  # noqa: ANN401
    """Return the logits [L, V] that a model gives to a text, in float32."""
    input_ids = torch.tensor([token_ids], device=model.device)
    logits: torch.Tensor = model.eval()(input_ids=input_ids, use_cache=False).logits[0]
    return logits.float()


def reload_student(directory: Path, model: Any, token_ids: list[int]) -> Any:  # noqa: ANN401
    """Load a saved student and make sure that it computes what the trained model does.

    Raises:
        TrainingError: Its logits differ.
    """
    reloaded = load_model(directory).to(model.device)
    expected = logits_of(model, token_ids)
    difference = float((logits_of(reloaded, token_ids) - expected).abs().max())
    if not difference <= LOGITS_TOLERANCE:
        raise TrainingError(
            "the saved student does not compute what the trained one does",
            where=directory,
            expected=f"logits within {LOGITS_TOLERANCE}",
            found=difference,
        )
    return reloaded

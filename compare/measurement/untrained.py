"""The student before training: a file of the teacher without the removed layers.

In: a run's files. Out: one more GGUF file, in seconds, on which judges are tested: a model known to
be worse.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from pathlib import Path

from compare.measurement.run_files import RunFiles
from potstill.files import disk_errors
from potstill.models.files import find_local_gguf, is_gguf

logger = logging.getLogger(__name__)

FILE_NAME = "untrained-student.gguf"
LEAST_KL_NATS = 0.5
"""Least KL to the teacher of a model that counts as worse: 50 nats in an answer of 100 tokens. A
student that has lost less may write equally good answers."""
BLOCK = re.compile(r"blk\.(\d+)\.(.+)")


def untrained_file(run: RunFiles, directory: Path) -> Path | None:
    """Return the untrained student's file, written if missing; None if it may not be worse.

    A student that began as another checkpoint, or close to the teacher, may not be worse. One whose
    layers were made narrower cannot be rebuilt.
    """
    removed = run.student.removed_layers
    if not removed:
        return None
    kl_nats = run.student.evaluation.untrained.kl_nats
    if kl_nats is None or kl_nats < LEAST_KL_NATS:
        return None
    return _rebuilt(run, directory)


def start_file(run: RunFiles, directory: Path) -> Path | None:
    """Return the student's file before training, however good it is; None if there is none.

    It is an adapter's base, or rebuilt of the teacher's for a student without some of its layers,
    or found where the student began as a GGUF file. Other Hugging Face checkpoints have none.
    """
    if run.student.adapter is not None:
        return run.path(run.gguf.recommended_file)
    if run.student.removed_layers:
        return _rebuilt(run, directory) if run.gguf.teacher_files else None
    name = run.start_name
    if name is None or not is_gguf(name):
        return None
    try:
        return find_local_gguf(name)
    except (OSError, ValueError):
        return None


def _rebuilt(run: RunFiles, directory: Path) -> Path | None:
    removed = run.student.removed_layers
    path = directory / FILE_NAME
    if path.is_file():
        return path
    partial = path.with_suffix(".partial")
    # The smallest file is the cheapest to copy; the loss by its quantization is small beside that
    # by the missing layers.
    source = run.path(min(run.gguf.teacher_files, key=lambda file: file.bytes))
    with disk_errors("writing the untrained student's file", partial):
        if not write_without_layers(source, partial, removed, run.student.intermediate_size):
            logger.info("the untrained student cannot be rebuilt: its layers are narrower")
            return None
        partial.rename(path)
    return path


def write_without_layers(
    source: Path, path: Path, removed: Collection[int], feed_forward_length: int | None
) -> bool:
    """Copy a GGUF file without some of its layers; the others are renumbered.

    Args:
        feed_forward_length: The width that all layers must have.

    Returns:
        Whether they have it; if not, nothing is written.
    """
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    reader = GGUFReader(source)
    values = {name: field.contents() for name, field in reader.fields.items()}
    architecture = values["general.architecture"]
    if feed_forward_length not in (None, values[f"{architecture}.feed_forward_length"]):
        return False
    num_layers = values[f"{architecture}.block_count"]
    kept = [number for number in range(num_layers) if number not in removed]
    values[f"{architecture}.block_count"] = len(kept)
    writer = GGUFWriter(path, architecture)
    try:
        for name, field in reader.fields.items():
            if name.startswith("GGUF.") or name == "general.architecture":
                continue
            value = values[name]
            is_array = field.types[0] == GGUFValueType.ARRAY
            if is_array and name.startswith(f"{architecture}.") and len(value) == num_layers:
                value = [value[number] for number in kept]
            writer.add_key_value(
                name, value, field.types[0], sub_type=field.types[-1] if is_array else None
            )
        for tensor in reader.tensors:
            name, block = tensor.name, BLOCK.fullmatch(tensor.name)
            if block is not None:
                if int(block[1]) not in kept:
                    continue
                name = f"blk.{kept.index(int(block[1]))}.{block[2]}"
            writer.add_tensor(name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return True

"""A Hugging Face checkpoint as an unquantised GGUF file.

In: a Checkpoint and its tokenizer. Out: one GGUF file in F32 or F16, written tensor by tensor, so
that memory holds one tensor at a time. Knows nothing of llama.cpp's library; whether the file is
right is proved by verify.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from potstill.errors import ConversionError
from quantize.conversion.checkpoint import Checkpoint
from quantize.conversion.families import (
    ROPE_FREQUENCIES_NAME,
    Weights,
    add_hyperparameters,
    rope_frequency_factors,
)
from quantize.conversion.vocabulary import add_vocabulary

if TYPE_CHECKING:
    from gguf import GGUFWriter

BaseType = Literal["F32", "F16"]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def write_base_gguf(
    checkpoint: Checkpoint,
    tokenizer: Any,  # noqa: ANN401  (a transformers tokenizer)
    path: Path,
    base_type: BaseType,
    name: str,
) -> None:
    """Write a checkpoint to `path` as GGUF; matrices in `base_type`, vectors in F32.

    Args:
        name: The model's name in the file's metadata.

    Raises:
        ConversionError: A tensor has no place in the architecture, or does not fit the type.
        ArtifactError: The checkpoint is damaged.
    """
    from gguf import GGUFWriter

    writer = GGUFWriter(path, checkpoint.family.gguf_arch)
    try:
        add_metadata(writer, checkpoint, tokenizer, base_type, name)
        _write_tensors(writer, checkpoint, base_type)
    finally:
        writer.close()


def add_metadata(
    writer: GGUFWriter,
    checkpoint: Checkpoint,
    tokenizer: Any,  # noqa: ANN401  (a transformers tokenizer)
    base_type: BaseType,
    name: str,
) -> None:
    """Add all that a file says of the model besides its tensors."""
    from gguf import LlamaFileType

    writer.add_name(name)
    writer.add_file_type(LlamaFileType.ALL_F32 if base_type == "F32" else LlamaFileType.MOSTLY_F16)
    add_hyperparameters(writer, checkpoint.config)
    add_vocabulary(writer, tokenizer, checkpoint.dir, checkpoint.config.vocab_size)


def gguf_tensors(checkpoint: Checkpoint, base_type: BaseType) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield each tensor's name and values as they stand in the file, one in memory at a time.

    Raises:
        ConversionError: A tensor has no place in the architecture, or does not fit the type.
        ArtifactError: The checkpoint is damaged.
    """
    factors = rope_frequency_factors(checkpoint.config)
    if factors is not None:
        yield ROPE_FREQUENCIES_NAME, factors
    for source, target in gguf_names(checkpoint).items():
        weights = checkpoint.family.transform(source, checkpoint.load(source), checkpoint.config)
        yield target, _cast(weights, base_type, f"{checkpoint.dir}, tensor {source}")


def _write_tensors(writer: GGUFWriter, checkpoint: Checkpoint, base_type: BaseType) -> None:
    names = gguf_names(checkpoint)
    factors = rope_frequency_factors(checkpoint.config)
    if factors is not None:
        writer.add_tensor_info(ROPE_FREQUENCIES_NAME, factors.shape, factors.dtype, factors.nbytes)
    for source, target in names.items():
        shape = checkpoint.shape(source)
        dtype = _dtype(shape, base_type)
        writer.add_tensor_info(target, shape, dtype, int(np.prod(shape)) * dtype.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, values in gguf_tensors(checkpoint, base_type):
        writer.write_tensor_data(values)


def gguf_names(checkpoint: Checkpoint) -> dict[str, str]:
    """Map the checkpoint's tensor names to GGUF's, leaving out a head that equals the embedding.

    The head is compared by value: the configuration's `tie_word_embeddings` may disagree with what
    was saved, and llama.cpp uses the embedding when there is no head.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    architectures = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}
    table = get_tensor_name_map(
        architectures[checkpoint.family.gguf_arch], checkpoint.config.num_hidden_layers
    )
    names = {}
    for source in checkpoint.files:
        if source.endswith(".rotary_emb.inv_freq"):
            continue
        target = table.get_name(source, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise ConversionError(
                "a tensor of the checkpoint has no place in the architecture",
                where=f"{checkpoint.files[source]}, tensor {source}",
                hint="an adapter must be merged into the model before conversion",
            )
        names[source] = target
    if HEAD in names and EMBEDDING in names and checkpoint.equal(HEAD, EMBEDDING):
        del names[HEAD]
    elif HEAD not in names and not checkpoint.config.tie_word_embeddings:
        raise ConversionError(
            "the checkpoint has no output head",
            where=checkpoint.dir,
            expected=f"tensor {HEAD}, or tie_word_embeddings in config.json",
        )
    return names


def _dtype(shape: tuple[int, ...], base_type: BaseType) -> np.dtype[Any]:
    return np.dtype(np.float16 if base_type == "F16" and len(shape) > 1 else np.float32)


def _cast(weights: Weights, base_type: BaseType, where: str) -> np.ndarray[Any, Any]:
    dtype = _dtype(weights.shape, base_type)
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(weights, dtype=dtype)
    if not np.isfinite(cast).all():
        raise ConversionError(
            "weights are too large for F16",
            where=where,
            expected="magnitudes up to 65504",
            found=float(np.abs(weights).max()),
        )
    return cast

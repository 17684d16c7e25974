"""A Hugging Face checkpoint as an unquantised GGUF file.

In: a Checkpoint and its tokenizer. Out: one GGUF file in F32, F16 or BF16, written tensor by
tensor, so that memory holds one tensor at a time. Knows nothing of llama.cpp's library; whether the
file is right is proved by verify.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from potstill.errors import ConversionError
from quantize.conversion.added_tokens import name_for_stripping
from quantize.conversion.checkpoint import Checkpoint
from quantize.conversion.families.family import Weights, head_dim
from quantize.conversion.rope import rope_tensors
from quantize.conversion.sampling import add_sampling_defaults
from quantize.conversion.vocabulary import add_vocabulary

if TYPE_CHECKING:
    from gguf import GGUFWriter

BaseType = Literal["F32", "F16", "BF16"]
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
    from gguf import GGML_QUANT_VERSION, GGUFType, LlamaFileType

    file_types = {
        "F32": LlamaFileType.ALL_F32,
        "F16": LlamaFileType.MOSTLY_F16,
        "BF16": LlamaFileType.MOSTLY_BF16,
    }
    writer.add_type(GGUFType.MODEL)
    writer.add_name(name_for_stripping(tokenizer, name))
    writer.add_file_type(file_types[base_type])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    add_sampling_defaults(writer, checkpoint.dir)
    checkpoint.family.add_hyperparameters(writer, checkpoint.config)
    add_vocabulary(writer, tokenizer, checkpoint.dir, checkpoint.config.vocab_size)


def gguf_tensors(checkpoint: Checkpoint, base_type: BaseType) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield each tensor's name and values as they stand in the file, one in memory at a time.

    Values of BF16 come as float32: numpy has no such type.

    Raises:
        ConversionError: A tensor has no place in the architecture, or does not fit the type.
        ArtifactError: The checkpoint is damaged.
    """
    yield from rope_tensors(checkpoint.config, head_dim(checkpoint.config)).items()
    for source, target in gguf_names(checkpoint).items():
        weights = checkpoint.family.transform(source, checkpoint.load(source), checkpoint.config)
        yield target, _rounded(weights, base_type, f"{checkpoint.dir}, tensor {source}")


def _write_tensors(writer: GGUFWriter, checkpoint: Checkpoint, base_type: BaseType) -> None:
    names = gguf_names(checkpoint)
    for target, values in rope_tensors(checkpoint.config, head_dim(checkpoint.config)).items():
        _announce(writer, target, values.shape, base_type)
    for source, target in names.items():
        _announce(writer, target, checkpoint.shape(source), base_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, values in gguf_tensors(checkpoint, base_type):
        is_bf16 = base_type == "BF16" and values.ndim > 1
        writer.write_tensor_data(_upper_halves(values) if is_bf16 else values)


def _announce(writer: GGUFWriter, name: str, shape: tuple[int, ...], base_type: BaseType) -> None:
    """Write a tensor's name, shape and type: vectors are always F32."""
    from gguf import GGMLQuantizationType

    stored = GGMLQuantizationType[base_type if len(shape) > 1 else "F32"]
    item_bytes = 4 if stored is GGMLQuantizationType.F32 else 2
    num_bytes = int(np.prod(shape)) * item_bytes
    # The type of numpy's array is asked for only where no GGUF type is given.
    writer.add_tensor_info(name, shape, np.dtype(np.float32), num_bytes, raw_dtype=stored)


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
    if checkpoint.family.needs_head and HEAD in names:
        return names
    if HEAD in names and EMBEDDING in names and checkpoint.equal(HEAD, EMBEDDING):
        del names[HEAD]
    elif HEAD not in names and not checkpoint.config.tie_word_embeddings:
        raise ConversionError(
            "the checkpoint has no output head",
            where=checkpoint.dir,
            expected=f"tensor {HEAD}, or tie_word_embeddings in config.json",
        )
    return names


def _rounded(weights: Weights, base_type: BaseType, where: str) -> NDArray[Any]:
    """Round matrices to the type's precision; vectors stay as they are."""
    if base_type == "F32" or weights.ndim == 1:
        return np.ascontiguousarray(weights)
    if base_type == "BF16":
        import torch

        tensor = torch.from_numpy(np.ascontiguousarray(weights))
        rounded: NDArray[Any] = tensor.to(torch.bfloat16).to(torch.float32).numpy()
        largest = float(torch.finfo(torch.bfloat16).max)
    else:
        with np.errstate(over="ignore"):
            rounded = np.ascontiguousarray(weights, dtype=np.float16)
        largest = float(np.finfo(np.float16).max)
    if not np.isfinite(rounded).all():
        raise ConversionError(
            f"weights are too large for {base_type}",
            where=where,
            expected=f"magnitudes up to {largest:g}",
            found=float(np.abs(weights).max()),
        )
    return rounded


def _upper_halves(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the bits of BF16: the upper halves of float32's."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)

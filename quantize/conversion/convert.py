"""A Hugging Face checkpoint as an unquantized GGUF file.

In: a Checkpoint and its tokenizer. Out: one GGUF file in F32, F16 or BF16, written tensor by
tensor: memory holds one converted tensor, and the mapped pages of its source.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from potstill.errors import ConversionError
from quantize.conversion.added_tokens import name_for_stripping
from quantize.conversion.checkpoint import Checkpoint, is_finite
from quantize.conversion.families.family import head_dim
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
        _add_metadata(writer, checkpoint, tokenizer, base_type, name)
        _write_tensors(writer, checkpoint, base_type)
    finally:
        writer.close()


def _add_metadata(
    writer: GGUFWriter,
    checkpoint: Checkpoint,
    tokenizer: Any,  # noqa: ANN401  (a transformers tokenizer)
    base_type: BaseType,
    name: str,
) -> None:
    """Add all metadata: everything but the tensors."""
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


def _write_tensors(writer: GGUFWriter, checkpoint: Checkpoint, base_type: BaseType) -> None:
    names = gguf_names(checkpoint)
    rope = rope_tensors(checkpoint.config, head_dim(checkpoint.config))
    for target, divisors in rope.items():
        _announce(writer, target, tuple(divisors.shape), base_type)
    for source, target in names.items():
        _announce(writer, target, checkpoint.shape(source), base_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for divisors in rope.values():
        writer.write_tensor_data(divisors.numpy())
    for source in names:
        writer.write_tensor_data(_stored(checkpoint, source, base_type))


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


def _stored(checkpoint: Checkpoint, source: str, base_type: BaseType) -> NDArray[Any]:
    """Return a tensor in llama.cpp's layout, rounded if it is a matrix; vectors stay float32.

    Values of BF16 are returned as their bits, in uint16: numpy has no such type.
    """
    import torch

    dtypes = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    weights = checkpoint.family.transform(source, checkpoint.load(source), checkpoint.config)
    dtype = dtypes[base_type] if weights.ndim > 1 else torch.float32
    stored = weights.to(dtype).contiguous()
    if not is_finite(stored):
        raise ConversionError(
            f"weights are too large for {base_type}",
            where=f"{checkpoint.dir}, tensor {source}",
            expected=f"magnitudes up to {torch.finfo(dtype).max:g}",
            found=max(abs(bound.item()) for bound in weights.aminmax()),
        )
    values: NDArray[Any] = (
        stored.view(torch.uint16) if dtype is torch.bfloat16 else stored
    ).numpy()
    return values

"""The type of each weight matrix in a GGUF file.

In: a model and a file's type. Out: types by parameter name, as llama.cpp chooses them without an
importance matrix.

Source: `llama_tensor_get_type_impl` and `tensor_type_fallback` in src/llama-quant.cpp, llama.cpp
0c1e57098.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from potstill.errors import TrainingError
from train.quantization_aware.blocks import BLOCK_LENGTH, BLOCK_TYPES


def tensor_types(model: Any, file_type: str) -> dict[str, str]:  # noqa: ANN401  (untyped library)
    """Return the type of each weight matrix by the name of its parameter; vectors stay as they are.

    The head, and an embedding that is the head too, get a finer type than the rest.

    Raises:
        TrainingError: The model has weights that are not quantized row by row, or by special rules:
            experts, transposed or positional ones.
    """
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    heads = {id(head), id(embedding)} if torch.equal(head, embedding) else {id(head)}
    linear = {id(one.weight) for one in model.modules() if isinstance(one, nn.Linear)}
    types = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            continue
        if id(parameter) not in linear | {id(embedding)}:
            raise TrainingError(
                "the student's weights cannot be trained to be quantized",
                where="train.quantization_aware",
                expected="a decoder of linear layers and one embedding of tokens",
                found=f"{model.config.model_type}: {name} is neither",
                hint="leave train.quantization_aware out",
            )
        types[name] = _type_of(parameter.shape[-1], file_type, is_head=id(parameter) in heads)
    return types


def _type_of(row_length: int, file_type: str, *, is_head: bool) -> str:
    if row_length % BLOCK_LENGTH:
        return "F16"
    if not is_head or file_type == "Q8_0":
        return file_type
    return "Q8_0" if row_length % BLOCK_TYPES["Q6_K"].length else "Q6_K"

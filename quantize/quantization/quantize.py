"""One GGUF file made from another by llama.cpp, in a child process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from potstill.files import replacing
from potstill.llama.child import ask_in_child
from quantize.quantization.file_types import FileTypeName


def quantize(
    source: Path,
    target: Path,
    file_type: FileTypeName,
    num_threads: int,
    *,
    imatrix_path: Path | None = None,
    tensor_types: Mapping[str, str] | None = None,
) -> None:
    """Quantize a file, see `quantize_file`; the target is complete or absent.

    Raises:
        ConversionError: It fails.
    """
    with replacing(target) as temporary:
        ask_in_child(
            "quantize.quantization.llama_quantize:service",
            f"quantizing to {file_type}",
            target,
            source=source,
            target=temporary,
            file_type=file_type,
            num_threads=num_threads,
            imatrix_path=imatrix_path,
            tensor_types=tensor_types,
        )

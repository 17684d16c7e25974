"""The importance matrix: mean squares of each input of each weight matrix on conversations.

An error in a weight whose input is large changes the output more, so quantization keeps it smaller
at the cost of other weights.

In: a checkpoint and its training conversations. Out: llama.cpp's standard imatrix file.

Shape legend: C input columns of a matrix, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from potstill.errors import ConversionError
from potstill.files import replacing
from potstill.progress import track
from quantize.loading import load_model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from quantize.quantization.calibration import Calibration

SUM_SUFFIX, COUNT_SUFFIX = ".in_sum2", ".counts"
MAX_TEXT_BYTES = 127
"""Limit of a text in llama_model_kv_override (llama.cpp 0c1e57098, llama.h)."""
HEAD = "lm_head.weight"
"""Left out, as by llama.cpp's own tool: a tied head has two kinds of input."""


@dataclass(frozen=True)
class Importance:
    """An importance matrix.

    Attributes:
        mean_squares: Per GGUF tensor the mean squared input [C], float32.
        dataset: Description of the text it was computed on.
        num_chunks: Number of sequences of that text.
        file_name: Name of the file that holds it.
    """

    mean_squares: Mapping[str, NDArray[np.float32]]
    dataset: str
    num_chunks: int
    file_name: str

    @property
    def provenance(self) -> dict[str, str | int]:
        """Keys of a file that was made with it, as llama.cpp's own tool writes them.

        Source: llama.cpp 0c1e57098, tools/quantize/quantize.cpp; the library writes none of them.
        """
        values: dict[str, str | int] = {
            "file": _cut(self.file_name),
            "dataset": _cut(self.dataset),
            "entries_count": len(self.mean_squares),
            "chunks_count": self.num_chunks,
        }
        return {f"quantize.imatrix.{name}": value for name, value in values.items()}


def write_importance(
    checkpoint_dir: Path,
    names: Mapping[str, str],
    architecture: str,
    calibration: Calibration,
    path: Path,
    *,
    label: str,
) -> None:
    """Run a checkpoint over conversations and write the mean squares of its matrices' inputs.

    Args:
        names: GGUF's names of the checkpoint's tensors.
        architecture: GGUF's name of the model's architecture.
        label: The checkpoint's name in the progress bar.

    Raises:
        ConversionError: transformers cannot load the checkpoint, or its activations overflow.
    """
    sums = _sums_of_squares(checkpoint_dir, calibration, label)
    known = {names[name]: sum_C for name, sum_C in sums.items() if name in names}
    for name, sum_C in known.items():
        if not np.isfinite(sum_C).all():
            raise ConversionError(
                "the checkpoint's activations are not finite",
                where=f"{checkpoint_dir}, inputs of {name}",
                hint="training diverged: lower train.learning_rate and train again with --force",
            )
    with replacing(path) as temporary:
        _write(known, architecture, calibration, temporary)


def read_importance(path: Path) -> Importance:
    """Read an imatrix file, potstill's or that of llama.cpp's own tool.

    Raises:
        ConversionError: It is another kind of file, or damaged.
    """
    from gguf import GGUFReader, Keys

    try:
        reader = GGUFReader(path)
        tensors = {tensor.name: tensor.data for tensor in reader.tensors}
        sums = {
            name.removesuffix(SUM_SUFFIX): data
            for name, data in tensors.items()
            if name.endswith(SUM_SUFFIX)
        }
        mean_squares = {
            name: np.array(
                sum_C / max(tensors[name + COUNT_SUFFIX].item(), 1.0), np.float32
            ).ravel()
            for name, sum_C in sums.items()
        }
        dataset = reader.fields[Keys.IMatrix.DATASETS].contents()[0]
        num_chunks = reader.fields[Keys.IMatrix.CHUNK_COUNT].contents()
    except (OSError, ValueError, LookupError) as error:
        raise ConversionError(
            "an importance matrix cannot be read",
            where=path,
            expected="an imatrix file in GGUF",
            found=error,
            hint="delete it and run the same command again",
        ) from error
    return Importance(mean_squares, dataset, num_chunks, path.name)


def _cut(text: str) -> str:
    return text.encode()[:MAX_TEXT_BYTES].decode(errors="ignore")


def _sums_of_squares(
    checkpoint_dir: Path, calibration: Calibration, label: str
) -> dict[str, NDArray[np.float64]]:
    """Return sums of squared inputs [C] over all tokens, by the checkpoint's names of weights.

    The sum over one sequence is taken in float32, that over sequences in float64.
    """
    import torch
    from torch import nn

    model = load_model(checkpoint_dir)
    sums: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and f"{name}.weight" != HEAD:
            zeros_C = torch.zeros(module.in_features, dtype=torch.float64, device=model.device)
            sums[f"{name}.weight"] = zeros_C
            module.register_forward_pre_hook(_adder(zeros_C))
    described = f"importance matrix of the {label}"
    with torch.inference_mode(), track(described, calibration.num_tokens, "tokens") as progress:
        for token_ids in calibration.sequences:
            model.get_decoder()(torch.tensor([token_ids], device=model.device), use_cache=False)
            progress.advance(len(token_ids))
    return {name: sum_C.cpu().numpy() for name, sum_C in sums.items()}


def _adder(sum_C: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def add(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        sum_C.add_(inputs[0].detach().float().square().flatten(0, -2).sum(0))

    return add


def _write(
    sums: Mapping[str, NDArray[np.float64]],
    architecture: str,
    calibration: Calibration,
    path: Path,
) -> None:
    """Write the layout that llama.cpp's own tools share.

    Source: llama.cpp 0c1e57098, tools/imatrix/imatrix.cpp, IMatrixCollector::save_imatrix.
    """
    from gguf import GGUFWriter, Keys

    num_tokens, num_chunks = calibration.num_tokens, len(calibration.sequences)
    writer = GGUFWriter(path, architecture)
    try:
        writer.add_type("imatrix")
        writer.add_array(
            Keys.IMatrix.DATASETS,
            [f"{num_tokens} tokens of the student's training conversations, through its template"],
        )
        writer.add_uint32(Keys.IMatrix.CHUNK_COUNT, num_chunks)
        writer.add_uint32(Keys.IMatrix.CHUNK_SIZE, round(num_tokens / num_chunks))
        for name in sorted(sums):
            writer.add_tensor(name + SUM_SUFFIX, sums[name].astype(np.float32)[None])
            writer.add_tensor(name + COUNT_SUFFIX, np.array([[num_tokens]], np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()

"""The importance matrix: mean squares of each input of each weight matrix on conversations.

An error in a weight whose input is large changes the output more, so quantization keeps it smaller
at the cost of other weights.

In: a checkpoint as an unquantized GGUF file, and training conversations. Out: llama.cpp's standard
imatrix file.

Shape legend: C input columns of a matrix, M matrices of a tensor (experts, otherwise one).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from potstill.errors import ArtifactError, BackendError, ConversionError
from potstill.files import replacing
from potstill.models.header import GgufHeader
from potstill.progress import track
from potstill.workers import Worker, WorkerError
from quantize.quantization.calibration import Calibration

Arrays = Mapping[str, NDArray[np.float64]]
SUM_SUFFIX, COUNT_SUFFIX = ".in_sum2", ".counts"
SERVICE, START_SECONDS = "quantize.quantization.products:service", 600.0
"""What evaluates the file, and how long it may take to read it from a slow disk."""
MAX_TEXT_BYTES = 127
"""Limit of a text in llama_model_kv_override (llama.cpp 0c1e57098, llama.h)."""


@dataclass(frozen=True)
class Importance:
    """An importance matrix.

    Attributes:
        mean_squares: Per GGUF tensor the mean squared inputs [M * C], float32. Those of an expert
            that no token was sent to are 1.
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
    base_path: Path, calibration: Calibration, path: Path, *, label: str, num_threads: int = 0
) -> None:
    """Run a file over conversations and write the mean squares of its matrices' inputs.

    Args:
        base_path: The checkpoint as an unquantized GGUF file.
        label: The checkpoint's name in the progress bar.
        num_threads: 0 means as many as this process may use.

    Raises:
        ConversionError: llama.cpp fails, or the checkpoint's activations overflow.
    """
    sums, counts = _sums_of_squares(base_path, calibration, label, num_threads)
    for name, sum_MC in sums.items():
        if not np.isfinite(sum_MC).all():
            raise ConversionError(
                "the checkpoint's activations are not finite",
                where=f"{base_path}, inputs of {name}",
                hint="training diverged: lower train.learning_rate and train again with --force",
            )
    with replacing(path) as temporary:
        _write(GgufHeader.read(base_path).architecture, sums, counts, calibration, temporary)


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
            name: _means(sum_MC, tensors[name + COUNT_SUFFIX]) for name, sum_MC in sums.items()
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


def _means(sum_MC: NDArray[np.float32], count_M1: NDArray[np.float32]) -> NDArray[np.float32]:
    """Source: llama.cpp 0c1e57098, tools/quantize/quantize.cpp, load_imatrix."""
    count_M1 = count_M1.reshape(-1, 1)
    means_MC = np.where(count_M1 > 0, sum_MC / np.maximum(count_M1, 1), 1.0)
    return means_MC.astype(np.float32).ravel()


def _sums_of_squares(
    base_path: Path, calibration: Calibration, label: str, num_threads: int
) -> tuple[Arrays, Arrays]:
    """Return sums of squared inputs [M, C] and their numbers [M], by the file's tensors."""
    context_tokens = max(map(len, calibration.sequences))
    arguments = (str(base_path), context_tokens, num_threads)
    described = f"importance matrix of the {label}"
    try:
        with (
            tempfile.TemporaryDirectory() as directory,
            Worker(SERVICE, *arguments, start_seconds=START_SECONDS) as worker,
            track(described, calibration.num_tokens, "tokens") as progress,
        ):
            for token_ids in calibration.sequences:
                worker.ask(json.dumps(token_ids).encode())
                progress.advance(len(token_ids))
            path = Path(directory) / "sums.npz"
            worker.ask(json.dumps(str(path)).encode())
            with np.load(path) as file:
                arrays = dict(file)
    except (ArtifactError, BackendError, WorkerError) as error:
        raise ConversionError(
            "llama.cpp failed while computing an importance matrix",
            where=base_path,
            found=error.found,
            hint='free memory, or set quantize.imatrix="never"',
        ) from error
    return _of_kind(arrays, ".sums"), _of_kind(arrays, ".counts")


def _of_kind(arrays: Arrays, kind: str) -> Arrays:
    return {
        name.removesuffix(kind): values for name, values in arrays.items() if name.endswith(kind)
    }


def _write(
    architecture: str, sums: Arrays, counts: Arrays, calibration: Calibration, path: Path
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
            writer.add_tensor(name + SUM_SUFFIX, sums[name].astype(np.float32))
            writer.add_tensor(name + COUNT_SUFFIX, counts[name].astype(np.float32)[:, None])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()

"""The best mix of types for a size, from measured costs of each tensor at each type.

In: an unquantized file, its checkpoint, an importance matrix and training conversations. Out: the
types of all tensors of a file of a given size, and the KL to expect.

For each candidate type llama.cpp makes a file in which every tensor that can has that type. It
gives each tensor's bytes, and the squared error of its output (with the importance matrix as the
mean square of the input). Then each tensor alone is replaced by its version of type ANCHOR and
KL(checkpoint‖changed) is measured over conversations. KL is quadratic in the error, so the KL at
another type is that at ANCHOR times the ratio of output errors. Embedding and head are not in the
importance matrix, and are measured at every type.

Shape legend: R rows of a matrix, C columns.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from potstill.errors import ConfigError, ConversionError
from potstill.files import write_text_atomically
from potstill.progress import track
from quantize.conversion.checkpoint import Checkpoint
from quantize.quantization.calibration import Calibration
from quantize.quantization.file_types import BASES, FILE_TYPES, FileTypeName
from quantize.quantization.imatrix import read_importance
from quantize.quantization.layout import find_layout
from quantize.quantization.planner import Option, choose, total
from quantize.quantization.quantize import quantize
from quantize.quantization.sensitivity import ChangedCheckpoint
from quantize.quantization.tensors import (
    EMBEDDING,
    HEAD,
    FileTensor,
    TensorValues,
    block_length,
    read_tensors,
)

ANCHOR = "IQ4_NL"
"""A type that nearly every row can have, with a KL far above float rounding."""

CANDIDATES = (
    ANCHOR,
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q2_K",
    "Q3_K",
    "IQ4_XS",
    "Q4_K",
    "Q5_K",
    "Q6_K",
)
"""Q4_0 is left out because IQ4_NL has the same size and a lower KL; further types of two and three
bits because they take llama.cpp minutes per hundred million weights."""

ALIGNMENT_BYTES = 32
"""Alignment of each tensor in a file (GGUF 3, general.alignment)."""


@dataclass(frozen=True)
class MixSource:
    """The sources of mixes.

    Attributes:
        base_path: The checkpoint as an unquantized GGUF file.
        names: The checkpoint's tensors, by the file's.
        quantizes_with_imatrix: Whether llama.cpp quantizes with the importance matrix too.
    """

    checkpoint: Checkpoint
    base_path: Path
    names: Mapping[str, str]
    imatrix_path: Path
    quantizes_with_imatrix: bool
    num_threads: int

    def quantize(self, types: Mapping[str, str], file_type: FileTypeName, path: Path) -> None:
        """Let llama.cpp make a file whose every tensor has a given type.

        Raises:
            ConversionError: It fails.
        """
        imatrix_path = self.imatrix_path if self.quantizes_with_imatrix else None
        quantize(
            self.base_path,
            path,
            file_type,
            self.num_threads,
            imatrix_path=imatrix_path,
            tensor_types=types,
        )


@dataclass(frozen=True)
class TensorCosts:
    """The cost of every tensor at every type.

    Attributes:
        options: By GGUF's name of the tensor; the unquantized type is one of them.
        fixed_bytes: Size of everything else in a file: header, tokenizer, vectors.
    """

    options: Mapping[str, Sequence[Option]]
    fixed_bytes: int

    @classmethod
    def read(cls, path: Path) -> TensorCosts:
        """Read the costs that `write` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        options = {
            name: [Option(**option) for option in of_tensor]
            for name, of_tensor in content["options"].items()
        }
        return cls(options, content["fixed_bytes"])

    def write(self, path: Path) -> None:
        """Write the costs, for further sizes and for a resumed run."""
        options = {name: list(map(asdict, of_tensor)) for name, of_tensor in self.options.items()}
        content = {"fixed_bytes": self.fixed_bytes, "options": options}
        write_text_atomically(path, json.dumps(content))


@dataclass(frozen=True)
class Mix:
    """The types of a file's tensors.

    Attributes:
        num_bytes: Of the whole file.
        predicted_kl_nats: The sum of the tensors' costs.
    """

    types: Mapping[str, str]
    num_bytes: int
    predicted_kl_nats: float

    @property
    def file_type(self) -> FileTypeName:
        """The file type of the most common quantized type, for the file's header."""
        names = {FILE_TYPES[name].tensor_type: name for name in reversed(FILE_TYPES)}
        quantized = [one for one in self.types.values() if names.get(one) not in BASES]
        commonest = Counter(quantized or self.types.values()).most_common(1)
        return names[commonest[0][0]]

    def per_group(self) -> dict[str, dict[str, int]]:
        """Return counts of types per kind of tensor, such as attn_q or ffn_down."""
        groups: dict[str, Counter[str]] = defaultdict(Counter)
        for name, tensor_type in self.types.items():
            groups[name.removesuffix(".weight").rsplit(".", 1)[-1]][tensor_type] += 1
        return {group: dict(counts.most_common()) for group, counts in sorted(groups.items())}


def refuse_too_small(base_path: Path, max_bytes: float, where: object) -> None:
    """Refuse a size that is too small for any file of the model, before anything is measured.

    Raises:
        ConfigError: It is too small.
    """
    matrices = [one for one in read_tensors(base_path) if one.is_matrix]
    smallest = base_path.stat().st_size + sum(
        min(_padded(one.num_bytes_as(name)) for name in (one.type, *_suitable(one)))
        - _padded(one.num_bytes)
        for one in matrices
    )
    if smallest > max_bytes:
        raise ConfigError(
            "a file of this model cannot be that small",
            where=where,
            expected=f"quantize.target_megabytes of at least {math.ceil(smallest / 1e4) / 100:.2f}",
            found=f"{max_bytes / 1e6:g}",
            hint="remove layers or neurons in training to make it smaller still",
        )


def choose_mix(costs: TensorCosts, max_bytes: float) -> Mix:
    """Choose the types for a file of at most `max_bytes`.

    Raises:
        ValueError: No file of the model can be so small.
    """
    chosen = choose(costs.options, int(max_bytes) - costs.fixed_bytes)
    num_bytes, kl_nats = total(chosen.values())
    types = {name: option.type for name, option in chosen.items()}
    return Mix(types, costs.fixed_bytes + num_bytes, kl_nats)


def measure_costs(source: MixSource, calibration: Calibration, scratch_dir: Path) -> TensorCosts:
    """Measure every matrix at every candidate type that its rows allow.

    Raises:
        ConversionError: The checkpoint cannot be loaded, or llama.cpp fails.
    """
    matrices = [one for one in read_tensors(source.base_path) if one.is_matrix]
    measurement = _CostMeasurement(source, calibration, matrices)
    with track("measuring types", len(CANDIDATES), "types") as progress:
        for tensor_type in CANDIDATES:
            path = scratch_dir / f"candidate-{tensor_type}.gguf"
            if measurement.make_file(tensor_type, path):
                measurement.add(tensor_type, path)
                path.unlink()
            progress.advance(note=tensor_type)
    return TensorCosts(measurement.options(), measurement.fixed_bytes)


class _CostMeasurement:
    def __init__(
        self, source: MixSource, calibration: Calibration, matrices: list[FileTensor]
    ) -> None:
        self.fixed_bytes = 0
        self._source = source
        self._matrices = matrices
        self._base = TensorValues(source.base_path)
        self._importance = read_importance(source.imatrix_path).mean_squares
        self._checkpoint = ChangedCheckpoint(source.checkpoint.dir, calibration.sequences)
        files = source.checkpoint.files
        for one in matrices:
            if source.names.get(one.name) not in files:
                raise _unknown_layout(one.name)
        self._errors: dict[str, dict[str, float]] = defaultdict(dict)
        self._bytes: dict[str, dict[str, int]] = defaultdict(dict)
        self._kl_nats: dict[str, dict[str, float]] = defaultdict(dict)

    def make_file(self, tensor_type: str, path: Path) -> bool:
        """Make a file whose tensors have a type if their rows allow it; return whether any can."""
        types = {
            one.name: tensor_type if tensor_type in _suitable(one) else one.type
            for one in self._matrices
        }
        if tensor_type not in types.values():
            return False
        self._source.quantize(types, "Q8_0", path)
        return True

    def add(self, tensor_type: str, path: Path) -> None:
        """Measure a file's tensors of a type."""
        values = TensorValues(path)
        tensors = {one.name: one for one in read_tensors(path)}
        self.fixed_bytes = path.stat().st_size - sum(
            _padded(tensors[one.name].num_bytes) for one in self._matrices
        )
        for name, tensor in tensors.items():
            if tensor.type != tensor_type:
                continue
            weights_RC = values[name]
            self._bytes[name][tensor_type] = _padded(tensor.num_bytes)
            self._errors[name][tensor_type] = self._output_error(name, weights_RC)
            if tensor_type == ANCHOR or name in (EMBEDDING, HEAD) or not self._kl_nats[name]:
                changes = self._changes(name, weights_RC)
                self._kl_nats[name][tensor_type] = self._checkpoint.kl_nats(changes)

    def options(self) -> dict[str, list[Option]]:
        """Return every tensor's options, with KL measured or scaled by the ratio of errors."""
        options = {}
        for one in self._matrices:
            kl_nats, errors = self._kl_nats[one.name], self._errors[one.name]
            options[one.name] = [Option(one.type, _padded(one.num_bytes), 0.0)]
            if not kl_nats:
                continue
            anchor = next(iter(kl_nats))
            per_error = kl_nats[anchor] / errors[anchor] if errors[anchor] else 0.0
            options[one.name] += [
                Option(name, num_bytes, kl_nats.get(name, per_error * errors[name]))
                for name, num_bytes in self._bytes[one.name].items()
            ]
        return options

    def _output_error(self, name: str, weights_RC: NDArray[np.float32]) -> float:
        """Return the squared error of a matrix's output, summed over rows, per token."""
        squares_C = np.square(weights_RC - self._base[name]).sum(0, dtype=np.float64)
        return float((squares_C * self._importance.get(name, np.float32(1.0))).sum())

    def _changes(self, name: str, weights_RC: NDArray[np.float32]) -> dict[str, Any]:
        """Return weights under the checkpoint's name, in its layout."""
        source = self._source.names[name]
        place = find_layout(self._source.checkpoint.load(source), self._base[name])
        if place is None:
            raise _unknown_layout(name)
        return {source: place(weights_RC)}


def _unknown_layout(name: str) -> ConversionError:
    return ConversionError(
        "types cannot be chosen for a size for this architecture",
        where="quantize.target_megabytes",
        expected="tensors of the file that are tensors of the checkpoint, in any order of rows",
        found=name,
        hint="leave target_megabytes out, and choose among quantize.types",
    )


def _suitable(tensor: FileTensor) -> list[str]:
    """Return the candidates whose block length divides the tensor's rows."""
    return [name for name in CANDIDATES if tensor.row_length % block_length(name) == 0]


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES

"""What stands in a GGUF file against what its checkpoint makes of it: every key, every block.

In: a file that llama.cpp can load, and what it was made of. Out: nothing, or a refusal that names
the key or the tensor. Knows nothing of what the model predicts.

A file is made again in memory, one tensor at a time, and must be the same: a byte that changed on
its way to the disk, or another checkpoint's file, is found wherever it is. Whether the conversion
itself is right is for others to prove.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from potstill.errors import ConversionError
from quantize.conversion.checkpoint import Checkpoint
from quantize.conversion.convert import BaseType, add_metadata, gguf_tensors
from quantize.llama.blocks import quantize_rows
from quantize.quantization.file_types import FILE_TYPES, FileTypeName
from quantize.quantization.imatrix import Importance

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderField, ReaderTensor

COUNTS = ("GGUF.tensor_count", "GGUF.kv_count")
"""What the reader adds that a header alone cannot tell; a wrong one misses or finds too much."""

Header = dict[str, tuple[Any, Any]]
"""Types and values by key."""

MAX_QUOTED = 200
"""Characters of a value that are quoted in an error."""


@dataclass(frozen=True)
class Origin:
    """What a file was made of.

    Attributes:
        name: The model's name in the file's metadata.
        file_type: What its header tells; of a mix, the commonest.
        base_type: The type that was converted to, and quantized from.
        importance: What it was quantized with, if anything.
    """

    checkpoint: Checkpoint
    tokenizer: Any
    name: str
    file_type: FileTypeName
    base_type: BaseType
    importance: Importance | None = None


def check_contents(path: Path, origin: Origin, num_threads: int) -> None:
    """Make the file again in memory and compare.

    Raises:
        ConversionError: Something differs.
    """
    from quantize.verification.reader import BoundedReader

    wanted = _header(origin)  # before the file's is read: a reader takes objects for every token
    try:
        reader = BoundedReader(path)
    except (ValueError, KeyError, IndexError) as error:
        raise refusal(path, "its header cannot be read", "GGUF", str(error)) from error
    _check_metadata(path, _values(reader), wanted)
    _check_tensors(path, reader, origin, num_threads)
    _check_padding(path, reader)


def _header(origin: Origin) -> Header:
    """Write the file's header anew and return what is in it."""
    from gguf import GGUFReader, GGUFWriter

    with tempfile.TemporaryDirectory() as directory:
        header_path = Path(directory) / "header.gguf"
        writer = GGUFWriter(header_path, origin.checkpoint.family.gguf_arch)
        add_metadata(writer, origin.checkpoint, origin.tokenizer, origin.base_type, origin.name)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        return _values(GGUFReader(header_path)) | _added_by_quantizing(origin)


def _check_metadata(path: Path, found: Header, wanted: Header) -> None:
    for key in [*wanted, *found]:
        if found.get(key) != wanted.get(key):
            raise refusal(
                path,
                f"its metadata is not what the conversion writes, at the key {key}",
                _quoted(wanted.get(key)),
                _quoted(found.get(key)),
            )


def _added_by_quantizing(origin: Origin) -> Header:
    """Return what llama.cpp writes besides, or instead."""
    from gguf import GGML_QUANT_VERSION, GGUFValueType

    added: dict[str, str | int] = {
        "general.quantization_version": GGML_QUANT_VERSION,
        "general.file_type": FILE_TYPES[origin.file_type].ftype,
    }
    if origin.importance is not None:
        added |= origin.importance.provenance
    text, number = [GGUFValueType.STRING], [GGUFValueType.UINT32]
    return {
        key: (text if isinstance(value, str) else number, value) for key, value in added.items()
    }


def _values(reader: GGUFReader) -> Header:
    return {
        name: (one.types, _content(one))
        for name, one in reader.fields.items()
        if name not in COUNTS
    }


def _content(one: ReaderField) -> Any:  # noqa: ANN401  (a number, a text, or a list of either)
    try:
        return one.contents()
    except UnicodeDecodeError as error:
        return str(error)


def _quoted(value: tuple[Any, Any] | None) -> str:
    text = "nothing" if value is None else repr(value[1])
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}… ({len(text):,} characters)"


def _check_tensors(path: Path, reader: GGUFReader, origin: Origin, num_threads: int) -> None:
    found = {tensor.name: tensor for tensor in reader.tensors}
    wanted_names = []
    faults: list[str] = []
    mean_squares = origin.importance.mean_squares if origin.importance else {}
    for name, values in gguf_tensors(origin.checkpoint, origin.base_type):
        wanted_names.append(name)
        if name not in found:
            faults.append(f"tensor {name} is missing")
            continue
        fault = _fault(found[name], values, mean_squares.get(name), num_threads)
        if fault is not None:
            faults.append(f"tensor {name} {fault}")
        del values  # before the next one is made
    faults += [f"tensor {name} belongs to no such model" for name in found.keys() - wanted_names]
    if faults:
        raise refusal(
            path,
            "its tensors are not the checkpoint's",
            f"what {origin.file_type} makes of the checkpoint's {len(wanted_names)} tensors",
            f"{faults[0]}; {len(faults)} of {len(wanted_names)} tensors differ",
            "the file is another checkpoint's, or this one's of another time"
            if len(faults) > len(wanted_names) / 2
            else None,
        )


def _fault(
    tensor: ReaderTensor,
    values: NDArray[Any],
    importance: NDArray[np.float32] | None,
    num_threads: int,
) -> str | None:
    """Say how a tensor of the file differs from what its type makes of the checkpoint's."""
    shape = tuple(tensor.shape.tolist()[::-1])
    if shape != values.shape:
        return f"has shape {shape}, expected {values.shape}"
    rows = values.reshape(-1, values.shape[-1])
    wanted = quantize_rows(rows, int(tensor.tensor_type), importance, num_threads)
    found = np.ascontiguousarray(tensor.data).view(np.uint8).reshape(wanted.shape)
    if np.array_equal(found, wanted):
        return None
    if len(found) > 1 and np.array_equal(_in_order(found), _in_order(wanted)):
        return "has the right rows in another order, as for another rotary layout"
    places = np.flatnonzero(found != wanted)
    offset = tensor.data_offset + int(places[0])
    return f"differs in {len(places)} of {found.size} bytes, first at byte {offset} of the file"


def _in_order(rows: NDArray[np.uint8]) -> NDArray[Any]:
    """Return the rows sorted, each one as a whole."""
    return np.sort(rows.view(np.dtype((np.void, rows.shape[1]))).ravel())


def _check_padding(path: Path, reader: GGUFReader) -> None:
    """Look at what neither header nor tensors own: zeros up to the next tensor, or the end."""
    for start, end in _gaps(reader):
        rest = reader.data[start:end]
        if len(rest) != end - start or rest.any():
            raise refusal(
                path,
                "there is something else than zeros before, between or after its tensors",
                f"{end - start} zeros from byte {start} on",
                f"{rest[: MAX_QUOTED // 4].tolist()}",
            )


def _gaps(reader: GGUFReader) -> Iterator[tuple[int, int]]:
    infos = [one.field for one in reader.tensors]
    start = max(int(one.offset) + sum(part.nbytes for part in one.parts) for one in infos)
    for tensor in sorted(reader.tensors, key=lambda one: int(one.data_offset)):
        yield start, int(tensor.data_offset)
        start = int(tensor.data_offset + tensor.n_bytes)
    padding = -start % reader.alignment
    # GGUF pads what follows a tensor, so the last one's padding is the end, if there is any.
    yield start, max(len(reader.data), start + padding)


def refusal(
    path: Path, what: str, expected: str, found: str, hint: str | None = None
) -> ConversionError:
    """Return the error that refuses a file."""
    return ConversionError(
        f"a GGUF file does not match its checkpoint: {what}",
        where=path,
        expected=expected,
        found=found,
        hint=hint or "the file was damaged or converted wrongly: run the same command again",
    )

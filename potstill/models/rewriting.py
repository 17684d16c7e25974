"""A GGUF file with other texts in its metadata, its tensors copied as they are.

Source: docs/gguf.md of ggml, version 3.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

from potstill.files import CHUNK_BYTES, disk_errors
from potstill.models.header import STRING, GgufHeader, TensorInfo, aligned


def copy_with_texts(path: Path, target: Path, texts: Mapping[str, str]) -> None:
    """Copy a GGUF file, and set texts in the metadata of the copy.

    Raises:
        ArtifactError: It is not a GGUF file, or the disk is full.
    """
    header = GgufHeader.read(path)
    entries = {**header.entries, **{key: _entry(key, text) for key, text in texts.items()}}
    with disk_errors("copying a GGUF file", target), path.open("rb") as source:
        head = source.read(8)  # The magic and the version.
        counts = struct.pack("<QQ", len(header.tensors), len(entries))
        tensors = b"".join(_tensor(one) for one in header.tensors)
        start = b"".join((head, counts, *entries.values(), tensors))
        source.seek(header.data_start)
        with target.open("wb") as stream:
            stream.write(start.ljust(aligned(len(start), header.alignment), b"\0"))
            shutil.copyfileobj(source, stream, CHUNK_BYTES)


def _entry(key: str, text: str) -> bytes:
    return _packed(key) + struct.pack("<I", STRING) + _packed(text)


def _tensor(info: TensorInfo) -> bytes:
    dims = struct.pack(f"<I{len(info.dims)}Q", len(info.dims), *info.dims)
    return _packed(info.name) + dims + struct.pack("<IQ", info.type, info.offset)


def _packed(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content

"""Headers of GGUF files, with what is read from them before llama.cpp loads a file."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from tests.fuzz.harness import Take, Target


def _prepare() -> Take:
    from potstill.checkpoints import ModelShape
    from potstill.errors import ArtifactError
    from potstill.lineage import read_lineage
    from potstill.models.header import GgufHeader
    from potstill.models.rewriting import copy_with_texts
    from serve.files import named_files

    directory = tempfile.TemporaryDirectory()
    path, copy = (Path(directory.name) / name for name in ("given.gguf", "copy"))

    def take(data: bytes, _kept: object = directory) -> None:
        path.write_bytes(data)
        for read in (ModelShape.of_gguf, read_lineage, lambda path: named_files([path.parent])):
            with suppress(ArtifactError):
                read(path)
        try:
            header = GgufHeader.read(path)
        except ArtifactError:
            return
        assert header.file_type
        copy_with_texts(path, copy, {"a": "b"})
        copied = GgufHeader.read(copy)
        assert copied.tensors == header.tensors
        assert copied.metadata == header.metadata | {"a": "b"}
        copy.unlink()

    return take


TARGETS = [Target("gguf", _prepare, nightly_runs=250_000)]

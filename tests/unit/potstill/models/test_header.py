import struct

import gguf
import pytest

from potstill.errors import ArtifactError
from potstill.models.header import GgufHeader


@pytest.mark.slow
def test_a_header_is_read_as_by_the_gguf_package(tiny_gguf):
    header, reader = GgufHeader.read(tiny_gguf), gguf.GGUFReader(tiny_gguf)
    assert header.architecture == "llama"
    assert header.metadata["llama.block_count"] == 2
    assert header.metadata["tokenizer.ggml.tokens"] == 49_152
    assert list(header.metadata) == [name for name in reader.fields if name[:5] != "GGUF."]
    for found, expected in zip(header.tensors, reader.tensors, strict=True):
        assert (found.name, found.dims) == (expected.name, tuple(expected.shape.tolist()))
        assert header.data_start + found.offset == expected.data_offset
        assert (found.num_values, found.num_bytes) == (expected.n_elements, expected.n_bytes)


@pytest.mark.parametrize("num_bytes", [0, 3, 20, 1000, 900_000, -1])
def test_a_truncated_file_is_refused(tiny_gguf, tmp_path, num_bytes):
    path = tmp_path / "half.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[:num_bytes])
    with pytest.raises(ArtifactError, match="a GGUF file cannot be read") as caught:
        GgufHeader.read(path)
    assert caught.value.where == path


@pytest.mark.parametrize("content", [b"<html>404 Not Found</html>", b"GGUF" + bytes(100)])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "page.gguf"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="a GGUF file cannot be read"):
        GgufHeader.read(path)


U32, FLOAT, NESTED = 4, 6, 9


def text(content: str) -> bytes:
    return struct.pack("<Q", len(content)) + content.encode()


def header(*entries: bytes, tensors: bytes = b"", num_tensors: int = 1) -> bytes:
    tensors = tensors or text("t") + struct.pack("<IQIQ", 1, 32, 0, 0)
    return b"GGUF" + struct.pack("<IQQ", 3, num_tensors, len(entries)) + b"".join(entries) + tensors


def alignment(type_: int, kind: str, value: float) -> bytes:
    return text("general.alignment") + struct.pack(f"<I{kind}", type_, value)


@pytest.mark.parametrize(
    "content",
    [
        header(alignment(U32, "I", 0)),
        header(alignment(FLOAT, "f", 32.0)),
        header(alignment(FLOAT, "f", float("nan"))),
        header(text("a") + struct.pack("<I", NESTED) + struct.pack("<IQ", NESTED, 1) * 10_000),
        header(tensors=text("t") + struct.pack("<I1000000Q", 1_000_000, *[2**63] * 1_000_000)),
    ],
    ids=["no alignment", "half bytes", "not a number", "nested arrays", "a million dimensions"],
)
def test_a_hostile_header_is_refused_at_once(tmp_path, content):
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content + bytes(1024))
    with pytest.raises(ArtifactError, match="a GGUF file cannot be read"):
        GgufHeader.read(path)


def test_a_file_without_an_architecture_has_none(tmp_path):
    path = tmp_path / "bare.gguf"
    path.write_bytes(header() + bytes(1024))
    with pytest.raises(ArtifactError, match="a GGUF file cannot be read"):
        _ = GgufHeader.read(path).architecture

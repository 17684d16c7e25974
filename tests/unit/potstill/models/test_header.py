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

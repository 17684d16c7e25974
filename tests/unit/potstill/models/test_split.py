"""Split files that gguf's own writer makes."""

import gguf
import pytest

from potstill.errors import ArtifactError
from potstill.files import sha256_file
from potstill.llama.model import LlamaModel
from potstill.models.files import find_gguf, sha256_files
from potstill.models.split import Shards
from tests.fixtures.tiny_gguf import write_tiny_gguf


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    directory = tmp_path_factory.mktemp("split")
    write_tiny_gguf(directory / "tiny.gguf", split_max_tensors=8)
    return sorted(directory.iterdir())


@pytest.mark.slow
def test_the_files_of_a_split_model_are_joined_once(shards, tiny_gguf, tmp_path, monkeypatch):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path))
    assert [path.name for path in shards] == Shards("tiny", 3).names
    source = find_gguf(str(shards[0]))
    assert source.sha256 == sha256_file(source.path)
    assert source.path == tmp_path / f"tiny-{sha256_files(shards)[:12]}.gguf"
    joined, whole = gguf.GGUFReader(source.path), gguf.GGUFReader(tiny_gguf)
    for found, expected in zip(joined.tensors, whole.tensors, strict=True):
        assert (found.name, found.tensor_type) == (expected.name, expected.tensor_type)
        assert found.data.tobytes() == expected.data.tobytes()
    names = [field for field in whole.fields if not field.startswith("GGUF.")]
    assert [field for field in joined.fields if not field.startswith("GGUF.")] == names
    with LlamaModel(source.path) as model:
        assert model.vocab_size == 49_152
    written = source.path.stat()
    assert find_gguf(str(shards[0])) == source
    assert source.path.stat() == written


def test_a_missing_part_is_named(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    for path in shards[:2]:
        (tmp_path / path.name).symlink_to(path)
    with pytest.raises(ArtifactError, match="a part of a split GGUF file is missing") as caught:
        find_gguf(str(tmp_path / shards[0].name))
    assert caught.value.where == tmp_path / shards[2].name
    assert not (tmp_path / "cache").exists()

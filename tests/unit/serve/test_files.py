"""Files that are served without a run: which, and under which name."""

from pathlib import Path

import pytest

from potstill.errors import ArtifactError, ConfigError
from serve.files import named_files
from tests.fixtures.tiny_gguf import write_tiny_gguf
from tests.unit.serve.test_loading import write_adapter


@pytest.fixture
def folder(tmp_path, tiny_gguf) -> Path:
    for name in ("b", "a"):
        (tmp_path / f"{name}.gguf").symlink_to(tiny_gguf)
    write_adapter(tmp_path / "adapter.gguf")
    (tmp_path / "notes.txt").write_text("no model")
    return tmp_path


def test_files_are_named_by_their_file_and_folders_stand_for_their_models(folder, tiny_gguf):
    alone = named_files([folder / "a.gguf", tiny_gguf])
    assert alone == {"a": folder / "a.gguf", tiny_gguf.stem: tiny_gguf}
    assert list(named_files([folder])) == ["a", "b"]


def test_the_parts_of_a_split_model_are_one(tmp_path, monkeypatch):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    write_tiny_gguf(tmp_path / "whole.gguf", split_max_tensors=8)
    ((name, path),) = named_files([tmp_path]).items()
    assert (name, path.parent) == ("whole", tmp_path / "cache")


def test_what_cannot_be_served_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="two files have the name 'a'"):
        named_files([folder, folder / "a.gguf"])
    with pytest.raises(ArtifactError, match=r"no model to serve(.|\n)*no such file"):
        named_files([tmp_path / "none.gguf"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="a directory without models"):
        named_files([tmp_path / "empty"])

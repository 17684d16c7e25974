from pathlib import Path
from types import SimpleNamespace

import pytest

from generate.teachers.embedded import (
    EMBEDDED_TEACHER,
    GGUF_NAME,
    PACKAGE,
    embedded_checkpoint,
    embedded_shape,
)
from potstill.checkpoints import ModelShape
from potstill.errors import ArtifactError, TeacherError
from potstill.files import sha256_file


@pytest.fixture
def install(monkeypatch):
    """Return a function that lets Python find the package at a place, or nowhere."""

    def put(directory):
        def find_spec(name):
            assert name == PACKAGE
            return directory and SimpleNamespace(submodule_search_locations=[str(directory)])

        fake = SimpleNamespace(util=SimpleNamespace(find_spec=find_spec))
        monkeypatch.setattr("generate.teachers.embedded.importlib", fake)

    return put


@pytest.fixture
def package_dir(tmp_path, install) -> Path:
    """An installed package whose GGUF file is not a model."""
    directory = tmp_path / "site-packages" / PACKAGE
    directory.mkdir(parents=True)
    (directory / GGUF_NAME).write_bytes(b"GGUF but nothing else")
    install(directory)
    return directory


@pytest.fixture
def dequantized(monkeypatch) -> list[Path]:
    """Write a marker in place of a checkpoint, and record where."""
    places = []

    def dequantize(gguf_path, checkpoint_dir):
        places.append(checkpoint_dir)
        (checkpoint_dir / "weights").write_bytes(gguf_path.read_bytes())

    monkeypatch.setattr("generate.teachers.embedded._dequantize", dequantize)
    return places


def names(directory) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.usefixtures("package_dir")
def test_the_checkpoint_is_made_once_and_found_again(dequantized, tmp_path):
    cache_dir = tmp_path / "cache" / "potstill"
    made = embedded_checkpoint(cache_dir)
    assert (made / "weights").read_bytes() == b"GGUF but nothing else"
    assert embedded_checkpoint(cache_dir) == made
    assert len(dequantized) == 1
    assert names(cache_dir) == [made.name]


def test_another_file_of_the_package_is_another_checkpoint(package_dir, dequantized, tmp_path):
    first = embedded_checkpoint(tmp_path / "cache")
    assert first.name == f"{EMBEDDED_TEACHER}-{sha256_file(package_dir / GGUF_NAME)[:12]}"
    (package_dir / GGUF_NAME).write_bytes(b"GGUF of the next release")
    second = embedded_checkpoint(tmp_path / "cache")
    assert second != first
    assert (second / "weights").read_bytes() == b"GGUF of the next release"
    assert len(dequantized) == 2


@pytest.mark.parametrize("error", [TeacherError("unreadable"), KeyboardInterrupt()])
@pytest.mark.usefixtures("package_dir")
def test_a_failure_leaves_no_half_checkpoint(monkeypatch, tmp_path, error):
    def fail(_gguf_path, checkpoint_dir):
        (checkpoint_dir / "weights").touch()
        raise error

    monkeypatch.setattr("generate.teachers.embedded._dequantize", fail)
    with pytest.raises(type(error)):
        embedded_checkpoint(tmp_path / "cache")
    assert names(tmp_path / "cache") == []


@pytest.mark.usefixtures("package_dir")
def test_a_process_that_comes_second_takes_the_firsts_checkpoint(monkeypatch, tmp_path):
    cache_dir = tmp_path / "cache"

    def slow(_gguf_path, checkpoint_dir):
        (checkpoint_dir / "weights").write_text("the second's")
        first = cache_dir / checkpoint_dir.name.partition(".partial")[0]
        first.mkdir()
        (first / "weights").write_text("the first's")

    monkeypatch.setattr("generate.teachers.embedded._dequantize", slow)
    found = embedded_checkpoint(cache_dir)
    assert (found / "weights").read_text() == "the first's"
    assert names(cache_dir) == [found.name]


@pytest.mark.usefixtures("package_dir")
def test_a_cache_that_cannot_be_written_is_an_error_that_names_it(dequantized, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ArtifactError, match="caching the embedded teacher failed") as caught:
        embedded_checkpoint(tmp_path / "cache")
    assert str(caught.value.where).startswith(str(tmp_path / "cache"))
    assert dequantized == []


def test_a_missing_package_is_an_error_with_a_hint(install, tmp_path):
    install(None)
    with pytest.raises(TeacherError, match=r"not installed(.|\n)*found: no such package") as caught:
        embedded_checkpoint(tmp_path)
    assert "generate.teacher.model=PATH" in caught.value.hint


def test_a_package_without_the_file_is_another_error(package_dir, tmp_path):
    (package_dir / GGUF_NAME).unlink()
    with pytest.raises(TeacherError, match=r"not installed(.|\n)*found: no such file"):
        embedded_checkpoint(tmp_path)


def test_a_damaged_file_is_an_error_of_ours(package_dir, tmp_path):
    with pytest.raises(TeacherError, match="embedded teacher cannot be read") as caught:
        embedded_checkpoint(tmp_path / "cache")
    assert caught.value.where == package_dir / GGUF_NAME
    assert names(tmp_path / "cache") == []


def test_the_real_checkpoint_is_whole_and_splits_digits_one_by_one(teacher_dir):
    from transformers import AutoTokenizer

    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(
        names(teacher_dir)
    )
    tokenizer = AutoTokenizer.from_pretrained(teacher_dir)
    ids = tokenizer("in 1984", add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode([one]) for one in ids] == ["in", " ", "1", "9", "8", "4"]
    assert tokenizer.chat_template
    assert "apache-2.0" in (teacher_dir / "README.md").read_text()


def test_the_shape_is_the_real_checkpoints(teacher_dir):
    assert embedded_shape() == ModelShape.read(teacher_dir)

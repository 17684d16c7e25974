"""Where llama.cpp's converter is found, and what is unpacked of a source distribution."""

from __future__ import annotations

import io
import tarfile

import pytest

from potstill.errors import ConfigError, ConversionError
from quantize.conversion import sources


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(sources.VARIABLE, raising=False)


def add(archive: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(f"llama_cpp_python-1/{name}")
    member.size = len(text)
    archive.addfile(member, io.BytesIO(text.encode()))


@pytest.fixture
def download(monkeypatch):
    """Let a tiny source distribution be what pip downloads."""

    def download(_requirement, directory):
        path = directory / "llama_cpp_python-1.tar.gz"
        directory.mkdir()
        with tarfile.open(path, "w:gz") as archive:
            registered = 'TEXT_MODEL_MAP: dict[str, str] = {"OneForCausalLM": "one"}'
            add(archive, "vendor/llama.cpp/conversion/__init__.py", registered)
            add(archive, "vendor/llama.cpp/gguf-py/gguf/__init__.py", "")
            add(archive, "vendor/llama.cpp/convert_lora_to_gguf.py", "")
            add(archive, "vendor/llama.cpp/src/llama.cpp", "")
            add(archive, "llama_cpp/__init__.py", "")
        return path

    monkeypatch.setattr(sources, "_download", download)


@pytest.mark.usefixtures("empty_cache", "download")
def test_only_the_converter_is_kept_and_only_fetched_once(monkeypatch):
    assert sources.local_converter_dir() is None
    directory = sources.converter_dir()
    files = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    assert files == {
        *("conversion/__init__.py", "convert_lora_to_gguf.py", "gguf-py/gguf/__init__.py")
    }
    monkeypatch.setattr(sources, "_download", None)
    assert sources.converter_dir() == sources.local_converter_dir() == directory
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]


@pytest.mark.slow
@pytest.mark.usefixtures("empty_cache")
def test_a_download_that_fails_leaves_nothing_and_names_the_way_out(monkeypatch):
    monkeypatch.setattr(sources, "version", lambda _: "0.0.0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ConversionError, match="cannot be fetched") as caught:
        sources.converter_dir()
    assert "llama-cpp-python==0.0.0" in str(caught.value.where)
    assert sources.VARIABLE in str(caught.value.hint)
    assert list(sources.cache_dir().iterdir()) == []


@pytest.mark.usefixtures("empty_cache", "download")
def test_a_checkout_that_the_user_names_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv(sources.VARIABLE, str(tmp_path / "checkout"))
    with pytest.raises(ConfigError, match="converter is not there") as caught:
        sources.converter_dir()
    assert caught.value.where == sources.VARIABLE
    (tmp_path / "checkout" / "conversion").mkdir(parents=True)
    (tmp_path / "checkout" / "conversion" / "__init__.py").touch()
    assert sources.converter_dir() == tmp_path / "checkout"


@pytest.mark.usefixtures("empty_cache", "download")
def test_an_architecture_that_is_not_registered_is_refused():
    directory = sources.converter_dir()
    sources.refuse_unknown("OneForCausalLM", directory, "here")
    with pytest.raises(ConversionError, match="TwoForCausalLM cannot be converted") as caught:
        sources.refuse_unknown("TwoForCausalLM", directory, "here")
    assert (caught.value.where, caught.value.found) == ("here", "TwoForCausalLM")
    assert caught.value.expected == "one of the 1 that llama.cpp's converter knows"

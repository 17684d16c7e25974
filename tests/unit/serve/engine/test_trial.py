"""Model files that crash whoever loads them are refused."""

import struct
from pathlib import Path

import pytest

from potstill.errors import ArtifactError
from serve.engine import trial
from serve.engine.trial import try_in_child

BLOCK_COUNT = b"llama.block_count" + struct.pack("<I", 4)


@pytest.fixture
def changed(tiny_gguf, tmp_path):
    """Return a function that writes the tiny model with one change."""

    def write(old: bytes, new: bytes, *, cut: int = 0) -> Path:
        content = tiny_gguf.read_bytes()
        assert content.count(old) == 1
        path = tmp_path / "changed.gguf"
        path.write_bytes(content.replace(old, new)[: len(content) - cut])
        return path

    return write


def test_a_hostile_file_does_not_end_the_process(changed, monkeypatch):
    monkeypatch.setattr(trial, "SPARE_BYTES", 1 << 29)
    two, million = (struct.pack("<I", number) for number in (2, 1_000_000))
    path = changed(BLOCK_COUNT + two, BLOCK_COUNT + million)
    with pytest.raises(ArtifactError, match="model") as caught:
        try_in_child([(path, None)])
    assert caught.value.where == path


def test_a_truncated_file_is_refused(changed):
    with pytest.raises(ArtifactError, match="cannot be loaded") as caught:
        try_in_child([(changed(BLOCK_COUNT, BLOCK_COUNT, cut=5000), None)])
    assert "file bounds" in str(caught.value.found)


def test_an_intact_file_is_tried_once(tiny_gguf, monkeypatch):
    try_in_child([(tiny_gguf, None)])
    monkeypatch.setattr(trial, "_try", None)
    try_in_child([(tiny_gguf, None)])

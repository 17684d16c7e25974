"""A loaded file; text that llama.cpp's tokenizers cannot take in one piece."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import llama_cpp
import pytest

from serve.engine.model import MAX_RUN_CHARACTERS, GgufModel, _pieces
from tests.fixtures.tiny_gguf import write_tiny_gguf

CONTROL = re.compile(re.escape("<|im_end|>"))
TOKENIZE = """
import sys
from pathlib import Path
from serve.engine.model import GgufModel
print(len(GgufModel(Path(sys.argv[1])).tokenize(sys.argv[2] * 50_000, parse_special=False)))
"""


@pytest.mark.parametrize("text", ["a" * 10_000, " " * 5000 + "b", "word " * 5000, "=" * 4097])
def test_only_long_runs_are_split(text):
    pieces = [*_pieces(text, CONTROL)]
    assert "".join(pieces) == text
    assert len(pieces) == 1 + sum(
        (len(run) - 1) // MAX_RUN_CHARACTERS for run in re.findall(r"\w+|\s+|[^\w\s]+", text)
    )


@pytest.mark.parametrize("shift", range(13))
def test_a_control_token_is_never_split(shift):
    text = "|" * (MAX_RUN_CHARACTERS - shift) + "<|im_end|>" + "|" * 10
    pieces = [*_pieces(text, CONTROL)]
    assert "".join(pieces) == text
    assert sum(piece.count("<|im_end|>") for piece in pieces) == 1


def test_a_file_that_is_written_to_is_noticed(tiny_gguf, tmp_path):
    path = tmp_path / "model.gguf"
    shutil.copy(tiny_gguf, path)
    model = GgufModel(path)
    assert not model.has_changed
    Path(shutil.copy(tiny_gguf, tmp_path / "new.gguf")).replace(path)
    assert not model.has_changed
    again = GgufModel(path)
    with path.open("ab") as stream:
        stream.write(b"x")
    assert again.has_changed


def test_answers_are_not_reproducible_on_a_gpu(tiny_gguf, monkeypatch):
    model = GgufModel(tiny_gguf)
    assert model.is_reproducible
    monkeypatch.setattr(llama_cpp, "llama_supports_gpu_offload", lambda: True)
    assert not model.is_reproducible


@pytest.mark.slow
@pytest.mark.parametrize("character", ["a", "1", " "])
def test_a_long_word_does_not_overflow_the_stack(tmp_path, character):
    path = tmp_path / "tekken.gguf"
    write_tiny_gguf(path, pre_tokenizer="tekken")
    done = subprocess.run(
        [sys.executable, "-c", TOKENIZE, str(path), character], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert int(done.stdout) > 10

from __future__ import annotations

import pytest

from potstill.errors import ConversionError
from quantize.llama.process import QUOTED_LINES, ask_llama, quantize


def test_llama_cpps_own_words_are_in_the_error(tmp_path, capfd):
    source, target = tmp_path / "source.gguf", tmp_path / "target.gguf"
    source.write_bytes(b"GGUX" + bytes(100))
    with pytest.raises(ConversionError, match="failed while quantizing to Q8_0") as caught:
        quantize(source, target, "Q8_0", 1)
    assert caught.value.where == target
    assert "invalid magic" in str(caught.value.found)
    assert "exit code 1" in str(caught.value.found)
    assert str(caught.value.found).count("; ") <= QUOTED_LINES
    assert list(tmp_path.iterdir()) == [source]
    assert capfd.readouterr() == ("", "")


def test_an_end_of_the_process_is_an_error_too(monkeypatch, tmp_path):
    """As of a broken invariant, on which llama.cpp aborts."""
    (tmp_path / "sitecustomize.py").write_text("import os; os.abort()")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConversionError) as caught:
        ask_llama("reading", tmp_path, task="inspect")
    assert caught.value.found == "exit code -6"

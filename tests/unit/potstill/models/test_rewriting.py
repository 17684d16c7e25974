import gguf
import numpy as np
import pytest

from potstill.errors import ArtifactError
from potstill.models.rewriting import copy_with_texts
from tests.fixtures.judged_run import TEMPLATE, write_plain_gguf


def read(path):
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {one.name: np.array(one.data) for one in reader.tensors}


@pytest.mark.parametrize("text", ["", "a", "ä" * 1000])
def test_texts_are_added_and_replaced_and_tensors_stay(tmp_path, text):
    write_plain_gguf(tmp_path / "a.gguf", {"mine.key": "former"})
    copy_with_texts(tmp_path / "a.gguf", tmp_path / "b.gguf", {"mine.key": text, "new": "é"})
    before, tensors = read(tmp_path / "a.gguf")
    after, copied = read(tmp_path / "b.gguf")
    assert (after["mine.key"], after["new"]) == (text, "é")
    assert after["tokenizer.chat_template"] == TEMPLATE
    same = set(before) - {"mine.key", "GGUF.kv_count"}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert tensors.keys() == copied.keys()
    for name, values in tensors.items():
        np.testing.assert_array_equal(copied[name], values)


def test_what_is_no_gguf_file_is_refused(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGML" * 9)
    with pytest.raises(ArtifactError, match="GGUF"):
        copy_with_texts(tmp_path / "a.gguf", tmp_path / "b.gguf", {})

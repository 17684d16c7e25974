import pytest

from potstill.errors import ConversionError
from potstill.llama.child import ask_in_child

SERVICE = """
import os
from potstill.errors import BackendError
from potstill.workers import json_handler


def answer(request):
    if request["path"].endswith("broken"):
        os.abort()
    if request["path"].endswith("refused"):
        raise BackendError("no", found="its own words")
    return {"seen": request["path"], "trace": os.environ["GGML_NO_BACKTRACE"]}


def service():
    return json_handler(answer)
"""


@pytest.fixture
def ask(tmp_path, monkeypatch):
    (tmp_path / "some_service.py").write_text(SERVICE)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name: ask_in_child(
        "some_service:service", "reading", tmp_path / name, path=tmp_path / name
    )


def test_the_answer_comes_back(ask, tmp_path):
    assert ask("file") == {"seen": str(tmp_path / "file"), "trace": "1"}


@pytest.mark.parametrize(("name", "found"), [("broken", "SIGABRT"), ("refused", "its own words")])
def test_a_failure_names_the_file_and_the_cause(ask, tmp_path, name, found):
    with pytest.raises(ConversionError, match="failed while reading") as caught:
        ask(name)
    assert caught.value.where == tmp_path / name
    assert found in str(caught.value.found)
    assert caught.value.hint

import re
import sys

import pytest

from potstill.errors import ConfigError
from potstill.task.functions import FUNCTION_PATTERN, import_function

SOURCE = """
from dataclasses import dataclass
from its_neighbor import VALUE

@dataclass(frozen=True)
class Kept:
    value: int = VALUE

def value():
    return Kept().value
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "a-house" / "records.py"
    path.parent.mkdir()
    path.write_text(SOURCE)
    path.with_name("its_neighbor.py").write_text("VALUE = 3")
    return path


def test_a_function_of_a_file_is_found_and_its_file_read_once(source, monkeypatch):
    assert re.match(FUNCTION_PATTERN, f"{source}:value")
    found = import_function(f"{source}:value", "here")
    assert found() == 3
    monkeypatch.chdir(source.parent)
    assert import_function("records.py:value", "here") is found
    assert str(source.parent) not in sys.path


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text("def value(:"),
        lambda path: path.write_text("import no_such_module"),
        lambda path: path.write_text("other = 1"),
    ],
)
def test_a_file_without_the_function_is_an_error(source, change):
    change(source)
    with pytest.raises(ConfigError, match="cannot be imported") as error:
        import_function(f"{source}:value", "task.metrics")
    assert f"task.metrics: {source}:value" in str(error.value)

import pytest

from potstill.errors import ConfigError
from potstill.task.metrics.config import FunctionConfig
from potstill.task.metrics.function import Function

SOURCE = """
def share(answer, known, messages):
    return len(answer) / len(known) if messages[0]["role"] == "user" else 0

def raises(answer, known, messages):
    return 1 / 0

def too_much(answer, known, messages):
    return 7
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "house_metrics.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("share", 0.5, None),
        ("raises", 0.0, "ZeroDivisionError: division by zero"),
        ("too_much", 0.0, "the metric returned 7, not 0 to 1"),
    ],
)
def test_a_function_scores_and_its_failure_is_counted(scored, name, value, problem):
    metric = Function(FunctionConfig(function=f"house_metrics:{name}"))
    score = scored(metric, "ab", "abcd")
    assert (metric.name, score.value, score.problem) == (name, value, problem)


@pytest.mark.parametrize("path", ["no_such_module:share", "house_metrics:no_such_function"])
def test_a_missing_function_is_an_error(path):
    with pytest.raises(ConfigError, match="cannot be imported"):
        Function(FunctionConfig(function=path))

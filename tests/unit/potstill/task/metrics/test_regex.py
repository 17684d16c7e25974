import pytest
from pydantic import ValidationError

from potstill.task.metrics.config import RegexConfig
from potstill.task.metrics.regex import Regex


def test_a_pattern_is_searched_anywhere(scored):
    metric = Regex(RegexConfig(pattern=r"\b42\b"))
    assert scored(metric, "It is 42.").value == 1.0
    assert scored(metric, "It is 420.").value == 0.0


def test_a_broken_pattern_is_refused():
    with pytest.raises(ValidationError, match="not a regular expression"):
        RegexConfig(pattern="(")

import pytest

from potstill.task.metrics.config import ExactConfig
from potstill.task.metrics.exact import Exact


@pytest.mark.parametrize(
    ("ignore_case", "said", "value"),
    [
        (True, " the\n  Cards", 1.0),
        (True, "the cards.", 0.0),
        (False, "The cards ", 1.0),
        (False, "the cards", 0.0),
    ],
)
def test_texts_are_compared(scored, ignore_case, said, value):
    assert scored(Exact(ExactConfig(ignore_case=ignore_case)), said, "The cards").value == value

import pytest

from potstill.errors import ConfigError
from potstill.verdict.outcome import Plan


@pytest.mark.parametrize(
    ("field", "value"),
    [("margin", 0), ("margin", -0.1), ("alpha", 0), ("alpha", 0.5), ("power", 0.05), ("power", 1)],
)
def test_a_plan_that_no_test_can_be_built_on_is_refused(field, value):
    with pytest.raises(ConfigError, match=field):
        Plan(**{field: value})


def test_a_margin_of_a_half_leaves_no_win_rate_to_exceed():
    assert Plan(margin=0.05).win_rate_threshold == pytest.approx(0.45)
    with pytest.raises(ConfigError, match="margin"):
        _ = Plan(margin=0.5).win_rate_threshold

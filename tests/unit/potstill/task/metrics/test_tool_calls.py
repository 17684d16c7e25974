import pytest

from potstill.task.metrics.config import ToolCallsConfig
from potstill.task.metrics.tool_calls import ToolCalls

ONE = [("pay", {"to": "Ann", "amount": 5})]


@pytest.mark.parametrize(
    ("said", "known", "value", "problem"),
    [
        (ONE, ONE, 1.0, None),
        ([("pay", {"amount": 5.0, "to": "Ann", "when": None})], ONE, 1.0, None),
        ([("pay", {"to": "ann", "amount": 5})], ONE, 0.0, "other arguments"),
        ([("pay", {"to": "Ann"})], ONE, 0.0, "other arguments"),
        ([("call", {"to": "Ann", "amount": 5})], ONE, 0.0, "other calls"),
        ("I pay Ann.", ONE, 0.0, "other calls"),
        ([*ONE, *ONE], ONE, 0.0, "other calls"),
        ([("b", {}), ("a", {})], [("a", {}), ("b", {})], 1.0, None),
        ("Hello!", "Hi.", 1.0, None),
        (ONE, "Hi.", 0.0, "other calls"),
        ([("pay", '{"to": ')], ONE, 0.0, "not a JSON object"),
        ([("pay", "[]")], ONE, 0.0, "not a JSON object"),
        ([("pay", "")], [("pay", {})], 1.0, None),
    ],
)
def test_calls_are_compared(scored, said, known, value, problem):
    score = scored(ToolCalls(ToolCallsConfig()), said, known)
    assert score.value == value
    assert (problem or "") in (score.problem or "")
    assert (score.problem is None) == (problem is None)


def test_the_functions_names_are_a_label(scored):
    score = scored(ToolCalls(ToolCallsConfig()), "Hello!", [("b", {}), ("a", {})])
    assert (score.found, score.expected) == ("(no call)", "a + b")


def test_case_is_forgiven_where_it_is_asked_for(scored):
    metric = ToolCalls(ToolCallsConfig(ignore_case=True))
    assert scored(metric, [("pay", {"to": "ann ", "amount": 5})], ONE).value == 0.0
    assert scored(metric, [("pay", {"to": "ANN", "amount": 5})], ONE).value == 1.0

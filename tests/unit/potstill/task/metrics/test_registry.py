from typing import get_args

import pytest

from potstill.errors import ConfigError
from potstill.task.answers import Answer, ToolCall
from potstill.task.metrics.config import (
    ExactConfig,
    FieldsConfig,
    FunctionConfig,
    GroundedConfig,
    JsonConfig,
    LabelConfig,
    MetricConfig,
    NumericConfig,
    RegexConfig,
    SchemaConfig,
    ToolCallsConfig,
)
from potstill.task.metrics.registry import KINDS, make_metrics


def test_every_kind_has_a_metric():
    union, _ = get_args(MetricConfig)
    kinds = {get_args(table.model_fields["kind"].annotation)[0] for table in get_args(union)}
    assert kinds == {*KINDS, "schema"}


def test_metrics_are_made_in_order():
    metrics = make_metrics([SchemaConfig(), JsonConfig(name="parses")], {"type": "object"})
    assert [metric.name for metric in metrics] == ["schema", "parses"]


def test_equal_names_and_a_missing_schema_are_errors():
    with pytest.raises(ConfigError, match="the same name"):
        make_metrics([JsonConfig(), JsonConfig()], None)
    with pytest.raises(ConfigError, match="needs the schema"):
        make_metrics([SchemaConfig()], None)


SAME = [
    (LabelConfig(field="team"), '{"team": "cards", "reply": "Hi."}', '{"team": "cards"}'),
    (JsonConfig(), '{"a": 1, "b": 2}', '{"b": 2.0, "a": 1}'),
    (SchemaConfig(), '{"a": 1}', ' {"a": 1.0} '),
    (FieldsConfig(), '{"a": ["x", "Y"], "b": null}', '{"a": ["y", "X"]}'),
    (ExactConfig(), "Yes  please", "yes please"),
    (RegexConfig(pattern=r"#\d+"), "It is #12.", "#12"),
    (NumericConfig(), "So 1,200 in all", "1200.0"),
    (GroundedConfig(), '{"answer": "Two", "quote": "a"}', '{"answer": "two", "quote": "b"}'),
    (FunctionConfig(function="math:isclose"), "Yes ", "yes"),
]


@pytest.mark.parametrize(("config", "one", "other"), SAME, ids=lambda one: getattr(one, "kind", ""))
def test_answers_that_say_the_same_have_the_same_key(config, one, other):
    (metric,) = make_metrics([config], {"type": "object"})
    key = metric.key(Answer(text=one))
    assert key is not None
    assert key == metric.key(Answer(text=other))
    assert key != metric.key(Answer(text='{"team": "loans", "a": 7, "answer": null} #7'))
    assert metric.key(Answer(text="")) is None


def test_calls_in_any_order_have_the_same_key():
    (metric,) = make_metrics([ToolCallsConfig()], None)
    calls = [
        ToolCall(name="pay", arguments='{"to": "Ann", "sum": 3, "note": null}'),
        ToolCall(name="block", arguments="{}"),
    ]
    turned = [calls[1], ToolCall(name="pay", arguments='{"sum": 3.0, "to": "Ann"}')]
    assert metric.key(Answer(tool_calls=calls)) == metric.key(Answer(tool_calls=turned))
    assert metric.key(Answer(text="No call.")) != metric.key(Answer(tool_calls=calls))
    assert metric.key(Answer(tool_calls=[ToolCall(name="pay", arguments="[")])) is None

from __future__ import annotations

from typing import get_args

import pytest

from potstill.errors import ConfigError
from potstill.task.metrics.config import JsonConfig, MetricConfig, SchemaConfig
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

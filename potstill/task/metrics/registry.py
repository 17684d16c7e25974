"""From the tables of `[[task.metrics]]` to metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from potstill.errors import ConfigError
from potstill.task.metrics.config import MetricConfig
from potstill.task.metrics.exact import Exact
from potstill.task.metrics.fields import Fields
from potstill.task.metrics.function import Function
from potstill.task.metrics.grounded import Grounded
from potstill.task.metrics.json_valid import JsonValid, SchemaValid
from potstill.task.metrics.label import Label
from potstill.task.metrics.metric import Metric
from potstill.task.metrics.numeric import Numeric
from potstill.task.metrics.regex import Regex
from potstill.task.metrics.sql import Sql
from potstill.task.metrics.tool_calls import ToolCalls

KINDS: dict[str, Callable[[Any], Metric]] = {
    "label": Label,
    "json": JsonValid,
    "fields": Fields,
    "tool_calls": ToolCalls,
    "exact": Exact,
    "regex": Regex,
    "numeric": Numeric,
    "sql": Sql,
    "grounded": Grounded,
    "function": Function,
}
"""Metrics that need no more than their own table, by `kind`."""


def make_metrics(
    configs: Sequence[MetricConfig], answer_schema: Mapping[str, Any] | None
) -> list[Metric]:
    """Return the metrics of a task, in the order of their tables; the first one decides.

    Raises:
        ConfigError: Two have the same name, or one cannot be used.
    """
    metrics = [_make(config, answer_schema) for config in configs]
    names = [metric.name for metric in metrics]
    if len(set(names)) < len(names):
        raise ConfigError(
            "two metrics have the same name",
            where="task.metrics",
            found=", ".join(names),
            hint="give each a name of its own",
        )
    return metrics


def _make(config: MetricConfig, answer_schema: Mapping[str, Any] | None) -> Metric:
    if config.kind != "schema":
        return KINDS[config.kind](config)
    if answer_schema is None:
        raise ConfigError(
            "a metric needs the schema of answers",
            where="task.metrics: schema",
            expected="task.answer_schema",
        )
    return SchemaValid(config, answer_schema)

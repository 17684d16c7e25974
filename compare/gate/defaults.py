"""The gate of a comparison for which none is configured, and what a configured one needs.

In: the configuration, the task. Out: requirements.
"""

from __future__ import annotations

from compare.config import CompareConfig
from compare.gate_config import (
    LEAST_ITEMS,
    CostRequirement,
    FormerRequirement,
    Gate,
    MemorizationRequirement,
    MetricRequirement,
    RefusalsRequirement,
    SchemaRequirement,
    SuiteRequirement,
)
from potstill.errors import ConfigError
from potstill.task.task import Task


def default_gate(*, has_schema: bool) -> Gate:
    """Return the gate of a task with known answers.

    Its first metric, schema, refusals, stopping and refusing. A metric of one field sees nothing of
    a reply beside it that helps nobody. What the student memorizes is reported, and not required.

    The suites have limits for the student alone. Asking a large teacher four hundred prompts more
    would take longer than the rest of a comparison, and an answer that never ends is of no use
    whatever the teacher does.
    """
    schema = (SchemaRequirement(),) if has_schema else ()
    suites = (SuiteRequirement(suite="stopping"), SuiteRequirement(suite="refusing"))
    return (
        MetricRequirement(),
        *schema,
        RefusalsRequirement(),
        *suites,
        MemorizationRequirement(),
    )


def with_former(gate: Gate | None) -> Gate:
    """Return a gate that requires that the student is no worse than the one it would replace.

    Args:
        gate: None: the judge that decides, alone.
    """
    own = (MetricRequirement(min_items=1),) if gate is None else gate
    has_it = any(isinstance(one, FormerRequirement) for one in own)
    return own if has_it else (*own, FormerRequirement())


def check_gate_is_measurable(config: CompareConfig, task: Task | None) -> None:
    """Reject a gate with a requirement that this comparison never measures.

    Raises:
        ConfigError: It names an unknown metric or judge, or a schema or price is missing.
    """
    for number, one in enumerate(config.gate or ()):
        where = f"compare.gate.{number}"
        if isinstance(one, MetricRequirement) and one.metric is not None:
            known = [judge.name for judge in config.judges]
            known += [metric.name for metric in task.make_metrics()] if task else []
            if one.metric not in known:
                raise ConfigError(
                    "a requirement of the gate names no metric or judge",
                    where=f"{where}.metric",
                    expected=", ".join(known) or "a metric of the task or one of compare.judges",
                    found=one.metric,
                )
        elif isinstance(one, SchemaRequirement) and (task is None or not task.answer_schema):
            raise ConfigError(
                "the gate requires a schema, and there is none",
                where=where,
                expected="task.answer_schema, and known answers to ask (task.references)",
            )
        elif isinstance(one, FormerRequirement) and config.former_run is None:
            raise ConfigError(
                "the gate compares with a former student, and none is named",
                where=where,
                expected="compare.former_run",
            )
        elif isinstance(one, CostRequirement) and config.cost.machine_dollars_per_hour is None:
            raise ConfigError(
                "the gate limits the cost, and the machine has no price",
                where=where,
                expected="compare.cost.machine_dollars_per_hour",
            )


def num_asked(gate: Gate) -> dict[str, int]:
    """Return how many prompts of suites the student, the teacher and `untrained` answer."""
    found: dict[str, int] = {}
    for one in gate:
        if isinstance(one, SuiteRequirement):
            for who in filter(None, ("student", one.reference)):
                found[who] = found.get(who, 0) + min(one.num_items, LEAST_ITEMS)
    return found

"""Prometheus metrics of experiments.

Totals count from the server's start; those of all time are in the storage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serve.experiment.guardrails import ExperimentGuardrails
from serve.experiment.shadow import Shadow
from serve.experiment.wire import State
from serve.metrics import ANSWER_SECONDS
from serve.storage.records import AnswerRecord

BY_VARIANT = ("experiment", "variant")


class ExperimentMetrics:
    """Counts the answers of all experiments of one server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        by_outcome = (*BY_VARIANT, "outcome")
        self._answers = Counter(
            "potstill_experiment_answers",
            "Answers to clients by variant and outcome: whole, failed or cancelled.",
            by_outcome,
            registry=registry,
        )
        self._shadows = Counter(
            "potstill_experiment_shadow_answers",
            "Shadow answers by variant and outcome.",
            by_outcome,
            registry=registry,
        )
        self._seconds = Histogram(
            "potstill_experiment_answer_seconds",
            "From request to last token of whole answers to clients.",
            BY_VARIANT,
            registry=registry,
            buckets=ANSWER_SECONDS,
        )

    def count(self, record: AnswerRecord) -> None:
        """Count an answer of an experiment."""
        place = record.place
        assert place is not None
        is_shadow = place.shadow_of is not None
        counter = self._shadows if is_shadow else self._answers
        counter.labels(place.experiment, place.variant, record.outcome).inc()
        if record.outcome == "whole" and not is_shadow:
            self._seconds.labels(place.experiment, place.variant).observe(record.seconds)


class Watched(Protocol):
    """The attributes of an experiment that are read."""

    state: State
    shadow: Shadow[Any]
    guardrails: ExperimentGuardrails


class ExperimentStates(Collector):
    """Reads shadows, guardrails and states when the metrics are read."""

    def __init__(self, experiments: Mapping[str, Watched]) -> None:
        self._experiments = experiments

    def collect(self) -> Iterable[Metric]:
        """Yield one family each."""
        by_experiment = ("experiment",)
        waiting = _gauge("shadow_waiting", "Requests in the shadow's queue.", by_experiment)
        dropped = CounterMetricFamily(
            "potstill_experiment_shadow_dropped",
            "Requests that found the shadow's queue full.",
            labels=by_experiment,
        )
        states = _gauge("state", "1 for the current state.", (*by_experiment, "state"))
        by_guardrail = (*by_experiment, "guardrail")
        rates = _gauge("guardrail_rate", "Share of the student's bad answers.", by_guardrail)
        limits = _gauge("guardrail_limit", "Highest acceptable rate.", by_guardrail)
        breaches = _gauge(
            "guardrail_breached", "1 where the rate's lower bound is above the limit.", by_guardrail
        )
        for name, experiment in self._experiments.items():
            waiting.add_metric((name,), experiment.shadow.num_waiting)
            dropped.add_metric((name,), experiment.shadow.num_dropped)
            for state in get_args(State):
                states.add_metric((name, state), state == experiment.state)
            for view in experiment.guardrails.views:
                labels = (name, view["name"])
                if view["value"] is not None:
                    rates.add_metric(labels, view["value"])
                limits.add_metric(labels, view["limit"])
                breaches.add_metric(labels, view["is_breached"])
        return waiting, dropped, states, rates, limits, breaches


def _gauge(name: str, text: str, labels: tuple[str, ...]) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"potstill_experiment_{name}", text, labels=labels)

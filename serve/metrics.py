"""Prometheus metrics of the server: requests, latencies, and the totals of engines."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serve.engine.stats import EngineStats

LATENCY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BETWEEN_TOKENS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
ANSWER_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
RECENT = 0.1
"""Weight of the newest answer in the mean from which waiting times are estimated."""


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.experiments = CollectorRegistry()
        """What only administrators may see."""
        self._requests = Counter(
            "potstill_http_requests",
            "Answered requests by route and status.",
            ("route", "status"),
            registry=self.registry,
        )
        self._first_token = self._histogram(
            "time_to_first_token_seconds", "From request to first token.", LATENCY_SECONDS
        )
        self._between = self._histogram(
            "inter_token_latency_seconds", "Between two tokens of one answer.",
            BETWEEN_TOKENS_SECONDS,
        )  # fmt: skip
        self._answer = self._histogram(
            "answer_seconds", "From request to last token.", ANSWER_SECONDS
        )
        self._engines = _EngineCollector()
        self.registry.register(self._engines)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            f"potstill_{name}", text, ("model",), registry=self.registry, buckets=buckets
        )

    def count_request(self, route: str, status: int) -> None:
        """Count an answered request."""
        self._requests.labels(route, str(status)).inc()

    def watch(self, model: str, stats: Callable[[], EngineStats]) -> ModelMetrics:
        """Export an engine's totals, and return the recorder of its latencies."""
        self._engines.stats[model] = stats
        return self.time(model)

    def time(self, model: str) -> ModelMetrics:
        """Return the recorder of a model's latencies."""
        return ModelMetrics(
            self._first_token.labels(model), self._between.labels(model), self._answer.labels(model)
        )


@dataclass
class ModelMetrics:
    """The latencies of one model's answers."""

    first_token: Histogram
    between: Histogram
    answer: Histogram
    recent_answer_seconds: float = 0.0
    """Moving average of the latest answers; 0 before the first."""

    def start(self) -> Stopwatch:
        """Start timing a request."""
        return Stopwatch(self)


class Stopwatch:
    """The times of one request with one or several choices."""

    def __init__(self, metrics: ModelMetrics) -> None:
        self._metrics = metrics
        self._started = time.perf_counter()
        self._last: dict[int, float] = {}
        self._first_token: float | None = None

    def tick(self, choice: int, num_tokens: int) -> None:
        """Record that a choice received tokens."""
        if num_tokens == 0:
            return
        now = time.perf_counter()
        if choice in self._last:
            self._metrics.between.observe((now - self._last[choice]) / num_tokens)
        elif self._first_token is None:
            self._first_token = now
            self._metrics.first_token.observe(now - self._started)
        self._last[choice] = now

    def stop(self) -> None:
        """Record that the answer is complete."""
        seconds = time.perf_counter() - self._started
        self._metrics.answer.observe(seconds)
        former = self._metrics.recent_answer_seconds or seconds
        self._metrics.recent_answer_seconds = (1 - RECENT) * former + RECENT * seconds

    @property
    def prompt_seconds(self) -> float:
        """From the request to its first token, or to now."""
        return (self._first_token or time.perf_counter()) - self._started

    @property
    def generation_seconds(self) -> float:
        """From the first token to the latest."""
        if self._first_token is None:
            return 0.0
        return max(self._last.values()) - self._first_token


class OfModels(CollectorRegistry):
    """The metrics of a registry without those of other models than the given ones."""

    def __init__(self, registry: CollectorRegistry, models: Collection[str]) -> None:
        super().__init__()
        self._registry, self._models = registry, models

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics, each without the samples of other models."""
        for given in self._registry.collect():
            shown = Metric(given.name, given.documentation, given.type, given.unit)
            shown.samples = [
                one
                for one in given.samples
                if one.labels.get("model") is None or one.labels["model"] in self._models
            ]
            yield shown


GAUGES = {
    "requests_waiting": ("Requests in the queue.", "num_waiting"),
    "requests_active": ("Requests being answered.", "num_active"),
    "sequences": ("The most requests that can be answered at once.", "num_sequences"),
}
COUNTERS = {
    "steps": ("Batches decoded.", "num_steps"),
    "scheduled_sequences": (
        "Sequences per batch, summed; divided by steps it is the mean batch occupancy.",
        "num_scheduled_sequences",
    ),
    "prompt_tokens": ("Tokens of all admitted prompts.", "num_prompt_tokens"),
    "cached_tokens": ("Prompt tokens that were taken from the prefix cache.", "num_cached_tokens"),
    "generated_tokens": ("Tokens sampled.", "num_generated_tokens"),
    "drafted_tokens": ("Tokens that a draft model proposed.", "num_drafted_tokens"),
    "accepted_tokens": ("Drafted tokens that were accepted.", "num_accepted_tokens"),
    "decode_seconds": ("Time inside llama.cpp's decoding.", "decode_seconds"),
    "other_seconds": ("Time of engine steps outside it.", "other_seconds"),
}


class _EngineCollector(Collector):
    """Reads the engines' totals when the metrics are read."""

    def __init__(self) -> None:
        self.stats: dict[str, Callable[[], EngineStats]] = {}

    def collect(self) -> Iterable[Metric]:
        """Yield one family per total."""
        snapshots = {model: stats() for model, stats in self.stats.items()}
        for kind, totals in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
            for name, (text, attribute) in totals.items():
                family = kind(f"potstill_{name}", text, labels=("model",))
                for model, snapshot in snapshots.items():
                    family.add_metric((model,), getattr(snapshot, attribute))
                yield family

"""The guardrails of an experiment: limits on the rates of the student's bad answers."""

from __future__ import annotations

from collections.abc import Callable

from serve.experiment.config import GuardrailsConfig
from serve.experiment.rate_guardrail import RateGuardrail
from serve.experiment.wire import GuardrailView
from serve.storage.records import AnswerRecord

IsBad = Callable[[AnswerRecord], bool]
SLOW = "slow_rate"
"""Does not apply to shadow answers, for which no client waits."""


class ExperimentGuardrails:
    """The limited rates, since the server's start or the last resumption."""

    def __init__(self, config: GuardrailsConfig) -> None:
        self._rates: dict[str, tuple[RateGuardrail, IsBad]] = {
            "error_rate": (RateGuardrail(config.most_errors), lambda one: one.outcome == "failed")
        }
        if (slow := config.slow_seconds) is not None:
            self._rates[SLOW] = (
                RateGuardrail(config.most_slow),
                lambda one: one.seconds > slow,
            )
        if (long := config.long_tokens) is not None:
            self._rates["long_rate"] = (
                RateGuardrail(config.most_long),
                lambda one: one.said.completion_tokens > long,
            )

    def update(self, record: AnswerRecord) -> str | None:
        """Count one answer; return the name of a rate whose lower bound is above its limit.

        A cancelled answer counts only if it was already too slow: the rest of its outcome is
        unknown.
        """
        breached = None
        is_shadow = record.place is not None and record.place.shadow_of is not None
        for name, (guardrail, is_bad) in self._rates.items():
            if is_shadow and name == SLOW:
                continue
            bad = is_bad(record)
            if bad or record.outcome != "cancelled":
                breached = name if guardrail.update(int(bad), 1) else breached
        return breached

    @property
    def views(self) -> list[GuardrailView]:
        """The rates, as clients see them."""
        return [
            {
                "name": name,
                "value": one.num_events / one.num_trials if one.num_trials else None,
                "limit": one.limit,
                "is_breached": one.alarm,
            }
            for name, (one, _) in self._rates.items()
        ]

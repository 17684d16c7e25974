"""The guardrails of an experiment: limits on the rates of the student's bad answers."""

from __future__ import annotations

from collections.abc import Callable

from serve.experiment.config import GuardrailsConfig
from serve.experiment.rate_guardrail import RateGuardrail
from serve.experiment.wire import GuardrailView
from serve.storage.records import AnswerRecord

IsBad = Callable[[AnswerRecord], bool]
SLOW = "slow_rate"
"""Nobody waits for a shadow answer: it may be as slow as it likes."""


class ExperimentGuardrails:
    """The rates that a configuration limits, since the server's start or the last resumption."""

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
        """Take in one answer; return the name of a rate that is surely above its limit.

        An answer that its client did not wait for counts where it was bad by then: too slow, that
        is. What it would have become is not known.
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
        """Each rate as it is shown."""
        return [
            {
                "name": name,
                "value": one.num_events / one.num_trials if one.num_trials else None,
                "limit": one.limit,
                "is_breached": one.alarm,
            }
            for name, (one, _) in self._rates.items()
        ]

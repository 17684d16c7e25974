"""The guardrails of an experiment: limits on the rates of the student's bad answers.

A client can have answers fail, take long or become long: with values that an upstream server does
not handle, for example. So a key that has fewer than half of the answers, and more of the bad ones
than all others together, does not count with further ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from serve.experiment.config import GuardrailsConfig
from serve.experiment.rate_guardrail import RateGuardrail
from serve.experiment.wire import GuardrailView
from serve.storage.records import AnswerRecord

IsBad = Callable[[AnswerRecord], bool]
SLOW = "slow_rate"
"""Does not apply to shadow answers, for which no client waits."""


FREE_EVENTS = 3
"""Bad answers of one key, besides as many as all others have, that count in any case."""


@dataclass
class _Rate:
    """One limited rate, and how many answers and bad answers each key has."""

    guardrail: RateGuardrail
    is_bad: IsBad
    _answers: Counter[str] = field(default_factory=Counter)
    _bad: Counter[str] = field(default_factory=Counter)

    def update(self, *, is_bad: bool, owner: str) -> bool:
        """Count an answer; return whether there is an alarm."""
        self._answers[owner] += 1
        if is_bad:
            self._bad[owner] += 1
            if self._is_of_one_key(owner):
                return self.guardrail.alarm
        return self.guardrail.update(int(is_bad), 1)

    def _is_of_one_key(self, owner: str) -> bool:
        others = self._bad.total() - self._bad[owner]
        is_minor = 2 * self._answers[owner] < self._answers.total()
        return is_minor and self._bad[owner] > others + FREE_EVENTS


class ExperimentGuardrails:
    """The limited rates, since the server's start or the last resumption."""

    def __init__(self, config: GuardrailsConfig) -> None:
        self._rates = {
            "error_rate": _Rate(
                RateGuardrail(config.most_errors), lambda one: one.outcome == "failed"
            )
        }
        if (slow := config.slow_seconds) is not None:
            self._rates[SLOW] = _Rate(
                RateGuardrail(config.most_slow),
                lambda one: one.seconds > slow,
            )
        if (long := config.long_tokens) is not None:
            self._rates["long_rate"] = _Rate(
                RateGuardrail(config.most_long),
                lambda one: one.said.completion_tokens > long,
            )

    def update(self, record: AnswerRecord, owner: str = "") -> str | None:
        """Count one answer; return the name of a rate whose lower bound is above its limit.

        A cancelled answer counts only if it was already too slow: the rest of its outcome is
        unknown.
        """
        breached = None
        is_shadow = record.place is not None and record.place.shadow_of is not None
        for name, rate in self._rates.items():
            if is_shadow and name == SLOW:
                continue
            is_bad = rate.is_bad(record)
            if is_bad or record.outcome != "cancelled":
                breached = name if rate.update(is_bad=is_bad, owner=owner) else breached
        return breached

    @property
    def views(self) -> list[GuardrailView]:
        """The rates, as clients see them."""
        return [
            {
                "name": name,
                "value": rate.guardrail.value,
                "limit": rate.guardrail.limit,
                "is_breached": rate.guardrail.alarm,
            }
            for name, rate in self._rates.items()
        ]

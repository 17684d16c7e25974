"""The plan of a comparison, recorded before its answers exist.

In: the plan, and the number of answers that exist already. Out: `Registration`, the same each time
the stage is resumed.
"""

from __future__ import annotations

from datetime import UTC, datetime

from compare.answers.cache import JsonCache
from compare.config import VerdictConfig
from potstill.facts.comparison import Registration

NAME = "registration"


def register(cache: JsonCache, verdict: VerdictConfig, num_answers_before: int) -> Registration:
    """Record the plan, or return the one that an earlier process recorded."""
    stored = cache.get(NAME)
    if stored is not None:
        return Registration.model_validate(stored)
    registration = Registration(
        verdict=verdict.model_dump(mode="json"),
        registered_at=datetime.now(UTC).isoformat(timespec="seconds"),
        num_answers_before=num_answers_before,
    )
    cache.put(NAME, registration.model_dump(mode="json"))
    return registration

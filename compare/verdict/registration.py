"""The plan of a comparison, written down before its answers are there.

In: the plan, and how many answers are known already. Out: `Registration`, the same each time the
stage is resumed.
"""

from __future__ import annotations

from datetime import UTC, datetime

from compare.answers.cache import JsonCache
from compare.config import VerdictConfig
from potstill.facts.comparison import Registration

NAME = "registration"


def register(cache: JsonCache, verdict: VerdictConfig, num_answers_before: int) -> Registration:
    """Write the plan down, or return what was written down by an earlier process."""
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

"""The plan of a comparison, recorded before its answers exist, and the outcomes of all of a run.

In: the plan, and the number of answers that exist already; a verdict. Out: `Registration`, the same
each time the stage is resumed; the earlier attempts, from the file `comparisons.jsonl` of the run.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from compare.answers.cache import JsonCache
from compare.config import VerdictConfig
from compare.verdict.results import Attempt, Verdict
from potstill.facts.comparison import Registration
from potstill.files import disk_errors, write_text_atomically

NAME = "registration"
ATTEMPTS_NAME = "comparisons.jsonl"


def register(cache: JsonCache, verdict: VerdictConfig, num_answers_before: int) -> Registration:
    """Record the plan, or return the one that an earlier process recorded."""
    stored = cache.get(NAME)
    if stored is not None:
        return Registration.model_validate(stored)
    registration = Registration(
        verdict=verdict.model_dump(mode="json"),
        registered_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        num_answers_before=num_answers_before,
    )
    cache.put(NAME, registration.model_dump(mode="json"))
    return registration


def with_attempts(verdict: Verdict, run_root: Path) -> Verdict:
    """Add this comparison to the run's, and return the verdict with the earlier ones.

    Several judges, prompts or margins are several chances of a wrong PASS. They cannot be counted
    by a comparison alone, so every one leaves a line that `--force` does not remove.
    """
    path = run_root / ATTEMPTS_NAME
    with disk_errors("reading the comparisons of a run", path):
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    attempts = [Attempt.model_validate(json.loads(line)) for line in lines]
    earlier = [one for one in attempts if one.registered_at != verdict.registered_at]
    this = Attempt(
        registered_at=verdict.registered_at,
        judges=tuple(judge.name for judge in verdict.judges),
        num_prompts=verdict.num_prompts,
        margin=verdict.margin,
        outcome=verdict.outcome,
    )
    write_text_atomically(path, "".join(f"{one.model_dump_json()}\n" for one in [*earlier, this]))
    return verdict.model_copy(update={"earlier": tuple(earlier)})

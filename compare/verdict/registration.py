"""The plan of a comparison, recorded before its answers exist, and all comparisons of a run.

In: the plan, and the number of answers that exist already; a verdict. Out: `Registration`, the same
each time the stage is resumed; what earlier comparisons leave to this one, from the file
`comparisons.jsonl` of the run, of which `--force` removes nothing.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compare.answers.cache import JsonCache
from compare.answers.jsonl import read_lines
from compare.config import VerdictConfig
from compare.gate_config import Gate
from compare.verdict.following import FIRST, Standing, kept_level
from compare.verdict.results import Attempt, Verdict
from potstill.facts.comparison import Registration
from potstill.files import sha256_bytes, write_text_atomically

NAME = "registration"
ATTEMPTS_NAME = "comparisons.jsonl"


def register(
    cache: JsonCache, verdict: VerdictConfig, gate: Gate | None, num_answers_before: int
) -> Registration:
    """Record the plan, or return the one that an earlier process recorded."""
    registration = Registration(
        verdict=verdict.model_dump(mode="json"),
        gate=tuple(one.model_dump(mode="json") for one in gate or ()),
        registered_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        num_answers_before=num_answers_before,
    )
    return cache.once(NAME, Registration, lambda: registration)


@dataclass(frozen=True)
class Ledger:
    """The earlier comparisons of a run.

    Several judges, prompts or settings are several chances of a wrong PASS. They cannot be counted
    by a comparison alone, so every one leaves a line in the file.
    """

    attempts: tuple[Attempt, ...] = ()
    models: str = ""
    """Identity of the student and the teacher of this comparison. Another student is another
    question, with an alpha of its own."""
    settings: str = ""
    """Digest of what their answers depend on beside the prompts."""

    @property
    def comparison(self) -> str:
        """Digest of the models and settings."""
        return digest([self.models, self.settings])

    @property
    def of_models(self) -> list[Attempt]:
        """Those of the same models; earlier versions did not record which."""
        return [one for one in self.attempts if one.models in (self.models, None)]

    def line(self, judge_key: str) -> str:
        """Return the line of a judge: comparisons that more prompts may follow."""
        return digest([judge_key, self.settings])

    def standing(self, line: str, alpha: float, answers: str = "") -> Standing:
        """Return what earlier comparisons leave to one of this line.

        A judge that was not tested costs another one nothing that begins with the same answers,
        unless others were reported beside it.

        Args:
            answers: Digest of the answers that are compared.
        """
        seen = [one for one in self.of_models if one.was_tested or one.was_shown]
        own = [one for one in seen if one.line == line]
        first = (own[0].answers if own else None) or answers
        choices: dict[str, int] = {}
        for one in seen[: seen.index(own[0])] if own else seen:
            if one.was_tested or one.num_others or one.answers != first:
                name = one.line or ", ".join(one.judges)
                choices[name] = max(1, one.num_others, choices.get(name, 1))
        tested = [one for one in own if one.was_tested]
        return Standing(
            alpha=alpha,
            num_lines=len(choices),
            batches=tuple(one.values for one in tested),
            share_voted=max((one.share_voted or 0.0 for one in tested), default=0.0),
            num_choices=math.prod(choices.values()),
            num_seen=sum(not one.was_tested and one.answers != answers for one in own),
            has_first_answers=not own or own[0].answers in (answers, None),
        )

    def shared_level(self, alpha: float, answers: str) -> float:
        """Return the error rate of what is tested of these answers beside the judge that decides.

        Another comparison has other answers of the same student, and each is tested anew; the same
        answers have the same result.

        Args:
            answers: Digest of the answers; "" where results on the same ones may change.
        """
        seen = [one for one in self.of_models if one.was_tested or one.answers is not None]
        num_others = sum(one.answers != answers for one in seen)
        if not seen or seen[0].answers == answers:
            return FIRST * alpha
        return kept_level(alpha, num_others)


def read_ledger(run_root: Path, registered_at: str, models: str, settings: str) -> Ledger:
    """Return the run's comparisons but the one that was registered at this time."""
    attempts = [one for one in _read(run_root) if one.registered_at != registered_at]
    return Ledger(tuple(attempts), models, settings)


def last_comparison(run_root: Path) -> str | None:
    """Return the digest of the models and settings of a run's last comparison, if it is known."""
    attempts = _read(run_root)
    return attempts[-1].comparison if attempts else None


def record(verdict: Verdict, ledger: Ledger, run_root: Path) -> None:
    """Add this comparison to the run's."""
    decider = verdict.decider
    this = Attempt(
        registered_at=verdict.registered_at,
        judges=tuple(judge.name for judge in verdict.judges),
        num_prompts=verdict.num_prompts,
        margin=verdict.margin,
        outcome=verdict.outcome,
        models=ledger.models,
        line=decider.line if decider else None,
        was_shown=decider is not None and decider.estimate is not None,
        num_others=sum(
            judge.claim == "quality" and judge.estimate is not None and not judge.decides
            for judge in verdict.judges
        ),
        answers=verdict.answers or None,
        comparison=ledger.comparison,
        values=decider.counted if decider else (),
        share_voted=decider.share_voted if decider else None,
        was_tested=decider is not None and decider.was_tested,
    )
    lines = [f"{one.model_dump_json(exclude_none=True)}\n" for one in (*ledger.attempts, this)]
    write_text_atomically(run_root / ATTEMPTS_NAME, "".join(lines))


def digest(content: Any) -> str:  # noqa: ANN401  (JSON)
    """Return 16 hex digits of a value of JSON."""
    return sha256_bytes(json.dumps(content, sort_keys=True).encode())[:16]


def _read(run_root: Path) -> list[Attempt]:
    path = run_root / ATTEMPTS_NAME
    if not path.exists():
        return []
    return list(
        read_lines(
            path,
            Attempt,
            what="comparisons",
            expected="a comparison of this run, as it was recorded, on each line",
            hint="restore the line from a copy of the run; without it, this comparison would have "
            "more of alpha than the earlier ones left",
        )
    )

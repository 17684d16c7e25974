"""What people say of real answers, and what the verdict says from a judge and a few of their votes.

PandaLM's test set has 999 pairs of answers of five models of 7 billion parameters, each read by
three people. It is data/testset-v1.json of the repository WeOpenML/PandaLM on GitHub (Apache-2.0);
beside it, gpt-3.5-turbo-testset-v1.json and pandalm-7b-testset-v1.json have the readings of two
judges, in one order each. The files are not part of potstill:

    python benchmarks/verdict/pandalm.py testset-v1.json gpt-3.5-turbo-testset-v1.json

For each of 20 directed pairs of models, one as the student, it prints the outcome by all people; by
the judge alone, against the whole margin; and how often the verdict is PASS, INCONCLUSIVE and FAIL
with one person's votes on 50 pairs, in 100 draws of the pairs and of the person.

Source: Wang et al. 2023, "PandaLM: An Automatic Evaluation Benchmark for LLM Instruction Tuning
Optimization" (arXiv 2306.05087).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.random import Generator

from compare.verdict.human_correction import human_corrected
from compare.verdict.intervals import MeanInterval, mean_interval
from compare.verdict.non_inferiority import outcome_of_bounds
from potstill.verdict.outcome import Outcome, Plan

PLAN = Plan()
NUM_VOTES, NUM_DRAWS = 50, 100
PEOPLE = ("annotator1", "annotator2", "annotator3")
SCORES = {"1": 1.0, "2": 0.0, "0": 0.5, "Tie": 0.5}
"""Of the first answer, by the reply; with any other reply the judge has no score."""
OUTCOMES = (Outcome.PASS, Outcome.INCONCLUSIVE, Outcome.FAIL)


@dataclass(frozen=True)
class Read:
    """One pair of answers, scored from the student's view."""

    people: tuple[float, ...]
    judge: float | None
    """None where its reply was not understood, or without a judge."""


def read_pairs(path: Path, judge_path: Path | None) -> dict[tuple[str, str], list[Read]]:
    """Return the pairs by student and teacher: each pair of models in both directions."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    readings = {} if judge_path is None else _readings(judge_path)
    found: dict[tuple[str, str], list[Read]] = {}
    for row in rows:
        first, second = row["cmp_key"].split("_")
        people = tuple(SCORES[str(row[name])] for name in PEOPLE)
        judge = readings.get(row["idx"])
        other = None if judge is None else 1 - judge
        found.setdefault((first, second), []).append(Read(people, judge))
        flipped = tuple(1 - score for score in people)
        found.setdefault((second, first), []).append(Read(flipped, other))
    return found


def _readings(path: Path) -> dict[int, float | None]:
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    name = next(key for key in rows[0] if key.endswith("_result"))
    return {row["idx"]: SCORES.get(str(row[name])) for row in rows}


def outcome(interval: MeanInterval) -> Outcome:
    """Return the outcome at the default margin."""
    return outcome_of_bounds(interval.lower, interval.upper, PLAN.win_rate_threshold)


def by_people(pairs: Sequence[Read]) -> MeanInterval:
    """Return the win rate by all people."""
    return mean_interval([fmean(one.people) for one in pairs], alpha=PLAN.alpha)


def by_judge(pairs: Sequence[Read]) -> MeanInterval:
    """Return the win rate by the judge alone."""
    return mean_interval([one.judge for one in pairs], alpha=PLAN.alpha)


def with_votes(pairs: Sequence[Read], rng: Generator) -> Outcome:
    """Return the verdict's outcome with one person's votes on pairs drawn at random."""
    voted = set(rng.choice(len(pairs), NUM_VOTES, replace=False).tolist())
    person = int(rng.integers(len(PEOPLE)))
    votes = [one.people[person] if n in voted else None for n, one in enumerate(pairs)]
    judged = [one.judge or 0.0 for one in pairs]
    return outcome(human_corrected(judged, votes, alpha=PLAN.alpha))


def table(found: Mapping[tuple[str, str], Sequence[Read]], *, is_judged: bool) -> Counter[str]:
    """Print a row for each student and teacher; return how often outcomes contradict people's."""
    print("| student | teacher | pairs | by people | by the judge alone | with 50 votes |")
    print("| --- | --- | --: | --- | --- | --- |")
    rng = np.random.default_rng(0)
    contradictions: Counter[str] = Counter()
    for (student, teacher), pairs in sorted(found.items()):
        people = by_people(pairs)
        cells = [student, teacher, len(pairs), in_words(people), "-", "-"]
        if is_judged:
            alone = by_judge(pairs)
            drawn = Counter(with_votes(pairs, rng) for _ in range(NUM_DRAWS))
            cells[4:] = in_words(alone), " / ".join(str(drawn[one]) for one in OUTCOMES)
            opposite = {Outcome.PASS: Outcome.FAIL, Outcome.FAIL: Outcome.PASS}
            against = opposite.get(outcome(people))
            contradictions["alone"] += outcome(alone) is against
            contradictions["with votes"] += drawn[against] if against else 0
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    return contradictions


def in_words(interval: MeanInterval) -> str:
    """Return a win rate with its bounds and outcome."""
    return f"{interval.mean:.3f} [{interval.lower:.3f}, {interval.upper:.3f}] {outcome(interval)}"


def main() -> None:
    """Print the table, and how often an outcome contradicts people's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="testset-v1.json")
    parser.add_argument("judge", type=Path, nargs="?", help="a judge's readings of the same pairs")
    arguments = parser.parse_args()
    for path in filter(None, (arguments.path, arguments.judge)):
        if not path.is_file():
            sys.exit(f"{path}: not found; it is in data/ of WeOpenML/PandaLM on GitHub")
    found = read_pairs(arguments.path, arguments.judge)
    is_judged = arguments.judge is not None
    contradictions = table(found, is_judged=is_judged)
    if is_judged:
        print(
            f"\nContradicts people: the judge alone {contradictions['alone']} of {len(found)}, the "
            f"verdict {contradictions['with votes']} of {len(found) * NUM_DRAWS}"
        )


if __name__ == "__main__":
    main()

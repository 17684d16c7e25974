"""The tables of docs/explanation/verdict*.md: how often verdicts are wrong, and good students pass.

`make simulations` computes them and writes them into the pages. Finished tables are kept in
build/simulations until the code of the verdict changes, so that the command may be interrupted.

    python benchmarks/verdict/simulations.py --runs 5 --only judges,live    # seconds, printed only
    python benchmarks/verdict/simulations.py --pages docs/explanation/*.md  # the whole
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from numpy.random import Generator

from benchmarks.verdict import _tables
from benchmarks.verdict._criteria import JUDGES as CRITERIA_JUDGES
from benchmarks.verdict._criteria import Labeled
from benchmarks.verdict._exact import (
    PValue,
    least_wins,
    pass_probability,
    reweighting,
    student_t,
)
from benchmarks.verdict._followed import (
    Followed,
    outcomes,
    passed_by_the_best,
    passed_by_votes,
)
from benchmarks.verdict._judges import (
    JUDGES,
    TIE_SHARE,
    Comparison,
    Floats,
    by_votes,
    is_refused_on_pairs,
    score_of,
    sensitivity_of,
)
from benchmarks.verdict._tables import Table
from compare.verdict.following import Standing
from compare.verdict.preference import level_of_first_votes, votes_needed
from compare.verdict.reweighting import p_at_most
from potstill.verdict.anytime import WinRateMonitor
from potstill.verdict.outcome import Outcome, Plan
from potstill.verdict.sample_size import score_variance

PLAN = Plan()
ALPHA, MARGIN, THRESHOLD = PLAN.alpha, PLAN.margin, PLAN.win_rate_threshold
NUM_RUNS, NUM_PROCESSES = 400, 2
JUDGED_PAIRS = (155, 619, 2000)
WORSE, AT_MARGIN, PARITY = RATES = (0.4, 0.45, 0.5)
LOOKS = (50, 100, 200, 400)
NUM_SEEDS = (1, 5, 20)
NUM_LABELED = (50, 100, 150)
WIDE_MARGIN, FEW_LABELED = 0.2, (25,)
LOOK = 10
NUM_PAIRS = (29, 49, 60, 155, 619)
NUM_ITEMS = (200, 600)
SUITE_LIMIT, SCHEMA_MARGIN = 0.95, 0.03
TIES = (0.0, 0.3, 0.6, 0.8, 0.9, 0.95)


def shown(value: float | None) -> str:
    """Return a probability as text; a dash where it is not defined."""
    return "-" if value is None else f"{value:.3f}"


def exact(
    name: str, test: PValue, num_pairs: int, threshold: float, _rng: Generator, _num_runs: int
) -> Sequence[object]:
    """Return exact probabilities of PASS by a test, at the threshold and at parity."""
    least_N = least_wins(test, num_pairs, threshold, ALPHA)
    cells = [
        f"{shown(pass_probability(least_N, threshold, ties))} / "
        f"{shown(pass_probability(least_N, 0.5, ties))}"
        for ties in TIES
    ]
    return [name, num_pairs, *cells]


def suite(num_items: int, _rng: Generator, _num_runs: int) -> Sequence[object]:
    """Return exact probabilities that a suite of the gate passes."""
    # With no ties a win rate is a share of right items.
    least_N = least_wins(reweighting, num_items, SUITE_LIMIT, ALPHA)
    shares = [pass_probability(least_N, share, 0.0) for share in (SUITE_LIMIT, 0.98, 0.99)]
    return ["a suite, 0.95: true 0.95, 0.98, 0.99", num_items, *map(shown, shares)]


def schema(num_items: int, _rng: Generator, _num_runs: int) -> Sequence[object]:
    """Return exact probabilities that the schema of the gate passes."""
    threshold = 0.5 - SCHEMA_MARGIN / 2
    least_N = least_wins(reweighting, num_items, threshold, ALPHA)
    cases = ((threshold, 1 - SCHEMA_MARGIN), (0.5, 0.98), (0.5, 0.99))
    found = [shown(pass_probability(least_N, rate, ties)) for rate, ties in cases]
    return ["schema, 0.03: true -0.03, 0 with 2%, 1% that differ", num_items, *found]


def judged(name: str, num_pairs: int, rng: Generator, num_runs: int) -> Sequence[object]:
    """Return how often first comparisons by a judge and people's votes pass a student.

    Each run is an assay, then pairs with as many votes as `potstill plan` asks for after it, tested
    at the error rate of so many.
    """
    judge, first = JUDGES[name], replace(PLAN, alpha=Standing(ALPHA).first_level)
    votes: list[int] = []
    accepted, passed = ({rate: np.zeros(num_runs) for rate in RATES} for _ in range(2))
    alone = np.zeros(num_runs)
    for run in range(num_runs):
        sensitivity = sensitivity_of(judge, PLAN, rng)
        seen = None if sensitivity is None else sensitivity.lower
        needed = votes_needed(first, score_variance(0.5, TIE_SHARE), seen, num_pairs)
        votes.append(min(needed, num_pairs))
        level = level_of_first_votes(first, votes[-1])
        for rate in RATES:
            human_N = Comparison(num_pairs, 0, rate).human(rng)
            orders = judge.of_pairs(human_N, rng)
            found = by_votes(score_of(orders), human_N, votes[-1], level)
            is_shown = found.p_at_most(THRESHOLD) < level
            accepted[rate][run] = seen is not None and not is_refused_on_pairs(orders, PLAN)
            passed[rate][run] = accepted[rate][run] and is_shown
            if rate == WORSE:
                p_value = p_at_most(THRESHOLD, score_of(orders), np.ones(num_pairs), 0.0)
                alone[run] = p_value < ALPHA
    shares = [alone.mean(), np.mean([*accepted.values()]), *(one.mean() for one in passed.values())]
    by_itself, was_accepted, *passes = (f"{share:.2f}" for share in shares)
    return [name, num_pairs, by_itself, was_accepted, round(median(votes)), *passes]


def followed(num_first: int, ties: float, rng: Generator, num_runs: int) -> Sequence[object]:
    """Return how comparisons end that are followed to 20,000 prompts."""
    cells = []
    for rate in RATES:
        shares, number = outcomes(Followed(rate, ties, num_first), PLAN, num_runs, rng)
        passed, failed = shares[Outcome.PASS], shares[Outcome.FAIL]
        cells.append(f"{passed:.3f} / {failed:.3f}, {number:,.0f}")
    return [f"{num_first}, {ties:.0%} ties", *cells]


def followed_by_votes(name: str, rng: Generator, num_runs: int) -> Sequence[object]:
    """Return how often any of several comparisons with more and more votes passes."""
    found = (
        np.mean(
            [
                passed_by_votes(JUDGES[name], Comparison(619, 0, rate), LOOKS, PLAN, rng)
                for _ in range(num_runs)
            ]
        )
        for rate in (AT_MARGIN, PARITY)
    )
    return [name, *(shown(float(share)) for share in found)]


def best_of(name: str, rng: Generator, num_runs: int) -> Sequence[object]:
    """Return how often the answers that a judge likes best of several seeds pass by votes."""
    cells = []
    for number in NUM_SEEDS:
        pairs = Comparison(619, 0, AT_MARGIN)
        found = [
            passed_by_the_best(JUDGES[name], pairs, number, PLAN, rng) for _ in range(num_runs)
        ]
        cells.append(" / ".join(shown(float(share)) for share in np.mean(found, axis=0)))
    return [name, *cells]


def criteria(
    name: str,
    num_pairs: int,
    margin: float,
    labeled: Sequence[int],
    rng: Generator,
    num_runs: int,
) -> Sequence[object]:
    """Return how often a judge of criteria passes a student, alone and with people's labels."""
    judge, threshold = CRITERIA_JUDGES[name], 0.5 - margin / 2
    worse = Labeled(num_pairs, 0, -2 * margin)
    by_itself = [
        p_at_most(threshold, worse.scores(judge, rng)[1], np.ones(num_pairs), 0.0) < ALPHA
        for _ in range(num_runs)
    ]
    cells = []
    for number in labeled:
        shares = []
        for difference in (-2 * margin, -margin, 0.0):
            setting = Labeled(num_pairs, number, difference)
            found = [setting.corrected(judge, rng) for _ in range(num_runs)]
            shares.append(np.mean([one.p_at_most(threshold) < ALPHA for one in found]))
        cells.append(" / ".join(f"{share:.2f}" for share in shares))
    return [name, num_pairs, f"{np.mean(by_itself):.2f}", *cells]


def has_fallen(scores: Floats, watched_from: int) -> bool:
    """Return whether a live verdict is contradicted by its newest users at any later look."""
    monitor = WinRateMonitor(PLAN)
    monitor.update(scores[:watched_from])
    for start in range(watched_from, len(scores), LOOK):
        monitor.update(scores[start : start + LOOK])
        if monitor.has_fallen:
            return True
    return False


def live(ties: float, rng: Generator, num_runs: int) -> Sequence[object]:
    """Return how often a live PASS is withdrawn, without reason and with."""
    steady, before, after = (
        Comparison(number, 0, rate, ties)
        for number, rate in ((2000, PARITY), (1000, PARITY), (500, WORSE))
    )
    false = [has_fallen(steady.human(rng), LOOK) for _ in range(num_runs)]
    found = [
        has_fallen(np.concatenate([before.human(rng), after.human(rng)]), 1000)
        for _ in range(num_runs)
    ]
    return [f"{ties:.0%}", shown(float(np.mean(false))), shown(float(np.mean(found)))]


def _exact_table(name: str, threshold: float) -> Table:
    tests = {"reweighting": reweighting, "Student's t": student_t}
    return Table(
        name,
        ["test", "pairs", *(f"{ties:.0%} ties" for ties in TIES)],
        [
            partial(exact, test_name, test, num_pairs, threshold)
            for num_pairs in NUM_PAIRS
            for test_name, test in tests.items()
        ],
        is_exact=True,
    )


def _criteria_table(name: str, margin: float, labeled: Sequence[int]) -> Table:
    return Table(
        name,
        ["judge", "prompts", f"alone, at {-2 * margin:g}", *(f"{n} labeled" for n in labeled)],
        [
            partial(criteria, judge, num_pairs, margin, labeled)
            for judge in CRITERIA_JUDGES
            for num_pairs in JUDGED_PAIRS
        ],
    )


TABLES = (
    _exact_table("win-rate", THRESHOLD),
    _exact_table("metric", 0.5 - MARGIN / 2),
    Table(
        "gate",
        ["requirement", "items", "at its limit", "better", "better still"],
        [partial(row, num_items) for row in (suite, schema) for num_items in NUM_ITEMS],
        is_exact=True,
    ),
    Table(
        "judges",
        [
            "judge",
            "pairs",
            "alone, at 0.40",
            "accepted",
            "votes",
            *(f"at {rate:.2f}" for rate in RATES),
        ],
        [partial(judged, name, num_pairs) for name in JUDGES for num_pairs in JUDGED_PAIRS],
    ),
    Table(
        "votes",
        ["judge", "at 0.45", "at 0.50"],
        [
            partial(followed_by_votes, name)
            for name in ("80% right", "60% right", "prefers the student's style")
        ],
    ),
    Table(
        "seeds",
        ["judge", *(f"{number} seeds" if number > 1 else "1 seed" for number in NUM_SEEDS)],
        [partial(best_of, name) for name in ("80% right", "60% right, alike in both orders")],
    ),
    _criteria_table("criteria", MARGIN, NUM_LABELED),
    _criteria_table("criteria-wide", WIDE_MARGIN, FEW_LABELED),
    Table(
        "followed",
        ["prompts of the first", *(f"at {rate:.2f}" for rate in RATES)],
        [partial(followed, num_first, ties) for num_first in (49, 155, 619) for ties in (0.3, 0.8)],
    ),
    Table(
        "live",
        ["ties", "2,000 users at 0.50", "500 users at 0.40 after 1,000 at 0.50"],
        [partial(live, ties) for ties in (0.0, 0.3, 0.6)],
    ),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute, print and store tables, and write them into pages."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [table.name for table in TABLES]
    parser.add_argument("--only", default=",".join(names), help="names of tables, with commas")
    parser.add_argument("--runs", type=int, default=NUM_RUNS, help="of each cell that is simulated")
    parser.add_argument("--processes", type=int, default=NUM_PROCESSES)
    parser.add_argument("--pages", nargs="+", type=Path, help="pages to write the tables into")
    parser.add_argument("--keep", type=Path, default=Path("build/simulations"))
    given = parser.parse_args(arguments)
    wanted = given.only.split(",")
    if unknown := set(wanted) - set(names):
        parser.error(f"no table {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    directory = given.keep / _tables.digest_of_code()
    with _tables.mapping(given.processes) as map_rows:
        for table in TABLES:
            if table.name in wanted:
                text = _tables.stored_or_computed(table, given.runs, directory, map_rows)
                if given.pages is not None:
                    _tables.fill(given.pages, table.name, text)


if __name__ == "__main__":
    main()

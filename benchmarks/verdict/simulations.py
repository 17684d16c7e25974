"""The tables of docs/verdict.md: how often a verdict is wrong, and how often a good student passes.

`make simulations` prints them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from benchmarks.verdict._criteria import JUDGES as CRITERIA_JUDGES
from benchmarks.verdict._criteria import Labeled
from benchmarks.verdict._exact import least_wins, pass_probability, reweighting, student_t
from benchmarks.verdict._followed import Followed, outcomes, passed_by_votes
from benchmarks.verdict._judges import JUDGES, Comparison, Floats, Judge
from compare.verdict.reweighting import p_at_most
from potstill.verdict.anytime import WinRateMonitor
from potstill.verdict.outcome import Outcome, Plan

ALPHA, MARGIN = 0.05, 0.05
NUM_RUNS, NUM_FOLLOWED, TIE_SHARE = 200, 300, 0.3
JUDGED_PAIRS = (155, 619, 2000)
NUM_VOTES = (50, 100, 400)
NUM_LABELED = (50, 100, 150)
WIDE_MARGIN, FEW_LABELED = 0.2, (25,)
LOOK = 10
NUM_PAIRS = (29, 49, 60, 155, 619)
NUM_ITEMS = (200, 600)
SUITE_LIMIT, SCHEMA_MARGIN = 0.95, 0.03
TIES = (0.0, 0.3, 0.6, 0.8, 0.9, 0.95)


def row(cells: list[object]) -> None:
    """Print a row of a table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def shown(value: float | None) -> str:
    """Return a probability as text; a dash where it is not defined."""
    return "-" if value is None else f"{value:.3f}"


def exact() -> None:
    """Print exact probabilities of PASS, of the product's test and of Student's t."""
    tests = {"reweighting": reweighting, "Student's t": student_t}
    for scale, threshold, parity in (
        ("win rate, true rate 0.45 and 0.5", 0.5 - MARGIN, 0.5),
        ("paired metric, true difference -0.05 and 0", 0.5 - MARGIN / 2, 0.5),
    ):
        print(f"\n### {scale}, margin {MARGIN:g}, alpha {ALPHA:g}\n")
        row(["test", "pairs", *(f"{ties:.0%} ties" for ties in TIES)])
        row(["---", "--:", *("--:" for _ in TIES)])
        for num_pairs in NUM_PAIRS:
            for name, test in tests.items():
                least_N = least_wins(test, num_pairs, threshold, ALPHA)
                cells = [
                    f"{shown(pass_probability(least_N, threshold, ties))} / "
                    f"{shown(pass_probability(least_N, parity, ties))}"
                    for ties in TIES
                ]
                row([name, num_pairs, *cells])


def gate() -> None:
    """Print exact probabilities that a requirement of the default gate passes."""
    print("\n### requirements of the gate\n")
    row(["requirement", "items", "at its limit", "better", "better still"])
    row(["---", "--:", "--:", "--:", "--:"])
    for num_items in NUM_ITEMS:
        # With no ties a win rate is a share of right items.
        least_N = least_wins(reweighting, num_items, SUITE_LIMIT, ALPHA)
        shares = [pass_probability(least_N, share, 0.0) for share in (SUITE_LIMIT, 0.98, 0.99)]
        row(["a suite, 0.95: true 0.95, 0.98, 0.99", num_items, *map(shown, shares)])
    for num_items in NUM_ITEMS:
        threshold = 0.5 - SCHEMA_MARGIN / 2
        least_N = least_wins(reweighting, num_items, threshold, ALPHA)
        cases = ((threshold, 1 - SCHEMA_MARGIN), (0.5, 0.98), (0.5, 0.99))
        found = [shown(pass_probability(least_N, rate, ties)) for rate, ties in cases]
        row(["schema, 0.03: true -0.03, 0 with 2 %, 1 % that differ", num_items, *found])


def alone(judge: Judge, num_pairs: int, rate: float, rng: Generator) -> float:
    """Return how often a judge passes a student by itself, against the whole margin."""
    setting = Comparison(num_pairs, 0, rate, TIE_SHARE)
    passed = 0
    for _ in range(NUM_RUNS):
        scores_N = judge(setting.human(rng), rng)
        passed += p_at_most(0.5 - MARGIN, scores_N, np.ones(num_pairs), 0.0) < ALPHA
    return passed / NUM_RUNS


def judges() -> None:
    """Print how often each judge passes a student, alone and with people's votes."""
    print(f"\n### with {TIE_SHARE:.0%} ties, {NUM_RUNS} runs\n")
    row(["judge", "pairs", "alone, at 0.40", *(f"{n} votes" for n in NUM_VOTES)])
    row(["---", "--:", "--:", *("--:" for _ in NUM_VOTES)])
    rng = np.random.default_rng(0)
    for name, judge in JUDGES.items():
        for num_pairs in JUDGED_PAIRS:
            cells = []
            for num_votes in NUM_VOTES:
                shares = []
                for rate in (0.4, 0.45, 0.5):
                    setting = Comparison(num_pairs, min(num_votes, num_pairs), rate, TIE_SHARE)
                    found = [setting.corrected(judge, rng) for _ in range(NUM_RUNS)]
                    shares.append(np.mean([one.p_at_most(0.5 - MARGIN) < ALPHA for one in found]))
                cells.append(" / ".join(f"{share:.2f}" for share in shares))
            row([name, num_pairs, f"{alone(judge, num_pairs, 0.4, rng):.2f}", *cells])


def followed() -> None:
    """Print how often comparisons that are followed to 20,000 prompts end in PASS and FAIL."""
    print(f"\n### followed to 20,000 prompts, {NUM_FOLLOWED} runs\n")
    row(["first prompts", "ties", *(f"at {rate:.2f}" for rate in (0.45, 0.5, 0.4))])
    row(["--:", "--:", "--:", "--:", "--:"])
    rng = np.random.default_rng(0)
    for num_first in (49, 155, 619):
        for ties in (0.3, 0.8):
            cells = []
            for rate in (0.45, 0.5, 0.4):
                setting = Followed(rate, ties, num_first)
                shares, median = outcomes(setting, Plan(MARGIN, ALPHA), NUM_FOLLOWED, rng)
                passed, failed = shares[Outcome.PASS], shares[Outcome.FAIL]
                cells.append(f"{passed:.3f} / {failed:.3f}, {median:,.0f}")
            row([num_first, f"{ties:.0%}", *cells])


def criteria(margin: float, labeled: Sequence[int]) -> None:
    """Print how often each judge of criteria passes a student, alone and with people's labels."""
    print(f"\n### criteria, margin {margin:g}, {NUM_RUNS} runs\n")
    row(["judge", "prompts", f"alone, at {-2 * margin:g}", *(f"{n} labeled" for n in labeled)])
    row(["---", "--:", "--:", *("--:" for _ in labeled)])
    rng = np.random.default_rng(0)
    threshold = 0.5 - margin / 2
    for name, judge in CRITERIA_JUDGES.items():
        for num_pairs in JUDGED_PAIRS:
            worse = Labeled(num_pairs, 0, -2 * margin)
            by_itself = [
                p_at_most(threshold, worse.scores(judge, rng)[1], np.ones(num_pairs), 0.0) < ALPHA
                for _ in range(NUM_RUNS)
            ]
            cells = []
            for number in labeled:
                shares = []
                for difference in (-2 * margin, -margin, 0.0):
                    setting = Labeled(num_pairs, number, difference)
                    found = [setting.corrected(judge, rng) for _ in range(NUM_RUNS)]
                    shares.append(np.mean([one.p_at_most(threshold) < ALPHA for one in found]))
                cells.append(" / ".join(f"{share:.2f}" for share in shares))
            row([name, num_pairs, f"{np.mean(by_itself):.2f}", *cells])


def followed_by_votes() -> None:
    """Print how often any of several comparisons with more and more votes passes."""
    looks = (50, 100, 200, 400)
    listed = ", ".join(map(str, looks))
    print(f"\n### 619 pairs, compared with {listed} votes, {NUM_RUNS} runs\n")
    row(["judge", "at 0.45", "at 0.50"])
    row(["---", "--:", "--:"])
    rng = np.random.default_rng(0)
    for name in ("80 % right", "60 % right", "prefers the student's style"):
        cells = []
        for rate in (0.45, 0.5):
            setting = Comparison(619, 0, rate, TIE_SHARE)
            found = [
                passed_by_votes(JUDGES[name], setting, looks, Plan(MARGIN, ALPHA), rng)
                for _ in range(NUM_RUNS)
            ]
            cells.append(f"{np.mean(found):.3f}")
        row([name, *cells])


def has_fallen(scores: Floats, watched_from: int) -> bool:
    """Return whether a live verdict is contradicted by its newest users at any later look."""
    monitor = WinRateMonitor(Plan(MARGIN, ALPHA))
    monitor.update(scores[:watched_from])
    for start in range(watched_from, len(scores), LOOK):
        monitor.update(scores[start : start + LOOK])
        if monitor.has_fallen:
            return True
    return False


def live() -> None:
    """Print how often a live PASS is withdrawn, with reason and without."""
    print(f"\n### PASS withdrawn, a look every {LOOK} users, {NUM_RUNS} runs\n")
    row(["ties", "2,000 users at 0.50", "500 users at 0.40 after 1,000 at 0.50"])
    row(["--:", "--:", "--:"])
    rng = np.random.default_rng(0)
    for ties in (0.0, 0.3, 0.6):
        steady, before, after = (
            Comparison(number, 0, rate, ties)
            for number, rate in ((2000, 0.5), (1000, 0.5), (500, 0.4))
        )
        false, found = 0, 0
        for _ in range(NUM_RUNS):
            false += has_fallen(steady.human(rng), LOOK)
            found += has_fallen(np.concatenate([before.human(rng), after.human(rng)]), 1000)
        row([f"{ties:.0%}", f"{false / NUM_RUNS:.3f}", f"{found / NUM_RUNS:.3f}"])


def main() -> None:
    """Print all tables."""
    exact()
    gate()
    judges()
    criteria(MARGIN, NUM_LABELED)
    criteria(WIDE_MARGIN, FEW_LABELED)
    followed()
    followed_by_votes()
    live()


if __name__ == "__main__":
    main()

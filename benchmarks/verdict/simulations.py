"""The tables of docs/verdict.md: how often a verdict is wrong, and how often a good student passes.

`make simulations` prints them.
"""

from __future__ import annotations

from benchmarks.verdict._exact import least_wins, pass_probability, reweighting, student_t

ALPHA, MARGIN = 0.05, 0.05
NUM_PAIRS = (29, 49, 60, 155, 619)
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


def main() -> None:
    """Print all tables."""
    exact()


if __name__ == "__main__":
    main()

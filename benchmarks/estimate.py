"""Estimated beside measured times of finished runs: `estimate.py RUN ...`.

The estimate is that of `--dry-run` for the run's own configuration, on this machine as it is now:
run it where the runs were made, with nothing else running. Measured are the seconds that the
stages' manifests hold. Prints rows of the table in docs/explanation/time-and-memory.md;
a ratio within 1.5 is good.
"""

from __future__ import annotations

import sys
from pathlib import Path

from potstill.pipeline import PIPELINE, Choice, cards_of, estimate, resolve
from potstill.plan import measure_machine
from potstill.rundir import RunDirectory


def main(roots: list[str]) -> None:
    """Print a line for each stage of each run, and one for all finished stages of a run."""
    print("| run | stage | estimated | measured | ratio |\n|---|---|---|---|---|")
    for root in roots:
        run_directory = RunDirectory(Path(root))
        tables = resolve(Choice(), run_directory)
        estimates, workload = estimate(tables, run_directory)
        machine, cards = measure_machine(workload.teacher), cards_of(tables)
        if machine is None:
            sys.exit("times are estimated on machines with torch only")
        rows = []
        for stage, cost in zip(PIPELINE, estimates, strict=True):
            seconds = stage.seconds(run_directory)
            if seconds is not None:
                rows.append((stage.name, cost.placed(machine, cards).seconds or 0.0, seconds))
        rows.append(("all of these", sum(row[1] for row in rows), sum(row[2] for row in rows)))
        for name, estimated, seconds in rows:
            ratio = max(estimated, seconds) / max(min(estimated, seconds), 1e-9)
            label = f"{Path(root).name} | {name}"
            print(f"| {label} | {estimated:.0f} s | {seconds:.0f} s | {ratio:.2f} |")
        print(f"  ({machine})", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])

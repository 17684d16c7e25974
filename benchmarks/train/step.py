"""What token-level distillation costs on top of SFT: `python benchmarks/train/step.py [RUN]`.

The preset general's student on its conversations (of RUN, made if it has none), the same batches
in the same order: with the token-level loss, with cross-entropy alone in the same trainer, and in
TRL's own SFTTrainer. Each runs in processes of its own that take turns; a step's time is the
shortest of its rounds, and what is printed is the ratio of their sums. Memory is a process's peak.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _runs import DEFAULT_RUN, conversations, demo_settings, prepare_job

WAYS = {"distillation": ("ours", 0.9), "SFT": ("ours", 0.0), "TRL's SFTTrainer": ("trl", 0.0)}
NUM_WARM_UP_STEPS = 2


def one_round(way: str, config_steps: int, run: Path, root: Path) -> dict[str, Any]:
    """Train for some steps in a process of its own."""
    what, weight = WAYS[way]
    scratch_dir = root / way.replace(" ", "_")
    if not scratch_dir.exists():
        scratch_dir.mkdir()
        config = demo_settings(
            max_steps=config_steps,
            save_steps=10**6,
            kd={"weight": weight},
            student={"layers": "even"},
        )
        prepare_job(config, conversations(run), scratch_dir)
    shutil.rmtree(scratch_dir / "offline", ignore_errors=True)
    script = Path(__file__).parent / "_steps.py"
    command = [sys.executable, str(script), str(scratch_dir), what]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def main() -> None:
    """Let the ways take turns and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, default=DEFAULT_RUN)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        for number in range(given.rounds):
            for way in WAYS:
                found[way].append(one_round(way, given.steps, given.run, Path(name)))
                seconds = sum(found[way][-1]["seconds"][NUM_WARM_UP_STEPS:])
                print(f"  round {number + 1}, {way}: {seconds:.1f} s", flush=True)
    fastest = {
        way: sum(
            map(min, zip(*(one["seconds"][NUM_WARM_UP_STEPS:] for one in rounds), strict=True))
        )
        for way, rounds in found.items()
    }
    memory = {way: min(one["peak_bytes"] for one in rounds) for way, rounds in found.items()}
    for way in list(WAYS)[1:]:
        print(f"distillation / {way}: time {fastest['distillation'] / fastest[way]:.3f}", end="")
        print(f", peak memory {memory['distillation'] / memory[way]:.3f}")


if __name__ == "__main__":
    main()

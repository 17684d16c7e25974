"""How much of the machine training uses: `python benchmarks/train/utilization.py [RUN]`.

Model FLOPs utilization: the operations that the steps cannot do without, per second, as a share of
what the machine multiplies large square matrices at in bfloat16 or float32, measured between the
rounds. The preset general's student and conversations (of RUN, made if it has none); one setting
changed in each row. Padding, the optimizer and everything else that is not the model counts as
waste.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from _runs import DEFAULT_RUN, conversations, demo_settings, prepare_job

from train.students.plan import fast_dtype

SETTINGS: dict[str, dict[str, Any]] = {
    "the preset general's": {},
    "float32": {"dtype": "float32"},
    "batches of 8": {"batch_size": 8},
    "batches of 16": {"batch_size": 16},
    "packed, rows of 1,024": {"packing": True, "batch_size": 1},
    "compiled": {"compile": True},
    "compiled, batches of 8": {"compile": True, "batch_size": 8},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "everything trained": {"freeze": {"embeddings": False}},
    "one thread": {"threads": 1},
}
NUM_WARM_UP_STEPS = 3


def call(scratch_dir: Path, what: str, num_threads: int) -> dict[str, Any]:
    """Run `_steps.py`."""
    command = [sys.executable, str(Path(__file__).parent / "_steps.py"), str(scratch_dir), what]
    output = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(num_threads)},
    ).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, default=DEFAULT_RUN)
    parser.add_argument("--conversations", type=int, default=100, help="trained on in each row")
    parser.add_argument("--only", nargs="*", choices=SETTINGS, help="rows to measure")
    given = parser.parse_args()
    run_directory = conversations(given.run)
    all_threads = len(os.sched_getaffinity(0))
    print("setting | of the peak | of the float32 peak | tokens/s | padding")
    with tempfile.TemporaryDirectory() as name:
        for label in given.only or SETTINGS:
            changes = dict(SETTINGS[label])
            threads = changes.pop("threads", all_threads)
            per_step = changes.get("batch_size", 4) * (4 if changes.get("packing") else 1)
            steps = NUM_WARM_UP_STEPS + max(4, given.conversations // per_step)
            settings = {"max_steps": steps, "save_steps": 10**6, "student": {"layers": "even"}}
            config = demo_settings(**settings | changes)
            scratch_dir = Path(name) / "scratch"
            shutil.rmtree(scratch_dir, ignore_errors=True)
            scratch_dir.mkdir()
            prepare_job(config, run_directory, scratch_dir)
            before = call(scratch_dir, "peak", all_threads)
            found = call(scratch_dir, "ours", threads)
            after = call(scratch_dir, "peak", all_threads)
            peak = {one: statistics.mean((before[one], after[one])) for one in before}
            kept = slice(NUM_WARM_UP_STEPS + 1, None)
            seconds = sum(found["seconds"][NUM_WARM_UP_STEPS:])
            rate = sum(found["flops"][kept]) / seconds
            tokens, positions = sum(found["tokens"][kept]), sum(found["positions"][kept])
            own = peak[str(fast_dtype(config.dtype))]
            print(
                f"{label} | {rate / own:.0%} | {rate / peak[str(torch.float32)]:.0%} | "
                f"{tokens / seconds:.0f} | {1 - tokens / positions:.0%}",
                flush=True,
            )


if __name__ == "__main__":
    main()

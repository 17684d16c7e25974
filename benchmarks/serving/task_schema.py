"""What it costs to bind a task's answers: `python benchmarks/serving/task_schema.py RUN`.

The run's student answers known prompts of its task over HTTP from two servers in turns, one that
binds answers to `task.answer_schema` and one that does not. Printed are the tokens per second of
both and, paired by round, the bound answers' speed as a multiple of the free ones', with a 90%
interval. The goal is at least 0.97.

Usage: task_schema.py RUN [--prompts N] [--rounds N] [--streams N ...] [--threads N]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections import defaultdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.serving._load import load
from benchmarks.serving._servers import COMMANDS, MODEL, NUM_THREADS, Setting, all_running, potstill
from benchmarks.serving.throughput import paired_ratio
from potstill.facts.gguf import GgufFacts
from potstill.rundir import RunDirectory
from potstill.task.stage import read_task

BOUND, FREE = "bound", "free"
MAX_TOKENS = 256


def bodies(run_directory: RunDirectory, num: int) -> list[dict[str, Any]]:
    """Return requests with the first known prompts of the task."""
    task = read_task(run_directory)
    if task is None or task.schema_content is None:
        raise SystemExit(f"{run_directory.root}: the run's task has no answer_schema")
    return [
        {
            "model": MODEL,
            "messages": [message.to_chat() for message in item.messages],
            "max_tokens": MAX_TOKENS,
        }
        for item in task.references[:num]
    ]


def main() -> None:
    """Let both take turns and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/demo"))
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--threads", type=int, default=NUM_THREADS)
    given = parser.parse_args()
    run_directory = RunDirectory(given.run)
    file = run_directory.facts(GgufFacts).recommended_file
    asked = bodies(run_directory, given.prompts)
    COMMANDS[BOUND] = partial(potstill, run_dir=given.run)
    COMMANDS[FREE] = partial(potstill, run_dir=given.run, task_schema="false")
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        path = run_directory.stage_dir("gguf") / file.file
        setting = Setting(path, Path(name), max(given.streams), threads=given.threads)
        with all_running([BOUND, FREE], setting) as servers:
            for number in range(given.rounds + 1):
                for server in servers:
                    for streams in given.streams:
                        with server.turn():
                            found = asyncio.run(load(server.base_url, asked, streams))
                        if found.num_failed:
                            raise SystemExit(f"{server.name}: {found.num_failed} answers failed")
                        if number:  # The first round fills caches.
                            rates[server.name, streams].append(found.tokens_per_second)
    print(f"{file.name}, {len(asked)} prompts, {given.rounds} rounds, {given.threads} threads")
    for streams in given.streams:
        bound, free = rates[BOUND, streams], rates[FREE, streams]
        ratio = paired_ratio(list(zip(bound, free, strict=True)))
        print(
            f"{streams} at once: {median(bound):.0f} tokens/s bound, {median(free):.0f} free;"
            f" bound is {ratio} as fast"
        )


if __name__ == "__main__":
    main()

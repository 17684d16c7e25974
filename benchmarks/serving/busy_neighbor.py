"""Time of a token beside a busy program: `python benchmarks/serving/busy_neighbor.py`.

A process decodes with llama.cpp, alone and beside a program of as many threads, with several
values of GOMP_SPINCOUNT: how often a thread of GNU's OpenMP looks for the others before it
sleeps. Prints the mean time of a token as a ratio to that of libgomp's default alone, and the
longest time, as medians of alternating rounds.

Usage: busy_neighbor.py [--gguf FILE] [--tokens N] [--rounds N] [--threads N]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks.serving._servers import NUM_THREADS, clean_environment, embedded_gguf
from potstill.processes import child_process

SPIN_COUNTS = (None, 0, 1_000, 10_000)
"""None is libgomp's default: 300,000 where a machine has a core for each thread."""
NEIGHBOR = """
import torch
torch.set_num_threads({num_threads})
one = torch.rand(256, 256)
print(flush=True)
while True:
    one @ one
"""
"""Multiplies on as many threads, which wait as libgomp does by default."""


def decode(gguf_path: Path, num_tokens: int, num_threads: int) -> None:
    """Print the mean and the longest time of a token, in seconds."""
    from serve.engine.engine import Engine
    from serve.engine.model import GgufModel
    from serve.engine.request import EngineLimits, Request

    limits = EngineLimits(context_tokens=1024, max_parallel=1, max_batch_tokens=64, max_queue=1)
    model = GgufModel(gguf_path)
    engine = Engine(model, limits, threads=num_threads, deliver=lambda _outputs: None)
    prompt = range(100, 120)
    engine.submit([Request(prompt, max_new_tokens=num_tokens + 2, ignore_eos=True)])
    engine.step()
    seconds = []
    for _ in range(num_tokens):
        started = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - started)
    print(sum(seconds) / num_tokens, max(seconds))


def measure(
    spin_count: int | None, has_neighbor: bool, arguments: argparse.Namespace
) -> tuple[float, float]:
    """Return the mean and the longest time of a token in a process of its own, in seconds."""
    # A policy keeps potstill in a child from setting the count; an empty one leaves libgomp's
    # default.
    default = {"OMP_WAIT_POLICY": ""}
    tested = default if spin_count is None else {"GOMP_SPINCOUNT": str(spin_count)}
    given = ("--gguf", str(arguments.gguf), "--tokens", str(arguments.tokens))
    command = [sys.executable, __file__, "--decode", *given, "--threads", str(arguments.threads)]
    with ExitStack() as stack:
        if has_neighbor:
            source = NEIGHBOR.format(num_threads=arguments.threads)
            beside = [sys.executable, "-c", source]
            environment = clean_environment() | default | {"OMP_PROC_BIND": "true"}
            neighbor = stack.enter_context(
                child_process(beside, stdout=subprocess.PIPE, env=environment)
            )
            assert neighbor.stdout is not None
            neighbor.stdout.readline()
        environment = clean_environment() | tested
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    mean, longest = map(float, done.stdout.split())
    return mean, longest


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gguf", type=Path, default=embedded_gguf())
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=NUM_THREADS)
    parser.add_argument("--decode", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.decode:
        decode(arguments.gguf, arguments.tokens, arguments.threads)
        return
    cases = [(count, busy) for busy in (False, True) for count in SPIN_COUNTS]
    rounds = [{case: measure(*case, arguments) for case in cases} for _ in range(arguments.rounds)]
    print("| GOMP_SPINCOUNT | neighbor | time of a token, ratio | longest token, ms |")
    print("|---|---|--:|--:|")
    for count, busy in cases:
        ratio = median(one[count, busy][0] / one[None, False][0] for one in rounds)
        longest = 1000 * median(one[count, busy][1] for one in rounds)
        name = "default" if count is None else f"{count:,}"
        print(f"| {name} | {'busy' if busy else 'none'} | {ratio:.2f} | {longest:.0f} |")


if __name__ == "__main__":
    main()

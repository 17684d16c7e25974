"""Our server beside its peers under load: `python benchmarks/serving/throughput.py`.

The same GGUF file, the same prompts, the same number of threads, the same load generator on the
same machine; the servers take turns at each number of concurrent streams, and the others are
suspended meanwhile. Prints tokens per second, time to the first token (TTFT), time between tokens
(ITL), failed requests, and how many times a peer's ours is: the mean of the rounds' own ratios with
its interval of 90%, above 1 where ours is better.
Peers: llama.cpp's own server, built here from the sources in llama-cpp-python's source
distribution; llama-cpp-python's examples/server; its packaged llama_cpp.server, which has no
batches, once told not to cut a stream off for the next request, and once as it comes; vLLM, with
the same weights in bfloat16.

Usage: throughput.py [--gguf FILE] [--streams 1 4 16 64] [--rounds N] [--threads N]
    [--servers NAME ...]
"""

from __future__ import annotations

import argparse
import asyncio
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from scipy.stats import t

from benchmarks.serving._load import Load, load
from benchmarks.serving._servers import (
    COMMANDS,
    MODEL,
    NUM_THREADS,
    Server,
    Setting,
    all_running,
    embedded_gguf,
)

SYSTEM = "You are a helpful assistant who answers at length, in plain English, in whole sentences."
TOPICS = (
    "rain", "bread", "the sea", "a lighthouse", "bees", "winter", "trains", "old maps", "coffee",
    "the moon", "gardens", "music", "bridges", "clocks", "rivers", "birds", "paper", "glass",
)  # fmt: skip
NUM_TOKENS = 48
REQUESTS = {1: 6, 4: 16, 16: 48, 64: 64}
"""Per round, by the number of streams."""
MEASURES: tuple[Callable[[Load], float], ...] = (
    lambda one: one.tokens_per_second,
    lambda one: one.first_token_milliseconds(50),
    lambda one: one.first_token_milliseconds(99),
    lambda one: one.next_token_milliseconds(99),
)
"""Of a round: tokens a second, times to the first token, and the time between tokens."""


def bodies(number: int, salt: int) -> list[dict[str, Any]]:
    """Return requests that differ from their first user's word on: no prompt is sent twice."""
    return [
        {
            "model": MODEL,
            "messages": [
                {"role": "system", "content": SYSTEM},
                {
                    "role": "user",
                    "content": f"{salt + index}. Write a long story about "
                    f"{TOPICS[index % len(TOPICS)]}, with many details.",
                },
            ],
            "temperature": 0.0,
            "max_tokens": NUM_TOKENS,
        }
        for index in range(number)
    ]


def main() -> None:
    """Let the servers take turns and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gguf", type=Path, default=embedded_gguf())
    parser.add_argument("--streams", type=int, nargs="+", default=list(REQUESTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--servers", nargs="+", default=list(COMMANDS), choices=list(COMMANDS))
    parser.add_argument("--threads", type=int, default=NUM_THREADS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        setting = Setting(given.gguf, Path(name), threads=given.threads)
        with all_running(given.servers, setting) as servers:
            for server in servers:
                answered(server, bodies(2, 900_000), 2)
            print(
                f"{given.gguf.name}, {setting.threads} threads, {NUM_TOKENS} tokens an answer",
                flush=True,
            )
            salt = 1000
            for num_streams in given.streams:
                found: dict[str, list[Load]] = {name: [] for name in given.servers}
                for number in range(given.rounds):
                    # No server is always the first.
                    turn = number % len(servers)
                    for server in servers[turn:] + servers[:turn]:
                        asked = bodies(REQUESTS.get(num_streams, 2 * num_streams), salt)
                        found[server.name].append(answered(server, asked, num_streams))
                    salt += 1000
                table(num_streams, found)


def answered(server: Server, asked: Sequence[dict[str, Any]], num_streams: int) -> Load:
    """Ask a server, which alone has the machine."""
    with server.turn():
        return asyncio.run(load(server.base_url, asked, num_streams))


def table(num_streams: int, found: dict[str, list[Load]]) -> None:
    """Print what the servers did with one number of streams: medians, and ratios by round."""
    first, *_ = found
    print(
        f"\n| {num_streams} streams | tokens/s | TTFT p50, ms | TTFT p99, ms | ITL p99, ms | failed"
        f" | tokens/s, {first} / its | TTFT p50, its / {first}'s | TTFT p99, its / {first}'s"
        f" | ITL p99, its / {first}'s |"
    )
    print("|---|--:|--:|--:|--:|---|---|---|---|---|")
    for name, rounds in found.items():
        values = [median(of(one) for one in rounds) for of in MEASURES]
        shown = " | ".join(f"{one:.0f}" for one in values)
        failed = f"{sum(one.num_failed for one in rounds)} of"
        failed += f" {sum(len(one.answers) for one in rounds)}"
        ratios = " |" * len(MEASURES)
        if name != first:
            pairs = [
                [(of(ours), of(its)) for ours, its in zip(found[first], rounds, strict=True)]
                for of in MEASURES
            ]
            turned = [pairs[0], *([(its, ours) for ours, its in one] for one in pairs[1:])]
            ratios = "".join(f" {paired_ratio(one)} |" for one in turned)
        print(f"| {name} | {shown} | {failed} |{ratios}", flush=True)


def paired_ratio(pairs: Sequence[tuple[float, float]]) -> str:
    """Return the geometric mean of ratios, each of one round, with its interval of 90%.

    The interval is Student's of the logarithms; it needs two rounds.
    """
    logs = [math.log(left / right) if left > 0 < right else math.nan for left, right in pairs]
    if any(map(math.isnan, logs)):
        return "a server failed"
    center = mean(logs)
    if len(logs) == 1:
        return f"{math.exp(center):.2f}"
    half = t.ppf(0.95, len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    low, high = math.exp(center - half), math.exp(center + half)
    return f"{math.exp(center):.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()

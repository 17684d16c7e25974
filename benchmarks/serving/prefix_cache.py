"""Time to first token with a cached system prompt: `python benchmarks/serving/prefix_cache.py`.

Time to the first token of a chat with a system prompt of about 1,000 tokens, over HTTP on an idle
server: cold, with a prompt that nobody has sent, and warm, with the same one and another question.
Prints the medians and their ratio, for ours and for llama.cpp's own server.

Usage: prefix_cache.py [--gguf FILE] [--rounds N] [--threads N]
    [--servers NAME ...]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.serving._load import ask
from benchmarks.serving._servers import (
    COMMANDS,
    MODEL,
    NUM_THREADS,
    Setting,
    all_running,
    embedded_gguf,
)

NUM_RULES = 66
"""Sentences of 15 tokens."""


def chat(number: int, question: str) -> dict[str, Any]:
    """Return a request with the system prompt of a number."""
    rules = (f"Rule {number}.{rule}: answer in plain words, politely." for rule in range(NUM_RULES))
    messages = [
        {"role": "system", "content": " ".join(rules)},
        {"role": "user", "content": question},
    ]
    return {"model": MODEL, "messages": messages, "temperature": 0.0, "max_tokens": 4}


def main() -> None:
    """Ask cold and warm in turns and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gguf", type=Path, default=embedded_gguf())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--servers", nargs="+", default=["potstill", "llama-server"], choices=list(COMMANDS)
    )
    parser.add_argument("--threads", type=int, default=NUM_THREADS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        setting = Setting(
            given.gguf, Path(name), num_parallel=4, context_tokens=1536, threads=given.threads
        )
        with all_running(given.servers, setting) as servers:
            found: dict[str, tuple[list[float], list[float]]] = {}
            for number in range(100, 101 + given.rounds):
                for server in servers:
                    cold, warm = found.setdefault(server.name, ([], []))
                    for times, question in ((cold, "Who are you?"), (warm, "What is rain?")):
                        with server.turn():
                            answer = asyncio.run(ask(server.base_url, chat(number, question)))
                        times.append(answer.first_token_seconds)
    print(f"{given.gguf.name}, {setting.threads} threads")
    for name, (cold, warm) in found.items():
        # The first round warms up.
        once, again = 1000 * median(cold[1:]), 1000 * median(warm[1:])
        print(f"{name}: {once:.0f} ms cold, {again:.0f} ms warm: {once / again:.1f}x")


if __name__ == "__main__":
    main()

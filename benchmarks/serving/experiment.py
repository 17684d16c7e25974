"""The latency that an experiment adds for clients: `python benchmarks/serving/experiment.py`.

The latency of whole answers of one model, one client at a time, on one server under five names:
`plain`, the model itself; `no shadow` and `no shadow again`, two experiments without one; `down`,
an experiment whose shadow goes to a teacher that refuses connections; `hangs`, to one that takes
them and never answers. Prints the 50th and 99th percentile of each and their ratios to
`no shadow`, and what became of the shadows. The goal: ratios of 1, as near as `no shadow again`.

Answers have one token, so that they hide as little as possible of what an experiment costs. Each
name is asked several times in a row, in a new order each round: a shadow's work then falls on the
next request of its own name, and a slow moment of the machine on all names alike. The first request
of a row is not counted.

Usage: experiment.py [--gguf FILE] [--seconds S] [--threads N] [--max-tokens N]
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from benchmarks.serving._servers import (
    MODEL,
    NUM_THREADS,
    Setting,
    embedded_gguf,
    potstill,
    running,
)
from potstill.processes import free_port

NAMES = {
    "plain": MODEL,
    "no shadow": "none",
    "no shadow again": "again",
    "down": "down",
    "hangs": "hangs",
}
BASE = "no shadow"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
PERCENTILES = (50, 99)
ROW = 10
"""Requests of one name in a row, beside the first."""


def settings(down_port: int, hanging_port: int) -> dict[str, object]:
    """Return the server's settings beside those of every benchmark."""

    def experiment(teacher: str, share: int) -> str:
        variants = f'student = {{model = "{MODEL}", weight = 1}}'
        variants += f', teacher = {{model = "{teacher}", weight = 0}}'
        shadow = f"{{share = {share}, queue = 10, timeout_seconds = 2}}"
        return f"{{variants = {{{variants}}}, shadow = {shadow}}}"

    ports = {"away": down_port, "silent": hanging_port}
    upstreams = (
        f'{name} = {{base_url = "http://127.0.0.1:{port}/v1"}}' for name, port in ports.items()
    )
    return {
        "upstreams": f"{{{', '.join(upstreams)}}}",
        "experiments.none": experiment("away", 0),
        "experiments.again": experiment("away", 0),
        "experiments.down": experiment("away", 1),
        "experiments.hangs": experiment("silent", 1),
    }


def seconds_of(connection: HTTPConnection, model: str, max_tokens: int) -> float:
    """Send one request; return the seconds of the whole answer."""
    body = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": max_tokens}
    begin = time.perf_counter()
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        raise SystemExit(content.decode())
    return time.perf_counter() - begin


def rows_of(
    connection: HTTPConnection, max_seconds: float, max_tokens: int
) -> dict[str, list[float]]:
    """Send requests for all names in rows, in a new order each round; return their latencies."""
    found: dict[str, list[float]] = {name: [] for name in NAMES}
    order, chance = list(NAMES), random.Random(0)
    end = time.perf_counter() + max_seconds
    while time.perf_counter() < end:
        chance.shuffle(order)
        for name in order:
            seconds = [seconds_of(connection, NAMES[name], max_tokens) for _ in range(1 + ROW)]
            found[name] += seconds[1:]
    return found


def shadow_of(connection: HTTPConnection, name: str) -> dict[str, int]:
    """Return the counts of an experiment's shadow answers."""
    connection.request("GET", f"/v1/experiments/{name}")
    found: dict[str, int] = json.loads(connection.getresponse().read())["shadow"]
    return found


def main() -> None:
    """Ask all names and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gguf", type=Path, default=embedded_gguf())
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--threads", type=int, default=NUM_THREADS)
    parser.add_argument("--max-tokens", type=int, default=1)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        socket.create_server(("127.0.0.1", 0), backlog=512) as hanging,
    ):
        setting = Setting(options.gguf, Path(directory), threads=options.threads)
        port = free_port()
        more = settings(free_port(), hanging.getsockname()[1])
        command = potstill(setting, port, **more)
        with running("potstill", command, port, Path(directory) / "log") as server:
            connection = HTTPConnection(urlsplit(server.base_url).netloc, timeout=60)
            rows_of(connection, 0, options.max_tokens)  # one round to warm up
            found = rows_of(connection, options.seconds, options.max_tokens)
            shadows = {name: shadow_of(connection, name) for name in ("down", "hangs")}
    print(f"{len(found[BASE])} answers of each, of {options.max_tokens} tokens at most")
    base = np.percentile(found[BASE], PERCENTILES)
    for name, values in found.items():
        figures = "   ".join(
            f"p{percentile} {1000 * seconds:6.1f} ms ({seconds / of_base:.3f})"
            for percentile, seconds, of_base in zip(
                PERCENTILES, np.percentile(values, PERCENTILES), base, strict=True
            )
        )
        print(f"{name:15} {figures}   {shadows.get(name, '')}")


if __name__ == "__main__":
    main()

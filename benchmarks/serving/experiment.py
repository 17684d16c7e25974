"""What an experiment costs its clients: `python benchmarks/serving/experiment.py`.

The latency of whole answers of one model, one client at a time, on one server under four names:
`plain`, the model itself; `split`, an experiment without shadow; `down`, one whose shadow goes to a
teacher that refuses connections; `hangs`, to one that takes them and never answers. The names are
asked in turns, so that a slow moment of the machine hits all. Told are the 50th and 95th percentile
of each, their ratios to `plain`, and what became of the shadows. The goal: ratios of 1.

Usage: experiment.py [--gguf FILE] [--rounds N] [--threads N] [--max-tokens N]
"""

from __future__ import annotations

import argparse
import json
import socket
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
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
from compare.answers.endpoint import free_port

NAMES = ("plain", "split", "down", "hangs")
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
WARM_UP_ROUNDS = 3


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
        "experiments.split": experiment("away", 0),
        "experiments.down": experiment("away", 1),
        "experiments.hangs": experiment("silent", 1),
    }


def seconds_of(connection: HTTPConnection, name: str, max_tokens: int) -> float:
    """Ask once; return how long the whole answer took."""
    body: dict[str, Any] = {"model": MODEL if name == "plain" else name, "messages": QUESTION}
    body |= {"temperature": 0, "max_tokens": max_tokens}
    begin = time.perf_counter()
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        raise SystemExit(content.decode())
    return time.perf_counter() - begin


def shadow_of(connection: HTTPConnection, name: str) -> dict[str, int]:
    """Return what became of an experiment's shadows."""
    connection.request("GET", f"/v1/experiments/{name}")
    found: dict[str, int] = json.loads(connection.getresponse().read())["shadow"]
    return found


def main() -> None:
    """Ask all names in turns and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gguf", type=Path, default=embedded_gguf())
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=NUM_THREADS)
    parser.add_argument("--max-tokens", type=int, default=8)
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
            connection = HTTPConnection(urlsplit(server.base_url).netloc, timeout=600)
            found: dict[str, list[float]] = {name: [] for name in NAMES}
            for number in range(WARM_UP_ROUNDS + options.rounds):
                for name in NAMES[number % len(NAMES) :] + NAMES[: number % len(NAMES)]:
                    seconds = seconds_of(connection, name, options.max_tokens)
                    if number >= WARM_UP_ROUNDS:
                        found[name].append(seconds)
            shadows = {name: shadow_of(connection, name) for name in NAMES[1:]}
    plain = np.percentile(found["plain"], [50, 95])
    for name, values in found.items():
        median, high = np.percentile(values, [50, 95])
        print(
            f"{name:6} p50 {1000 * median:7.1f} ms ({median / plain[0]:.3f} of plain)   "
            f"p95 {1000 * high:7.1f} ms ({high / plain[1]:.3f})   {shadows.get(name, '')}"
        )


if __name__ == "__main__":
    main()

"""The cost of the measures against attacks: `python benchmarks/serving/measures.py`.

First the processor time of what is done for each request before it is answered: microseconds to
check a body as JSON, beside those to parse it, and to find a key among a hundred. Then, with
`--against DIRECTORY`, the tokens per second of this version and of a checkout of another one, in
turns. The goal is at least 0.98 of a version without the measures, such as 74a097bf.

Usage: measures.py [--against DIRECTORY] [--gguf FILE] [--rounds N] [--requests N] [--streams N]
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks.serving._load import load
from benchmarks.serving._servers import MODEL, Server, Setting, embedded_gguf, potstill, running
from benchmarks.serving.throughput import paired_ratio
from potstill.processes import free_port
from serve.api.json_body import check_json
from serve.keys import Key, KeyEntry, Keyring

NUM_KEYS, NUM_TOKENS = 100, 32
TEXTS = {
    "a question": "Why is the sky blue? Answer in one sentence.",
    "ten pages": "The quick brown fox jumps over the lazy dog.\n" * 700,
    "emoji": "\N{GRINNING FACE}" * 3000,
}
"""Python's clients escape what is not ASCII, each emoji as two surrogates."""
MAKE_RUN = """
import sys
from pathlib import Path
from benchmarks.serving._servers import run_of
run_of(*map(Path, sys.argv[1:]))
"""


def body_of(text: str) -> dict[str, object]:
    """Return a request for a short answer."""
    messages = [{"role": "user", "content": text}]
    return {"model": MODEL, "messages": messages, "temperature": 0.0, "max_tokens": NUM_TOKENS}


def microseconds(work: Callable[[], object], rounds: int) -> float:
    """Return the median processor time of a call."""
    times = []
    for _ in range(rounds):
        begin = time.process_time_ns()
        work()
        times.append((time.process_time_ns() - begin) / 1000)
    return median(times)


def measure_checks(rounds: int) -> None:
    """Print the time of each check."""
    for name, text in TEXTS.items():
        body = json.dumps(body_of(text)).encode()
        checked = microseconds(lambda body=body: check_json(body), rounds)  # type: ignore[misc]
        parsed = microseconds(lambda body=body: json.loads(body), rounds)  # type: ignore[misc]
        print(f"{name:12s} {len(body):8d} bytes: check {checked:7.0f} us, parse {parsed:7.0f} us")
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(NUM_KEYS)]
    keyring = Keyring([Key(digest, KeyEntry(sha256=digest)) for digest in digests])
    print(f"one of {NUM_KEYS} keys: {microseconds(lambda: keyring.find('50'), rounds):7.0f} us")


def measure_servers(setting: Setting, other: Path, given: argparse.Namespace) -> None:
    """Print the tokens per second of both versions, and their ratio with its interval of 90%."""
    bodies = [body_of(f"Write a story about the number {n}.") for n in range(given.requests)]
    with ExitStack() as stack:
        servers = []
        for name, version in (("this", Path.cwd()), ("other", other)):
            run_dir = setting.directory / name
            _make_run(version, setting.gguf_path, run_dir)
            port = free_port()
            command = ["env", "-C", str(version), *potstill(setting, port, run_dir=run_dir)]
            log_path = setting.directory / f"{name}.log"
            servers.append(stack.enter_context(running(name, command, port, log_path)))
        found = []
        for number in range(given.rounds + 1):
            order = servers if number % 2 else servers[::-1]
            rates = {one.name: _tokens_per_second(one, bodies, given.streams) for one in order}
            if number:  # The first round warms up.
                found.append((rates["this"], rates["other"]))
        this, that = map(median, zip(*found, strict=True))
        print(f"this {this:.1f} tokens/s, other {that:.1f}, ratio {paired_ratio(found)}")


def _make_run(version: Path, gguf_path: Path, run_dir: Path) -> None:
    """Let a version make the run that it serves: older ones do not read newer facts."""
    command = [sys.executable, "-c", MAKE_RUN, str(gguf_path), str(run_dir)]
    subprocess.run(["env", "-u", "PYTHONPATH", *command], cwd=version, check=True)


def _tokens_per_second(
    server: Server, bodies: Sequence[dict[str, object]], num_streams: int
) -> float:
    done = asyncio.run(load(server.base_url, bodies, num_streams))
    assert done.num_failed == 0, f"{server.name}: {done.num_failed} requests failed"
    return done.tokens_per_second


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description="The cost of the measures against attacks.")
    parser.add_argument("--against", type=Path, help="a checkout of another version")
    parser.add_argument("--gguf", type=Path, default=embedded_gguf())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--streams", type=int, default=16)
    given = parser.parse_args()
    measure_checks(given.rounds)
    if given.against is not None:
        with tempfile.TemporaryDirectory() as directory:
            setting = Setting(given.gguf, Path(directory), num_parallel=given.streams)
            measure_servers(setting, given.against.resolve(), given)


if __name__ == "__main__":
    main()

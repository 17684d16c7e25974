"""Four tasks on one base beside four merged files: `python benchmarks/serving/adapters.py`.

One server has a base and four adapters of random weights, the other four files of the base's size,
as merging would make them. They take turns with the same requests, which go to the four models in
turn. Prints the memory of each server's process, loaded and after the load (pages of files counted,
those that processes share in parts), and its tokens per second by concurrent streams.

Usage: adapters.py [--gguf FILE] [--rank N] [--streams 1 4 16] [--rounds N] [--threads N]
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np
from gguf import GGUFReader, GGUFWriter

from benchmarks.serving._load import load
from benchmarks.serving._servers import (
    MODEL,
    NUM_THREADS,
    Server,
    Setting,
    embedded_gguf,
    potstill,
    running,
)
from benchmarks.serving.throughput import NUM_TOKENS, REQUESTS, bodies
from potstill.processes import free_port

NUM_TASKS = 4
ADAPTED = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def write_adapter(base_path: Path, path: Path, rank: int, seed: int) -> None:
    """Write an adapter of a base's linear layers, with small random weights."""
    reader, draws = GGUFReader(base_path), np.random.default_rng(seed)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", rank)
    for tensor in reader.tensors:
        if tensor.name.split(".")[-2] in ADAPTED and len(tensor.shape) == 2:
            num_inputs, num_outputs = map(int, tensor.shape)
            for side, shape in (("a", (rank, num_inputs)), ("b", (num_outputs, rank))):
                weights = draws.normal(0, 0.01, shape).astype(np.float16)
                writer.add_tensor(f"{tensor.name}.lora_{side}", weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def table_of(tables: Mapping[str, Mapping[str, object]]) -> str:
    """Return tables of tables as an inline table of TOML."""
    inner = {
        name: ", ".join(f'{key} = "{value}"' for key, value in table.items())
        for name, table in tables.items()
    }
    return "{" + ", ".join(f"{name} = {{{text}}}" for name, text in inner.items()) + "}"


def commands(setting: Setting, rank: int, ports: tuple[int, int]) -> dict[str, list[str]]:
    """Return the commands of both servers; files are written where they do not exist."""
    adapters, merged = {}, {}
    for number in range(NUM_TASKS):
        path = setting.directory / f"adapter-{number}.gguf"
        write_adapter(setting.gguf_path, path, rank, number)
        adapters[f"task-{number}"] = {"base": MODEL, "path": path}
        merged[f"task-{number}"] = setting.directory / f"merged-{number}.gguf"
        shutil.copyfile(setting.gguf_path, merged[f"task-{number}"])
    files = "{" + ", ".join(f'{name} = "{path}"' for name, path in merged.items()) + "}"
    return {
        "one base": potstill(setting, ports[0], adapters=table_of(adapters)),
        "four files": potstill(setting, ports[1], paths=files),
    }


def megabytes(server: Server) -> float:
    """Return the proportional set size of a server's process."""
    lines = Path(f"/proc/{server.process.pid}/smaps_rollup").read_text().splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith("Pss:"))
    return int(kilobytes) / 1000


def ask(server: Server, num_streams: int, salt: int) -> float:
    """Send a round of requests to the models in turn; return the tokens per second."""
    asked = bodies(REQUESTS[num_streams], salt)
    for number, body in enumerate(asked):
        body["model"] = f"task-{number % NUM_TASKS}"
    done = asyncio.run(load(server.base_url, asked, num_streams))
    if done.num_failed:
        raise SystemExit(f"{server.name}: {done.num_failed} requests failed")
    return done.tokens_per_second


def main() -> None:
    """Let the servers take turns and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gguf", type=Path, default=embedded_gguf())
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=NUM_THREADS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        setting = Setting(given.gguf, Path(name), num_parallel=4, threads=given.threads)
        ports = (free_port(), free_port())
        servers = [
            stack.enter_context(running(title, command, port, setting.directory / f"{port}.log"))
            for port, (title, command) in zip(
                ports, commands(setting, given.rank, ports).items(), strict=True
            )
        ]
        loaded = [megabytes(server) for server in servers]
        rates: dict[int, list[list[float]]] = {}
        for number_of_streams in given.streams:
            rates[number_of_streams] = [[], []]
            for number in range(given.rounds):
                for index in (0, 1) if number % 2 == 0 else (1, 0):
                    salt = 1000 * (number + 1) + 100_000 * number_of_streams
                    rate = ask(servers[index], number_of_streams, salt)
                    rates[number_of_streams][index].append(rate)
        used = [megabytes(server) for server in servers]
    print(
        f"{given.gguf.name}, rank {given.rank}, {given.threads} threads, {NUM_TOKENS} tokens each"
    )
    print("\n| | one base | four files | base / files |\n|---|---|---|---|")
    for title, (one, four) in {"memory, loaded, MB": loaded, "memory, used, MB": used}.items():
        print(f"| {title} | {one:.0f} | {four:.0f} | {one / four:.2f} |")
    for number_of_streams, rounds in rates.items():
        one, four = map(median, rounds)
        title = f"tokens/s, {number_of_streams} streams"
        print(f"| {title} | {one:.1f} | {four:.1f} | {one / four:.2f} |")


if __name__ == "__main__":
    main()

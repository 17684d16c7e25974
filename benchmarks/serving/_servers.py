"""Servers of one GGUF file, ours and its peers, each a process on loopback.

In: a file, how many requests are answered together, a context, a number of threads. Out: base URLs.
Knows nothing of what is asked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError

import psutil

from benchmarks._llama_cpp import CACHE_DIR, built, python_sources
from potstill.models.dequantized import dequantized_checkpoint
from potstill.models.files import find_gguf, find_local_gguf
from potstill.models.named import SMOLLM2_135M
from potstill.processes import end_with_parent, free_port
from potstill.rundir import RunDirectory
from serve.backends.config import VllmConfig
from serve.backends.vllm import MODULE, server_arguments
from tests.fixtures.facts import gguf_facts, gguf_file

MODEL = "student"
NUM_THREADS = len(os.sched_getaffinity(0))
READY_SECONDS = 600
"""vLLM compiles its model first."""
VLLM_CACHE_BYTES = 2 << 30
PEERS_DIR = CACHE_DIR.parent / "peers"
PEERS_PACKAGE = "starlette-context==0.3.6"
"""A package that llama_cpp.server imports and potstill does not need."""
SET_BY_POTSTILL = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables that this process has because it has imported potstill."""


@dataclass(frozen=True)
class Setting:
    """The served file and the limits, the same for every server."""

    gguf_path: Path
    directory: Path
    """For logs and settings."""
    num_parallel: int = 64
    """Sequences that a server may decode together."""
    context_tokens: int = 512
    """Of one request."""
    threads: int = NUM_THREADS


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    name: str
    base_url: str
    process: subprocess.Popen[bytes]

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let a suspended server run, and suspend it again."""
        self.resume()
        yield
        self.suspend()

    def suspend(self) -> None:
        """Stop its processes until `resume`; idle ones of vLLM use a core and a half."""
        for process in self._processes():
            process.suspend()

    def resume(self) -> None:
        """Let its processes go on."""
        for process in self._processes():
            process.resume()

    def _processes(self) -> list[psutil.Process]:
        if self.process.poll() is not None:
            return []
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]


def clean_environment() -> dict[str, str]:
    """Return the environment without what potstill has set: a child is to have its own defaults."""
    return {name: text for name, text in os.environ.items() if name not in SET_BY_POTSTILL}


def embedded_gguf() -> Path:
    """Return the GGUF file that every installation has: SmolLM2-135M-Instruct in Q4_1."""
    return find_local_gguf(SMOLLM2_135M.name)


def run_of(gguf_path: Path, root: Path) -> Path:
    """Make a run whose only model is a file, under the names `student` and its own."""
    run_directory = RunDirectory(root)
    session = run_directory.open_stage("gguf", {})
    (session.dir / gguf_path.name).symlink_to(gguf_path.resolve())
    file = gguf_file(gguf_path.stem, file=gguf_path.name, role="student")
    session.finish(facts=gguf_facts(file))
    return root


def potstill(
    setting: Setting, port: int, *, run_dir: Path | None = None, **more: object
) -> list[str]:
    """Return the command of our server.

    Args:
        run_dir: The run that is served; None: one that has the setting's file alone.
    """
    if run_dir is None:
        run_dir = setting.directory / "run"
        if not run_dir.exists():
            run_of(setting.gguf_path, run_dir)
    settings = {
        "port": port,
        "models": f'["{MODEL}"]',
        "context_tokens": setting.context_tokens,
        "max_parallel": setting.num_parallel,
        "threads": setting.threads,
    } | more
    flags = [f"--set=serve.{name}={value}" for name, value in settings.items()]
    return [sys.executable, "-m", "potstill", "serve", str(run_dir), *flags]


def llama_server(setting: Setting, port: int) -> list[str]:
    """Return the command of llama.cpp's own server, of the version that llama-cpp-python has."""
    options = {
        "--model": setting.gguf_path,
        "--alias": MODEL,
        "--port": port,
        "--threads": setting.threads,
        "--parallel": setting.num_parallel,
        "--ctx-size": setting.num_parallel * setting.context_tokens,
    }
    return [str(built("llama-server")), *(str(part) for pair in options.items() for part in pair)]


def examples_server(setting: Setting, port: int) -> list[str]:
    """Return the command of llama-cpp-python's example with batches; its README's batch size."""
    config = {
        "server": {"host": "127.0.0.1", "port": port},
        "model": {
            "path": str(setting.gguf_path),
            "alias": MODEL,
            "n_ctx": setting.num_parallel * setting.context_tokens,
            "n_seq_max": setting.num_parallel,
            "n_batch": 512,
            "n_ubatch": 512,
            "threads": setting.threads,
            "threads_batch": setting.threads,
            "kv_unified": True,
            "store_logits": False,
        },
    }
    path = setting.directory / "examples.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return [sys.executable, str(python_sources() / "examples/server/server.py"), "-C", str(path)]


def llama_cpp_server(setting: Setting, port: int, *, interrupts: bool = False) -> list[str]:
    """Return the command of llama-cpp-python's packaged server.

    Args:
        interrupts: Its default: a new request ends the stream under way.
    """
    options = {
        "--model": setting.gguf_path,
        "--model_alias": MODEL,
        "--host": "127.0.0.1",
        "--port": port,
        "--n_ctx": setting.context_tokens,
        "--n_threads": setting.threads,
        "--n_threads_batch": setting.threads,
        "--interrupt_requests": interrupts,
    }
    arguments = [str(part) for pair in options.items() for part in pair]
    return [sys.executable, "-m", "llama_cpp.server", *arguments]


def vllm_server(setting: Setting, port: int) -> list[str]:
    """Return the command of vLLM's server for the file's weights, in bfloat16.

    It gets as many threads as the others; by itself it takes one less.
    """
    threads = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": setting.threads}
    options = ("--dtype=bfloat16", f"--kv-cache-memory-bytes={VLLM_CACHE_BYTES}")
    arguments = server_arguments(
        MODEL,
        dequantized_checkpoint(find_gguf(str(setting.gguf_path))),
        VllmConfig(options=options),
        port=port,
        context_tokens=setting.context_tokens,
        max_parallel=setting.num_parallel,
        sampling={},
    )
    settings = [f"{name}={value}" for name, value in threads.items()]
    return ["env", *settings, sys.executable, "-m", MODULE, *arguments]


COMMANDS: dict[str, Callable[[Setting, int], list[str]]] = {
    "potstill": potstill,
    "llama-server": llama_server,
    "examples/server": examples_server,
    "llama_cpp.server": llama_cpp_server,
    "llama_cpp.server as it comes": lambda setting, port: llama_cpp_server(
        setting, port, interrupts=True
    ),
    "vLLM": vllm_server,
}


@contextmanager
def running(
    name: str, command: Sequence[str], port: int, log_path: Path, key: str | None = None
) -> Iterator[Server]:
    """Start a server, yield it when it lists its models, end it afterwards.

    Args:
        key: What our server is to ask for.
    """
    environment = clean_environment() | {
        "PYTHONPATH": str(PEERS_DIR),
        "POTSTILL_API_KEY": key or "",
    }
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            preexec_fn=end_with_parent(),
        )
    server = Server(name, f"http://127.0.0.1:{port}/v1", process)
    try:
        _wait_until_ready(process, f"{server.base_url}/models", log_path)
        yield server
    finally:
        server.resume()
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def all_running(names: Sequence[str], setting: Setting) -> Iterator[list[Server]]:
    """Start servers; each is suspended until its turn, so that it has the machine to itself."""
    if any(name.startswith("llama_cpp") for name in names):
        _install_what_peers_import()
    with ExitStack() as stack:
        servers = []
        for number, name in enumerate(names):
            port = free_port()
            command = COMMANDS[name](setting, port)
            log_path = setting.directory / f"{number}.log"
            servers.append(stack.enter_context(running(name, command, port, log_path)))
            servers[-1].suspend()
        yield servers


def _install_what_peers_import() -> None:
    if not PEERS_DIR.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--target", str(PEERS_DIR), PEERS_PACKAGE], check=True)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log_path: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError as error:
            if isinstance(error, HTTPError) and error.code == 401:
                return  # it is ready, and asks for its key
            time.sleep(0.2)
    raise SystemExit(
        f"{process.args} is not ready:\n{log_path.read_text(errors='replace')[-4000:]}"
    )

"""Other projects' tests and clients, and the servers that they test.

Everything comes from the package indexes, by pip and npm, once, into `.cache/conformance`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.fixtures.served import Server, run_of_gguf
from tests.fixtures.tiny_gguf import smollm2_path, write_tiny_gguf

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "conformance"


def run(
    *command: str | Path,
    cwd: Path | None = None,
    expected: Container[int] = (0,),
    **environment: str,
) -> str:
    """Run a program; return what it prints, or fail with it if it ends in another way."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode in expected, done.stdout
    return done.stdout


def environment(requirements: Path, *more: str) -> Path:
    """Return the interpreter of an environment with these packages, which is made once."""
    packages = [*requirements.read_text().split("\n"), *more]
    digest = hashlib.sha256("\n".join([sys.version, *packages]).encode()).hexdigest()[:12]
    directory = CACHE / f"venv-{digest}"
    python = directory / "bin" / "python"
    if not (directory / "ready").is_file():
        run(sys.executable, "-m", "venv", "--clear", "--without-pip", directory)
        uv = Path(sys.executable).with_name("uv")
        run(uv, "pip", "install", "--quiet", "--python", python, "-r", requirements, *more)
        (directory / "ready").touch()
    return python


@pytest.fixture(scope="session")
def python() -> Path:
    """The interpreter of an environment with other people's clients."""
    return environment(REQUIREMENTS, f"openai=={version('openai')}")


@pytest.fixture(scope="session")
def older_python() -> Path:
    """The same for clients that need an older openai."""
    return environment(REQUIREMENTS.with_name("requirements-openai-2.txt"))


@pytest.fixture(scope="session")
def sources() -> Callable[[str], Path]:
    """Return a function that finds the source distribution of an installed package."""

    def find(package: str) -> Path:
        name = f"{package.replace('-', '_')}-{version(package)}"
        if not (CACHE / name).is_dir():
            CACHE.mkdir(parents=True, exist_ok=True)
            wanted = f"{package}=={version(package)}"
            options = ["--quiet", "--no-deps", "--no-binary", package, "--dest", CACHE]
            run(sys.executable, "-m", "pip", "download", *options, wanted)
            with tarfile.open(CACHE / f"{name}.tar.gz") as archive:
                archive.extractall(CACHE, filter="data")
        return CACHE / name

    return find


@pytest.fixture(scope="session")
def node_packages() -> Callable[..., Path]:
    """Return a function that installs packages for Node; returns the directory for scripts."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node is not installed: its openai client is not tried")

    def install(*packages: str) -> Path:
        directory = CACHE / "node" / "-".join(packages).replace("/", "_")
        if not (directory / "node_modules").is_dir():
            directory.mkdir(parents=True, exist_ok=True)
            options = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefix", directory]
            run("npm", "install", "--silent", *options, *packages)
        return directory

    return install


@dataclass(frozen=True)
class Outcomes:
    """How the tests of a suite ended, by name."""

    passed: frozenset[str]
    failed: dict[str, str]
    skipped: frozenset[str]


@pytest.fixture(scope="session")
def run_suite(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Outcomes]:
    """Return a function that runs other people's tests in their environment."""

    def run_tests(directory: Path, *arguments: str, **environment: str) -> Outcomes:
        report = tmp_path_factory.mktemp("suite") / "report.xml"
        options = [
            "-q",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
            "-o",
            "asyncio_mode=auto",
        ]
        command = [python, "-m", "pytest", *options, *arguments]
        # 1 is what pytest ends with when tests have failed.
        run(*command, cwd=directory, expected=(0, 1), **environment)
        passed, failed, skipped = set(), {}, set()
        for case in ET.parse(report).iter("testcase"):
            name = case.get("name", "")
            if (problem := case.find("failure")) is not None or (
                problem := case.find("error")
            ) is not None:
                failed[name] = problem.get("message", "")
            elif case.find("skipped") is not None:
                skipped.add(name)
            else:
                passed.add(name)
        return Outcomes(frozenset(passed), failed, frozenset(skipped))

    return run_tests


@pytest.fixture(scope="session")
def tiny_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Server]]:
    """Return a function that serves a random model as llama.cpp's tests start their own server.

    It takes the tokens of one request's context.
    """
    directory = tmp_path_factory.mktemp("tiny")
    write_tiny_gguf(directory / "tiny.gguf")
    run_directory = run_of_gguf(directory / "run", directory / "tiny.gguf")
    servers: dict[int, Server] = {}

    def serve(context_tokens: int) -> Server:
        if context_tokens not in servers:
            servers[context_tokens] = Server(
                run_directory,
                directory / f"log-{context_tokens}",
                key=None,
                context_tokens=context_tokens,
                max_parallel=2,
                fallback_model="student",
                sampling={"temperature": 0.8, "seed": 42},
            )
        return servers[context_tokens]

    yield serve
    for server in servers.values():
        server.stop()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """SmolLM2-135M-Instruct."""
    directory = tmp_path_factory.mktemp("real")
    server = Server(
        run_of_gguf(directory / "run", smollm2_path()),
        directory / "log",
        key=None,
        context_tokens=1024,
        max_parallel=4,
        fallback_model="student",
    )
    yield server
    server.stop()

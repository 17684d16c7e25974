"""llama.cpp's own tools, of the version that potstill runs.

In: a tool's name. Out: its program, built once from the sources that are in llama-cpp-python's
source distribution, and kept in the repository's cache. Knows nothing of what the tool does.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

from potstill.processor import has_amx

CACHE_DIR = Path(__file__).resolve().parents[1] / ".cache" / "llama.cpp"
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "GGML_NATIVE": "ON",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_OPENSSL": "OFF",
}
NO_TILES = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
"""llama.cpp crashes on Intel's matrix tiles, see `has_amx`; potstill does not use them either."""


def built(target: str) -> Path:
    """Return a tool's program, for example `llama-quantize`; the first call takes minutes.

    It needs cmake, ninja and a C++ compiler, and pip to fetch the sources.
    """
    CACHE_DIR.mkdir(parents=True, exist_ok=True)
    with (CACHE_DIR / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _built(target)


def _built(target: str) -> Path:
    build_dir = CACHE_DIR / "build"
    program = build_dir / "bin" / target
    if program.is_file():
        return program
    if not (build_dir / "build.ninja").is_file():
        options = dict(OPTIONS)
        if has_amx():
            options |= {"CMAKE_C_FLAGS": NO_TILES, "CMAKE_CXX_FLAGS": NO_TILES}
        settings = [f"-D{name}={value}" for name, value in options.items()]
        _run(
            "cmake", "-G", "Ninja", "-S", str(llama_cpp_sources()), "-B", str(build_dir), *settings
        )
    num_jobs = len(os.sched_getaffinity(0))
    _run("cmake", "--build", str(build_dir), "--target", target, "--parallel", str(num_jobs))
    return program


def llama_cpp_sources() -> Path:
    """Return llama.cpp's source tree, fetched if it is not there."""
    return python_sources() / "vendor" / "llama.cpp"


def python_sources() -> Path:
    """Return llama-cpp-python's source distribution, fetched if it is not there."""
    number = version("llama-cpp-python")
    package = f"llama_cpp_python-{number}"
    sources = CACHE_DIR / package
    if not sources.is_dir():
        CACHE_DIR.mkdir(parents=True, exist_ok=True)
        wanted = f"llama-cpp-python=={number}"
        options = ["--quiet", "--no-deps", "--no-binary", "llama-cpp-python"]
        _run(sys.executable, "-m", "pip", "download", *options, "-d", str(CACHE_DIR), wanted)
        with tarfile.open(CACHE_DIR / f"{package}.tar.gz") as archive:
            archive.extractall(CACHE_DIR, filter="data")
    return sources


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

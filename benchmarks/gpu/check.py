"""What a GPU must show: `scripts/gpu_check`, under eight minutes on an H100.

From a checkout, with torch, transformers and what the first row names as missing. Prints a table:
exactness, time and memory of the loss; a training step of random models; and the project's tests of
training in processes, resuming, quantized training and conversion, which take the GPU they find.
Not run yet: docs/how-to/gpu.md has what is known. Ends with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu._table import FORMAT, Check, Row, missing_packages, run

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS, TEST_SECONDS, MOST_TEST_SECONDS = 450.0, 30.0, 100.0
"""Of all checks; about what a file of tests takes; and when one that hangs is stopped."""
WHEELS_PATH = Path(__file__).with_name("wheels.txt")
CORE = ("torch", "transformers", "numpy", "pydantic", "tomli_w", "rich")
"""What potstill's losses and models import."""
OF_TESTS = ("pytest", "datasets", "trl", "peft", "accelerate", "pyarrow", "llama_cpp", "gguf")
OF_PEERS = ("trl", "liger_kernel")
TESTS = (
    "tests/integration/test_trainer.py",
    "tests/integration/test_train_processes.py",
    "tests/integration/test_quantization_aware.py",
    "tests/integration/test_conversion.py",
)


def missing_wheels() -> list[str]:
    """Return the packages of `wheels.txt`, and potstill itself, that are not installed."""
    lines = WHEELS_PATH.read_text(encoding="utf-8").splitlines()
    names = [line.partition("==")[0] for line in lines if not line.startswith("#")]
    installed = {one.name.lower().replace("_", "-") for one in metadata.distributions()}
    return [name for name in ["potstill", *names] if name not in installed]


def packages() -> Iterator[Row]:
    """Name what is not installed."""
    wheels = missing_wheels()
    yield Row(
        "wheels of scripts/gpu_pack", f"missing: {', '.join(wheels)}" if wheels else "all here"
    )
    for name, modules in (("the loss and steps", CORE), ("tests", OF_TESTS), ("peers", OF_PEERS)):
        absent = missing_packages(modules)
        yield Row(f"packages for {name}", f"missing: {', '.join(absent)}" if absent else "all here")


def trainer_rows(device: str, *sizes: Any) -> Iterator[Row]:  # noqa: ANN401
    """Measure the trainer, which needs packages that the other checks do not."""
    from benchmarks.gpu._trainer import training

    yield from training(device, *sizes)


def project_tests(path: str) -> Iterator[Row]:
    """Run a file of the project's own tests of training, in a process of its own."""
    free_memory()
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not nightly", "-p", "no:cacheprovider"]
    with tempfile.TemporaryFile("w+") as output:
        # In a session of its own, so that its processes of training end with it.
        process = subprocess.Popen(
            [*command, path], cwd=ROOT, stdout=output, stderr=output, start_new_session=True
        )
        code: int | None = None
        try:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(MOST_TEST_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        output.seek(0)
        lines = output.read().strip().splitlines() or ["nothing printed"]
    failed = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    for line in failed:
        yield Row(line.split(" - ")[0].rpartition("::")[2], line.partition(" - ")[2][:200])
    stopped = f"stopped after {MOST_TEST_SECONDS:.0f} s"
    found = stopped if code is None else lines[-1].strip("= ")[:60]
    yield Row(Path(path).stem, found, "all pass", code == 0)


def free_memory() -> None:
    """Give the GPU's memory back that earlier checks left reserved, for processes that share it."""
    if (torch := sys.modules.get("torch")) is not None:
        gc.collect()
        torch.cuda.empty_cache()


def checks(device: str, *, small: bool) -> list[Check]:
    """Return the checks in their order; small ones take seconds on a CPU."""
    if missing_packages(CORE):
        return [Check("loss and steps", packages, CORE)]
    from benchmarks.gpu._loss import Sizes, cost, exactness
    from benchmarks.gpu._step import HALF_BILLION, ONE_BILLION, Model, steps

    if small:
        peers = ("potstill", "full logits")  # Others take long to import.
        sizes = Sizes((1000,), 32, 16, (32, 64), top_k=8, rounds=1, peers=peers)
        tiny = Model("tiny", 32, 2, 64, 4, 2, vocab_size=1300, rows=2, length=32, conversation=16)
        return [
            Check("exactness", lambda: exactness(device, sizes), seconds=0.0),
            Check("cost of the loss", lambda: cost(device, sizes), seconds=0.0),
            Check("steps", lambda: steps(device, tiny, top_k=8, rounds=1), seconds=0.0),
            Check("trainer", lambda: trainer_rows(device, tiny, 8, 1), OF_TESTS, 0.0),
        ]
    return [
        Check("exactness", lambda: exactness(device, Sizes())),
        Check("cost of the loss", lambda: cost(device, Sizes())),
        Check("steps of 0.5B", lambda: steps(device, HALF_BILLION), seconds=30.0),
        Check("steps of 1.5B", lambda: steps(device, ONE_BILLION), seconds=40.0),
        Check("trainer, 0.5B", lambda: trainer_rows(device, HALF_BILLION), OF_TESTS, 40.0),
        *[Check(path, partial(project_tests, path), OF_TESTS, TEST_SECONDS) for path in TESTS],
    ]


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="tiny sizes, for a CPU")
    small = parser.parse_args(arguments).small
    device = "cpu"
    if find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            device = "cuda"
            print(torch.cuda.get_device_name(), f"torch {torch.__version__}")
    if device == "cpu" and not small:
        print("error: no GPU\n  hint: --small runs tiny sizes on a CPU", file=sys.stderr)
        return 1
    print(FORMAT.format("check", "value", "target", ""))
    missed = False
    try:
        found = checks(device, small=small)
    except ModuleNotFoundError as error:  # A package that one of `CORE` needs.
        found = [Check("loss and steps", packages, (str(error.name),))]
    for row in run([Check("packages", packages, seconds=0.0), *found], LIMIT_SECONDS):
        print(row, flush=True)
        missed |= row.good is False
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())

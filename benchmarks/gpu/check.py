"""What a GPU must show: `scripts/gpu_check`, under eight minutes on an H100.

From a checkout, with torch, transformers and what the first row names as missing. Prints a table:
exactness, time and memory of the loss; a training step of random models; and the project's tests of
training in processes, resuming, quantized training and conversion, which take the GPU they find.
Not run yet: docs/how-to/gpu.md has what is known. Ends with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu._table import FORMAT, Check, Row, missing_packages, run

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS, TESTS_SECONDS = 460.0, 150.0
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


def packages() -> Iterator[Row]:
    """Name what is not installed."""
    for name, modules in (("the loss and steps", CORE), ("tests", OF_TESTS), ("peers", OF_PEERS)):
        absent = missing_packages(modules)
        yield Row(f"packages for {name}", f"missing: {', '.join(absent)}" if absent else "all here")


def tests() -> Iterator[Row]:
    """Run the project's own tests of training, one file after another."""
    for path in TESTS:
        command = [sys.executable, "-m", "pytest", "-q", "-x", path]
        command += ["-p", "no:cacheprovider", "-m", "not nightly"]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=TESTS_SECONDS, check=False
        )
        last = (done.stdout.strip().splitlines() or ["nothing printed"])[-1].strip("= ")
        yield Row(Path(path).stem, last[:60], "all pass", done.returncode == 0)


def checks(device: str, *, small: bool) -> list[Check]:
    """Return the checks in their order; small ones take seconds on a CPU."""
    if missing_packages(CORE):
        return [Check("loss and steps", packages, CORE)]
    from benchmarks.gpu._loss import Sizes, cost, exactness
    from benchmarks.gpu._step import HALF_BILLION, ONE_BILLION, Model, steps

    if small:
        peers = ("potstill", "full logits")  # Others take long to import.
        sizes = Sizes((1000,), 32, 16, (32, 64), top_k=8, rounds=1, peers=peers)
        tiny = Model("tiny", 32, 2, 64, 4, 2, vocab_size=300, rows=2, length=32, conversation=16)
        return [
            Check("exactness", lambda: exactness(device, sizes), seconds=0.0),
            Check("cost of the loss", lambda: cost(device, sizes), seconds=0.0),
            Check("steps", lambda: steps(device, tiny, top_k=8, rounds=1), seconds=0.0),
        ]
    return [
        Check("exactness", lambda: exactness(device, Sizes())),
        Check("cost of the loss", lambda: cost(device, Sizes())),
        Check("steps of 0.5B", lambda: steps(device, HALF_BILLION), seconds=30.0),
        Check("steps of 1.5B", lambda: steps(device, ONE_BILLION), seconds=40.0),
        Check("tests", tests, OF_TESTS, TESTS_SECONDS),
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
    for row in run([Check("packages", packages), *checks(device, small=small)], LIMIT_SECONDS):
        print(row, flush=True)
        missed |= row.good is False
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())

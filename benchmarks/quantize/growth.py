"""How conversion, quantization and verification grow: `growth.py [SCALE ...] [--steps STEP ...]`.

Seconds and peak memory for SmolLM2-135M-Instruct and for random models of the same width with
SCALE times its layers (1 2 4), each step in a process of its own. Memory is that of the process and
of those that it starts, above what its libraries and the tokenizer take: what is its own
(anonymous), which must not grow with the layers where it works tensor by tensor, and what is mapped
from files, which the system may take back at any time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from potstill.processes import end_with_parent

SCALES = (1, 2, 4)
NUM_THREADS = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
NUM_CHUNKS, CHUNK_TOKENS = 2, 129
GGUF_TYPE: Literal["Q4_K_M"] = "Q4_K_M"
WATCH_SECONDS = 0.003


@dataclass(frozen=True)
class Memory:
    """Bytes of a process and its children."""

    anonymous: int
    mapped: int


def memory_of(pid: int) -> Memory:
    """Return what a process and its children take now; nothing of those that have ended."""
    anonymous = mapped = 0
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return Memory(0, 0)
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "RssAnon":
            anonymous = 1024 * int(value.split()[0])
        elif name == "RssFile":
            mapped = 1024 * int(value.split()[0])
    parts = [memory_of(int(child)) for child in children.split()]
    return Memory(
        anonymous + sum(one.anonymous for one in parts), mapped + sum(one.mapped for one in parts)
    )


def make_checkpoint(source: Path, target: Path, scale: int) -> None:
    """Save a random model of `scale` times the layers, with the source's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(source)
    config.num_hidden_layers *= scale
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(target)
    for path in source.iterdir():
        if "token" in path.name or path.suffix == ".jinja":
            shutil.copy(path, target)


def _opened(checkpoint_dir: Path) -> tuple[Any, Any]:
    """Return a checkpoint and its tokenizer, all libraries loaded."""
    import torch  # noqa: F401
    from transformers import AutoTokenizer

    from quantize.conversion.checkpoint import Checkpoint

    return Checkpoint(checkpoint_dir), AutoTokenizer.from_pretrained(checkpoint_dir)


def convert(checkpoint_dir: Path, directory: Path) -> Iterator[None]:
    """Write the F16 file, in this process."""
    from quantize.conversion.convert import convert as run
    from quantize.conversion.sources import converter_dir

    _opened(checkpoint_dir)
    request = {
        "sources": converter_dir(),
        "checkpoint_dir": checkpoint_dir,
        "path": directory / "F16.gguf",
        "base_type": "F16",
        "name": "benchmark",
    }
    yield
    run({key: str(value) for key, value in request.items()})


def quantize(_: Path, directory: Path) -> Iterator[None]:
    """Write the quantized file."""
    from quantize.quantization.quantize import quantize as make

    source, target = directory / "F16.gguf", directory / f"{GGUF_TYPE}.gguf"
    yield
    make(source, target, GGUF_TYPE, NUM_THREADS)


def _held_out(vocab_size: int):  # noqa: ANN202
    import numpy as np

    from quantize.verification.reference import HeldOut

    ids = np.random.default_rng(0).integers(vocab_size, size=(NUM_CHUNKS, CHUNK_TOKENS)).tolist()
    sequences = [{"token_ids": one[:-1], "start": 0, "target_ids": one[1:]} for one in ids]
    return HeldOut([], sequences, NUM_CHUNKS * (CHUNK_TOKENS - 1))


def reference(checkpoint_dir: Path, directory: Path) -> Iterator[None]:
    """Compute the checkpoint's distributions, in float32."""
    from quantize.verification.reference import write_reference_logprobs

    checkpoint, _ = _opened(checkpoint_dir)
    held_out, path = _held_out(checkpoint.config.vocab_size), directory / "logprobs.npy"
    yield
    write_reference_logprobs(checkpoint_dir, held_out, path, label="benchmark's")


def verify(checkpoint_dir: Path, directory: Path) -> Iterator[None]:
    """Verify the quantized file as the stage does: load it, tokenize, measure it."""
    from quantize.verification.expected import read_expected
    from quantize.verification.verify import verify_file

    checkpoint, tokenizer = _opened(checkpoint_dir)
    vocab_size = checkpoint.config.vocab_size
    expected = read_expected(tokenizer, checkpoint_dir, vocab_size, [])
    yield
    verify_file(
        directory / f"{GGUF_TYPE}.gguf",
        expected,
        _held_out(vocab_size),
        directory / "logprobs.npy",
        file_type=GGUF_TYPE,
        kl_bound_nats=float("inf"),
        num_threads=NUM_THREADS,
    )


STEPS: dict[str, Callable[[Path, Path], Iterator[None]]] = {
    "convert": convert,
    "quantize": quantize,
    "reference": reference,
    "verify": verify,
}


def work(name: str, checkpoint_dir: Path, directory: Path) -> None:
    """Do one step in this process, after the signal that it is watched."""
    step = STEPS[name](checkpoint_dir, directory)
    next(step)
    print("ready", flush=True)
    sys.stdin.readline()
    next(step, None)


def measure(name: str, checkpoint_dir: Path, directory: Path) -> tuple[float, Memory]:
    """Run one step in a process of its own; return seconds and both peaks."""
    command = [sys.executable, __file__, name, str(checkpoint_dir), str(directory)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, preexec_fn=end_with_parent(), **pipes) as child:
        child.stdout.readline()
        before, start = memory_of(child.pid), time.perf_counter()
        child.stdin.write("go\n")
        child.stdin.flush()
        anonymous = mapped = 0
        while child.poll() is None:
            now = memory_of(child.pid)
            anonymous, mapped = max(anonymous, now.anonymous), max(mapped, now.mapped)
            time.sleep(WATCH_SECONDS)
        seconds = time.perf_counter() - start
    if child.returncode:
        raise SystemExit(f"{name} failed")
    return seconds, Memory(anonymous - before.anonymous, mapped - before.mapped)


def embedded_teacher() -> Path:
    """Return the checkpoint of SmolLM2-135M-Instruct."""
    from potstill.checkpoints import find_checkpoint
    from potstill.models.named import SMOLLM2_135M

    return find_checkpoint(SMOLLM2_135M.name)


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] and sys.argv[1] in STEPS:
        work(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("scales", type=int, nargs="*", default=SCALES)
    parser.add_argument(
        "--steps", nargs="*", default=list(STEPS), help="each needs those before it"
    )
    arguments = parser.parse_args()
    source = embedded_teacher()
    for scale in arguments.scales:
        with tempfile.TemporaryDirectory() as name:
            directory, checkpoint_dir = Path(name), source
            if scale > 1:
                checkpoint_dir = directory / "checkpoint"
                make_checkpoint(source, checkpoint_dir, scale)
            print(f"{scale} times the layers")
            for step in arguments.steps:
                seconds, peak = measure(step, checkpoint_dir, directory)
                print(
                    f"  {step:10} {seconds:6.1f} s  {peak.anonymous / 1e6:6.0f} MB its own "
                    f"{peak.mapped / 1e6:6.0f} MB mapped",
                    flush=True,
                )
            for path in sorted(directory.glob("*.gguf")):
                print(f"  {path.name} {path.stat().st_size / 1e6:,.0f} MB", flush=True)


if __name__ == "__main__":
    main()

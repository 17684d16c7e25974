"""How conversion, quantisation and verification grow: `growth.py [SCALE ...]`.

Seconds and peak memory for SmolLM2-135M-Instruct and for random models of the same width with
SCALE times its layers (1 2 4), each step in a process of its own. The goal is a conversion whose
memory does not grow with the model: one tensor above the largest one. What quantising takes is
llama.cpp's own: the mapped file, of which the system may drop pages, and one tensor's values.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

from potstill.processes import end_with_parent
from quantize.llama import process

SCALES = (1, 2, 4)
NUM_THREADS = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
NUM_CHUNKS, CHUNK_TOKENS = 2, 129
GGUF_TYPE: Literal["Q4_K_M"] = "Q4_K_M"


def status_bytes(key: str) -> int:
    """Return a figure of this process in bytes: VmHWM is the peak, VmRSS what there is now."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


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


def convert(checkpoint_dir: Path, directory: Path) -> None:
    """Write the F16 file."""
    from transformers import AutoTokenizer

    from quantize.conversion.checkpoint import Checkpoint
    from quantize.conversion.convert import write_base_gguf

    checkpoint = Checkpoint(checkpoint_dir)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir)
    write_base_gguf(checkpoint, tokenizer, directory / "F16.gguf", "F16", "benchmark")


def quantise(_: Path, directory: Path) -> None:
    """Write the quantised file."""
    source, target = directory / "F16.gguf", directory / f"{GGUF_TYPE}.gguf"
    process.quantise(source, target, GGUF_TYPE, NUM_THREADS)


def _held_out(vocab_size: int):  # noqa: ANN202
    import numpy as np

    from quantize.verification.reference import HeldOut

    ids = np.random.default_rng(0).integers(vocab_size, size=(NUM_CHUNKS, CHUNK_TOKENS)).tolist()
    sequences = [{"token_ids": one[:-1], "start": 0, "target_ids": one[1:]} for one in ids]
    return HeldOut([], sequences, NUM_CHUNKS * (CHUNK_TOKENS - 1))


def reference(checkpoint_dir: Path, directory: Path) -> None:
    """Compute the checkpoint's distributions, in float32."""
    from quantize.conversion.checkpoint import Checkpoint
    from quantize.verification.reference import write_reference_logprobs

    held_out = _held_out(Checkpoint(checkpoint_dir).config.vocab_size)
    path = directory / "logprobs.npy"
    write_reference_logprobs(checkpoint_dir, held_out, path, label="benchmark's")


def verify(checkpoint_dir: Path, directory: Path) -> None:
    """Verify the quantised file: load it, measure it, make every tensor again."""
    from transformers import AutoTokenizer

    from quantize.conversion.checkpoint import Checkpoint
    from quantize.verification.contents import Origin
    from quantize.verification.expected import read_expected
    from quantize.verification.verify import verify_file

    checkpoint = Checkpoint(checkpoint_dir)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir)
    vocab_size = checkpoint.config.vocab_size
    verify_file(
        directory / f"{GGUF_TYPE}.gguf",
        read_expected(tokenizer, checkpoint_dir, vocab_size, []),
        _held_out(vocab_size),
        directory / "logprobs.npy",
        origin=Origin(checkpoint, tokenizer, "benchmark", GGUF_TYPE, "F16"),
        kl_bound_nats=float("inf"),
        num_threads=NUM_THREADS,
    )


STEPS = {
    "convert": convert,
    "quantise": quantise,
    "reference": reference,
    "verify": verify,
}


def work(step: str, checkpoint_dir: Path, directory: Path) -> None:
    """Do one step in this process; print what it took above what its libraries take."""
    import resource

    if step != "quantise":  # its parent must be small: a child's peak begins with its parent's
        import torch  # noqa: F401
        import transformers  # noqa: F401

        from quantize.conversion.checkpoint import Checkpoint

        Checkpoint(checkpoint_dir)
    before, start = status_bytes("VmRSS"), time.perf_counter()
    STEPS[step](checkpoint_dir, directory)
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - start,
                "bytes": status_bytes("VmHWM") - before,
                "child_bytes": child if step == "quantise" else 0,
            }
        )
    )


def measure(step: str, checkpoint_dir: Path, directory: Path) -> dict[str, float]:
    """Run one step in a process of its own."""
    command = [sys.executable, __file__, step, str(checkpoint_dir), str(directory)]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, preexec_fn=end_with_parent()
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def embedded_teacher() -> Path:
    """Return the checkpoint of SmolLM2-135M-Instruct."""
    from generate.config import TeacherConfig
    from generate.embedded import embedded_checkpoint

    return embedded_checkpoint(TeacherConfig().cache_dir.expanduser())


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] and sys.argv[1] in STEPS:
        work(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
        return
    scales = tuple(map(int, sys.argv[1:])) or SCALES
    source, peaks = embedded_teacher(), {}
    for scale in scales:
        with tempfile.TemporaryDirectory() as name:
            directory, checkpoint_dir = Path(name), source
            if scale > 1:
                checkpoint_dir = directory / "checkpoint"
                make_checkpoint(source, checkpoint_dir, scale)
            print(f"{scale} times the layers")
            for step in STEPS:
                took = measure(step, checkpoint_dir, directory)
                peak = took["child_bytes"] or took["bytes"]
                peaks[step, scale] = peak
                print(f"  {step:10} {took['seconds']:6.1f} s  {peak / 1e6:7.0f} MB", flush=True)
            print(f"  F16 file {(directory / 'F16.gguf').stat().st_size / 1e6:,.0f} MB")
    few, many = scales[0], scales[-1]
    for step in STEPS:
        ratio = peaks[step, many] / peaks[step, few]
        print(f"{step}: {ratio:.2f} times the memory for {many} times the layers")


if __name__ == "__main__":
    main()

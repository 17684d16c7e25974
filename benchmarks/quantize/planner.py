"""A mix of types against a stock type of the same size: `python benchmarks/quantize/planner.py`.

The quantize stage makes Q4_K_M of a checkpoint without and with an importance matrix, and the mix
that is planned for the bytes of Q4_K_M. All are measured as the stage measures every file: KL to
the checkpoint in float32 on held-out completion tokens, by llama.cpp. Printed are bytes, bits per
weight, KL with its standard error, and how much of Q4_K_M's KL is left.

The embedded SmolLM2-135M-Instruct comes from a Q4_1 file: its weights lie on that grid, and a
planner that may take Q4_1 finds it at no cost. So its weights are moved by up to half a step of the
grid first, as training moves them; --as-is leaves them.

Usage: planner.py [CHECKPOINT_DIR] [--run RUN] [--types TYPE ...] [--megabytes MB ...] [--as-is]
[--imatrix-tokens N] [--mix-tokens N] [--verification-tokens N]: conversations are the run's;
CHECKPOINT_DIR may be its student; numbers of tokens are the stage's own if not given.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
import time
from pathlib import Path

from potstill.checkpoints import count_parameters, find_checkpoint
from potstill.facts.conversations import ConversationsFacts
from potstill.facts.gguf import GgufFacts, GgufFile
from potstill.models.named import SMOLLM2_135M
from potstill.rundir import RunDirectory
from quantize.config import QuantizeConfig
from quantize.stage import run
from tests.fixtures.facts import student_facts, taken_from

BLOCK = 32
LEVELS = {True: 255, False: 15}
"""Steps of a block's grid in the embedded file: of the embedding (Q8_0), of the rest (Q4_1)."""
TOKENS = ("imatrix_tokens", "mix_tokens", "verification_tokens")


def move_off_the_grid(directory: Path) -> None:
    """Add to each weight uniform noise of up to half a step of its block's grid."""
    import torch
    from safetensors.torch import load_file, save_file

    path = directory / "model.safetensors"
    generator = torch.Generator().manual_seed(0)
    moved = {}
    for name, weights in load_file(path).items():
        moved[name] = weights
        if weights.ndim == 2:
            blocks = weights.float().reshape(-1, BLOCK)
            levels = LEVELS["embed" in name]
            steps = (blocks.amax(1, keepdim=True) - blocks.amin(1, keepdim=True)) / levels
            noise = torch.rand(blocks.shape, generator=generator) - 0.5
            moved[name] = (blocks + noise * steps).reshape(weights.shape).contiguous()
    save_file(moved, path, metadata={"format": "pt"})


def run_of(checkpoint_dir: Path, source: RunDirectory, root: Path) -> RunDirectory:
    """Return a run whose student is the checkpoint."""
    made = RunDirectory(root)
    conversations_dir = source.stage_dir("conversations")
    shutil.copytree(conversations_dir, made.stage_dir("conversations"))
    session = made.open_stage("student", {}, inputs=("conversations",))
    for path in checkpoint_dir.iterdir():
        if path.is_file() and path.name != "manifest.json":
            shutil.copy(path, session.dir)
    known = taken_from(source.facts(ConversationsFacts))
    session.finish(facts=student_facts(**known, num_parameters=count_parameters(checkpoint_dir)))
    return made


def files_of(run_directory: RunDirectory, **settings: object) -> tuple[GgufFile, ...]:
    """Make and measure files, and keep only their facts."""
    config = QuantizeConfig.model_validate({"teacher_types": ()} | settings)
    started = time.monotonic()
    run(config, run_directory)
    files = run_directory.facts(GgufFacts).files
    print(f"{', '.join(file.type for file in files)}: {time.monotonic() - started:.0f} s")
    shutil.rmtree(run_directory.stage_dir("gguf"))
    return files


def report(name: str, file: GgufFile, stock: GgufFile) -> None:
    """Print a line on a file."""
    kl, error = file.kl_to_checkpoint_nats, file.kl_standard_error_nats
    print(
        f"{name:22} {file.bytes / 1e6:8.2f} MB {file.bits_per_weight:6.2f} bits  "
        f"KL {kl:.4f} ± {error:.4f}  {kl / stock.kl_to_checkpoint_nats:5.2f} of plain Q4_K_M's"
    )


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint_dir", type=Path, nargs="?")
    parser.add_argument("--run", type=Path, default=Path("runs/general"))
    parser.add_argument("--types", nargs="*", default=["Q4_K_M"])
    parser.add_argument("--megabytes", type=float, nargs="*", default=[])
    parser.add_argument("--as-is", action="store_true")
    for name in TOKENS:
        default = QuantizeConfig.model_fields[name].default
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    arguments = parser.parse_args()
    tokens = {name: getattr(arguments, name) for name in TOKENS}
    checkpoint_dir = arguments.checkpoint_dir or find_checkpoint(SMOLLM2_135M.name)
    with tempfile.TemporaryDirectory() as name:
        if not arguments.checkpoint_dir and not arguments.as_is:
            moved_dir = Path(name) / "moved"
            shutil.copytree(checkpoint_dir, moved_dir)
            move_off_the_grid(moved_dir)
            checkpoint_dir = moved_dir
        run_directory = run_of(checkpoint_dir, RunDirectory(arguments.run), Path(name) / "run")
        (stock,) = files_of(run_directory, types=("Q4_K_M",), imatrix="never", **tokens)
        size = math.floor(stock.bytes / 1e4) / 100
        sizes = (size, *arguments.megabytes)
        made = files_of(run_directory, types=arguments.types, target_megabytes=sizes, **tokens)
    report("Q4_K_M", stock, stock)
    for file in made:
        label = "mix" if file.mix else "+ imatrix" if file.imatrix else ""
        report(f"{file.type} {label}", file, stock)
    for file in made:
        if file.mix:
            print(f"{file.type}: predicted KL {file.mix.predicted_kl_nats:.4f}")
            for group, types in file.mix.types.items():
                print(f"  {group:12} {', '.join(f'{n} {one}' for one, n in types.items())}")


if __name__ == "__main__":
    main()

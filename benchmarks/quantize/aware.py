"""How much of a quantized file's loss quantization-aware training regains.

A student is made into a file as it is, and once more after it was trained with its weights
quantized. Both files and the unquantized one are run by llama.cpp over the test split; measured is
the KL to the teacher's stored distributions. The share regained is (plain - aware) / (plain -
unquantized). A student may gain by going on learning at all: `--student teacher` cannot, which has
nothing to learn from itself but how to be quantized.

    python benchmarks/quantize/aware.py [RUN] [--student teacher] [--type Q4_0]

Run it where the stages run: RUN must hold finished conversations; its student is taken if it has
one, else the preset general's is trained.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from compare.measurement.fidelity import measure_fidelity
from compare.measurement.heldout import read_held_out
from potstill.config import read_preset
from potstill.facts.conversations import ConversationsFacts
from potstill.facts.shared import Fidelity
from potstill.rundir import RunDirectory
from quantize.config import QuantizeConfig
from quantize.stage import run as quantize
from train.config import TrainConfig
from train.stage import run as train

NOTHING_LEARNT: dict[str, Any] = {"max_steps": 1, "learning_rate": 1e-12}
"""The phase before, which must not change the student."""
WIDE_BOUND_NATS = 5.0


def main() -> None:
    """Make both students and their files, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, default=Path("runs/general"))
    parser.add_argument("--student", choices=("student", "teacher"), default="student")
    parser.add_argument("--type", default="Q4_0")
    parser.add_argument("--steps", type=int, help="default: an epoch")
    parser.add_argument("--conversations", type=int, default=64, help="to measure on")
    parser.add_argument(
        "--work", type=Path, help="a directory to keep; a second call goes on there"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        source = RunDirectory(options.run)
        start_dir = _start(source, options.student, work)
        aware = {"type": options.type, "max_steps": options.steps}
        plain = _files(source, work / "plain", start_dir, options.type)
        trained = _files(source, work / "aware", start_dir, options.type, aware)
        conversations_dir = source.stage_dir("conversations")
        held_out = read_held_out(conversations_dir, options.conversations)
        drawn = source.facts(ConversationsFacts).tokens_are_draws
        measured = {
            name: measure_fidelity(path, held_out, None, lambda: None, drawn=drawn)
            for name, path in {
                "unquantized (F16)": plain / "student-F16.gguf",
                f"plain {options.type}": plain / f"student-{options.type}.gguf",
                f"aware {options.type}": trained / f"student-{options.type}.gguf",
            }.items()
        }
    _print(measured)


def _start(source: RunDirectory, student: str, work: Path) -> Path:
    """Return the checkpoint that the comparison starts from."""
    if student == "teacher":
        return Path(source.facts(ConversationsFacts).teacher.path)
    if source.is_finished("student"):
        return source.stage_dir("student")
    run_directory = _copy(source, work / "start")
    train(TrainConfig.model_validate(read_preset("general")["train"]), run_directory)
    return run_directory.stage_dir("student")


def _files(
    source: RunDirectory,
    root: Path,
    start_dir: Path,
    file_type: str,
    aware: dict[str, Any] | None = None,
) -> Path:
    """Make a student's files, and return their directory."""
    run_directory = _copy(source, root)
    settings = read_preset("general")["train"] | NOTHING_LEARNT
    settings |= {"student": {"checkpoint": str(start_dir)}, "quantization_aware": aware}
    train(TrainConfig.model_validate(settings), run_directory)
    files = {"types": ("F16", file_type), "teacher_types": (), "imatrix": "never"}
    bounds = {"kl_bounds_nats": {file_type: WIDE_BOUND_NATS}}
    quantize(QuantizeConfig.model_validate(files | bounds), run_directory)
    return run_directory.stage_dir("gguf")


def _copy(source: RunDirectory, root: Path) -> RunDirectory:
    run_directory = RunDirectory(root)
    if not run_directory.is_finished("conversations"):
        shutil.copytree(source.stage_dir("conversations"), run_directory.stage_dir("conversations"))
    return run_directory


def _print(measured: dict[str, Fidelity]) -> None:
    print("| file | KL to the teacher (nats) | top-1 |\n|---|--:|--:|")
    kl_nats = []
    for name, fidelity in measured.items():
        assert fidelity.kl_nats is not None
        kl_nats.append(fidelity.kl_nats)
        print(
            f"| {name} | {fidelity.kl_nats:.4f} ± {fidelity.kl_standard_error:.4f} "
            f"| {fidelity.top1_agreement:.3f} |"
        )
    unquantized, plain, aware = kl_nats
    print(f"\nregained: {(plain - aware) / (plain - unquantized):.0%}")


if __name__ == "__main__":
    main()

"""A tiny checkpoint as an unquantized file, with its importance matrix."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from quantize.conversion.checkpoint import Checkpoint
from quantize.conversion.convert import gguf_names, write_base_gguf
from quantize.loading import load_tokenizer
from quantize.quantization.calibration import Calibration
from quantize.quantization.imatrix import write_importance

SEQUENCES = [[7, 300, 12, 900, 44, 3, 71, 5] * 4, [1, 2, 1000, 600, 601, 17, 99] * 4]


@dataclass(frozen=True)
class Made:
    """What the files of a checkpoint are made from."""

    checkpoint: Checkpoint
    base_path: Path
    imatrix_path: Path


@pytest.fixture
def calibration() -> Calibration:
    return Calibration(SEQUENCES)


@pytest.fixture
def make_base(make_checkpoint, calibration, tmp_path):
    """Return a function that converts a random checkpoint and computes its importance matrix."""

    def make(base_type: str = "F16", *, name: str = "checkpoint", **changes: object) -> Made:
        directory = make_checkpoint(name, **changes)
        checkpoint = Checkpoint(directory)
        base_path, imatrix_path = tmp_path / f"{name}.gguf", tmp_path / f"{name}.imatrix.gguf"
        write_base_gguf(checkpoint, load_tokenizer(directory), base_path, base_type, "tiny")
        arch = checkpoint.family.gguf_arch
        names = gguf_names(checkpoint)
        write_importance(directory, names, arch, calibration, imatrix_path, label="tiny")
        return Made(checkpoint, base_path, imatrix_path)

    return make

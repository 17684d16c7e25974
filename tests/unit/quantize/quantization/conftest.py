"""A tiny checkpoint as an unquantized file, with its importance matrix."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from quantize.conversion.checkpoint import Checkpoint
from quantize.conversion.convert import write_base_gguf
from quantize.quantization.calibration import Calibration
from quantize.quantization.imatrix import write_importance

SEQUENCES = [[7, 300, 12, 900, 44, 3, 71, 5] * 4, [1, 2, 1000, 600, 601, 17, 99] * 4]


@dataclass(frozen=True)
class Made:
    """What the files of a checkpoint are made from."""

    checkpoint: Checkpoint
    base_path: Path
    names: dict[str, str]

    @cached_property
    def imatrix_path(self) -> Path:
        path = self.base_path.with_suffix(".imatrix.gguf")
        write_importance(self.base_path, Calibration(SEQUENCES), path, label="tiny", num_threads=1)
        return path


@pytest.fixture
def calibration() -> Calibration:
    return Calibration(SEQUENCES)


@pytest.fixture
def make_base(make_checkpoint, tmp_path):
    """Return a function that converts a random checkpoint with its importance matrix if asked."""

    def make(base_type: str = "F16", *, name: str = "checkpoint", **changes: object) -> Made:
        directory, path = make_checkpoint(name, **changes), tmp_path / f"{name}.gguf"
        names = write_base_gguf(directory, path, base_type, "tiny")
        return Made(Checkpoint(directory), path, names)

    return make

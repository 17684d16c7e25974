"""The tiny checkpoints and runs of the unit tests."""

from tests.fixtures.conversion import shared_converter
from tests.fixtures.disks import tiny_disk
from tests.unit.quantize.conftest import (
    few_candidates,
    make_checkpoint,
    make_run,
    talk,
    tiny_quantize_run,
    tokenizer_dir,
)

__all__ = [
    "few_candidates",
    "make_checkpoint",
    "make_run",
    "shared_converter",
    "talk",
    "tiny_disk",
    "tiny_quantize_run",
    "tokenizer_dir",
]

"""The tiny checkpoints and runs of the unit tests."""

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
    "talk",
    "tiny_quantize_run",
    "tokenizer_dir",
]

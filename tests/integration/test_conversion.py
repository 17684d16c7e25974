"""Tiny models of many families: converted by llama.cpp's converter, verified as by the stage."""

from __future__ import annotations

import numpy as np
import pytest

from potstill.checkpoints import ModelShape
from potstill.schema import Message
from quantize.conversion.convert import write_base_gguf
from quantize.loading import load_tokenizer
from quantize.quantization.file_types import FILE_TYPES, FileTypeName
from quantize.verification.expected import read_expected
from quantize.verification.reference import HeldOut, write_reference_logprobs
from quantize.verification.verify import verify_file
from tests.fixtures.conversion import shared_converter
from tests.fixtures.tiny_checkpoints import NEW_FAMILIES, TINY_FAMILIES, save_tiny_checkpoint

__all__ = ["shared_converter"]

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_TOKENS = 100
FAMILIES = TINY_FAMILIES | NEW_FAMILIES
NIGHTLY = NEW_FAMILIES.keys() - {"qwen3.5 with vision", "lfm2"}
BOUNDS_OF_F16 = ("gemma3n",)
"""llama.cpp rounds the threshold below which Gemma 3n ignores an activation."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=pytest.mark.nightly if one in NIGHTLY else ()) for one in FAMILIES],
)
def test_file_speaks_and_predicts_as_its_checkpoint(name, tmp_path, caplog):
    directory = save_tiny_checkpoint(FAMILIES[name], tmp_path / "checkpoint")
    # transformers 5 saves no such file: it is there because of how the tokenizers are trained.
    (directory / "tokenizer.model").unlink(missing_ok=True)
    path, tokenizer = tmp_path / "model.gguf", load_tokenizer(directory)
    write_base_gguf(directory, path, "F32", name)
    vocab_size = ModelShape.read(directory, with_weights=False).vocab_size
    chats = [[Message(role="user", content=f"What is {n} plus {n}?")] for n in range(3)]
    expected = read_expected(tokenizer, directory, vocab_size, chats)
    assert len(expected.texts) + len(expected.chats) >= 400
    ids = np.random.default_rng(0).integers(7, 900, NUM_TOKENS).tolist()
    sequence = {"token_ids": ids[:-1], "start": 0, "target_ids": ids[1:]}
    held_out = HeldOut(chats, [sequence], NUM_TOKENS - 1)
    logprobs_path = tmp_path / "logprobs.npy"
    write_reference_logprobs(directory, held_out, logprobs_path, label="tiny")
    bounds: FileTypeName = "F16" if name in BOUNDS_OF_F16 else "F32"
    measured = verify_file(
        path,
        expected,
        held_out,
        logprobs_path,
        file_type=bounds,
        kl_bound_nats=FILE_TYPES[bounds].kl_bound_nats,
        num_threads=1,
    )
    assert ("combining marks" in caplog.text) == (name == "ministral3")
    # A few tokens in a hundred may be ties: llama.cpp looks the activations of Gemma and Phi up.
    assert measured.top1_agreement_with_checkpoint >= 1 - 3 / NUM_TOKENS - 1e-3
    assert measured.bits_per_weight == 32.0

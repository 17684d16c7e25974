"""Every architecture that can become GGUF, against llama.cpp's own converter and the checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks._llama_cpp import llama_cpp_sources
from potstill.schema import Message
from quantize.conversion.checkpoint import Checkpoint
from quantize.conversion.convert import write_base_gguf
from quantize.loading import load_tokenizer
from quantize.verification.expected import read_expected
from quantize.verification.reference import HeldOut, write_reference_logprobs
from quantize.verification.verify import verify_file
from tests.fixtures.tiny_checkpoints import (
    PRE_TOKENIZERS,
    TINY_FAMILIES,
    TinyFamily,
    save_tiny_checkpoint,
)

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[2]
CONVERTER = ROOT / "tests" / "fixtures" / "llama_cpp_converter.py"
NUM_TOKENS = 100

NAMES = {
    f"general.{name}"
    for name in ("name", "basename", "finetune", "version", "size_label", "license")
}
"""How a model is called, which llama.cpp's converter guesses from its directory, and its license,
which is in our card."""

ONLY_OURS = {
    # llama.cpp has to guess them where they are missing, mostly rightly.
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
    "vocab_size",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_space_prefix",
    # Without them it assumes a window in five layers of six, and no end of a turn but those it
    # knows by their text.
    "attention.sliding_window_pattern",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
}
ONLY_THEIRS = {
    # Tokens that config.json names and the tokenizer does not, or that no text is generated with.
    "tokenizer.ggml.padding_token_id",
    "tokenizer.ggml.mask_token_id",
    # Of no effect in BPE.
    "tokenizer.ggml.add_sep_token",
    # Of no effect without a scaling.
    "rope.scaling.original_context_length",
}
IN_OTHER_WORDS = {
    # Ranks of the merges; theirs are the trainer's, which stand in the same order.
    "tokenizer.ggml.scores",
    # <unk> is a control token, as it is for the tokenizer.
    "tokenizer.ggml.token_type",
}

MEASURE_PEAK = """
import json, resource, sys
from pathlib import Path
import torch
from transformers import AutoTokenizer
from quantize.conversion.checkpoint import Checkpoint
from quantize.conversion.convert import write_base_gguf
torch.set_num_threads(1)
checkpoint, tokenizer = Checkpoint(Path(sys.argv[1])), AutoTokenizer.from_pretrained(sys.argv[1])
write_base_gguf(checkpoint, tokenizer, Path(sys.argv[2]), "F32", "tiny")
checkpoint, tokenizer = Checkpoint(Path(sys.argv[3])), AutoTokenizer.from_pretrained(sys.argv[3])
peak_kilobytes = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak_kilobytes()
write_base_gguf(checkpoint, tokenizer, Path(sys.argv[4]), "F16", "model")
print(1024 * (peak_kilobytes() - before))
"""


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """A checkpoint of each family and the file we make of it."""
    root = tmp_path_factory.mktemp("families")
    made = {}
    for name, family in TINY_FAMILIES.items():
        directory = save_tiny_checkpoint(family, root / name.replace(" ", "-"))
        path = root / f"{directory.name}.gguf"
        write_base_gguf(Checkpoint(directory), load_tokenizer(directory), path, "F32", name)
        made[name] = directory, path
    return made


@pytest.fixture(scope="module")
def theirs(ours, teacher_dir, tmp_path_factory) -> dict[str, Path]:
    """What llama.cpp's converter makes: of each family, of one in halves, of a real model."""
    sources = llama_cpp_sources()
    root = tmp_path_factory.mktemp("theirs")
    jobs = {
        name: job(directory, "f32", TINY_FAMILIES[name]) for name, (directory, _) in ours.items()
    }
    halved_dir = ours["gemma3"][0]
    jobs |= {one: job(halved_dir, one.lower(), TINY_FAMILIES["gemma3"]) for one in ("F16", "BF16")}
    jobs["teacher"] = job(teacher_dir, "f16")
    paths = {name: root / f"{number}.gguf" for number, name in enumerate(jobs)}
    for name, path in paths.items():
        jobs[name]["file"] = path
    request = json.dumps({"sources": sources, "jobs": list(jobs.values())}, default=str)
    subprocess.run([sys.executable, CONVERTER], input=request, text=True, check=True)
    return paths


def job(checkpoint_dir: Path, file_type: str, family: TinyFamily | None = None) -> dict[str, Any]:
    """Return a job of llama.cpp's converter; it does not recognize a tiny tokenizer."""
    known = family is not None and family.tokens in PRE_TOKENIZERS
    pre = family.tokens if family is not None and known else None
    return {"checkpoint": checkpoint_dir, "type": file_type, "pre": pre}


def tensors(path: Path) -> dict[str, tuple[int, bytes]]:
    from gguf import GGUFReader

    return {one.name: (one.tensor_type, one.data.tobytes()) for one in GGUFReader(path).tensors}


def metadata(path: Path) -> dict[str, Any]:
    """Return a file's keys, those of its architecture without its name."""
    from gguf import GGUFReader

    fields = {
        name: field.contents()
        for name, field in GGUFReader(path).fields.items()
        if not name.startswith("GGUF.")
    }
    prefix = f"{fields['general.architecture']}."
    return {name.removeprefix(prefix): value for name, value in fields.items()}


def refuse_other_metadata(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() - wanted.keys() <= ONLY_OURS | NAMES
    assert wanted.keys() - found.keys() <= ONLY_THEIRS | NAMES
    for key in (found.keys() & wanted.keys()) - NAMES - IN_OTHER_WORDS:
        assert found[key] == wanted[key], key
    others = {
        (found["tokenizer.ggml.tokens"][index], ours, theirs)
        for index, (ours, theirs) in enumerate(
            zip(
                found["tokenizer.ggml.token_type"], wanted["tokenizer.ggml.token_type"], strict=True
            )
        )
        if ours != theirs
    }
    assert others <= {("<unk>", 3, 2)}
    if "tokenizer.ggml.scores" in found:
        scores = np.array([found["tokenizer.ggml.scores"], wanted["tokenizer.ggml.scores"]])
        merged = scores[:, scores[0] > scores[0].min()]
        assert merged.shape[1] > 200
        assert np.array_equal(merged[0].argsort(), merged[1].argsort())


@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_file_is_the_one_that_llama_cpps_converter_makes(name, ours, theirs):
    _, path = ours[name]
    assert tensors(path) == tensors(theirs[name])
    refuse_other_metadata(metadata(path), metadata(theirs[name]))


@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_file_speaks_and_predicts_as_its_checkpoint(name, ours, tmp_path):
    directory, path = ours[name]
    checkpoint, tokenizer = Checkpoint(directory), load_tokenizer(directory)
    vocab_size = checkpoint.config.vocab_size
    chats = [[Message(role="user", content=f"What is {n} plus {n}?")] for n in range(3)]
    expected = read_expected(tokenizer, directory, vocab_size, chats)
    assert len(expected.texts) + len(expected.chats) >= 400
    ids = np.random.default_rng(0).integers(7, 900, NUM_TOKENS).tolist()
    sequence = {"token_ids": ids[:-1], "start": 0, "target_ids": ids[1:]}
    held_out = HeldOut(chats, [sequence], NUM_TOKENS - 1)
    logprobs_path = tmp_path / "logprobs.npy"
    write_reference_logprobs(directory, held_out, logprobs_path, label="tiny")
    measured = verify_file(
        path,
        expected,
        held_out,
        logprobs_path,
        file_type="F32",
        kl_bound_nats=1e-5,
        num_threads=1,
    )
    # One token in a hundred may be a tie: llama.cpp looks the activations of Gemma and Phi up.
    assert measured.top1_agreement_with_checkpoint >= 1 - 1 / NUM_TOKENS - 1e-3
    assert measured.bits_per_weight == 32.0


@pytest.mark.parametrize("base_type", ["F16", "BF16"])
def test_halves_are_rounded_as_llama_cpps_converter_does(base_type, ours, theirs, tmp_path):
    directory, _ = ours["gemma3"]
    path = tmp_path / "ours.gguf"
    write_base_gguf(Checkpoint(directory), load_tokenizer(directory), path, base_type, "gemma3")
    assert tensors(path) == tensors(theirs[base_type])
    refuse_other_metadata(metadata(path), metadata(theirs[base_type]))


def test_real_model_is_converted_alike_with_one_tensor_in_memory(
    teacher_dir, ours, theirs, tmp_path
):
    path = tmp_path / "ours.gguf"
    tiny_dir, _ = ours["llama"]
    arguments = [tiny_dir, tmp_path / "tiny.gguf", teacher_dir, path]
    completed = subprocess.run(
        [sys.executable, "-c", MEASURE_PEAK, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert tensors(path) == tensors(theirs["teacher"])
    refuse_other_metadata(metadata(path), metadata(theirs["teacher"]))
    embedding_bytes = 4 * 49_152 * 576
    # The embedding as it is mapped, in F16, and the header: the model would be five times as large.
    assert int(completed.stdout) < 1.75 * embedding_bytes

"""Our files and figures beside llama.cpp's own: `python benchmarks/quantize/against_llama_cpp.py`.

One model, the same text: F16, Q8_0 and Q4_K_M without and with an importance matrix, made and
measured by potstill, and by llama-quantize, llama-imatrix and llama-perplexity --kl-divergence of
the same version. Prints the figures of both, and whether the quantized tensors are the same, bit
for bit, for the same importance matrix. The peer's reference is an F32 file, its log-probabilities
rounded to 16 bits; ours is the checkpoint in float32.

Usage: against_llama_cpp.py [CHECKPOINT_DIR] [--run RUN] [--chunks N] [--imatrix-chunks N]: the
checkpoint is SmolLM2-135M-Instruct if none is named; the text is the run's conversations, chunks of
split test to measure on and of split train for the importance matrix.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from benchmarks._llama_cpp import built
from potstill.checkpoints import find_checkpoint
from potstill.models.named import SMOLLM2_135M
from potstill.processor import has_amx
from potstill.tables import conversation_paths, read_conversations
from quantize.conversion.checkpoint import Checkpoint
from quantize.conversion.convert import BaseType, write_base_gguf
from quantize.quantization.calibration import Calibration
from quantize.quantization.file_types import FileTypeName
from quantize.quantization.imatrix import read_importance, write_importance
from quantize.quantization.quantize import quantize
from quantize.verification.expected import read_expected
from quantize.verification.reference import HeldOut, write_reference_logprobs
from quantize.verification.verify import verify_file

CONTEXT_TOKENS = 512
"""llama-perplexity's chunk; the second half of each is measured."""
NUM_THREADS = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
FILES: tuple[tuple[FileTypeName, bool], ...] = (
    ("F16", False),
    ("Q8_0", False),
    ("Q4_K_M", False),
    ("Q4_K_M", True),
)


def write_text(run_dir: Path, split: str, path: Path) -> None:
    """Write the plain texts of a run's conversations: the tools read no special tokens."""
    paths = conversation_paths(run_dir / "conversations", split)
    conversations = chain.from_iterable(map(read_conversations, paths))
    texts = [
        "\n\n".join(message.content for message in (*one.given, *one.completion))
        for one in islice(conversations, 400)
    ]
    path.write_text("\n\n\n".join(texts), encoding="utf-8")


def tool(name: str, *arguments: object) -> str:
    """Run one of llama.cpp's tools; return what it prints."""
    options = ["--threads", NUM_THREADS, "--no-repack"] if name != "llama-quantize" else []
    if not has_amx():
        options = [one for one in options if one != "--no-repack"]
    command = [built(name), *arguments, *options]
    done = subprocess.run([str(one) for one in command], check=True, capture_output=True, text=True)
    return done.stdout + done.stderr


def perplexity(model: Path, base: Path, *arguments: object) -> str:
    """Run llama-perplexity on chunks of CONTEXT_TOKENS."""
    options = ("-c", CONTEXT_TOKENS, "-b", CONTEXT_TOKENS, "--kl-divergence-base", base)
    return tool("llama-perplexity", "-m", model, *options, *arguments)


def stored_chunks(base: Path) -> list[list[int]]:
    """Return the tokens that llama-perplexity measured, out of its file of log-probabilities.

    Source: llama.cpp tools/perplexity/perplexity.cpp, perplexity (commit 0c1e57098).
    """
    with base.open("rb") as stream:
        if stream.read(8) != b"_logits_":
            raise SystemExit(f"{base} holds no log-probabilities")
        num_context, _, num_chunks = np.fromfile(stream, "<i4", 3).tolist()
        tokens = np.fromfile(stream, "<i4", num_context * num_chunks)
    return list(tokens.reshape(num_chunks, num_context).tolist())


def figures_of(output: str) -> dict[str, float]:
    """Return what llama-perplexity prints in the end."""
    patterns = {
        "kl": r"Mean +KLD: +(\S+)",
        "kl error": r"Mean +KLD: +\S+ ± +(\S+)",
        "median": r"Median +KLD: +(\S+)",
        "99%": r"99\.0% +KLD: +(\S+)",
        "top-1": r"Same top p: +(\S+)",
        "RMS dp": r"RMS Δp +: +(\S+)",
        "ratio": r"Mean PPL\(Q\)/PPL\(base\) +: +(\S+)",
    }
    found = {name: re.search(pattern, output) for name, pattern in patterns.items()}
    return {name: float(match[1]) for name, match in found.items() if match}


def same_tensors(ours: Path, theirs: Path) -> str:
    """Count the tensors that are the same bit for bit."""
    from gguf import GGUFReader

    pairs = [{t.name: t for t in GGUFReader(path).tensors} for path in (ours, theirs)]
    same = sum(
        name in pairs[1]
        and tensor.tensor_type == pairs[1][name].tensor_type
        and np.array_equal(
            np.asarray(tensor.data).view(np.uint8), np.asarray(pairs[1][name].data).view(np.uint8)
        )
        for name, tensor in pairs[0].items()
    )
    return f"{same} of {len(pairs[1])} tensors are the same"


class Bench:
    """One checkpoint, the text, and the files of both programs.

    Args:
        num_chunks: To measure on.
        directory: For files, several hundred megabytes each.
    """

    def __init__(
        self, checkpoint_dir: Path, run_dir: Path, num_chunks: int, directory: Path
    ) -> None:
        self.dir = directory
        self.checkpoint = Checkpoint(checkpoint_dir)
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir)
        self.text, self.calibration_text = directory / "test.txt", directory / "train.txt"
        write_text(run_dir, "test", self.text)
        write_text(run_dir, "train", self.calibration_text)
        self.f32, self.f16 = (self._convert(base_type) for base_type in ("F32", "F16"))
        self.peer_base = directory / "base.logits"
        perplexity(self.f32, self.peer_base, "-f", self.text, "--chunks", num_chunks)
        half = CONTEXT_TOKENS // 2
        sequences = [
            {"token_ids": chunk[:-1], "start": half, "target_ids": chunk[half + 1 :]}
            for chunk in stored_chunks(self.peer_base)
        ]
        num_tokens = sum(len(one["target_ids"]) for one in sequences)
        self.held_out = HeldOut([], sequences, num_tokens)
        self.logprobs = directory / "logprobs.npy"
        write_reference_logprobs(checkpoint_dir, self.held_out, self.logprobs, label="benchmark's")

    def _convert(self, base_type: BaseType) -> Path:
        path = self.dir / f"{base_type}.gguf"
        write_base_gguf(self.checkpoint.dir, path, base_type, "benchmark")
        return path

    def imatrices(self, num_chunks: int) -> tuple[Path, Path]:
        """Compute importance matrices on the same text: ours, and llama-imatrix's."""
        ours, theirs = self.dir / "ours.imatrix.gguf", self.dir / "theirs.imatrix.gguf"
        options = ("-c", CONTEXT_TOKENS, "--chunks", num_chunks, "-o", theirs)
        tool("llama-imatrix", "-m", self.f16, "-f", self.calibration_text, *options)
        text = self.calibration_text.read_text(encoding="utf-8")
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        chunks = [
            ids[first : first + CONTEXT_TOKENS]
            for first in range(0, num_chunks * CONTEXT_TOKENS, CONTEXT_TOKENS)
        ]
        write_importance(self.f16, Calibration(chunks), ours, label="benchmark's")
        return ours, theirs

    def compare(self, gguf_type: FileTypeName, imatrix: Path | None) -> dict[str, Any]:
        """Make and measure one file twice."""
        ours, theirs = (self.dir / f"{who}-{gguf_type}.gguf" for who in ("ours", "theirs"))
        if gguf_type == "F16":
            ours = theirs = self.f16
        else:
            quantize(self.f16, ours, gguf_type, NUM_THREADS, imatrix_path=imatrix)
            options = () if imatrix is None else ("--imatrix", imatrix)
            tool("llama-quantize", *options, self.f16, theirs, gguf_type, NUM_THREADS)
        vocab_size = self.checkpoint.config.vocab_size
        expected = read_expected(self.tokenizer, self.checkpoint.dir, vocab_size, [])
        measured = verify_file(
            ours,
            expected,
            self.held_out,
            self.logprobs,
            file_type=gguf_type,
            kl_bound_nats=float("inf"),
            num_threads=NUM_THREADS,
        )
        peer = figures_of(perplexity(theirs, self.peer_base, "--kl-divergence"))
        return {
            "ours": measured.model_dump(),
            "theirs": peer,
            "tensors": same_tensors(ours, theirs),
        }


def report(name: str, result: dict[str, Any]) -> None:
    """Print one file's figures, ours and the peer's."""
    ours, theirs = result["ours"], result["theirs"]
    rows = {
        "kl": ("mean KL, nats", ours["kl_to_checkpoint_nats"]),
        "kl error": ("its standard error", ours["kl_standard_error_nats"]),
        "median": ("median KL", ours["kl_median_nats"]),
        "99%": ("99% KL", ours["kl_p99_nats"]),
        "top-1": ("top-1 agreement, %", 100 * ours["top1_agreement_with_checkpoint"]),
        "RMS dp": ("RMS of delta p, %", 100 * ours["rms_delta_p"]),
        "ratio": ("ratio of perplexities", ours["perplexity_ratio"]),
    }
    print(f"\n{name}: {ours['bits_per_weight']} bits per weight; {result['tensors']}")
    for key, (label, value) in rows.items():
        peer = theirs.get(key, float("nan"))
        print(f"  {label:24} ours {value:10.6f}  llama.cpp's {peer:10.6f}  {value - peer:+.6f}")


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint_dir", type=Path, nargs="?")
    parser.add_argument("--run", type=Path, default=Path("runs/general"))
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--imatrix-chunks", type=int, default=10)
    arguments = parser.parse_args()
    checkpoint_dir = arguments.checkpoint_dir or find_checkpoint(SMOLLM2_135M.name)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(checkpoint_dir, arguments.run, arguments.chunks, Path(name))
        imatrix, peer_imatrix = bench.imatrices(arguments.imatrix_chunks)
        mine, peer = read_importance(imatrix), read_importance(peer_imatrix)
        distances = [
            np.abs(mine.mean_squares[key] - values).sum() / values.sum()
            for key, values in peer.mean_squares.items()
        ]
        print(f"{checkpoint_dir.name}: {bench.held_out.num_tokens} tokens")
        print(
            f"importance matrices: {len(mine.mean_squares)} entries, llama-imatrix's "
            f"{len(peer.mean_squares)}; relative L1 distance {np.median(distances):.4f} (median), "
            f"{max(distances):.4f} (largest)"
        )
        for gguf_type, with_imatrix in FILES:
            result = bench.compare(gguf_type, peer_imatrix if with_imatrix else None)
            report(f"{gguf_type}{' + imatrix' if with_imatrix else ''}", result)


if __name__ == "__main__":
    main()

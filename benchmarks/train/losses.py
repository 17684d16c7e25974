"""How the distillation loss fares beside its peers': `python benchmarks/train/losses.py`.

Forward KL to a teacher's stored tokens with a bucket for the others, forward and backward, frozen
head. Peers: the same loss on full logits, TRL's, DistillKit's, and Liger's dense one
(`_loss_peers.py` says how each comes to be). Each gets the same tensors in a process of its own;
rounds are interleaved, times are medians, and memory is the peak over what the process held before
(Linux only; a small loss first loads what is loaded once). A peer that is not installed is left
out, and the reason is printed. Liger's is

    .venv/bin/pip install --no-deps --target DIRECTORY liger-kernel==0.8.5

with `PYTHONPATH=DIRECTORY`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _loss_peers import PEERS, SPARSE, Loss, Problem, make_problem

SIZES = ((49_152, 576), (151_936, 896))
"""Vocabulary and width: SmolLM2-135M's and Qwen2.5-0.5B's."""
TOP_KS = (20, 64)
DTYPES = ("float32", "bfloat16")
SAME = 0.01
"""Largest relative difference between losses that are the same; bfloat16 rounds logits."""


def work(peer: str, dtype: str, problem_path: str) -> None:
    """Run one peer's loss once for each line of standard input, a number of stored tokens."""
    try:
        loss = PEERS[peer]()
    except ImportError as error:
        print(json.dumps({"skipped": str(error)}), flush=True)
        return
    problem = torch.load(problem_path, weights_only=False)
    _once(loss, make_problem(16, 8, 1000, max(TOP_KS)), max(TOP_KS), dtype)
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_bytes()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        seconds, value = _once(loss, problem, int(line), dtype)
        answer = {"seconds": seconds, "value": value, "bytes": _peak_bytes() - before}
        print(json.dumps(answer), flush=True)


def _once(loss: Loss, problem: Problem, top_k: int, dtype: str) -> tuple[float, float]:
    given = replace(
        problem,
        hidden_TD=problem.hidden_TD.clone().requires_grad_(),
        top_ids_TK=problem.top_ids_TK[:, :top_k].contiguous(),
        top_logprobs_TK=problem.top_logprobs_TK[:, :top_k].contiguous(),
    )
    started = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
        result = loss(given)
    result.backward()
    seconds = time.perf_counter() - started
    assert given.hidden_TD.grad is not None
    return seconds, result.item() / len(given.hidden_TD)


def _peak_bytes() -> int:
    """Return the process's peak since it was reset; `ru_maxrss` would count its parent's too."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


class Worker:
    """A peer in a process of its own."""

    def __init__(self, peer: str, dtype: str, problem_path: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, "--work", peer, dtype, problem_path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.skipped: str | None = self._answer().get("skipped")

    def run(self, top_k: int) -> dict[str, float]:
        """Return seconds, nats per token and peak bytes of one round."""
        assert self._process.stdin is not None
        print(top_k, file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def compare(vocab_size: int, width: int, dtype: str, num_tokens: int, num_rounds: int) -> None:
    """Run all peers in turn, round by round, and print their ratios."""
    with tempfile.TemporaryDirectory() as directory:
        problem_path = str(Path(directory) / "problem.pt")
        torch.save(make_problem(num_tokens, width, vocab_size, max(TOP_KS)), problem_path)
        workers = {peer: Worker(peer, dtype, problem_path) for peer in PEERS}
    for peer, worker in workers.items():
        if worker.skipped:
            print(f"{peer}: left out, {worker.skipped}")
    running = {peer: worker for peer, worker in workers.items() if not worker.skipped}
    for top_k in TOP_KS:
        rounds = defaultdict(list)
        for _ in range(1 + num_rounds):
            for peer, worker in running.items():
                rounds[peer].append(worker.run(top_k))
        print(f"\nvocabulary {vocab_size:,}, width {width}, k = {top_k}, {dtype}")
        _report({peer: answers[1:] for peer, answers in rounds.items()})
    for worker in workers.values():
        worker.close()


def _report(rounds: dict[str, list[dict[str, float]]]) -> None:
    seconds = {peer: median(one["seconds"] for one in answers) for peer, answers in rounds.items()}
    peak = {peer: max(one["bytes"] for one in answers) for peer, answers in rounds.items()}
    ours = rounds["potstill"][0]["value"]
    print(f"{'':17}{'nats':>8}{'seconds':>9}{'MB':>7}   potstill / it: time  memory")
    for peer, answers in rounds.items():
        value = answers[0]["value"]
        if peer in SPARSE:
            assert abs(value - ours) <= SAME * ours, f"{peer} computes {value}, not {ours}"
        time_ratio = seconds["potstill"] / seconds[peer]
        memory_ratio = peak["potstill"] / peak[peer]
        print(
            f"{peer:17}{value:8.4f}{seconds[peer]:9.3f}{peak[peer] / 1e6:7.0f}"
            f"{time_ratio:21.2f}{memory_ratio:8.2f}"
        )


def main() -> None:
    """Compare at every size and precision."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=1024, help="tokens of a batch")
    parser.add_argument("--rounds", type=int, default=5, help="rounds after one to warm up")
    parser.add_argument("--vocabulary", type=int, help="one of the sizes only")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(*options.work)
        return
    print(f"{options.tokens} tokens, frozen head, {torch.get_num_threads()} threads")
    for vocab_size, width in SIZES:
        if options.vocabulary in (None, vocab_size):
            for dtype in DTYPES:
                compare(vocab_size, width, dtype, options.tokens, options.rounds)


if __name__ == "__main__":
    main()

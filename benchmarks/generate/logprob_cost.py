"""What log-probabilities cost while sampling: `logprob_cost.py [--model MODEL] [--at-once 64]`.

Output tokens per second of ways that take turns with one loaded teacher, on the same prompts and
seeds: vLLM without log-probabilities (bare), vLLM with its own (theirs), and the whole stage with
as many, stored (ours). Meant for a GPU, where the goal is ours at least 0.95 of bare.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

import torch
from _workload import configuration, write_prompts
from throughput import Bench, rates

from potstill.progress import set_up_logging

GOAL = 0.95


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a checkpoint; left out: the default teacher")
    parser.add_argument("--at-once", type=int, default=64, help="conversations at once")
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=256, help="most tokens of an answer")
    parser.add_argument("--logprobs", type=int, default=64, help="log-probabilities per token")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    set_up_logging()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_prompts(root / "prompts.jsonl", given.prompts)
        config = configuration(
            root / "prompts.jsonl",
            teacher={} if given.model is None else {"model": given.model},
            sampling={"max_tokens": given.tokens, "top_logprobs": given.logprobs},
            engine={
                "max_num_seqs": given.at_once,
                "max_model_len": 2 * given.tokens + 256,
                "enforce_eager": False,
                # On a CPU vLLM would take nearly all memory.
                "kv_cache_bytes": 0 if torch.cuda.is_available() else 2 << 30,
            },
        )
        bench = Bench(config, root)
        found = rates(bench, ("bare", "theirs", "ours"), given.rounds)
        bench.teacher.close()
    bare, theirs, ours = (median(found[name]) for name in found)
    print(f"{given.at_once} at once, k = {given.logprobs}: tokens per second beside bare vLLM")
    print(f"vLLM's own log-probabilities: {theirs / bare:.3f}")
    print(f"ours, stored: {ours / bare:.3f} (goal on a GPU: {GOAL})")


if __name__ == "__main__":
    main()

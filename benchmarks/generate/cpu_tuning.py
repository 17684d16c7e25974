"""How vLLM runs fastest on this CPU: `python benchmarks/generate/cpu_tuning.py`.

One setting is changed at a time from a common base; each runs in a process of its own, and the
base before and after all others, so that the machine's drift shows. Tokens per second of sampling
with log-probabilities, loading left out, as a ratio to the base.
"""

from __future__ import annotations

import ctypes.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _workload import configuration, prepare, write_prompts

from generate.sampling.stage import make_parts, open_samples

NUM_PROMPTS, MAX_TOKENS, TOP_LOGPROBS = 256, 48, 128
BASE = {"max_num_seqs": 128, "kv_cache_bytes": 2 << 30, "enforce_eager": True}
ALLOCATORS = ("tcmalloc_minimal", "jemalloc")


def settings() -> dict[str, tuple[dict[str, Any], dict[str, str]]]:
    """Return the trials by name: changes of the engine's settings and of the environment."""
    num_cores = len(os.sched_getaffinity(0))
    found: dict[str, tuple[dict[str, Any], dict[str, str]]] = {"base": ({}, {})}
    found |= {f"{size} at once": ({"max_num_seqs": size}, {}) for size in (16, 32, 64, 256)}
    found |= {"compiled": ({"enforce_eager": False}, {})}
    found |= {"compiled, 256 at once": ({"enforce_eager": False, "max_num_seqs": 256}, {})}
    found |= {
        f"KV cache of {size / 2**30:g} GiB": ({"kv_cache_bytes": size}, {})
        for size in (1 << 29, 4 << 30)
    }
    found |= {
        f"{count} of {num_cores} threads": ({}, {"OMP_NUM_THREADS": str(count)})
        for count in range(1, num_cores, max(1, num_cores // 2))
    }
    for name in ALLOCATORS:
        if library := ctypes.util.find_library(name):
            found[f"{name} preloaded"] = ({}, {"LD_PRELOAD": library})
    return found | {"base again": ({}, {})}


def work(engine: dict[str, Any]) -> None:
    """Sample with some settings and print the tokens per second."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_prompts(root / "prompts.jsonl", NUM_PROMPTS)
        config = configuration(
            root / "prompts.jsonl",
            sampling={"max_tokens": MAX_TOKENS, "top_logprobs": TOP_LOGPROBS},
            engine=engine | {"max_model_len": 512},
        )
        teacher, run_directory = prepare(config, root / "run")
        session = open_samples(config, run_directory)
        started = time.perf_counter()
        make_parts(config, teacher, run_directory, session)
        seconds = time.perf_counter() - started
        print(NUM_PROMPTS * MAX_TOKENS / seconds)
        teacher.close()


def main() -> None:
    """Try all settings and print a table."""
    if len(sys.argv) > 1:
        work(json.loads(sys.argv[1]))
        return
    rates = {}
    for name, (engine, environment) in settings().items():
        command = [sys.executable, __file__, json.dumps(BASE | engine)]
        result = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | environment, check=False
        )
        if result.returncode:
            print(f"{name}: failed: {result.stderr.strip().splitlines()[-1]}")
            continue
        rates[name] = float(result.stdout.split()[-1])
        print(f"  {name}: {rates[name]:.0f} tokens/s at most", flush=True)
    print("| setting | tokens per second, as a ratio to the base |\n|---|--:|")
    for name, rate in rates.items():
        print(f"| {name} | {rate / rates['base']:.2f} |")


if __name__ == "__main__":
    main()

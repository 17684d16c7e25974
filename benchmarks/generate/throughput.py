"""What log-probabilities and Parquet cost: `python benchmarks/generate/throughput.py`.

Output tokens per second, median over rounds in which all take turns in one process, same engine,
same prompts and seeds:

- bare: vLLM's own `LLM.generate`, no log-probabilities, no text, nothing written;
- ours: the whole stage, from prompts to the finished, filtered and described conversations;
- plain: the same without `generate.engine.fast_cpu_sampling`;
- script: the plainest one, top-20 log-probabilities as vLLM's objects, written as JSON.

Then the memory that the last two take, each in a process of its own, above what the loaded engine
takes; theirs grows with the number of prompts, ours does not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from _workload import (
    configuration,
    prepare,
    rendered,
    resident_bytes,
    vllms_own_sampler,
    write_prompts,
)

from generate.config import GenerateConfig
from generate.dataset.stage import make_dataset
from generate.sampling.stage import finish_samples, make_parts, open_samples
from potstill.facts.samples import SignalStats
from potstill.progress import set_up_logging
from potstill.rundir import RunDirectory

MAX_TOKENS, TOP_LOGPROBS, SCRIPT_LOGPROBS = 128, 128, 20
MAX_MODEL_LEN = 512


class Bench:
    """The ways, with one loaded teacher."""

    def __init__(self, config: GenerateConfig, root: Path) -> None:
        self._config, self._root = config, root
        self.teacher, self._run_directory = prepare(config, root / "run")
        self._prompts = rendered(self.teacher, self._run_directory)

    def bare(self) -> int:
        """Sample as vLLM does by itself; return the number of tokens."""
        outputs = self._generate(detokenize=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    def script(self) -> int:
        """Sample and write as a user would without potstill."""
        num_tokens = 0
        with (self._root / "script.jsonl").open("w", encoding="utf-8") as file:
            for output in self._generate(logprobs=SCRIPT_LOGPROBS):
                completion = output.outputs[0]
                num_tokens += len(completion.token_ids)
                rows = [
                    {token_id: one.logprob for token_id, one in position.items()}
                    for position in completion.logprobs
                ]
                file.write(json.dumps({"text": completion.text, "logprobs": rows}) + "\n")
        return num_tokens

    def ours(self) -> int:
        """Run the stage up to its end."""
        copy = RunDirectory(self._root / "copy")
        shutil.rmtree(copy.root, ignore_errors=True)
        shutil.copytree(self._run_directory.root, copy.root)
        session = open_samples(self._config, copy)
        make_parts(self._config, self.teacher, copy, session)
        samples = finish_samples(self._config, self.teacher, session, copy)
        make_dataset(self._config, self.teacher, copy)
        return samples.stats_as(SignalStats).completion_tokens

    def plain(self) -> int:
        """Run the stage with vLLM's own sampler."""
        teacher: Any = self.teacher.load()
        with vllms_own_sampler(teacher):
            return self.ours()

    def theirs(self) -> int:
        """Sample with vLLM's own log-probabilities, as many as ours, and drop them."""
        top_logprobs = self._config.sampling.top_logprobs
        outputs = self._generate(detokenize=False, logprobs=top_logprobs, flat_logprobs=True)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    def _generate(self, **options: Any) -> list[Any]:  # noqa: ANN401
        from vllm import SamplingParams

        teacher: Any = self.teacher.load()
        teacher._llm.reset_prefix_cache()
        params = [
            SamplingParams(
                max_tokens=self._config.sampling.max_tokens,
                seed=seed,
                stop_token_ids=sorted(teacher.end_token_ids),
                **options,
            )
            for seed in range(len(self._prompts))
        ]
        prompts = [{"prompt_token_ids": ids} for ids in self._prompts]
        with vllms_own_sampler(teacher):
            return list(teacher._llm.generate(prompts, params, use_tqdm=False))


def rates(bench: Bench, names: Sequence[str], num_rounds: int) -> dict[str, list[float]]:
    """Let ways of a bench take turns, after one to warm up."""
    ways: dict[str, Callable[[], int]] = {name: getattr(bench, name) for name in names}
    found: dict[str, list[float]] = {name: [] for name in ways}
    bench.bare()
    for number in range(num_rounds):
        for name in [*ways][number % len(ways) :] + [*ways][: number % len(ways)]:
            started = time.perf_counter()
            num_tokens = ways[name]()
            found[name].append(num_tokens / (time.perf_counter() - started))
            print(f"  round {number + 1}, {name}: {found[name][-1]:.0f} tokens/s", flush=True)
    return found


def peak_growth(work: Callable[[], int]) -> int:
    """Return by how many bytes this process grows at most while it works."""
    before, peak, done = resident_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return max(peak, resident_bytes()) - before


def memory_of(way: str, num_prompts: int) -> int:
    """Measure one way in a process of its own."""
    command = [sys.executable, __file__, "--memory", way, "--prompts", str(num_prompts)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(output.split()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", choices=["ours", "script"], help="measure the memory of one")
    given = parser.parse_args()
    set_up_logging()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_prompts(root / "prompts.jsonl", given.prompts)
        config = configuration(
            root / "prompts.jsonl",
            sampling={"max_tokens": MAX_TOKENS, "top_logprobs": TOP_LOGPROBS},
            engine={"max_model_len": MAX_MODEL_LEN, "enforce_eager": given.memory is not None},
        )
        bench = Bench(config, root)
        if given.memory:
            print(peak_growth(getattr(bench, given.memory)))
            return
        found = rates(bench, ("bare", "ours", "plain", "script"), given.rounds)
        bench.teacher.close()
    bare, ours, plain, script = (median(found[name]) for name in found)
    print(f"{given.prompts} prompts, at most {MAX_TOKENS} tokens each, {given.rounds} rounds")
    print(f"tokens per second, ours (k = {TOP_LOGPROBS}) / bare vLLM: {ours / bare:.3f}")
    print(f"tokens per second, ours / without fast_cpu_sampling: {ours / plain:.2f}")
    print(f"tokens per second, ours / plain script (k = {SCRIPT_LOGPROBS}): {ours / script:.2f}")
    few, many = given.prompts, 3 * given.prompts
    for way in ("ours", "script"):
        sizes = [memory_of(way, count) / 1e6 for count in (few, many)]
        print(
            f"memory above the engine's, {way}: {sizes[0]:.0f} MB for {few} prompts, "
            f"{sizes[1]:.0f} MB for {many}"
        )


if __name__ == "__main__":
    main()

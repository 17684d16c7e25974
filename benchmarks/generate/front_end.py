"""What log-probabilities cost the front end: `python benchmarks/generate/front_end.py`.

CPU time of the process that talks to vLLM's engine, per output token, with the engine in a process
of its own. With a fast GPU this process, and not the GPU, limits small teachers. The goal is at
most twice what it takes without log-probabilities.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from _workload import configuration, prepare, rendered, write_prompts

from generate.teachers.protocol import Requests, Sample, SampleRequest
from potstill.distributions import encode
from potstill.schema import SamplingParams

NUM_PROMPTS, MAX_TOKENS, NUM_ROUNDS = 64, 64, 3
TOP_LOGPROBS, SCRIPT_LOGPROBS = 128, 20
VOCAB_SIZE = 49_152


def requests(prompts: list[list[int]]) -> Requests:
    """Return a source of one request for each prompt."""
    waiting: Iterator[SampleRequest] = (
        SampleRequest(
            str(seed),
            prompt,
            SamplingParams(temperature=1.0, top_p=1.0, max_tokens=MAX_TOKENS, seed=seed),
        )
        for seed, prompt in enumerate(prompts)
    )
    return lambda room: [one for one, _ in zip(waiting, range(room), strict=False)]


def harvest(teacher: Any, prompts: list[list[int]], k: int | None) -> int:  # noqa: ANN401
    """Sample through our teacher, with flat log-probabilities; return the number of tokens."""
    return sum(
        len(one.token_ids)
        for one in teacher.sample(requests(prompts), top_logprobs=k)
        if isinstance(one, Sample)
    )


def store(teacher: Any, prompts: list[list[int]], k: int) -> int:  # noqa: ANN401
    """Sample, cut and encode what is stored."""
    num_tokens = 0
    for one in teacher.sample(requests(prompts), top_logprobs=k):
        num_tokens += len(one.token_ids)
        encode([one.signal.cut(top_mass=1.0, min_probability=1e-3)], VOCAB_SIZE)
    return num_tokens


def vllms_objects(teacher: Any, prompts: list[list[int]], k: int) -> int:  # noqa: ANN401
    """Sample as a plain script does, log-probabilities as vLLM's objects."""
    from vllm import SamplingParams as Params

    params = [Params(max_tokens=MAX_TOKENS, seed=seed, logprobs=k) for seed in range(len(prompts))]
    outputs = teacher._llm.generate(
        [{"prompt_token_ids": one} for one in prompts], params, use_tqdm=False
    )
    return sum(len(output.outputs[0].token_ids) for output in outputs)


def main() -> None:
    """Let the ways take turns and print."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_prompts(root / "prompts.jsonl", NUM_PROMPTS)
        config = configuration(
            root / "prompts.jsonl",
            sampling={"max_tokens": MAX_TOKENS, "top_logprobs": TOP_LOGPROBS},
            engine={
                "max_model_len": 512,
                "kv_cache_bytes": 1 << 30,
                # The engine is in a process of its own, where its sampler cannot be replaced.
                "fast_cpu_sampling": False,
            },
        )
        lazy_teacher, run_directory = prepare(config, root / "run")
        teacher, prompts = lazy_teacher.load(), rendered(lazy_teacher, run_directory)
        ways: dict[str, Callable[[], int]] = {
            "none": partial(harvest, teacher, prompts, None),
            f"ours, k = {TOP_LOGPROBS}": partial(harvest, teacher, prompts, TOP_LOGPROBS),
            f"ours, k = {TOP_LOGPROBS}, cut and encoded": partial(
                store, teacher, prompts, TOP_LOGPROBS
            ),
            f"vLLM's objects and text, k = {SCRIPT_LOGPROBS}": partial(
                vllms_objects, teacher, prompts, SCRIPT_LOGPROBS
            ),
        }
        found: dict[str, list[float]] = {way: [] for way in ways}
        ways["none"]()
        for _ in range(NUM_ROUNDS):
            for way, work in ways.items():
                started = time.process_time()
                num_tokens = work()
                found[way].append((time.process_time() - started) / num_tokens * 1e6)
        lazy_teacher.close()
    none = median(found["none"])
    print(f"{NUM_PROMPTS} prompts, at most {MAX_TOKENS} tokens, {NUM_ROUNDS} rounds, median")
    for way, each in found.items():
        print(f"{way}: {median(each):.0f} µs of CPU a token, {median(each) / none:.2f}x none")


if __name__ == "__main__":
    main()

"""The engine's overhead over llama_decode: `python benchmarks/serving/engine.py`.

Sixteen answers at once, in this process, without HTTP: tokens per second of the engine as a share
of a bare loop that calls llama_decode with one token of each sequence and samples nothing, and the
share of the engine's time that is spent outside llama_decode. The goals are at least 80% of the
loop and at most 5% outside.

Usage: engine.py [--gguf FILE] [--parallel N] [--rounds N] [--threads N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import llama_cpp
import numpy as np

from benchmarks.serving._servers import NUM_THREADS, embedded_gguf
from serve.engine.engine import Engine
from serve.engine.model import GgufModel
from serve.engine.request import EngineLimits, Output, Request
from serve.engine.sampler import SamplerParams

CONTEXT_TOKENS, PROMPT_TOKENS, NEW_TOKENS = 512, 48, 64
WAYS = {
    "greedy": SamplerParams(temperature=0.0),
    "drawn at temperature 1": SamplerParams(seed=1),
    "drawn at temperature 0.8, top-p 0.95, top-k 40, penalized": SamplerParams(
        seed=1, temperature=0.8, top_p=0.95, top_k=40, repeat_penalty=1.1
    ),
}


def prompts(num: int) -> list[list[int]]:
    """Return prompts that have nothing in common."""
    rng = np.random.default_rng(0)
    return [rng.integers(1000, 40_000, PROMPT_TOKENS).tolist() for _ in range(num)]


@contextmanager
def bare_context(model: GgufModel, num_sequences: int, threads: int) -> Iterator[Any]:
    """Make a context with llama.cpp's defaults for many sequences."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = num_sequences * CONTEXT_TOKENS
    params.n_seq_max = num_sequences
    params.kv_unified = True
    params.n_threads = params.n_threads_batch = threads
    context = llama_cpp.llama_init_from_model(model.pointer, params)
    yield context
    llama_cpp.llama_free(context)


def bare_loop(context: Any, token_ids: list[list[int]]) -> float:  # noqa: ANN401
    """Read prompts, then decode one token of each per step; return the latter's tokens a second."""
    num_sequences = len(token_ids)
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), False)
    batch = llama_cpp.llama_batch_init(512, 0, 1)

    def add(sequence_id: int, position: int, token_id: int, wants_output: bool) -> None:
        at = batch.n_tokens
        batch.token[at], batch.pos[at], batch.logits[at] = token_id, position, wants_output
        batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence_id
        batch.n_tokens = at + 1

    for sequence_id, prompt in enumerate(token_ids):
        batch.n_tokens = 0
        for position, token_id in enumerate(prompt):
            add(sequence_id, position, token_id, False)
        assert llama_cpp.llama_decode(context, batch) == 0
    begin = time.perf_counter()
    for step in range(NEW_TOKENS):
        batch.n_tokens = 0
        for sequence_id in range(num_sequences):
            add(sequence_id, PROMPT_TOKENS + step, 5000 + step, True)
        assert llama_cpp.llama_decode(context, batch) == 0
        llama_cpp.llama_get_logits(context)
    seconds = time.perf_counter() - begin
    llama_cpp.llama_batch_free(batch)
    return num_sequences * NEW_TOKENS / seconds


class Bench:
    """Our engine, stepped by hand."""

    def __init__(self, model: GgufModel, num_parallel: int, threads: int) -> None:
        limits = EngineLimits(
            context_tokens=CONTEXT_TOKENS,
            max_parallel=num_parallel,
            max_batch_tokens=256,
            max_queue=num_parallel,
        )
        self._begun: set[Request] = set()
        self._done: set[Request] = set()
        self._num_tokens = 0
        self._engine = Engine(model, limits, threads=threads, deliver=self._take)

    def _take(self, outputs: list[tuple[Request, Output]]) -> None:
        for request, output in outputs:
            self._begun.add(request)
            self._num_tokens += len(output.token_ids)
            if output.is_last:
                self._done.add(request)

    def run(self, token_ids: list[list[int]], sampler: SamplerParams) -> tuple[float, float]:
        """Answer all prompts at once.

        Returns:
            Tokens a second, and the share of time outside llama_decode, from when all prompts are
            read until the first answer is whole.
        """
        requests = [
            Request(prompt, sampler, max_new_tokens=NEW_TOKENS, ignore_eos=True)
            for prompt in token_ids
        ]
        self._begun, self._done = set(), set()
        self._engine.submit(requests)
        while len(self._begun) < len(requests):
            self._engine.step()
        self._num_tokens, before, begin = 0, self._engine.stats(), time.perf_counter()
        while not self._done:
            self._engine.step()
        seconds, after = time.perf_counter() - begin, self._engine.stats()
        rate = self._num_tokens / seconds
        while len(self._done) < len(requests):
            self._engine.step()
        other = after.other_seconds - before.other_seconds
        decode = after.decode_seconds - before.decode_seconds
        return rate, other / (other + decode)


def main() -> None:
    """Let the ways take turns and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gguf", type=Path, default=embedded_gguf())
    parser.add_argument("--parallel", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=NUM_THREADS)
    given = parser.parse_args()
    model = GgufModel(given.gguf)
    token_ids = prompts(given.parallel)
    bench = Bench(model, given.parallel, given.threads)
    loop: list[float] = []
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with bare_context(model, given.parallel, given.threads) as context:
        bare_loop(context, token_ids)
        for _ in range(given.rounds):
            loop.append(bare_loop(context, token_ids))
            for way, sampler in WAYS.items():
                found[way].append(bench.run(token_ids, sampler))
    print(f"{given.gguf.name}, {given.threads} threads, {given.parallel} sequences")
    print(f"bare loop: {median(loop):.1f} tokens/s")
    for way, rounds in found.items():
        rate, outside = (median(values) for values in zip(*rounds, strict=True))
        share = median(ours / bare for (ours, _), bare in zip(rounds, loop, strict=True))
        print(
            f"{way}: {rate:.1f} tokens/s, {share:.1%} of the loop; "
            f"{outside:.1%} of its time outside llama_decode"
        )


if __name__ == "__main__":
    main()

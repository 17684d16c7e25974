"""Speed and memory of a GGUF file."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from potstill.llama.context import Context
from potstill.llama.model import LlamaModel

NUM_PROMPT_TOKENS, NUM_DECODED_TOKENS = 512, 64
"""llama-bench's pp512, and half of its tg128: on a CPU decoding takes most of the time."""

NUM_AT_ONCE, NUM_STEPS_AT_ONCE = 16, 16
"""Sequences that are decoded side by side, as a server does, and tokens of each."""

NUM_REPETITIONS = 2
"""The faster one counts: other load on the machine can only slow it down."""


def measure_speed(model: LlamaModel, num_threads: int) -> dict[str, float]:
    """Measure prompt and decode tokens per second, and the process's peak memory so far in bytes.

    Decoding is measured of one sequence, and of 16 side by side (tokens of all of them).

    The context is that of a server, not of a measurement: llama.cpp's default cache (F16) and
    attention. The peak of a fresh process consists of the file's pages, the
    cache, the compute buffers, and some 60 MB of Python and libraries.

    Source: llama.cpp tools/llama-bench/llama-bench.cpp, test_prompt and test_gen (commit
        0c1e57098), which repeat five times and take the mean.
    """
    num_prompt = min(NUM_PROMPT_TOKENS, model.training_context_tokens - NUM_DECODED_TOKENS)
    params = _serving_params(num_threads, num_prompt + NUM_DECODED_TOKENS)
    draws = np.random.default_rng(0)
    prompt = draws.integers(model.vocab_size, size=num_prompt).tolist()
    decoded = draws.integers(model.vocab_size, size=NUM_DECODED_TOKENS).tolist()
    with Context(model, params) as context:

        def read_prompt() -> None:
            context.clear()
            context.decode(prompt, 0, num_prompt - 1)
            context.synchronize()

        def decode() -> None:
            context.clear()
            for position, token in enumerate(decoded):
                context.decode([token], position, position)
                context.synchronize()

        read_prompt()  # reads the file's pages and allocates the buffers
        speeds = {
            "prompt_tokens_per_second": num_prompt / _shortest_seconds(read_prompt),
            "decode_tokens_per_second": NUM_DECODED_TOKENS / _shortest_seconds(decode),
            "peak_memory_bytes": _peak_memory_bytes(),
        }
    return speeds | {"batch_decode_tokens_per_second": _batch_speed(model, num_threads)}


def _batch_speed(model: LlamaModel, num_threads: int) -> float:
    """Return the tokens per second of all sequences that are decoded side by side."""
    params = _serving_params(num_threads, NUM_AT_ONCE * NUM_STEPS_AT_ONCE, NUM_AT_ONCE)
    draws = np.random.default_rng(0)
    steps = draws.integers(model.vocab_size, size=(NUM_STEPS_AT_ONCE, NUM_AT_ONCE)).tolist()
    with Context(model, params) as context:

        def decode() -> None:
            context.clear()
            for position, token_ids in enumerate(steps):
                context.decode_side_by_side(token_ids, position)
                context.synchronize()

        decode()  # allocates the buffers
        return NUM_AT_ONCE * NUM_STEPS_AT_ONCE / _shortest_seconds(decode)


def _serving_params(num_threads: int, context_tokens: int, num_sequences: int = 1) -> Any:  # noqa: ANN401  (a ctypes struct)
    params = llama_cpp.llama_context_default_params()
    params.n_seq_max = num_sequences
    params.n_ctx = context_tokens
    params.n_batch = params.n_ubatch = NUM_PROMPT_TOKENS
    params.n_threads = params.n_threads_batch = num_threads
    return params


def _shortest_seconds(work: Callable[[], None]) -> float:
    seconds = []
    for _ in range(NUM_REPETITIONS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _peak_memory_bytes() -> int:
    """Return the peak of this process since it began."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # On Linux the parent's, too.
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

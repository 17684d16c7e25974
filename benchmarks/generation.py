"""What log-probabilities and Parquet cost: `python benchmarks/generation.py`.

Peer: bare vLLM (`LLM.generate`) with the same engine and the same prompts, no log-probabilities,
nothing written. Ours: the stage's own path, top-k log-probabilities in Parquet. Both take turns
in one process; the ratio is of output tokens per second, median over rounds.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

from generate.config import EngineConfig, SamplingConfig, TeacherConfig
from generate.conversations import build_requests, sample_conversations, split_into_parts, summarise
from generate.engine import TeacherEngine
from generate.prompts import RawPrompt, assign_splits
from generate.teacher import find_teacher
from potstill.progress import set_up_logging
from potstill.schema import Message

NUM_PROMPTS, MAX_TOKENS, TOP_LOGPROBS, NUM_ROUNDS = 256, 64, 64, 3


def bare(engine: TeacherEngine, requests: list) -> float:
    """Return vLLM's own output tokens per second."""
    from vllm import SamplingParams

    params = [
        SamplingParams(
            max_tokens=MAX_TOKENS,
            seed=request.sampling.seed,
            stop_token_ids=sorted(engine.end_token_ids),
            detokenize=False,
        )
        for request in requests
    ]
    prompts = [{"prompt_token_ids": list(request.prompt_token_ids)} for request in requests]
    started = time.perf_counter()
    outputs = engine._llm.generate(prompts, params, use_tqdm=False)
    num_tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    return num_tokens / (time.perf_counter() - started)


def ours(engine: TeacherEngine, prompts: list, requests: dict) -> float:
    """Return the stage's output tokens per second."""
    with tempfile.TemporaryDirectory() as name:
        parts = dict(enumerate(split_into_parts(prompts, 64)))
        started = time.perf_counter()
        sample_conversations(engine, TOP_LOGPROBS, parts, requests, Path(name), num_done=0)
        return summarise(Path(name)).completion_tokens / (time.perf_counter() - started)


def main() -> None:
    """Take turns and print the ratio."""
    set_up_logging()
    teacher = find_teacher(TeacherConfig())
    sampling = SamplingConfig(max_tokens=MAX_TOKENS, top_logprobs=TOP_LOGPROBS)
    defaults = EngineConfig()
    engine = TeacherEngine(
        str(teacher.dir),
        dtype=teacher.dtype,
        max_model_len=256,
        top_logprobs=TOP_LOGPROBS,
        max_num_seqs=defaults.max_num_seqs,
        kv_cache_bytes=defaults.kv_cache_bytes,
        enforce_eager=defaults.enforce_eager,
        tensor_parallel_size=1,
        seed=0,
    )
    texts = [f"Write two sentences about the number {number}." for number in range(NUM_PROMPTS)]
    raw = [RawPrompt((Message(role="user", content=text),), "benchmark") for text in texts]
    prompts = assign_splits(raw, 0.1, 0.1)
    requests = build_requests(teacher.tokenizer, sampling, prompts)
    rates: dict[str, list[float]] = {"bare": [], "ours": []}
    bare(engine, list(requests.values())[:8])
    for _ in range(NUM_ROUNDS):
        rates["bare"].append(bare(engine, list(requests.values())))
        rates["ours"].append(ours(engine, prompts, requests))
    print(f"{NUM_PROMPTS} prompts, at most {MAX_TOKENS} tokens each, {NUM_ROUNDS} rounds")
    print(
        f"tokens per second with top-{TOP_LOGPROBS} log-probabilities in Parquet / bare vLLM: "
        f"{median(rates['ours']) / median(rates['bare']):.2f}"
    )


if __name__ == "__main__":
    main()

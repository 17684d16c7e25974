"""What a student gains as its teacher's draft: `python benchmarks/serving/drafts.py RUN`.

The run's teacher answers prompts of its test split with and without the student's drafts, in turns,
in this process, without HTTP: one answer after another, and four at once; greedily, and drawn at
temperature 1. Printed are the tokens per second of both, their ratio, and the share of the drafted
tokens that the teacher keeps. Answers are the same in both ways, up to the rounding of llama.cpp's
batches, so only the time differs.

Usage: drafts.py RUN [--target FILE] [--draft FILE] [--prompts N] [--tokens N] [--rounds N]
       [--threads N]; files of the run's gguf stage, by name.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.serving._servers import NUM_THREADS
from potstill.rundir import RunDirectory
from potstill.tables import PROMPT_SCHEMA, prompt_from_row, read_rows
from serve.chat.prompt import ChatPrompt, Dialogue
from serve.engine.engine import Engine
from serve.engine.model import GgufModel
from serve.engine.request import EngineLimits, Output, Request
from serve.engine.sampler import SamplerParams

STREAMS = (1, 4)
CONTEXT_TOKENS = 512
WAYS = {"greedy": SamplerParams(temperature=0.0), "drawn": SamplerParams(seed=1)}


class Bench:
    """One engine, with a draft or without, stepped by hand."""

    def __init__(self, model: GgufModel, draft: GgufModel | None, threads: int) -> None:
        limits = EngineLimits(
            context_tokens=CONTEXT_TOKENS,
            max_parallel=max(STREAMS),
            max_batch_tokens=256,
            max_queue=0,
        )
        self.engine = Engine(model, limits, threads=threads, deliver=self._take, draft=draft)
        self._num_tokens = self._num_unfinished = 0

    def _take(self, outputs: list[tuple[Request, Output]]) -> None:
        self._num_tokens += sum(len(output.token_ids) for _, output in outputs)
        self._num_unfinished -= sum(output.is_last for _, output in outputs)

    def run(
        self, prompts: Sequence[list[int]], streams: int, sampler: SamplerParams, num_tokens: int
    ) -> float:
        """Answer all prompts, `streams` at a time; return the tokens per second, reading included.

        Prompts that were answered before are still in the prefix cache, if they fit.
        """
        self._num_tokens, begin = 0, time.perf_counter()
        for first in range(0, len(prompts), streams):
            group = [
                Request(prompt, sampler, max_new_tokens=num_tokens)
                for prompt in prompts[first : first + streams]
            ]
            self._num_unfinished = len(group)
            self.engine.submit(group)
            while self._num_unfinished:
                self.engine.step()
        return self._num_tokens / (time.perf_counter() - begin)


def test_prompts(run_directory: RunDirectory, model: GgufModel, num: int) -> list[list[int]]:
    """Return the token ids of prompts that the student was not trained on."""
    path = run_directory.stage_dir("prompts") / "prompts.parquet"
    prompts = map(prompt_from_row, read_rows(path, PROMPT_SCHEMA))
    chosen = [one for one in prompts if one.split == "test"][:num]
    template = ChatPrompt(model)
    token_ids = [
        template.token_ids(Dialogue([message.to_chat() for message in one.messages]))
        for one in chosen
    ]
    template.close()
    return token_ids


def main() -> None:
    """Let the two take turns and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/general"))
    parser.add_argument("--target", default="teacher-F16")
    parser.add_argument("--draft", default="student-Q4_K_M")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=NUM_THREADS)
    given = parser.parse_args()
    run_directory = RunDirectory(given.run)
    files = run_directory.stage_dir("gguf")
    target, draft = (GgufModel(files / f"{name}.gguf") for name in (given.target, given.draft))
    prompts = test_prompts(run_directory, target, given.prompts)
    plain, drafted = Bench(target, None, given.threads), Bench(target, draft, given.threads)
    print(f"{given.draft} drafts for {given.target}, {given.threads} threads")
    for streams in STREAMS:
        for way, sampler in WAYS.items():
            rates: list[tuple[float, float]] = []
            before = drafted.engine.stats()
            for _ in range(given.rounds):
                alone, helped = (
                    bench.run(prompts, streams, sampler, given.tokens) for bench in (plain, drafted)
                )
                rates.append((alone, helped))
            after = drafted.engine.stats()
            num_drafted = after.num_drafted_tokens - before.num_drafted_tokens
            num_kept = after.num_accepted_tokens - before.num_accepted_tokens
            alone, helped = (median(column) for column in zip(*rates, strict=True))
            ratio = median(helped / alone for alone, helped in rates)
            print(
                f"{streams} at once, {way}: {alone:.1f} tokens/s alone, {helped:.1f} with drafts, "
                f"ratio {ratio:.2f}; {num_kept} of {num_drafted} drafted tokens kept "
                f"({num_kept / max(1, num_drafted):.0%})"
            )


if __name__ == "__main__":
    main()

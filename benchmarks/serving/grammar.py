"""The cost of a grammar: `python benchmarks/serving/grammar.py`.

First, without an engine: microseconds to open a grammar, to take a token, and to compute the set of
allowed tokens, along one JSON text; for a JSON schema (llguidance) and for the same language as
GBNF (llama.cpp). Then the engine's tokens per second with each of them, as a share of its tokens
per second without a grammar. The goal is at least 0.9 of it with a schema.

Usage: grammar.py [--gguf FILE] [--vocabulary FILE] [--parallel N] [--rounds N] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.serving._servers import NUM_THREADS, embedded_gguf
from potstill.llama.model import LlamaModel
from serve.engine.engine import Engine
from serve.engine.grammar import GrammarSource, Schema
from serve.engine.grammar_process import GbnfMatcher, Matcher, SchemaMatcher, Vocabulary
from serve.engine.model import GgufModel
from serve.engine.request import EngineLimits, Output, Request
from serve.engine.sampler import SamplerParams

PROMPT, NEW_TOKENS = "All sentences of the book as a JSON array of strings: ", 48
TEXT = json.dumps(["Ada Lovelace", "analytical engine", "St James's Square, London", "1852"] * 3)
SCHEMA = Schema("benchmark", '{"type":"array","items":{"type":"string"},"minItems":500}')
GBNF = r"""
root ::= "[" string (", " string){499} "]"
string ::= "\"" ([^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}))* "\""
"""
SOURCES = {
    "no grammar": None,
    "JSON schema": GrammarSource.of_schema(SCHEMA),
    "GBNF": GrammarSource(GBNF),
}


def microseconds(name: str, work: Callable[[], object], into: dict[str, list[float]]) -> object:
    """Time one call."""
    begin = time.perf_counter()
    result = work()
    into[name].append((time.perf_counter() - begin) * 1e6)
    return result


def measure_matchers(model: LlamaModel, rounds: int) -> None:
    """Print the time of each step along the text."""
    vocabulary = Vocabulary(model)
    schema = {"place": "", "text": '{"type":"array","items":{"type":"string"}}', "is_exact": True}
    opening: dict[str, Callable[[], Matcher]] = {
        "JSON schema": lambda: SchemaMatcher("start: schema0", [schema], vocabulary),
        "GBNF": lambda: GbnfMatcher(GBNF.replace("{499}", "*"), vocabulary),
    }
    token_ids = model.tokenize(TEXT, parse_special=False)
    for name, opened in opening.items():
        times: dict[str, list[float]] = defaultdict(list)
        for _ in range(rounds):
            matcher = microseconds("open", opened, times)
            assert isinstance(matcher, SchemaMatcher | GbnfMatcher)
            for token_id in token_ids:
                microseconds("allowed tokens", matcher.allowed_bits, times)
                assert microseconds("take", partial(matcher.take, token_id), times)
            matcher.close()
        for step, values in times.items():
            most = np.percentile(values, 99)
            print(f"{name:12s} {step:15s} {median(values):8.0f} us, 99th percentile {most:8.0f} us")


def tokens_per_second(engine: Engine, done: list[Output], requests: list[Request]) -> float:
    """Answer requests together."""
    done.clear()
    engine.submit(requests)
    begin = time.perf_counter()
    while len(done) < len(requests):
        engine.step()
    seconds = time.perf_counter() - begin
    assert all(output.num_new_tokens == NEW_TOKENS for output in done), "an answer ended early"
    return len(requests) * NEW_TOKENS / seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gguf", type=Path, default=embedded_gguf())
    parser.add_argument("--vocabulary", type=Path, help="another file for the first part")
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=NUM_THREADS)
    options = parser.parse_args()
    with LlamaModel(options.vocabulary or options.gguf, vocabulary_only=True) as model:
        print(f"{model.vocab_size} tokens in the vocabulary")
        measure_matchers(model, options.rounds)

    done: list[Output] = []

    def take(outputs: list[tuple[Request, Output]]) -> None:
        done.extend(output for _, output in outputs if output.is_last)

    limits = EngineLimits(
        context_tokens=512,
        max_parallel=options.parallel,
        max_batch_tokens=256,
        max_queue=options.parallel,
    )
    model = GgufModel(options.gguf)
    engine = Engine(model, limits, threads=options.threads, deliver=take)
    prompt = model.tokenize(PROMPT, parse_special=False)
    rates: dict[str, list[float]] = defaultdict(list)
    for number in range(options.rounds + 1):
        for name, source in SOURCES.items():
            requests = [
                Request(
                    prompt,
                    SamplerParams(seed=seed, temperature=0.7),
                    NEW_TOKENS,
                    ignore_eos=True,
                    grammar=source,
                )
                for seed in range(options.parallel)
            ]
            rate = tokens_per_second(engine, done, requests)
            if number:  # the first round starts the process that reads grammars
                rates[name].append(rate)
    for name, values in rates.items():
        ratios = [one / free for one, free in zip(values, rates["no grammar"], strict=True)]
        print(f"{name:12s} {median(values):6.1f} tokens/s, {median(ratios):.2f} of no grammar")


if __name__ == "__main__":
    main()

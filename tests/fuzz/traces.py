"""Files of strangers as sources of prompts: JSONL, JSON, CSV, OTLP's protobuf, vLLM's logs.

What is read is written as `potstill import` does, and read again: nothing may get lost.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.fuzz.harness import SEEDS, Take, Target
from tests.fuzz.mutation import JsonMutator

SAMPLES = Path(__file__).parents[1] / "fixtures" / "traces"


def _prepare(suffix: str) -> Take:
    from fsspec.implementations.memory import MemoryFileSystem

    from generate.imports.reading import Request, read_requests
    from generate.imports.write import to_row
    from generate.sources.files import find_files, read_file
    from generate.sources.formats.registry import COLUMNS
    from generate.sources.rows import RowError
    from generate.sources.shapes import LastRole, to_prompts
    from potstill.errors import PotstillError

    files, path, again = MemoryFileSystem(), f"memory://given{suffix}", "memory://again.jsonl"
    roles: tuple[LastRole, ...] = ("user", "assistant", "any")

    def take(data: bytes) -> None:
        files.pipe(path, data)
        try:
            found = list(read_requests([path]))
            (file,) = find_files(path)
            for row in read_file(file, COLUMNS):
                for role in roles:
                    for one in to_prompts(row.values, last_role=role, source="a test"):
                        assert isinstance(one, RowError) or one.prompt_id
        except PotstillError:
            return
        requests = [one for one in found if isinstance(one, Request)]
        if not requests:
            return
        lines = [json.dumps(to_row(one), ensure_ascii=False) for one in requests]
        files.pipe(again, "\n".join(lines).encode())
        read = [(one.messages, one.answers) for one in read_requests([again])]
        assert read == [(one.messages, one.answers) for one in requests]

    return take


TARGETS = [
    Target(
        "jsonl",
        lambda: _prepare(".jsonl"),
        nightly_runs=150_000,
        mutate=JsonMutator([SEEDS / "jsonl"], by_line=True),
        max_bytes=1 << 14,
    ),
    Target(
        "json",
        lambda: _prepare(".json"),
        nightly_runs=50_000,
        mutate=JsonMutator([SEEDS / "json"]),
        max_bytes=1 << 14,
    ),
    Target("csv", lambda: _prepare(".csv"), nightly_runs=50_000),
    Target("protobuf", lambda: _prepare(".pb"), nightly_runs=150_000),
    Target("vllm_log", lambda: _prepare(".log"), nightly_runs=100_000),
]

"""Grammars and JSON schemas of requests, read and followed in their process.

The process may end: what may not is an error that is not about the grammar, or a long wait.
"""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.fuzz.harness import INPUT_SECONDS, SEEDS, Take, Target
from tests.fuzz.mutation import JsonMutator, WordMutator

if TYPE_CHECKING:
    from serve.engine.grammar import GrammarSource
    from serve.engine.grammar_client import GrammarProcess

MOST_TOKENS = 12
"""Tokens that follow a grammar."""
GBNF_WORD = r'[A-Za-z-]+|"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|::=|\{[\d,]*\}|<\[\d+\]>|[()|*+?.]'
GBNF_WORDS = (
    "root", "root ::= ", "a", "a ::= ", "::=", '"a"', '""', '"\\x41"', '"\\uD800"', "[a-z]", "[^]",
    "[^\\n]", "[z-a]", "(", ")", "|", "*", "+", "?", ".", "{2}", "{0,}", "{1000}", "{2,1}",
    "{99999999}", "<[5]>", "<|im_end|>", "!", "\n", " ", "#", '"', "\\", "\0", "é", "\U0001f600",
)  # fmt: skip


def _process() -> GrammarProcess:
    """Return a process with the vocabulary of a tiny model."""
    from serve.engine.grammar_client import GrammarProcess
    from tests.fixtures.tiny_gguf import write_tiny_gguf

    # It ends with this process: libFuzzer runs no handlers of its own at exit.
    path = Path(tempfile.mkdtemp()) / "tiny.gguf"
    write_tiny_gguf(path)
    return GrammarProcess(path, vocab_size=49_152)


def _follow(process: GrammarProcess, source: GrammarSource, data: bytes) -> None:
    """Open a grammar and propose tokens, those that it allows among them."""
    from serve.errors import InvalidRequestError

    began = time.monotonic()
    grammar = process.open(source)
    token_ids: list[int] = [data[0] if data else 0]
    for _ in range(MOST_TOKENS):
        if not token_ids:
            break
        process.propose(grammar, token_ids.pop())
        verdicts: list[Any] = []
        while process.is_busy:
            verdicts += process.collect(0.1)
        (verdict,) = [verdict for one, verdict in verdicts if one is grammar]
        if verdict.error is not None:
            assert isinstance(verdict.error, InvalidRequestError), repr(verdict.error)
            break
        if verdict.allowed_V is None:
            token_ids = [len(data) + 7]
        elif verdict.allowed_V.any():
            allowed = verdict.allowed_V.nonzero()[0]
            token_ids = [int(allowed[sum(data) % len(allowed)])]
    process.release(grammar)
    assert time.monotonic() - began < INPUT_SECONDS


def _prepare_gbnf() -> Take:
    from serve.engine.grammar import GrammarSource, check_grammar
    from serve.errors import InvalidRequestError

    process = _process()

    def take(data: bytes) -> None:
        source = GrammarSource(data.decode(errors="replace"))
        try:
            check_grammar(source)
        except InvalidRequestError:
            return
        _follow(process, source, data)

    return take


def _prepare_schema() -> Take:
    from serve.engine.grammar import GrammarSource, check_grammar, schema_of
    from serve.engine.schema_rules import UnusableSchemaError, prepared
    from serve.errors import InvalidRequestError

    process = _process()

    def take(data: bytes) -> None:
        try:
            given = json.loads(data)
        except (ValueError, RecursionError):
            return
        if not isinstance(given, dict):
            return
        is_exact = len(data) % 2 == 0
        with suppress(UnusableSchemaError):
            # Here too, where it guides the changes.
            prepared(json.dumps(given), is_exact=is_exact)
        try:
            source = GrammarSource.of_schema(schema_of(given, "a test", is_exact=is_exact))
            check_grammar(source)
        except InvalidRequestError:
            return
        _follow(process, source, data)

    return take


TARGETS = [
    Target(
        "gbnf",
        _prepare_gbnf,
        nightly_runs=5_000,  # many end the process, at its limit of time or memory
        short_runs=100,
        mutate=WordMutator(GBNF_WORD, GBNF_WORDS),
    ),
    Target(
        "schema",
        _prepare_schema,
        nightly_runs=10_000,
        short_runs=100,
        mutate=JsonMutator([SEEDS / "schema"]),
    ),
]

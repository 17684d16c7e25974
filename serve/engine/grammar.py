"""Grammars that constrain a model's output, as requests give them, and their check.

In: GBNF (llama.cpp's grammar language), or JSON schemas with rules around them. Out: nothing, or a
typed error. No part of a client's grammar or schema is interpreted in this process.
"""

from __future__ import annotations

import json
import queue
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

from serve.engine.grammar_client import GrammarProcess
from serve.errors import InvalidRequestError

MAX_SOURCE_BYTES = 128 * 1024
"""Few schemas are longer; the time to check one grows with it."""

NUM_CHECKERS = 2
"""Processes that check grammars, shared by all models."""


@dataclass(frozen=True)
class Schema:
    """A JSON schema as text."""

    place: str
    """The request's parameter that has it, for errors."""
    text: str
    is_exact: bool = True
    """Whether keywords that cannot be enforced are refused, or ignored."""


@dataclass(frozen=True)
class GrammarSource:
    """What a completion's text follows: GBNF, or rules over JSON schemas."""

    rules: str
    """GBNF whose first rule is `root`; with schemas, rules in Lark's notation whose first rule is
    `start`, where `schema0`, `schema1`, … stand for them."""
    schemas: tuple[Schema, ...] = ()
    opening: str = ""
    """The text that the rules call `opening`: a control token, where the vocabulary has one."""
    begun: str = ""
    """Text that the completion already has of it. If that does not follow the rules, nothing is
    bound; only with schemas."""

    @classmethod
    def of_schema(cls, schema: Schema) -> GrammarSource:
        """Return the grammar of the JSON texts that are valid under one schema."""
        return cls("start: schema0", (schema,))

    @property
    def is_exact(self) -> bool:
        """Whether a schema must be enforced in full."""
        return any(schema.is_exact for schema in self.schemas)

    def loosened(self) -> GrammarSource:
        """Return the same rules over any JSON objects."""
        loose = (replace(schema, text='{"type": "object"}') for schema in self.schemas)
        return replace(self, schemas=tuple(loose))

    @property
    def place(self) -> str:
        """The request's parameter that is to blame for an error."""
        return self.schemas[0].place if self.schemas else "grammar"

    @property
    def num_bytes(self) -> int:
        """Length of all texts, in UTF-8."""
        texts = (self.rules, *(schema.text for schema in self.schemas))
        return sum(len(text.encode(errors="surrogatepass")) for text in texts)

    def message(self) -> bytes:
        """Return it as JSON for the process that reads grammars."""
        return json.dumps(asdict(self)).encode()


def schema_of(value: Mapping[str, Any], place: str, *, is_exact: bool = True) -> Schema:
    """Return a client's schema as text.

    Raises:
        InvalidRequestError: It is not JSON: it holds NaN, or is nested too deeply.
    """
    try:
        return Schema(place, json.dumps(value, allow_nan=False), is_exact)
    except (RecursionError, ValueError) as error:
        raise InvalidRequestError(
            "the JSON schema is not JSON", where=place, found=str(error)
        ) from error


def check_size(source: GrammarSource) -> None:
    """Make sure that a grammar is short enough to be read.

    Raises:
        InvalidRequestError: It is not.
    """
    if source.num_bytes > MAX_SOURCE_BYTES:
        raise InvalidRequestError(
            "the grammar is too large",
            where=source.place,
            expected=f"at most {MAX_SOURCE_BYTES} bytes",
            found=source.num_bytes,
        )


def check_grammar(source: GrammarSource) -> None:
    """Make sure that a grammar can be used; may block for some milliseconds, seconds at worst.

    Raises:
        InvalidRequestError: It is damaged, too large, too expensive, or has a keyword that cannot
            be enforced; `found` names it.
        BackendUnavailableError: The process that reads grammars cannot be started now.
    """
    check_size(source)
    if "\0" in source.rules or not source.rules.strip():
        raise InvalidRequestError("the grammar is empty or has a null character", where="grammar")
    if error := _checked(source):
        raise error.with_traceback(None)


@lru_cache(maxsize=256)
def _checked(source: GrammarSource) -> InvalidRequestError | None:
    checker = _checkers.get()
    try:
        error = checker.check(source)
    finally:
        _checkers.put(checker)
    if error is not None and not isinstance(error, InvalidRequestError):
        raise error  # not the grammar's fault: not kept
    return error


_checkers: queue.LifoQueue[GrammarProcess] = queue.LifoQueue()
for _ in range(NUM_CHECKERS):
    _checkers.put(GrammarProcess(None))

"""Grammars that bind what a model may write: made from JSON schemas, and checked.

In: a JSON schema, or GBNF text (llama.cpp's grammar language). Out: GBNF text, or a typed error.
Knows nothing of sampling.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from serve.engine.grammar_client import GrammarProcess
from serve.engine.integer_range import BOUNDS
from serve.engine.schema_converter import ANNOTATIONS, ExactConverter
from serve.errors import InvalidRequestError

GENERIC_JSON_GRAMMAR = r"""
root   ::= object
value  ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws (pair ("," ws pair)*)? ws "}"
pair   ::= string ":" ws value ws
array  ::= "[" ws (value ws ("," ws value ws)*)? "]"
string ::= "\"" char* "\""
char   ::= [^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})
number ::= "-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,3})?
ws     ::= | " " | "\n" [ \t]{0,20}
"""
"""Any JSON object. Digits and white space are bounded, so that a model cannot run away in them."""

MAX_GRAMMAR_BYTES = 64 * 1024
"""Few schemas, and nobody's hand, make longer ones; the time to check one grows with it."""

MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 32
"""A schema is walked by recursion; OpenAI allows 10 levels."""

MAX_REPETITIONS = 500
"""Bound of `minLength`, `maxItems`, `{500}` in a pattern: each one is a level of recursion."""

_EXPRESSED = {
    "$ref", "additionalProperties", "allOf", "anyOf", "const", "enum", "format", "items",
    "maxItems", "maxLength", "minItems", "minLength", "oneOf", "pattern", "prefixItems",
    "properties", "required", "type",
}  # fmt: skip
_FORMATS = {"date", "time", "date-time", "uuid", "uuid1", "uuid2", "uuid3", "uuid4", "uuid5"}
_BY_NAME = ("properties", "$defs", "definitions")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE = ("items", "additionalProperties")

_checker = GrammarProcess(None)
_checker_lock = threading.Lock()


def grammar_of_schema(schema: Mapping[str, Any], *, exact: bool = True) -> str:
    """Return the GBNF grammar of the JSON texts that are valid under a JSON schema.

    Properties come in the schema's order; those not named are left out unless
    `additionalProperties` asks for them.

    Args:
        exact: Refuse keywords that a grammar cannot express, instead of leaving them out.

    Raises:
        InvalidRequestError: The schema is damaged, too large, or has a keyword that a grammar
            cannot express; `found` names it.
    """
    try:
        text = json.dumps(schema, allow_nan=False)
        if len(text) > MAX_SCHEMA_BYTES:
            raise _refused("the JSON schema is too large", f"{len(text)} characters")
        copy = json.loads(text)
        if not exact:
            _relax(copy)
        _check_schema(copy)
        grammar = str(ExactConverter(copy).format_grammar())
    except InvalidRequestError:
        raise
    except (AssertionError, AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise _refused("the JSON schema cannot be read", str(error) or repr(error)) from error
    except RecursionError as error:
        raise _refused("the JSON schema is nested too deeply", "endless recursion") from error
    if len(grammar) > MAX_GRAMMAR_BYTES:
        raise _refused("the JSON schema makes too large a grammar", f"{len(grammar)} characters")
    return grammar


def check_grammar(text: str) -> None:
    """Make sure that llama.cpp can use a grammar; may block for some milliseconds, 2 s at worst.

    Raises:
        InvalidRequestError: It is damaged, too large, or endless to read.
    """
    num_bytes = len(text.encode())
    if num_bytes > MAX_GRAMMAR_BYTES:
        raise InvalidRequestError(
            "the grammar is too large",
            where="grammar",
            expected=f"at most {MAX_GRAMMAR_BYTES} bytes",
            found=num_bytes,
        )
    if "\0" in text or not text.strip():
        raise InvalidRequestError("the grammar is empty or has a null character", where="grammar")
    if error := _read(text):
        raise error.with_traceback(None)


@lru_cache(maxsize=256)
def _read(text: str) -> InvalidRequestError | None:
    with _checker_lock:
        grammar = _checker.open(text)
        error = None
        while _checker.is_busy:
            for _, verdict in _checker.collect(0.1):
                error = verdict.error
        _checker.release(grammar)
    return error


def _check_schema(schema: Any) -> None:  # noqa: ANN401  (JSON)
    for node, depth in _nodes(schema, 0):
        if depth > MAX_SCHEMA_DEPTH:
            raise _refused("the JSON schema is nested too deeply", f"{depth} levels")
        if isinstance(node, bool):
            continue
        if not isinstance(node, dict):
            raise _refused("a part of the JSON schema is no object", json.dumps(node)[:80])
        for name in node:
            _check_keyword(node, name)
        if missing := set(node.get("required", [])) - set(node.get("properties", {})):
            raise _refused("a required property has no schema", ", ".join(map(str, missing)))


def _relax(schema: Any) -> None:  # noqa: ANN401  (JSON)
    """Drop what a grammar cannot express."""
    for node, _ in _nodes(schema, 0):
        for name in [*node] if isinstance(node, dict) else []:
            try:
                _check_keyword(node, name)
            except InvalidRequestError:
                del node[name]


def _check_keyword(node: Mapping[str, Any], name: str) -> None:
    value = node[name]
    of_integer = name in BOUNDS and node.get("type") == "integer"
    if not of_integer and name not in _EXPRESSED | ANNOTATIONS:
        raise _refused("a keyword of the JSON schema cannot be a grammar", name)
    if of_integer and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise _refused("a bound must be a number", f"{name} {value!r}")
    if name == "format" and value not in _FORMATS:
        raise _refused("a format of the JSON schema cannot be a grammar", f"format {value!r}")
    if name in ("maxItems", "minItems", "maxLength", "minLength") and (
        not isinstance(value, int) or not 0 <= value <= MAX_REPETITIONS
    ):
        raise _refused(f"{name} must be 0 to {MAX_REPETITIONS}", f"{name} {value!r}")
    if name == "pattern":
        _check_pattern(value)


def _check_pattern(pattern: object) -> None:
    """Bound what a pattern repeats."""
    if not isinstance(pattern, str):
        raise _refused("a pattern must be text", f"pattern {pattern!r}")
    counts = re.findall(r"\{\s*(\d*)\s*,?\s*(\d*)\s*\}", pattern)
    if any(int(count) > MAX_REPETITIONS for pair in counts for count in pair if count):
        raise _refused("a pattern repeats too often", f"pattern {pattern[:80]!r}")


def _nodes(schema: Any, depth: int) -> Iterator[tuple[Any, int]]:  # noqa: ANN401  (JSON)
    """Walk over a schema and the schemas within; a level too deep is given, and not gone into."""
    yield schema, depth
    if not isinstance(schema, dict) or depth > MAX_SCHEMA_DEPTH:
        return
    for keyword in _BY_NAME:
        for inner in dict(schema.get(keyword) or {}).values():
            yield from _nodes(inner, depth + 1)
    for keyword in _LISTS:
        for inner in list(schema.get(keyword) or []):
            yield from _nodes(inner, depth + 1)
    for keyword in _SINGLE:
        inner = schema.get(keyword)
        for one in inner if isinstance(inner, list) else [inner] if inner is not None else []:
            yield from _nodes(one, depth + 1)


def _refused(what: str, found: str) -> InvalidRequestError:
    return InvalidRequestError(what, where="json_schema", found=found)

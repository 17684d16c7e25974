"""Grammars that bind what a model may write: made from JSON schemas, and checked.

In: a JSON schema, or GBNF text (llama.cpp's grammar language). Out: GBNF text, or a typed error.
Knows nothing of sampling.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llama_cpp.llama_grammar import JSON_GBNF, SchemaConverter

from serve.errors import InvalidRequestError

GENERIC_JSON_GRAMMAR: str = JSON_GBNF
"""Any JSON object."""

MAX_GRAMMAR_BYTES = 64 * 1024
"""A grammar is read on every step; nobody writes longer ones by hand, few schemas make them."""


def grammar_of_schema(schema: Mapping[str, Any]) -> str:
    """Return the GBNF grammar of the JSON texts that are valid under a JSON schema.

    Properties come in the schema's order; those not named are left out unless
    `additionalProperties` asks for them.

    Raises:
        InvalidRequestError: The schema is damaged, too large, or has a keyword that a grammar
            cannot express; `found` names it.
    """
    converter = SchemaConverter(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
    converter.visit(converter.resolve_refs(json.loads(json.dumps(schema)), "schema"), "")
    return str(converter.format_grammar())


def check_grammar(text: str) -> None:
    """Make sure that llama.cpp can use a grammar; may take some milliseconds.

    Raises:
        InvalidRequestError: It is damaged, too large, or endless to read.
    """
    if len(text.encode()) > MAX_GRAMMAR_BYTES:
        raise InvalidRequestError(
            "the grammar is too large", where="grammar", expected=f"{MAX_GRAMMAR_BYTES} bytes"
        )

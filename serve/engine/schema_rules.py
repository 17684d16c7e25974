"""JSON schemas made ready for llguidance, in the process that reads grammars.

In: a schema as text. Out: the schema with options for llguidance, or an error that names what is
wrong. llguidance enforces it; what differs from its defaults: JSON is written on one line, unknown
keywords are refused, and an object with `properties` has no others unless the schema asks for them,
as in llama.cpp.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

ENFORCED = frozenset({
    "$ref", "additionalItems", "additionalProperties", "allOf", "anyOf", "const", "enum",
    "exclusiveMaximum", "exclusiveMinimum", "format", "items", "maxItems", "maxLength",
    "maxProperties", "maximum", "minItems", "minLength", "minProperties", "minimum", "multipleOf",
    "oneOf", "pattern", "patternProperties", "prefixItems", "properties", "required", "type",
})  # fmt: skip
"""Keywords that llguidance enforces."""

ANNOTATIONS = frozenset({
    "$anchor", "$comment", "$defs", "$id", "$schema", "contentEncoding", "contentMediaType",
    "default", "definitions", "deprecated", "description", "discriminator", "examples", "id",
    "readOnly", "strict", "title", "writeOnly",
})  # fmt: skip
"""Keywords that constrain nothing."""

STYLES = (
    {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
    {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"},
)
"""White space is bounded, so that a model cannot generate it forever. A text keeps the style of its
first separator, so that the schema decides the others."""

_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_SINGLE = ("items", "additionalItems", "additionalProperties")
_OF_OBJECTS = frozenset({"properties", "required", "additionalProperties", "patternProperties"})
_COUNTS = frozenset({
    "maxItems", "maxLength", "maxProperties", "minItems", "minLength", "minProperties",
})  # fmt: skip
_UUIDS = frozenset(f"uuid{version}" for version in range(1, 9))


class UnusableSchemaError(Exception):
    """A schema that cannot be enforced."""


def prepared(text: str, *, is_exact: bool, patterns: bool = True) -> list[dict[str, Any]]:
    """Return a schema as llguidance reads it, once for each style of separators.

    Args:
        is_exact: Refuse keywords that cannot be enforced, instead of ignoring them.
        patterns: Whether to keep regular expressions.

    Raises:
        UnusableSchemaError: It is nested too deeply, or has a keyword that cannot be enforced.
    """
    try:
        schema = json.loads(text)
    except RecursionError as error:
        raise UnusableSchemaError("nested too deeply") from error
    if not isinstance(schema, dict):
        raise UnusableSchemaError("not an object")
    nodes = list(_nodes(schema))
    for node in nodes:
        _respell(node)
        unknown = node.keys() - ENFORCED - ANNOTATIONS
        if is_exact and unknown:
            raise UnusableSchemaError(f"unsupported keyword {min(unknown)}")
        if not patterns:
            node.pop("pattern", None)
            node.pop("patternProperties", None)
    if not any(map(_combines, nodes)):
        for node in nodes:
            _close(node)
    return [schema | {"x-guidance": style | {"lenient": not is_exact}} for style in STYLES]


def _respell(node: dict[str, Any]) -> None:
    """Replace spellings that llguidance would refuse."""
    if isinstance(node.get("format"), str) and node["format"] in _UUIDS:
        node["format"] = "uuid"
    if node.get("uniqueItems") is False:
        del node["uniqueItems"]
    for keyword in _COUNTS & node.keys():
        count = node[keyword]
        if isinstance(count, float) and count.is_integer():
            node[keyword] = int(count)


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401  (JSON)
    """Walk over a schema and the schemas within, parents first."""
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, dict):
            continue
        yield node
        for keyword in _BY_NAME:
            if isinstance(inner := node.get(keyword), dict):
                waiting += inner.values()
        for keyword in _LISTS:
            if isinstance(inner := node.get(keyword), list):
                waiting += inner
        waiting += [node[keyword] for keyword in _SINGLE if keyword in node]


def _combines(node: dict[str, Any]) -> bool:
    """Return whether objects are described in parts: closing one part would forbid the others."""
    parts = node.keys() & {"$ref", "anyOf", "oneOf"}
    return "allOf" in node or bool(parts and node.keys() & _OF_OBJECTS)


def _close(node: dict[str, Any]) -> None:
    """Forbid properties without a schema, unless something asks for them."""
    properties = node.get("properties")
    if not isinstance(properties, dict):
        return
    node.setdefault("type", "object")
    required = node.get("required")
    names = required if isinstance(required, list) else []
    asks = node.keys() & {"additionalProperties", "patternProperties", "minProperties"}
    if not asks and all(name in [*properties] for name in names):
        node["additionalProperties"] = False

"""A JSON schema that given objects fit, to be read and corrected by people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MOST_VALUES = 12
"""More different texts are no enumeration."""
FEWEST_PER_VALUE = 4
"""Mean number of times that each value of an enumeration occurs."""
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


def object_schema(contents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the schema of objects; a property that all of them have is required."""
    names = list(dict.fromkeys(name for content in contents for name in content))
    return {
        "type": "object",
        "properties": {
            name: _schema([content[name] for content in contents if name in content])
            for name in names
        },
        "required": [name for name in names if all(name in content for content in contents)],
        "additionalProperties": False,
    }


def _schema(values: Sequence[Any]) -> dict[str, Any]:
    """Return a schema of several values; {} allows anything, where kinds are mixed."""
    given = [value for value in values if value is not None]
    if given and all(isinstance(value, Mapping) for value in given):
        schema = object_schema(given)
    elif given and all(isinstance(value, list) for value in given):
        schema = {"type": "array", "items": _schema([one for value in given for one in value])}
    elif any(isinstance(value, Mapping | list) for value in given):
        return {}
    else:
        schema = _plain(given)
    if len(given) < len(values) and "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        schema["type"] = [*kinds, "null"]
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
    return schema


def _plain(values: Sequence[Any]) -> dict[str, Any]:
    kinds = list(dict.fromkeys(TYPES[type(value)] for value in values))
    if set(kinds) == {"integer", "number"}:
        kinds = ["number"]
    schema: dict[str, Any] = {}
    if kinds:
        schema["type"] = kinds[0] if len(kinds) == 1 else kinds
    distinct = dict.fromkeys(values)
    repeat = len(values) >= FEWEST_PER_VALUE * len(distinct)
    if kinds == ["string"] and repeat and len(distinct) <= MOST_VALUES:
        schema["enum"] = sorted(distinct)
    return schema

"""A schema by which the teacher cannot answer otherwise than what is known.

In: a task's schema and a known answer. Out: the schema with the known fields bound to their values,
so that the teacher writes only the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from potstill.task.answers import Answer


def bound_to(schema: str, known: Answer) -> str:
    """Return the schema with the fields of a known JSON object bound; else the schema itself."""
    content, fields = json.loads(schema), _fields(known)
    properties = content.get("properties", {})
    if fields.keys().isdisjoint(properties):
        return schema
    bound = {name: {"enum": [fields[name]]} for name in properties if name in fields}
    required = dict.fromkeys([*content.get("required", []), *bound])
    return json.dumps(content | {"properties": properties | bound, "required": list(required)})


def binds_all(schema: str, known: Answer, others: Iterable[Answer]) -> bool:
    """Return whether a known answer binds every field that others have an answer for."""
    fields = [set(_fields(other)) for other in others]
    bound = _fields(known).keys() & json.loads(schema).get("properties", {}).keys()
    return all(fields) and set().union(*fields) <= bound


def _fields(known: Answer) -> dict[str, Any]:
    """Return a JSON object's fields; of another answer none."""
    try:
        fields = json.loads(known.text)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}

"""A schema by which the teacher cannot answer otherwise than what is known.

In: a task's schema and a known answer. Out: the schema with the known fields bound to their values,
so that the teacher writes only the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from potstill.json_text import parse_object
from potstill.task.answers import Answer


def bound_to(schema: str, known: Answer) -> str:
    """Return the schema with the fields of a known JSON object bound; else the schema itself."""
    content, fields = json.loads(schema), parse_object(known.text)
    properties = content.get("properties", {})
    if fields.keys().isdisjoint(properties):
        return schema
    bound = {name: {"enum": [fields[name]]} for name in properties if name in fields}
    required = dict.fromkeys([*content.get("required", []), *bound])
    return json.dumps(content | {"properties": properties | bound, "required": list(required)})


def binds_all(schema: str, known: Answer, others: Iterable[Answer]) -> bool:
    """Return whether a known answer binds every field that others have an answer for."""
    fields = [set(parse_object(other.text)) for other in others]
    bound = parse_object(known.text).keys() & json.loads(schema).get("properties", {}).keys()
    return all(fields) and set().union(*fields) <= bound

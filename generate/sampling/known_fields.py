"""A schema by which the teacher cannot answer otherwise than what is known.

In: a task's schema and a known answer. Out: the schema with the known fields bound to their values,
so that the teacher writes only the others.
"""

from __future__ import annotations

import json

from potstill.task.answers import Answer


def bound_to(schema: str, known: Answer) -> str:
    """Return the schema with the fields of a known JSON object bound; else the schema itself."""
    content = json.loads(schema)
    try:
        fields = json.loads(known.text)
    except ValueError:
        return schema
    properties = content.get("properties", {})
    if not isinstance(fields, dict) or fields.keys().isdisjoint(properties):
        return schema
    bound = {name: {"enum": [fields[name]]} for name in properties if name in fields}
    required = dict.fromkeys([*content.get("required", []), *bound])
    return json.dumps(content | {"properties": properties | bound, "required": list(required)})

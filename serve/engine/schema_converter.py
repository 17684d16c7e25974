"""llama-cpp-python's converter of JSON schemas, made exact.

In: a JSON schema that `grammar` has checked. Out: rules of a GBNF grammar. What differs from the
converter it builds on: literals keep their backslashes, strings hold no raw quotes and control
characters whatever a pattern says, a reference is never taken for a rule of the same name, and the
empty schema means any value. Knows nothing of limits.
"""

from __future__ import annotations

import json
import re
from typing import Any

from llama_cpp.llama_grammar import PRIMITIVE_RULES, SchemaConverter

from serve.engine.integer_range import BOUNDS, integer_range

ANNOTATIONS = frozenset({
    "$comment", "$defs", "$id", "$schema", "definitions", "default", "deprecated", "description",
    "discriminator", "examples", "readOnly", "strict", "title", "writeOnly",
})  # fmt: skip
"""Keywords that bind nothing."""

CHARACTER = r'[^"\\\x00-\x1F\x7F]'
"""What a JSON string holds unescaped."""

FIXED_RULES = {
    "char": CHARACTER
    + r' | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F])',
    "dot": CHARACTER,
}

CLASSES = {"d": "0-9", "w": "a-zA-Z0-9_", "s": " "}
"""The escapes of regular expressions that stand for classes; white space that a JSON string needs
no escape for is the blank only."""


class _References(dict[str, Any]):
    """The parts of a schema by their JSON pointers, found when they are asked for."""

    def __init__(self, schema: Any) -> None:  # noqa: ANN401  (JSON)
        super().__init__()
        self._schema = schema

    def __missing__(self, reference: str) -> Any:  # noqa: ANN401  (JSON)
        if not reference.startswith("#"):
            raise ValueError(f"the reference {reference}; only those within the schema are read")
        part = self._schema
        for step in reference[1:].split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            part = part[int(step) if isinstance(part, list) else step]
        return part


class ExactConverter(SchemaConverter):  # type: ignore[misc]
    """Makes the rules of one schema."""

    def __init__(self, schema: Any) -> None:  # noqa: ANN401  (JSON)
        super().__init__(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
        self._rules |= FIXED_RULES
        self._refs = _References(schema)
        self.visit(schema, "")

    def visit(self, schema: Any, name: str) -> str:  # noqa: ANN401  (JSON)
        """Add the rules of a schema, and return the name of the first."""
        if schema is False:
            raise ValueError("the schema false allows nothing")
        bound = {} if schema is True else {k: v for k, v in schema.items() if k not in ANNOTATIONS}
        if not bound:
            rule_name = name or "root"
            return str(self._add_primitive(rule_name, PRIMITIVE_RULES["value"]))
        if bound.get("items") in ({}, True):
            # The converter takes an empty schema for none.
            bound["items"] = {"$comment": "any value"}
        if bound.keys() & BOUNDS:
            return str(self._add_rule(name or "root", f"({integer_range(bound)}) space"))
        return str(super().visit(bound, name))

    def _add_rule(self, name: str, rule: str) -> str:
        return name if name in FIXED_RULES else str(super()._add_rule(name, rule))

    def _format_literal(self, literal: str) -> str:
        """Quote JSON text for a grammar, with its letters as they are."""
        text = json.dumps(json.loads(literal), ensure_ascii=False)
        return str(super()._format_literal(text.replace("\\", "\\\\")))

    def _resolve_ref(self, ref: str) -> str:
        """Return the name of the rule for a reference, which may be on its way to itself."""
        name = "ref-" + re.sub(r"[^a-zA-Z0-9-]+", "-", ref)
        if name not in self._rules and ref not in self._refs_being_resolved:
            self._refs_being_resolved.add(ref)
            name = self.visit(self._refs[ref], name)
            self._refs_being_resolved.remove(ref)
        return name

    def _visit_pattern(self, pattern: str, name: str) -> str:
        return str(super()._visit_pattern(plain_pattern(pattern), name))


def plain_pattern(pattern: str) -> str:
    r"""Rewrite a regular expression in what GBNF has: `\d` as a class, `\.` as one in hexadecimal.

    Raises:
        ValueError: It uses an escape that a grammar cannot express, or needs an escape in JSON.
    """
    if re.search(r'"|\\\\', pattern):
        raise ValueError("a pattern with quotes or backslashes")
    parts = []
    in_class = False
    for token in re.findall(r"\\.|\[\^|.", pattern, re.DOTALL):
        if token == "[^" and not in_class:
            parts.append(r'[^"\\\x00-\x1F\x7F')
            in_class = True
        elif token[0] == "\\":
            content = _escaped(token[1])
            parts.append(content if in_class else f"[{content}]")
        else:
            parts.append(token)
            in_class = token == "[" or (in_class and token != "]")
    return "".join(parts)


def _escaped(character: str) -> str:
    if character in CLASSES:
        return CLASSES[character]
    if character.isalnum():
        raise ValueError(f"the escape \\{character} in a pattern")
    return f"\\x{ord(character):02X}" if ord(character) < 256 else character

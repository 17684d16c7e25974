"""Schemas and grammars made to cost a server time, memory or its life."""

import json
import resource
import time

import pytest

from serve.engine.grammar import GrammarSource, Schema, check_grammar
from serve.errors import InvalidRequestError

pytestmark = pytest.mark.slow

MAX_WALL_SECONDS = 20.0
"""Generous: a check ends within 1 s of processor time, besides the start of a process."""

MAX_OWN_SECONDS = 1.0
MAX_OWN_MIB = 64


def nested(depth: int, head: str, tail: str) -> str:
    return head * depth + '{"type":"integer"}' + tail * depth


def pattern(text: str) -> str:
    return json.dumps({"type": "string", "pattern": text})


def of_schema(text: str, *, is_exact: bool = True) -> GrammarSource:
    return GrammarSource.of_schema(Schema("json_schema", text, is_exact))


def properties(number: int) -> dict:
    return {f"a{n}": {"type": "integer"} for n in range(number)}


def overlapping(number: int) -> dict:
    return {f"^p{n}[a-z]*$": {} for n in range(number)}


def intersections(number: int) -> list[dict]:
    return [{"type": "string", "pattern": f"a{{{n}}}.*b"} for n in range(2, number)]


BRANCHES = [{"anyOf": [{"properties": {f"p{n}": {"const": k}}} for k in "abcd"]} for n in range(60)]
DAG = {
    f"d{n}": {"properties": {p: {"$ref": f"#/$defs/d{n + 1}"} for p in "abcdefgh"}}
    for n in range(100)
} | {"d100": {"type": "integer"}}
SCHEMAS = {
    "blanks in a count": pattern("^{" + " " * 1500 + "$"),
    "many blanks in a count": pattern("^{" + " " * 60_000 + "$"),
    "a reference to a default":
        '{"$ref":"#/default","default":{"type":"string","minLength":100000000}}',
    "a reference into an example": '{"$ref":"#/examples/0","examples":[{"minItems":100000000}]}',
    "many items": '{"type":"array","minItems":100000000}',
    "many items at most": '{"type":"array","maxItems":100000000,"items":{"type":"integer"}}',
    "many items, nested": nested(5, '{"type":"array","maxItems":10000,"items":', "}"),
    "many properties at least": '{"type":"object","minProperties":10000000}',
    "a long string": '{"type":"string","minLength":4000000000}',
    "counts in counts": pattern("^((((a{0,999}){0,999}){0,999}){0,999}){0,999}$"),
    "a count": pattern("^a{4294967295}$"),
    "stars": pattern("^" + "a*" * 60_000 + "$"),
    "choices": pattern("^" + "(a|b|c)?" * 15_000 + "$"),
    "an exponential automaton": pattern("^(a|b)*a(a|b){5000}$"),
    "parentheses": pattern("^" + "(" * 60_000 + "a" + ")" * 60_000 + "$"),
    "intersections": json.dumps({"allOf": intersections(60)}),
    "multiples": '{"type":"integer","multipleOf":1000003}',
    "names that may overlap": json.dumps({"patternProperties": overlapping(1000)}),
    "deep arrays": nested(4_000, '{"type":"array","items":', "}"),
    "deep alternatives": nested(100, '{"anyOf":[', "]}"),
    "a deep constant": '{"const":' + "[" * 60_000 + "]" * 60_000 + "}",
    "brackets": "[" * 130_000,
    "alternatives of alternatives": json.dumps({"allOf": BRANCHES}),
    "references in a lattice": json.dumps({"$ref": "#/$defs/d0", "$defs": DAG}),
    "a reference to itself": '{"allOf":[{"$ref":"#"},{"$ref":"#"}]}',
    "a huge enum": json.dumps({"enum": [f"v{n}" for n in range(12_000)]}),
    "a huge enum of objects": json.dumps({"enum": [{"a": n, "b": [n] * 5} for n in range(2_500)]}),
    "many properties": json.dumps({"type": "object", "properties": properties(4_000)}),
    "many required properties": json.dumps(
        {"properties": properties(3_000), "required": [*properties(3_000)]}
    ),
    "4 MB": json.dumps({"enum": ["x" * 4_000_000]}),
    "options of the library":
        '{"x-guidance":{"whitespace_pattern":"(a{1000}){1000}"},"type":"object"}',
}  # fmt: skip
LENIENT = ("blanks in a count", "intersections", "multiples", "options of the library")
GRAMMARS = {
    "counts": 'root ::= (("a"{1,99}){1,99}){1,99}',
    "optional optionals": "root ::= r0\n"
    + "\n".join(f"r{n} ::= r{n + 1}? r{n + 1}?" for n in range(40))
    + '\nr40 ::= "a"?',
    "parentheses": "root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000,
    "4 MB": 'root ::= "' + "a" * 4_000_000 + '"',
    "blanks": "root ::=" + " " * 120_000 + '"a"{' + " " * 9_000,
}
SOURCES = {
    **{f"schema: {name}": of_schema(text) for name, text in SCHEMAS.items()},
    **{f"tool: {name}": of_schema(SCHEMAS[name], is_exact=False) for name in LENIENT},
    **{f"GBNF: {name}": GrammarSource(text) for name, text in GRAMMARS.items()},
}


def refusal(source: GrammarSource) -> InvalidRequestError | None:
    try:
        check_grammar(source)
    except InvalidRequestError as error:
        return error
    return None


@pytest.mark.parametrize("name", SOURCES)
def test_a_check_costs_bounded_time_and_memory(name):
    check_grammar(GrammarSource('root ::= "a"'))
    begin, own_begin = time.monotonic(), time.process_time()
    memory_begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = refusal(SOURCES[name])
    assert error is None or error.where == SOURCES[name].place
    assert time.process_time() - own_begin < MAX_OWN_SECONDS
    assert time.monotonic() - begin < MAX_WALL_SECONDS
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_begin
    assert grown_kib < MAX_OWN_MIB * 1024
    check_grammar(of_schema('{"type":"object"}'))


@pytest.mark.parametrize(("name", "reason"), [("multiples", "time"), ("many items", "memory")])
def test_what_goes_beyond_a_limit_is_refused(name, reason):
    assert f"too much {reason}" in str(refusal(of_schema(SCHEMAS[name])))


def test_costly_schemas_do_not_stay_in_memory():
    # Each takes 76 MB, together more than the process may have.
    for number in range(8):
        assert refusal(of_schema(pattern(f"^a{{{2**32 - 1 - number}}}$"))) is None

"""JSON schemas as llguidance enforces them: the public test suite, and what differs from it."""

import itertools
import json
from pathlib import Path

import pytest

from serve.engine.grammar_process import SchemaMatcher, UnusableGrammarError, Vocabulary

SUITE = json.loads(Path("tests/fixtures/json_schema_test_suite.json").read_text())["keywords"]
"""By keyword: schemas with valid and invalid instances."""

UNSUPPORTED = {
    "contains", "dependentRequired", "if-then-else", "not", "propertyNames", "uniqueItems",
}  # fmt: skip
KNOWN_GAPS = {"date": 3}
"""Invalid instances that are let through: 29 February in years that are no leap years."""

NUM_ACCEPTED_SCHEMAS, NUM_VALID = 158, 307
"""Schemas of the suite that can be enforced, and their valid instances that can be written."""

BYTES = Vocabulary(None)


def matcher(schema: object, *, is_exact: bool = True) -> SchemaMatcher:
    described = {"place": "here", "text": json.dumps(schema), "is_exact": is_exact}
    return SchemaMatcher("start: schema0", [described], BYTES)


def can_write(text: str, schema: object, *, is_exact: bool = True) -> bool:
    follower = matcher(schema, is_exact=is_exact)
    return all(map(follower.take, text.encode())) and follower.take(BYTES.end_tokens[0])


def spellings(value: object) -> list[str]:
    """Spell an instance with its outer keys in any order: a grammar has one."""
    if not isinstance(value, dict):
        return [json.dumps(value)]
    orders = itertools.islice(itertools.permutations(value.items()), 24)
    return [json.dumps(dict(order)) for order in orders]


@pytest.mark.parametrize("keyword", SUITE)
def test_nothing_invalid_can_be_written(keyword):
    gaps = []
    num_accepted = 0
    for case in SUITE[keyword]:
        try:
            matcher(case["schema"])
        except UnusableGrammarError:
            continue
        num_accepted += 1
        for value in case["invalid"]:
            gaps += [text for text in spellings(value) if can_write(text, case["schema"])]
    assert len(gaps) == KNOWN_GAPS.get(keyword, 0), gaps
    assert (num_accepted == 0) == (keyword in UNSUPPORTED - {"uniqueItems"})


def test_most_of_what_is_valid_can_be_written():
    num_schemas = num_valid = 0
    for case in itertools.chain(*SUITE.values()):
        try:
            matcher(case["schema"])
        except UnusableGrammarError:
            continue
        num_schemas += 1
        for value in case["valid"]:
            num_valid += any(can_write(text, case["schema"]) for text in spellings(value))
    assert (num_schemas, num_valid) == (NUM_ACCEPTED_SCHEMAS, NUM_VALID)


@pytest.mark.parametrize("keyword", sorted(UNSUPPORTED))
def test_what_cannot_be_enforced_is_refused_by_name(keyword):
    names = "if|then|else" if keyword == "if-then-else" else keyword
    for case in SUITE[keyword]:
        if case["schema"].get(keyword) is not False:
            with pytest.raises(UnusableGrammarError, match=f"unsupported keyword ({names})"):
                matcher(case["schema"])


UUID = "2eb8aa08-aa98-11ea-b4aa-73b441d16380"
A_B = {"properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (A_B, ['{"a": 1, "b": 2}', '{"b":2}', "{}"], ['{"a": 1, "c": 2}', "3", '{"a":  1}']),
        (A_B | {"additionalProperties": True}, ['{"a": 1, "c": 2}'], ['{"a": "x"}']),
        (A_B | {"required": ["c"]}, ['{"c": 2}'], ["{}"]),
        ({"allOf": [A_B, {"properties": {"c": {}}, "required": ["c"]}]}, ['{"a": 1, "c": 2}'], []),
        ({"type": "array", "items": {"type": "integer"}}, ["[1, 2]", "[1,2]"], ["[ 1]", "[1,\n2]"]),
        ({"format": "uuid4", "type": "string"}, [f'"{UUID}"'], ['"x"']),
        ({"type": "array", "uniqueItems": False, "maxItems": 1.0}, ["[1]"], ["[1, 1]"]),
        ({"type": "string", "pattern": r"^\d{3}\.\d$"}, ['"123.4"'], ['"12344"', '"1234"']),
        ({"type": "string", "pattern": "b"}, ['"abc"'], ['"ac"']),
        (
            {"$ref": "#/$defs/n", "$defs": {"n": {"properties": {"n": {"$ref": "#/$defs/n"}}}}},
            ['{"n": {"n": {}}}'],
            ['{"n": {"m": {}}}'],
        ),
        (
            {
                "oneOf": [
                    {"properties": {"k": {"const": kind}}, "required": ["k"]} for kind in "ab"
                ],
                "discriminator": {"propertyName": "k"},
            },
            ['{"k": "a"}', '{"k": "b"}'],
            ['{"k": "c"}'],
        ),
    ],
)  # fmt: skip
def test_a_schema_means_what_servers_mean_by_it(schema, good, bad):
    assert [text for text in good if not can_write(text, schema)] == []
    assert [text for text in bad if can_write(text, schema)] == []


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ('{"a": [1, 2], "b": 3}', True),
        ('{"a":[1,2],"b":3}', True),
        ('{"a": [1,2], "b": 3}', False),
        ('{"a": [1, 2],"b": 3}', False),
        ('{"a":[1,2], "b":3}', False),
        ('{"a":\n[1,2],"b":3}', False),
    ],
)
def test_the_first_separator_of_an_answer_decides_the_others(text, allowed):
    numbers = {"type": "array", "items": {"type": "integer"}}
    schema = {
        "properties": {"a": numbers, "b": {"type": "integer"}},
        "required": ["a", "b"],
    }
    assert can_write(text, schema) is allowed


def test_separators_that_are_decided_are_forced():
    constants = {name: {"const": name.upper()} for name in "ab"}
    follower = matcher({"properties": constants, "required": ["a", "b"]})
    assert bytes(follower.forced()) == b'{"a":'
    assert all(map(follower.take, b'{"a": '))
    assert bytes(follower.forced()) == b'"A", "b": "B"}'


def test_copies_follow_texts_of_their_own():
    first = matcher({"enum": ["yes", "no"]})
    second, third = first.copy(), first.copy()
    assert all(map(second.take, b'"yes"'))
    assert bytes(third.forced()) == bytes(first.forced()) == b'"'
    assert all(map(third.take, b'"no"'))
    assert not first.take(ord("n"))

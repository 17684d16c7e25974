"""Grammars: made from schemas, checked under limits, obeyed by the engine."""

import json
import re
import time

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.engine.grammar import GENERIC_JSON_GRAMMAR, check_grammar, grammar_of_schema
from serve.engine.grammar_client import GrammarProcess
from serve.engine.integer_range import integer_range
from serve.engine.request import Request
from serve.engine.sampler import SamplerParams
from serve.engine.schema_converter import plain_pattern
from serve.errors import InvalidRequestError

EXPLODING = "root ::= r0\n" + "\n".join(
    f"r{n} ::= r{n + 1} r{n + 1} | r{n + 1}" for n in range(25)
) + '\nr25 ::= "a" | ""'  # fmt: skip
BAD_GRAMMARS = {
    "syntax": "root ::= (",
    "no root": 'a ::= "b"',
    "undefined rule": "root ::= foo",
    "left recursion": 'root ::= root "a" | "b"',
    "stack overflow": "root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000,
    "too large": 'root ::= "' + "a" * 70_000 + '"',
    "empty": " \n",
    "null character": 'root ::= "a\0"',
}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "kind": {"enum": ["a\\b", 'c"d', "é", None, 3]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2},
    },
    "required": ["name", "kind", "tags"],
    "additionalProperties": False,
}


def generate(bench, *, seed=1, new=60, **more) -> Request:
    asked = Request([5, 6, 7], SamplerParams(seed=seed), max_new_tokens=new, **more)
    bench.run(asked)
    return asked


@pytest.mark.parametrize("name", BAD_GRAMMARS)
def test_a_bad_grammar_is_refused_and_the_next_one_is_read(name):
    with pytest.raises(InvalidRequestError, match="grammar"):
        check_grammar(BAD_GRAMMARS[name])
    check_grammar(GENERIC_JSON_GRAMMAR)


def test_an_endless_grammar_is_given_up(monkeypatch):
    monkeypatch.setattr("serve.engine.grammar_client.ANSWER_SECONDS", 0.2)
    with pytest.raises(InvalidRequestError, match="takes too much"):
        check_grammar(EXPLODING)
    check_grammar('root ::= "b"')


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        ('root ::= "{" [a-z]{3,5} "}"', r"\{[a-z]{3,5}\}"),
        ('root ::= ("ja" | "nein") " é" [0-9]+ "."', r"(ja|nein) é[0-9]+\."),
        ('root ::= [^\\x00-\\x7F]{2}', r"[^\x00-\x7F]{2}"),
    ],
)  # fmt: skip
def test_what_is_written_follows_the_grammar_and_ends_with_it(bench, grammar, pattern):
    for seed in range(3):
        for ignore_eos in (False, True):
            asked = generate(bench, seed=seed, grammar=grammar, ignore_eos=ignore_eos)
            assert bench.last(asked).error is None
            if bench.last(asked).finish_reason == "stop":
                assert re.fullmatch(pattern, bench.text(asked))
    short = generate(bench, grammar='root ::= "abc"')
    assert (bench.text(short), bench.last(short).finish_reason) == ("abc", "stop")


def test_json_of_a_schema_is_valid_under_it(bench):
    grammar = grammar_of_schema(PERSON)
    check_grammar(grammar)
    num_finished = 0
    for seed in range(3):
        asked = generate(bench, seed=seed, grammar=grammar)
        if bench.last(asked).finish_reason == "stop":
            jsonschema.validate(json.loads(bench.text(asked)), PERSON)
            num_finished += 1
    assert num_finished > 0


@pytest.mark.parametrize("value", ["a\\b", 'say "hi"', "é\n", 3, None, {"a": [1, "\\"]}])
def test_a_constant_is_written_letter_by_letter(bench, value):
    asked = generate(bench, grammar=grammar_of_schema({"const": value}))
    assert json.loads(bench.text(asked)) == value


def test_a_schema_may_refer_to_itself_and_use_the_names_of_rules():
    schema = {
        "$ref": "#/$defs/string",
        "$defs": {
            "string": {
                "type": "object",
                "properties": {"char": {"$ref": "#/$defs/string"}, "space": {"type": "integer"}},
                "required": ["space"],
            }
        },
    }
    check_grammar(grammar_of_schema(schema))
    check_grammar(grammar_of_schema({"type": "array", "items": {}}))
    check_grammar(grammar_of_schema({}))


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        ({"type": "number", "minimum": 3}, "minimum"),
        ({"type": "integer", "minimum": "3"}, "minimum"),
        ({"type": "integer", "minimum": 3, "exclusiveMaximum": 3}, "3 to 2"),
        ({"type": "array", "items": {"not": {}}}, "not"),
        ({"properties": {"a": {"patternProperties": {}}}}, "patternProperties"),
        ({"type": "string", "format": "email"}, "email"),
        ({"type": "string", "pattern": "^a{9999}$"}, "a{9999}"),
        ({"type": "string", "pattern": "a"}, "start with"),
        ({"type": "string", "pattern": r"^\bx$"}, r"\b"),
        ({"type": "string", "pattern": '^"$'}, "quotes"),
        ({"type": "string", "maxLength": 10**9}, "maxLength"),
        ({"$ref": "https://example.org/x"}, "example.org"),
        ({"$ref": "#/$defs/none"}, "$defs"),
        ({"type": "thing"}, "thing"),
        ({"type": "object", "properties": {}, "required": ["x"]}, "x"),
        ({"properties": 3}, "int"),
        ({"anyOf": "x"}, "x"),
        ({"enum": ["a" * 70_000]}, "characters"),
        ({"const": float("nan")}, "not JSON"),
    ],
)
def test_a_schema_that_cannot_be_a_grammar_is_refused_by_name(schema, found):
    with pytest.raises(InvalidRequestError, match=r"schema|pattern|0 to") as caught:
        grammar_of_schema(schema)
    assert found in str(caught.value)


def test_what_need_not_be_exact_is_bound_as_far_as_it_can():
    loose = {
        "type": "object",
        "properties": {"at": {"type": "number", "minimum": 0}, "to": {"format": "email"}},
        "required": ["at"],
        "not": {},
    }
    tight = {"type": "object", "properties": {"at": {"type": "number"}, "to": {}}}
    assert grammar_of_schema(loose, exact=False) == grammar_of_schema(tight | {"required": ["at"]})
    with pytest.raises(InvalidRequestError, match="thing"):
        grammar_of_schema({"type": "thing"}, exact=False)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_bounds_of_integers_are_kept(data):
    low, high = sorted(data.draw(st.tuples(*[st.integers(-12_345, 12_345)] * 2)))
    near = st.sampled_from([low - 1, low, low + 1, high - 1, high, high + 1, -1, 0, 1])
    value = data.draw(near | st.integers(-20_000, 20_000))
    bounds = data.draw(
        st.sampled_from([
            {"minimum": low, "maximum": high},
            {"exclusiveMinimum": low - 1, "exclusiveMaximum": high + 1},
            {"minimum": low - 0.5, "maximum": high + 0.5},
        ])
    )  # fmt: skip
    # What these expressions are made of means the same as a regular expression.
    pattern = re.sub(r'[" ]', "", integer_range(bounds))
    assert bool(re.fullmatch(pattern, str(value))) == (low <= value <= high)


@pytest.mark.parametrize("bounds", [{"exclusiveMaximum": -7}, {"minimum": 95, "maximum": 1004}, {}])
def test_bounded_integers_are_written(bench, bounds):
    schema = {"type": "integer", "minimum": -(10**9), **bounds}
    grammar = grammar_of_schema(schema)
    check_grammar(grammar)
    value = json.loads(bench.text(generate(bench, grammar=grammar)))
    jsonschema.validate(value, schema)


def test_a_schema_as_deep_as_the_stack_is_refused():
    deep: dict = {"type": "string"}
    for _ in range(500):
        deep = {"type": "array", "items": deep}
    with pytest.raises(InvalidRequestError, match="nested too deeply"):
        grammar_of_schema(deep)


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"^\d{3}\.\d$", "123.4", "12344"),
        (r"^[^ab\]]+x\s\w$", "c]x 9"[0] + "x _", "ax _"),
        (r"^(ab|c)*\-[\w.]$", "abc-.", "abc--"),
    ],
)
def test_patterns_keep_their_meaning(pattern, good, bad):
    rewritten = plain_pattern(pattern)
    for text in (good, bad):
        assert bool(re.search(pattern, text)) == bool(re.search(rewritten, text))


@pytest.mark.slow
def test_a_grammar_that_explodes_later_costs_its_own_request_only(make_bench, monkeypatch):
    monkeypatch.setattr("serve.engine.grammar_client.ANSWER_SECONDS", 1.0)
    bench = make_bench()
    exploding = EXPLODING.replace("root ::= r0", 'root ::= "a" r0')
    params = SamplerParams(seed=3)
    good = [Request([5, 6], params, 40, grammar='root ::= [a-z]+ "."'), Request([5, 9], params, 40)]
    bad = Request([5, 6, 7], params, 40, grammar=exploding)
    bench.engine.submit([good[0], bad, good[1]])
    begin = time.monotonic()
    longest = 0.0
    while not all(map(bench.is_done, [*good, bad])):
        before = time.monotonic()
        bench.engine.step()
        longest = max(longest, time.monotonic() - before)
        assert begin + 30 > time.monotonic()
    assert isinstance(bench.last(bad).error, InvalidRequestError)
    for one in good:
        again = Request(one.prompt_token_ids, params, 40, grammar=one.grammar)
        bench.run(again)
        assert bench.text(one) == bench.text(again)
        assert bench.last(one).error is None


def test_a_grammar_in_a_batch_does_not_change_its_neighbors(make_bench):
    params = SamplerParams(seed=3)
    bench = make_bench()
    plain = Request([5, 9], params, 20, num_top_logprobs=0)
    bound = Request([5, 9], params, 20, grammar="root ::= [a-z]*", num_top_logprobs=0)
    bench.run(plain, bound)
    alone = Request([5, 9], params, 20, num_top_logprobs=0)
    bound_alone = Request([5, 9], params, 20, grammar="root ::= [a-z]*", num_top_logprobs=0)
    bench.run(alone)
    bench.run(bound_alone)
    assert bench.logprobs(plain) == bench.logprobs(alone)
    assert bench.logprobs(bound) == bench.logprobs(bound_alone)


def test_cancelled_grammars_are_freed(make_bench):
    bench = make_bench()
    asked = Request([5, 6], SamplerParams(seed=1), 200, grammar="root ::= [a-z]*")
    bench.engine.submit([asked])
    for _ in range(30):
        bench.engine.step()
    bench.engine.cancel([asked])
    bench.engine.step()
    assert bench.engine._grammars._proposals == {}


def test_a_token_the_grammar_forbids_is_answered_with_those_it_allows(tiny_model):
    process = GrammarProcess(tiny_model.path, tiny_model.vocab_size)
    grammar = process.open('root ::= "yes" | "no"')
    (token_id,) = tiny_model.tokenize("maybe", parse_special=False)[:1]
    process.propose(grammar, token_id)
    verdicts = []
    while process.is_busy:
        verdicts += process.collect(1.0)
    ((of, verdict),) = verdicts
    assert of is grammar
    pieces = {tiny_model.piece(i) for i in verdict.allowed_V.nonzero()[0]}
    assert pieces == {b"y", b"ye", b"yes", b"n", b"no"}
    process.close()

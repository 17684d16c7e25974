"""Grammars: GBNF and JSON schemas, checked under limits and obeyed by the engine."""

import json
import queue
import re
import time
from dataclasses import replace

import jsonschema
import pytest

from potstill.errors import BackendUnavailableError
from serve.engine.grammar import GrammarSource, check_grammar, schema_of
from serve.engine.grammar_client import GrammarProcess
from serve.engine.request import Request
from serve.engine.sampler import SamplerParams
from serve.errors import InvalidRequestError

pytestmark = pytest.mark.slow

EXPLODING = "root ::= r0\n" + "\n".join(
    f"r{n} ::= r{n + 1} r{n + 1} | r{n + 1}" for n in range(25)
) + '\nr25 ::= "a" | ""'  # fmt: skip
BAD_GRAMMARS = {
    "syntax": "root ::= (",
    "no root": 'a ::= "b"',
    "undefined rule": "root ::= foo",
    "left recursion": 'root ::= root "a" | "b"',
    "stack overflow": "root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000,
    "too large": 'root ::= "' + "a" * 140_000 + '"',
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


def of_schema(schema: dict, *, is_exact: bool = True) -> GrammarSource:
    return GrammarSource.of_schema(schema_of(schema, "json_schema", is_exact=is_exact))


def generate(bench, *, seed=1, new=60, **more) -> Request:
    asked = Request([5, 6, 7], SamplerParams(seed=seed), max_new_tokens=new, **more)
    bench.run(asked)
    return asked


@pytest.mark.parametrize("name", BAD_GRAMMARS)
def test_a_bad_grammar_is_refused_and_the_next_one_is_read(name):
    with pytest.raises(InvalidRequestError, match="grammar"):
        check_grammar(GrammarSource(BAD_GRAMMARS[name]))
    check_grammar(of_schema({"type": "object"}))


def test_an_endless_grammar_is_given_up():
    with pytest.raises(InvalidRequestError, match="takes too much time"):
        check_grammar(GrammarSource(EXPLODING))
    check_grammar(GrammarSource('root ::= "b"'))


def test_a_process_that_cannot_be_started_fails_its_grammars_alone(bench, monkeypatch):
    def no_descriptors(*_args: object, **_more: object) -> None:
        raise OSError(24, "Too many open files")

    source = GrammarSource('root ::= "a" | "a"')
    checkers: queue.LifoQueue[GrammarProcess] = queue.LifoQueue()
    checkers.put(GrammarProcess(None))
    monkeypatch.setattr("serve.engine.grammar._checkers", checkers)
    with monkeypatch.context() as patch:
        patch.setattr("potstill.workers.subprocess.Popen", no_descriptors)
        with pytest.raises(BackendUnavailableError):
            check_grammar(source)
        bound, free = (Request([5, 6], max_new_tokens=3, grammar=one) for one in (source, None))
        bench.run(bound, free)
        assert isinstance(bench.last(bound).error, BackendUnavailableError)
        assert bench.last(free).error is None
    check_grammar(source)
    assert bench.text(generate(bench, grammar=source)) == "a"


def test_a_process_that_does_not_answer_is_given_up(monkeypatch):
    monkeypatch.setattr("serve.engine.grammar_client.ANSWER_SECONDS", 0.1)
    process = GrammarProcess(None)
    assert process.check(GrammarSource('root ::= "a"')) is None
    error = process.check(GrammarSource(EXPLODING))
    assert error is not None
    assert "takes too much time" in str(error)
    process.close()


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
            source = GrammarSource(grammar)
            asked = generate(bench, seed=seed, grammar=source, ignore_eos=ignore_eos)
            assert bench.last(asked).error is None
            if bench.last(asked).finish_reason == "stop":
                assert re.fullmatch(pattern, bench.text(asked))
    short = generate(bench, grammar=GrammarSource('root ::= "abc"'))
    assert (bench.text(short), bench.last(short).finish_reason) == ("abc", "stop")


def test_json_of_a_schema_is_valid_under_it(bench):
    grammar = of_schema(PERSON)
    check_grammar(grammar)
    num_finished = 0
    for seed in range(3):
        for ignore_eos in (False, True):
            asked = generate(bench, seed=seed, grammar=grammar, ignore_eos=ignore_eos)
            if bench.last(asked).finish_reason == "stop":
                jsonschema.validate(json.loads(bench.text(asked)), PERSON)
                num_finished += 1
    assert num_finished > 0


@pytest.mark.parametrize("value", ["a\\b", 'say "hi"', "é\n", 3, None, {"a": [1, "\\"]}])
def test_a_constant_is_written_letter_by_letter(bench, value):
    asked = generate(bench, grammar=of_schema({"const": value}))
    assert json.loads(bench.text(asked)) == value
    assert bench.last(asked).finish_reason == "stop"


@pytest.mark.parametrize("grammar", [of_schema({"enum": ["same start, a", "same start, b"]}),
                                     of_schema(PERSON)], ids=["enum", "object"])  # fmt: skip
def test_text_that_must_come_is_read_at_once_instead_of_sampled(make_bench, grammar):
    bench = make_bench()
    num_steps = [0]
    params = SamplerParams(temperature=0.0)
    asked = [Request([5, 6, 7], params, 80, grammar=grammar, num_top_logprobs=n) for n in (0, None)]
    for one in asked:
        bench.run(one)
        num_steps.append(bench.engine.stats().num_steps)
    sampled, skipped = asked
    assert bench.text(skipped) == bench.text(sampled)
    assert bench.last(skipped).finish_reason == bench.last(sampled).finish_reason == "stop"
    assert num_steps[2] - num_steps[1] < 0.7 * num_steps[1]
    beside = [replace(skipped), Request([5, 9], params, 20), replace(skipped)]
    bench.run(*beside)
    assert [bench.text(one) for one in beside[::2]] == [bench.text(skipped)] * 2


@pytest.mark.parametrize("bounds", [{"exclusiveMaximum": -7}, {"minimum": 95, "maximum": 1004}])
def test_bounded_integers_are_written(bench, bounds):
    schema = {"type": "integer", "minimum": -(10**9), **bounds}
    value = json.loads(bench.text(generate(bench, grammar=of_schema(schema))))
    jsonschema.validate(value, schema)


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        ({"type": "integer", "minimum": "3"}, "minimum"),
        ({"type": "integer", "minimum": 3, "exclusiveMaximum": 3}, "minimum (3)"),
        ({"type": "array", "items": {"not": {}}}, "keyword not"),
        ({"properties": {"a": {"propertyNames": {}}}}, "keyword propertyNames"),
        ({"type": "string", "minLenght": 3}, "keyword minLenght"),
        ({"x-guidance": {"lenient": True}, "not": {}}, "keyword"),
        ({"type": "string", "format": "phone"}, "format: phone"),
        ({"type": "string", "pattern": "^(?=x)a$"}, "look-ahead"),
        ({"type": "string", "maxLength": 2**70}, "maxLength"),
        ({"$ref": "https://example.org/x"}, "example.org"),
        ({"$ref": "#/$defs/none"}, "$defs"),
        ({"$ref": "#"}, "no text can be complete"),
        ({"type": "thing"}, "thing"),
        ({"type": "object", "properties": {"x": False}, "required": ["x"]}, "'x'"),
        ({"properties": 3}, "properties"),
        ({"anyOf": "x"}, "anyOf"),
        ({"enum": ["a" * 140_000]}, "140028"),
        ({"const": "\ud800"}, "hex escape"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused_by_name(schema, found):
    with pytest.raises(InvalidRequestError, match=r"schema|too large") as caught:
        check_grammar(of_schema(schema))
    assert found in str(caught.value)
    assert caught.value.where == "json_schema"


def test_a_value_that_json_cannot_hold_is_refused():
    deep: dict = {}
    for _ in range(100_000):
        deep = {"items": deep}
    for schema in ({"const": float("nan")}, deep):
        with pytest.raises(InvalidRequestError, match="is not JSON"):
            schema_of(schema, "json_schema")


def test_the_schema_at_fault_is_named():
    schemas = tuple(
        schema_of(schema, f"tools[{n}].function.parameters")
        for n, schema in enumerate([{"type": "object"}, {"not": {}}])
    )
    with pytest.raises(InvalidRequestError) as caught:
        check_grammar(GrammarSource("start: schema0 | schema1", schemas))
    assert caught.value.where == "tools[1].function.parameters"


def test_what_need_not_be_exact_is_bound_as_far_as_it_can(bench):
    loose = {
        "type": "object",
        "properties": {
            "at": {"type": "integer", "minimum": 5, "maximum": 7, "not": {}},
            "to": {"format": "phone", "pattern": "^(?=x)", "type": "boolean"},
        },
        "required": ["at", "to"],
        "not": {},
    }
    with pytest.raises(InvalidRequestError):
        check_grammar(of_schema(loose))
    value = json.loads(bench.text(generate(bench, grammar=of_schema(loose, is_exact=False))))
    assert value["at"] in (5, 6, 7)
    assert value["to"] in (False, True)
    with pytest.raises(InvalidRequestError, match="thing"):
        check_grammar(of_schema({"type": "thing"}, is_exact=False))


@pytest.mark.slow
@pytest.mark.parametrize(
    "exploding",
    [
        GrammarSource(EXPLODING.replace("root ::= r0", 'root ::= "a" r0')),
        of_schema({"type": "string", "pattern": "^" + "a*" * 20_000 + "$"}),
        of_schema({"type": "string", "pattern": "^a{9999999}$"}),
    ],
    ids=["GBNF", "stars", "count"],
)
def test_a_grammar_that_explodes_later_costs_its_own_request_only(make_bench, exploding):
    bench = make_bench()
    params = SamplerParams(seed=3)
    letters = GrammarSource('root ::= [a-z]+ "."')
    good = [
        Request([5, 6], params, 40, grammar=letters),
        Request([5, 7], params, 40, grammar=of_schema(PERSON)),
        Request([5, 9], params, 40),
    ]
    bad = Request([5, 6, 7], params, 40, grammar=exploding)
    bench.engine.submit([good[0], bad, *good[1:]])
    begin = time.monotonic()
    while not all(map(bench.is_done, [*good, bad])):
        bench.engine.step()
        assert begin + 60 > time.monotonic()
    assert isinstance(bench.last(bad).error, InvalidRequestError)
    for one in good:
        again = Request(one.prompt_token_ids, params, 40, grammar=one.grammar)
        bench.run(again)
        assert bench.text(one) == bench.text(again)
        assert bench.last(one).error is None


@pytest.mark.parametrize(
    "grammar",
    [GrammarSource("root ::= [a-z]*"), of_schema({"type": "array", "items": {"type": "string"}})],
    ids=["GBNF", "schema"],
)
def test_a_grammar_in_a_batch_does_not_change_its_neighbors(make_bench, grammar):
    params = SamplerParams(seed=3)
    bench = make_bench()
    plain = Request([5, 9], params, 20, num_top_logprobs=0)
    bound = Request([5, 9], params, 20, grammar=grammar, num_top_logprobs=0)
    bench.run(plain, bound)
    alone = Request([5, 9], params, 20, num_top_logprobs=0)
    bound_alone = Request([5, 9], params, 20, grammar=grammar, num_top_logprobs=0)
    bench.run(alone)
    bench.run(bound_alone)
    assert bench.logprobs(plain) == bench.logprobs(alone)
    assert bench.logprobs(bound) == bench.logprobs(bound_alone)


def test_cancelled_grammars_are_freed(make_bench):
    bench = make_bench()
    asked = Request([5, 6], SamplerParams(seed=1), 200, grammar=GrammarSource("root ::= [a-z]*"))
    bench.engine.submit([asked])
    for _ in range(30):
        bench.engine.step()
    bench.engine.cancel([asked])
    bench.engine.step()
    grammars = bench.engine._grammars
    assert grammars._open == {}
    assert [one._proposals for one in grammars._processes] == [{}]


SLOW = "root ::= x+\nx ::= " + " | ".join(
    f"[{chr(0x4E00 + n)}-\u9fff] y{n % 10}" for n in range(80)
)
SLOW += "".join(f"\ny{n} ::= [\u4e00-\u9fff]*" for n in range(10))


def test_grammars_of_one_owner_do_not_keep_those_of_another_waiting(make_bench):
    bench = make_bench(has_owners=True)
    slow = [
        Request([5, n], SamplerParams(seed=n), 240, grammar=GrammarSource(SLOW), owner="a")
        for n in range(2)
    ]

    def num_slow() -> int:
        return sum(len(output.token_ids) for one in slow for output in bench.outputs.get(one, []))

    def bound(new: int) -> Request:
        letters = GrammarSource("root ::= [a-z]*")
        return Request([5, 9], max_new_tokens=new, grammar=letters, owner="b")

    bench.engine.submit(slow)
    while not num_slow():
        bench.engine.step()
    bench.run(bound(1))  # Its process has started.
    num_before = num_slow()
    assert len(bench.run(bound(30))[0]) >= 30
    # In one process, each of the tokens would wait for a token of each other.
    assert num_slow() - num_before < 30
    assert not any(map(bench.is_done, slow))
    bench.engine.cancel(slow)
    bench.engine.step()


@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        (GrammarSource('root ::= "yes" | "no"'), {b"y", b"ye", b"yes", b"n", b"no"}),
        (of_schema({"enum": [True, 31]}), {b"t", b"tr", b"true", b"3", b"tru"}),
    ],
    ids=["GBNF", "schema"],
)
def test_a_token_the_grammar_forbids_is_answered_with_those_it_allows(tiny_model, source, allowed):
    process = GrammarProcess(tiny_model.path, tiny_model.vocab_size)
    grammar = process.open(source)
    (token_id,) = tiny_model.tokenize("maybe", parse_special=False)[:1]
    process.propose(grammar, token_id)
    verdicts = []
    while process.is_busy:
        verdicts += process.collect(1.0)
    ((of, verdict),) = verdicts
    assert of is grammar
    pieces = {tiny_model.piece(i) for i in verdict.allowed_V.nonzero()[0]}
    assert pieces == allowed & {tiny_model.piece(i) for i in range(tiny_model.vocab_size)}
    process.close()

"""Grammars that begin to bind in the middle of an answer."""

import re

from potstill.thinking import FORMATS
from serve.engine.grammar import GrammarSource, Schema
from serve.engine.request import Request
from serve.engine.sampler import SamplerParams
from serve.engine.trigger import Trigger, Watch

SOURCE = GrammarSource.of_schema(Schema("json_schema", '{"const": "foooooo"}'))
CALL = re.compile("<call>")


def begun(trigger: Trigger, *pieces: str) -> list[str | None]:
    """Return what has begun of the grammar after each piece."""
    watch = Watch(trigger)
    found = [watch.push(0, piece.encode()) for piece in pieces]
    return [one and one.begun for one in found]


def test_a_marker_is_found_across_tokens_with_what_follows_it():
    assert begun(Trigger(SOURCE, CALL), "a <ca", "ll", '>\n"f') == [None, None, '\n"f']
    watch = Watch(Trigger(SOURCE, CALL, marker_token=(7, "<call>")))
    assert watch.push(1, b"a") is None
    assert watch.push(7, b"").begun == ""


def test_nothing_is_bound_inside_the_thinking():
    tags = FORMATS[0]
    trigger = Trigger(SOURCE, CALL, think_format=tags)
    written = (tags.opening, "<call>", f"{tags.closing} so ", "<call>")
    assert begun(trigger, *written) == [None, None, None, ""]
    opened = Trigger(SOURCE, CALL, think_format=tags, is_opened=True)
    assert begun(opened, "<call>", tags.closing, "<call>") == [None, None, ""]
    assert begun(trigger, "no thinking <call>") == [""]


def test_an_answer_is_bound_from_its_marker_on(bench, tiny_model):
    (z,) = tiny_model.tokenize("z", parse_special=False)
    prompt = tiny_model.tokenize("Hi", parse_special=False)

    def request(pattern: str) -> Request:
        always_z = SamplerParams(temperature=0, logit_bias={z: 100.0})
        trigger = Trigger(SOURCE, re.compile(pattern))
        return Request(prompt, always_z, max_new_tokens=20, trigger=trigger)

    bound, later, lost = (request(pattern) for pattern in ("z", "zzz", "(?=z)"))
    assert bench.run(bound, later, lost) == ['z"foooooo"', 'zzz"foooooo"', "z" * 20]

import pytest

from generate.sources.json_text import MAX_DEPTH, parse_json
from generate.sources.rows import RowError


def nested(depth):
    return "[" * depth + "1" + "]" * depth


def test_values_are_parsed_up_to_the_depth():
    assert parse_json('{"a": [1, "\\u00e9"]}') == {"a": [1, "é"]}
    assert parse_json(nested(MAX_DEPTH))
    assert parse_json("[" + "[]," * 1000 + "[]]")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (nested(MAX_DEPTH + 1), "nested more than 100 deep"),
        ("[" * 100_000, "nested more than 100 deep|not JSON"),
        (nested(100_000), "nested more than 100 deep"),
        (r'"\ud83d"', "not JSON: .*surrogates"),
        ("1" * 5000, "not JSON"),
        ("[" + "[]," * (1 << 23) + "[]]", "JSON with more than 8388608 lists"),
        ("[" + "1," * (1 << 25) + "1]", "or 33554432 values"),
        ("{", "not JSON"),
    ],
)
def test_what_is_beyond_the_bounds_is_refused(text, found):
    with pytest.raises(RowError, match=found):
        parse_json(text)

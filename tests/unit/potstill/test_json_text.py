"""JSON that can be written again, and everything that cannot."""

import pytest

from potstill.json_text import MAX_DEPTH, parse_json, parse_object, texts_in


def test_values_are_parsed():
    assert parse_json(' {"a": [1, "\\u00e9", "\\ud83d\\ude00"]}\n') == {"a": [1, "é", "😀"]}


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"a": 1} x', "NaN", "[-Infinity]", "1e999", r'"\ud83d"', r'{"\udc00": 1}',
     "1" * 5000, "[" * 100_000, '{"a":' * 100_000, "[" * 5000 + "]" * 5000],
)  # fmt: skip
def test_what_could_not_be_written_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011  (each has its own message)
        parse_json(text)


def test_the_depth_does_not_depend_on_pythons_parser():
    deepest = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json(deepest)
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(f"[{deepest}]")


@pytest.mark.parametrize(
    ("text", "found"), [('{"a": 1}', {"a": 1}), ("[1]", {}), ('{"a": ', {}), ("", {})]
)
def test_other_texts_are_empty_objects(text, found):
    assert parse_object(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": "one", "b": 2, "c": ["two", {"d": "three"}]}', ["one", "two", "three"]),
        ("plain words", ["plain words"]),
        ("17", []),
    ],
)
def test_texts_of_json_are_found_at_every_depth(text, found):
    assert list(texts_in(text)) == found

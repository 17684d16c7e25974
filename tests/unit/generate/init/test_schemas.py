import pytest
from jsonschema import Draft202012Validator

from generate.init.schemas import object_schema


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2], {"type": "integer"}),
        ([1, 2.5], {"type": "number"}),
        ([True, False], {"type": "boolean"}),
        (["a", None], {"type": ["string", "null"]}),
        ([None, None], {}),
        (["a", 1], {"type": ["string", "integer"]}),
        (["a", ["a"]], {}),
        (["a", "b"] * 4, {"type": "string", "enum": ["a", "b"]}),
        (["a", None] * 4, {"type": ["string", "null"], "enum": ["a", None]}),
        ([["a"], [], ["b"]], {"type": "array", "items": {"type": "string"}}),
        ([{"x": 1}, {}], object_schema([{"x": 1}, {}])),
    ],
)
def test_a_property_has_the_kinds_of_its_values(values, expected):
    contents = [{"key": value} for value in values]
    schema = object_schema(contents)
    assert schema["properties"]["key"] == expected
    validator = Draft202012Validator(schema)
    assert all(validator.is_valid(content) for content in contents)
    assert not validator.is_valid({"key": values[0], "other": 1})


def test_what_all_have_is_required():
    schema = object_schema([{"a": 1, "b": 1}, {"a": 2}])
    assert schema["required"] == ["a"]

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import validate

from generate.sources.task.values import Values, choices
from potstill.errors import ConfigError

RECORD = {
    "type": "object",
    "$defs": {
        "dose": {
            "type": "object",
            "properties": {
                "amount": {"type": "number", "exclusiveMinimum": 0, "maximum": 20},
                "unit": {"enum": ["mg", "ml"]},
            },
            "required": ["amount", "unit"],
            "additionalProperties": False,
        }
    },
    "properties": {
        "id": {"type": "string", "pattern": "^P-[0-9]{5}$"},
        "born": {"type": "string", "format": "date"},
        "age": {"type": "integer", "minimum": 0, "maximum": 110},
        "smokes": {"type": ["boolean", "null"]},
        "pressure": {"type": "integer", "minimum": 60, "maximum": 220, "multipleOf": 5},
        "doses": {"type": "array", "items": {"$ref": "#/$defs/dose"}, "maxItems": 4},
        "reach": {"anyOf": [{"type": "string", "format": "email"}, {"const": "none"}]},
        "stay": {"allOf": [{"properties": {"nights": {"type": "integer", "minimum": 1}}}]},
        "name": {"type": "string", "examples": ["Ada", "Bo"]},
    },
    "required": ["id", "age"],
}


def drawn(schema, path="", *, given_values=None, seen=(), count=60):
    values = Values(given_values or {}, seen)
    return [values.draw(schema, path, random.Random(seed)) for seed in range(count)]


@given(seed=st.integers(0, 2**32))
def test_a_record_fits_its_schema(seed):
    values = Values({}, [("name", "Cy"), ("pressure", 120)])
    record = values.draw(RECORD, "", random.Random(seed))
    validate(record, RECORD)
    assert values.draw(RECORD, "", random.Random(seed)) == record


def test_optional_fields_are_there_or_not_and_keys_decide():
    records = drawn(RECORD)
    assert 0 < sum("doses" in one for one in records) < len(records)
    record = Values({}).draw(RECORD, "", random.Random(0), keys=["id", "age", "born"])
    assert set(record) == {"id", "age", "born"}


def test_codes_like_those_seen_are_drawn_anew():
    codes = set(drawn({"type": "string"}, "a.last_four", seen=[("b.last_four", "4532")]))
    assert len(codes) > 50
    assert all(len(code) == 4 and code.isdigit() for code in codes)
    (mixed,) = drawn({"type": "string"}, "ref", seen=[("ref", "AB-12")], count=1)
    assert (mixed[:2].isalpha(), mixed[2], mixed[3:].isdigit()) == (True, "-", True)


def test_texts_are_those_seen():
    seen = [("payee", "Verizon"), ("payee", "rent")]
    assert set(drawn({"type": "string"}, "payee", seen=seen)) == {"Verizon", "rent"}


def test_numbers_are_near_those_seen_and_whole_where_those_are():
    numbers = drawn({"type": "number"}, "amount", seen=[("amount", 50), ("amount", 1500)])
    assert all(isinstance(one, int) and 25 <= one <= 3000 for one in numbers)
    assert len(set(numbers)) > 25
    decimals = drawn({"type": "number"}, "amount", seen=[("amount", 4.5), ("amount", 90.25)])
    assert any(one != int(one) for one in decimals)


@pytest.mark.parametrize("key", ["pay_bill.payee", "payee"])
def test_given_values_come_first(key):
    schema = {"type": "object", "properties": {"payee": {"type": "string"}}, "required": ["payee"]}
    given_values = {key: ("Comcast", "the gym")}
    records = drawn(schema, "pay_bill", given_values=given_values, seen=[("payee", "rent")])
    assert {record["payee"] for record in records} == {"Comcast", "the gym"}


def draw_month(draw: random.Random) -> str:
    return draw.choice(["January", "June"])


def test_a_function_draws_values(monkeypatch):
    function = f"{__name__}:draw_month"
    monkeypatch.setitem(__import__("sys").modules, __name__, __import__("types").SimpleNamespace(
        draw_month=draw_month
    ))  # fmt: skip
    months = drawn({"type": "string"}, "month", given_values={"month": function})
    assert set(months) == {"January", "June"}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "string"}, "nothing to draw a value from"),
        ({"type": "string", "pattern": "(?=a)"}, "nothing to draw a value from"),
        ({"$ref": "#"}, "nothing to draw a value from"),
        ({"type": "integer", "minimum": 3, "not": {"minimum": 2}}, "no value was drawn"),
    ],
)
def test_what_cannot_be_drawn_is_an_error_that_names_the_field(schema, message):
    properties = {"payee": schema} if "$ref" not in schema else {"payee": {"$ref": "#"}}
    whole = {"type": "object", "properties": properties, "required": ["payee"]}
    with pytest.raises(ConfigError, match=message) as caught:
        drawn(whole, "pay_bill", count=1)
    assert "values" in str(caught.value.hint)


@pytest.mark.parametrize("source", ["Comcast", "no.such.module:name"])
def test_values_that_are_no_list_or_function_are_refused(source):
    with pytest.raises(ConfigError):
        Values({"payee": source})


def test_choices_are_found_anywhere_in_a_schema():
    assert choices(RECORD) == {"mg", "ml"}

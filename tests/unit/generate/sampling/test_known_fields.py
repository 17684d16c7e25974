import json

import pytest

from generate.sampling.known_fields import binds_all, bound_to
from potstill.task.answers import Answer

SCHEMA = {
    "type": "object",
    "properties": {"team": {"enum": ["cards", "cash"]}, "reply": {"type": "string"}},
    "required": ["reply"],
    "additionalProperties": False,
}


def test_known_fields_are_bound_in_their_places_and_the_others_are_free():
    found = json.loads(bound_to(json.dumps(SCHEMA), Answer(text='{"team": "cash"}')))
    assert list(found["properties"]) == ["team", "reply"]
    assert found["properties"] == {"team": {"enum": ["cash"]}, "reply": {"type": "string"}}
    assert set(found["required"]) == {"team", "reply"}
    assert found["additionalProperties"] is False


@pytest.mark.parametrize("known", ["cash", '["cash"]', '{"color": "red"}', ""])
def test_an_answer_without_fields_of_the_schema_binds_nothing(known):
    assert bound_to(json.dumps(SCHEMA), Answer(text=known)) == json.dumps(SCHEMA)


@pytest.mark.parametrize(
    ("known", "others", "binds"),
    [
        ('{"team": "cash"}', ['{"team": "cards"}'], True),
        ('{"team": "cash"}', ['{"team": "cards"}', '{"team": "cards", "reply": "Yes."}'], False),
        ('{"team": "cash", "reply": "No."}', ['{"team": "cards", "reply": "Yes."}'], True),
        ('{"color": "red"}', ['{"color": "blue"}'], False),  # Not in the schema, so not bound.
        ('{"team": "cash"}', ["cards"], False),
        ("cash", ['{"team": "cards"}'], False),
    ],
)
def test_an_answer_binds_all_that_others_know_if_it_has_their_fields(known, others, binds):
    answers = [Answer(text=other) for other in others]
    assert binds_all(json.dumps(SCHEMA), Answer(text=known), answers) is binds

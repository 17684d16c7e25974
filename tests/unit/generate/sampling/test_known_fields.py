from __future__ import annotations

import json

import pytest

from generate.sampling.known_fields import bound_to
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

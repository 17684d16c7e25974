import pytest

from potstill.errors import ConfigError
from potstill.task.metrics.config import JsonConfig, SchemaConfig
from potstill.task.metrics.json_valid import JsonValid, SchemaValid

SCHEMA = {
    "type": "object",
    "properties": {"team": {"enum": ["cards", "cash"]}},
    "required": ["team"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("said", "is_json", "fits"),
    [
        ('{"team": "cards"}', 1.0, 1.0),
        (' {"team": "cash"}\n', 1.0, 1.0),
        ('{"team": "loans"}', 1.0, 0.0),
        ('{"team": "cards", "more": 1}', 1.0, 0.0),
        ("{}", 1.0, 0.0),
        ('{"team": "cards"} {}', 0.0, 0.0),
        ('```json\n{"team": "cards"}\n```', 0.0, 0.0),
        ('{"team": NaN}', 0.0, 0.0),
        ("[" * 100_000, 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_json_and_its_schema(scored, said, is_json, fits):
    assert scored(JsonValid(JsonConfig()), said).value == is_json
    score = scored(SchemaValid(SchemaConfig(), SCHEMA), said)
    assert score.value == fits
    assert (score.problem is None) == bool(fits)


def test_a_broken_schema_is_refused_by_place():
    with pytest.raises(ConfigError, match="not a JSON schema") as caught:
        SchemaValid(SchemaConfig(), {"properties": {"team": {"type": "txt"}}})
    assert "$.properties.team.type" in str(caught.value)

"""Facts are written completely, with known keys, and read in any version that can be completed."""

import pytest
from pydantic import ValidationError

from potstill.errors import ArtifactError, SchemaVersionError
from potstill.facts.base import STAGE_NAMES
from potstill.facts.registry import FACTS, read_facts
from potstill.facts.samples import SamplesFacts
from tests.fixtures import facts as made

EXAMPLES = {stage: getattr(made, f"{stage}_facts")() for stage in STAGE_NAMES}
WHERE = "run/manifest.json"


def test_every_stage_has_a_model():
    assert list(FACTS) == list(STAGE_NAMES)
    assert {stage: type(one) for stage, one in EXAMPLES.items()} == FACTS


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_facts_come_back_from_json(stage):
    facts = EXAMPLES[stage]
    assert read_facts(stage, facts.model_dump(mode="json"), WHERE) == facts


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_an_unknown_key_is_refused_on_writing_and_on_reading(stage):
    content = EXAMPLES[stage].model_dump() | {"mood": "good"}
    with pytest.raises(ValidationError, match="mood"):
        FACTS[stage](**content)
    with pytest.raises(SchemaVersionError, match="mood"):
        read_facts(stage, content, WHERE)


def test_facts_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        EXAMPLES["student"].num_layers = 3


def test_facts_without_a_version_are_upgraded():
    content = EXAMPLES["samples"].model_dump(exclude={"version"}) | {"fingerprint": "0" * 64}
    assert SamplesFacts.read(content, WHERE) == EXAMPLES["samples"]


@pytest.mark.parametrize(
    ("changes", "found"),
    [({"version": 2}, "version 2"), ({"num_layers": None}, "version 1, num_layers: ")],
)
def test_facts_that_cannot_be_read_are_refused_by_name(changes, found):
    with pytest.raises(SchemaVersionError, match="facts of the student stage") as caught:
        read_facts("student", EXAMPLES["student"].model_dump() | changes, WHERE)
    assert caught.value.where == WHERE
    assert caught.value.found.startswith(found)
    assert "the student stage again with --force" in caught.value.hint


def test_an_unknown_stage_is_refused():
    with pytest.raises(ArtifactError, match="unknown stage"):
        read_facts("bottling", {"num_bottles": 1}, WHERE)

import json

import pytest

from potstill.errors import ArtifactError
from quantize.conversion.stops import read_stops


@pytest.fixture
def write(tmp_path):
    def write(content):
        (tmp_path / "generation_config.json").write_text(json.dumps(content))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("content", "stops"),
    [({"eos_token_id": [2, 0]}, [2, 0]), ({"eos_token_id": 0}, [0]), ({}, []), ({"top_k": 3}, [])],
)
def test_stops_are_a_list_in_their_order(write, content, stops):
    assert read_stops(write(content)) == stops


def test_without_defaults_there_are_none(tmp_path):
    assert read_stops(tmp_path) == []


@pytest.mark.parametrize("content", [[1], "text"])
def test_damaged_defaults_are_named(write, content):
    path = write(content) / "generation_config.json"
    with pytest.raises(ArtifactError, match="defaults of generation") as caught:
        read_stops(path.parent)
    assert caught.value.where == path

from __future__ import annotations

import json

import pytest
from gguf import GGUFWriter

from potstill.errors import ArtifactError
from quantize.conversion.sampling import add_sampling_defaults, read_stops


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


def test_only_defaults_that_are_set_are_written(write):
    writer = GGUFWriter(None, "llama")
    settings = {"temperature": 0.6, "top_k": 20, "top_p": None, "max_new_tokens": 9}
    add_sampling_defaults(writer, write(settings | {"repetition_penalty": 1.05}))
    values = {key: one.value for key, one in writer.kv_data[0].items()}
    assert values == {
        "general.architecture": "llama",
        "general.sampling.temp": 0.6,
        "general.sampling.top_k": 20,
        "general.sampling.penalty_repeat": 1.05,
    }


@pytest.mark.parametrize("content", [[1], "text"])
def test_damaged_defaults_are_named(write, content):
    path = write(content) / "generation_config.json"
    with pytest.raises(ArtifactError, match="defaults of generation") as caught:
        read_stops(path.parent)
    assert caught.value.where == path

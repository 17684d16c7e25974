import json
import os

import datasets
import pytest

from generate.sources.config import SourceConfig
from generate.sources.reading import read_source, source_digest
from potstill.errors import ArtifactError, ConfigError

ROWS = [
    {"messages": [{"role": "user", "content": f"Question {number}?"}], "id": number, "tools": None}
    for number in range(30)
]


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def read(**config):
    return list(read_source(SourceConfig(**config), last_role="user"))


@pytest.fixture
def saved(tmp_path):
    """A data set of two splits that was saved by `datasets`."""
    splits = datasets.DatasetDict(
        train=datasets.Dataset.from_list(ROWS), test=datasets.Dataset.from_list(ROWS[:3])
    )
    splits.save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


def test_a_saved_data_set_is_read(saved):
    prompts = read(dataset=saved, license="MIT")
    assert [prompt.messages[0].content for prompt in prompts] == [
        f"Question {number}?" for number in range(30)
    ]
    assert {(prompt.source, prompt.license) for prompt in prompts} == {("saved", "MIT")}
    assert len(read(dataset=saved, split="test")) == 3
    assert len(read(dataset=f"{saved}/test")) == 3


def test_a_directory_of_files_is_read_by_its_splits(tmp_path):
    directory = tmp_path / "files"
    directory.mkdir()
    (directory / "train.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (directory / "test.jsonl").write_text(json.dumps(ROWS[0]))
    prompts = read(dataset=str(directory), name="files")
    assert len(prompts) == 30
    assert prompts[0].source == "files"


def test_a_digest_is_the_same_for_the_same_content_and_split(saved):
    config = SourceConfig(dataset=saved)
    digest = source_digest(config)
    assert digest == source_digest(SourceConfig(dataset=saved, split="train"))
    assert digest != source_digest(SourceConfig(dataset=saved, split="test"))
    assert digest != source_digest(SourceConfig(dataset=f"{saved}/train"))


def test_a_digest_depends_on_content_not_on_time_or_place(tmp_path):
    directory = tmp_path / "files"
    directory.mkdir()
    file = directory / "train.jsonl"
    file.write_text(json.dumps(ROWS[0]))
    digest = source_digest(SourceConfig(dataset=str(directory)))
    os.utime(file, (1, 1))
    moved = directory.rename(tmp_path / "moved")
    assert source_digest(SourceConfig(dataset=str(moved))) == digest
    (moved / "train.jsonl").write_text(json.dumps(ROWS[1]))
    assert source_digest(SourceConfig(dataset=str(moved))) != digest


def test_a_row_that_is_no_prompt_is_named(tmp_path):
    path = str(tmp_path / "one")
    datasets.Dataset.from_list([{"prompt": "a"}, {"prompt": " "}]).save_to_disk(path)
    with pytest.raises(ArtifactError) as caught:
        read(dataset=path)
    assert caught.value.where == f"{path}, row 2"


def test_a_data_set_that_cannot_be_loaded_is_a_wrong_setting(saved, tmp_path):
    with pytest.raises(ConfigError, match="the data set cannot be loaded") as caught:
        read(dataset=saved, split="validation")
    assert caught.value.found == "splits train, test"
    for name in (str(tmp_path / "absent"), "no-such/data-set"):
        with pytest.raises(ConfigError, match="the data set cannot be loaded") as caught:
            read(dataset=name)
        assert caught.value.where == name

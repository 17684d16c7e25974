import pytest
import tomli_w
from pydantic import ValidationError

from generate.sources.config import OPERATIONS, SourceConfig


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "exactly one of path, dataset and kind; found none"),
        ({"path": "a", "dataset": "b"}, "found path and dataset"),
        ({"path": "a", "kind": "magpie"}, "found path and kind"),
        ({"kind": "oracle"}, "'evolve', 'task' or 'decline'"),
        ({"path": ""}, "may not be empty"),
        ({"path": "a", "weight": 0}, "greater than 0"),
        ({"path": "a", "split": "test"}, "split is for dataset only; this source is a path"),
        ({"dataset": "a", "topics": ["law"]}, "topics is for magpie only"),
        ({"kind": "evolve", "keep_system_prompt": True}, "keep_system_prompt is for magpie only"),
        ({"kind": "magpie", "operations": ["deepen"]}, "operations is for evolve only"),
        ({"kind": "evolve", "operations": []}, "at least 1 item"),
        ({"kind": "magpie", "topics": ["law", ""]}, "may not be empty"),
        ({"kind": "magpie", "system_prompts": [""]}, "at least 1 character"),
        ({"kind": "magpie", "system_prompts": [3]}, "valid dictionary"),
        ({"path": "a", "noise": {"typos": 1}}, "noise is for task only"),
        ({"kind": "task", "general": True}, "general prompts are not of the task"),
        ({"kind": "task", "draw": "no function"}, "should match pattern"),
        ({"path": "a", "wieght": 2}, "Extra inputs"),
    ],
)
def test_a_source_that_is_none_is_refused(table, message):
    with pytest.raises(ValidationError, match=message):
        SourceConfig.model_validate(table)


def test_system_prompts_are_texts_or_tables():
    config = SourceConfig(
        kind="magpie", system_prompts=["Be kind.", {"text": "Code.", "weight": 3}]
    )
    assert [(one.text, one.weight) for one in config.system_prompts] == [
        ("Be kind.", 1.0),
        ("Code.", 3.0),
    ]


@pytest.mark.parametrize(
    "table",
    [
        {"path": "a.jsonl", "weight": 2, "license": "MIT", "name": "mine"},
        {"dataset": "org/set", "split": "test", "revision": "v1", "subset": "en"},
        {"kind": "magpie", "topics": ["law"], "system_prompts": ["Be kind."]},
        {"kind": "evolve", "operations": ["deepen"]},
        {"kind": "task", "values": {"payee": ["rent"], "day": "m:f"}, "noise": {"typos": 1}},
    ],
)
def test_what_a_run_stores_of_its_sources_can_be_read_again(table):
    config = SourceConfig.model_validate(table)
    stored = config.model_dump(mode="json", exclude_none=True)
    assert tomli_w.dumps(stored)
    assert SourceConfig.model_validate(stored) == config


def test_all_operations_are_used_by_default():
    assert SourceConfig(kind="evolve").operations == OPERATIONS
    assert len(OPERATIONS) == 5

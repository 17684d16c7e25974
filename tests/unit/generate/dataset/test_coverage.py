import json

import pytest

from generate.dataset.coverage import CoverageCounts
from generate.sources.config import SourceConfig
from potstill.schema import Message
from potstill.task.answers import Answer, Item
from potstill.task.metrics.config import LabelConfig
from potstill.task.task import Task

SCHEMA = {"type": "object", "properties": {"team": {"enum": ["cards", "cash"]}, "name": {}}}
EXAMPLES = tuple(
    Item(
        messages=(Message(role="user", content=f"About {team}?"),),
        known=Answer(text=json.dumps({"team": team})),
    )
    for team in ("cards", "cash")
)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ({"kind": "task"}, ["cards", "cash"]),
        ({"kind": "task", "direction": "answer", "parts": {"who": ["name"]}}, ["cards"]),
        ({"path": "mine.jsonl"}, ["cards"]),
    ],
)
def test_labels_have_targets_where_the_teacher_was_asked_for_them(make_conversation, source, names):
    task = Task(
        answer_schema=json.dumps(SCHEMA),
        metrics=(LabelConfig(field="team"),),
        examples=EXAMPLES,
    )
    counts = CoverageCounts(task)
    known = EXAMPLES[0].known.model_dump_json()
    counts.add(make_conversation(name=f"{number}", known=known) for number in range(4))
    found = counts.coverage([SourceConfig.model_validate(source)], threshold=0.6)
    assert [one.name for one in found.shares] == names
    assert found.has_targets == (len(names) == 2)
    assert any("its target" in one for one in found.sentences()) == found.has_targets

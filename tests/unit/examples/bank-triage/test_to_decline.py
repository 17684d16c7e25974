"""Messages to decline, from which the student learns, and the gate's suite, which measures it."""

import json
import re
from pathlib import Path

from compare.gate.generated import read_lines
from compare.gate.refusals import free_text, refuses
from potstill.task.answers import Answer, Item
from potstill.task.metrics.config import SchemaConfig
from potstill.task.metrics.json_valid import SchemaValid

DIRECTORY = Path(__file__).parents[4] / "examples" / "bank-triage"
ROWS = [json.loads(line) for line in (DIRECTORY / "to-decline.jsonl").read_text().splitlines()]
MOST_ALIKE = 0.6


def words(text):
    return set(re.findall(r"\w{4,}", text.casefold()))


def test_no_message_is_like_one_of_the_suite():
    measured = [words(item.messages[0].content) for item in read_lines("refusing")]
    for row in ROWS:
        own = words(row["prompt"])
        nearest = max(measured, key=lambda one: len(one & own))
        assert len(nearest & own) <= MOST_ALIKE * len(nearest | own), row["prompt"]


def test_their_answers_are_whole_and_decline():
    assert len({row["prompt"] for row in ROWS}) == 120
    schema = SchemaValid(SchemaConfig(), json.loads((DIRECTORY / "schema.json").read_text()))
    for row in ROWS:
        answer = Answer(text=json.dumps(row["answer"]))
        item = Item.model_validate({"messages": [{"role": "user", "content": row["prompt"]}]})
        assert schema.score(answer, item).value == 1.0
        assert refuses(free_text(answer))

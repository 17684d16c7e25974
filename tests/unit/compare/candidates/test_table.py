import json

from compare.answers.references import read_references
from compare.answers.serving import FileSide
from compare.candidates.table import candidate_rows
from compare.config import CompareConfig
from potstill.schema import Message
from potstill.task.answers import Answer as Known
from potstill.task.answers import Item
from potstill.task.metrics.config import LabelConfig
from potstill.task.task import Task

from ..answering import answered

WORDS = {"cards": ("my card broke", "a new card please"), "cash": ("the machine kept my cash",)}


def items(ending):
    return tuple(
        Item(messages=(Message(role="user", content=f"{words} {ending}"),), known=Known(text=label))
        for label, all_words in WORDS.items()
        for words in all_words
    )


TASK = Task(
    examples=items("today") + items("again"),
    references=items("now"),
    metrics=(LabelConfig(field="team"),),
)


def team(name):
    return json.dumps({"team": name})


def test_a_linear_classifier_is_measured_by_labels_that_stand_alone():
    questions = read_references(TASK, 10, seed=0)
    answers = [
        *(answered(one, team(one.known.text), "teacher", seconds=None) for one in questions),
        *(answered(one, team("cash"), seconds=None) for one in questions),
    ]
    sides = {role: FileSide(role, role) for role in ("teacher", "student")}
    rows = candidate_rows(
        CompareConfig(), TASK, None, sides, [], questions, answers, lambda _role: None
    )
    values = {row.key: round(row.metric.value, 2) for row in rows}
    assert values == {"teacher": 1.0, "student": 0.33, "linear_classifier": 1.0}
    assert rows[-1].num_examples == 6

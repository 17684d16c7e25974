import json

from compare.answers.answers import Answer
from compare.answers.references import read_references
from compare.answers.serving import FileSide
from compare.candidates.table import candidate_rows
from compare.config import CompareConfig
from potstill.schema import Message
from potstill.task.answers import Answer as Known
from potstill.task.answers import Item
from potstill.task.metrics.config import LabelConfig
from potstill.task.task import Task

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


def answered(question, role, label):
    return Answer(
        prompt_id=question.prompt_id,
        conversation_id=question.prompt_id,
        messages=question.messages,
        role=role,
        model=role,
        sample=0,
        seed=0,
        answer=json.dumps({"team": label}),
        finish_reason="stop",
        prompt_tokens=5,
        completion_tokens=4,
        seconds=None,
    )


def test_a_linear_classifier_is_measured_by_labels_that_stand_alone():
    questions = read_references(TASK, 10, seed=0)
    answers = [
        *(answered(one, "teacher", one.known.text) for one in questions),
        *(answered(one, "student", "cash") for one in questions),
    ]
    sides = {role: FileSide(role, role) for role in ("teacher", "student")}
    rows = candidate_rows(
        CompareConfig(), TASK, None, sides, [], questions, answers, lambda _role: None
    )
    values = {row.key: round(row.metric.value, 2) for row in rows}
    assert values == {"teacher": 1.0, "student": 0.33, "linear_classifier": 1.0}
    assert rows[-1].num_examples == 6

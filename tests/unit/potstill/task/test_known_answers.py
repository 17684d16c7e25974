import pytest

from potstill.schema import Message
from potstill.task.answers import Answer, Item, ToolCall
from potstill.task.known_answers import known_conversations, whole_answer
from potstill.task.metrics.config import FieldsConfig, JsonConfig, LabelConfig
from potstill.task.task import Task

CALL = Answer(tool_calls=(ToolCall(name="freeze", arguments='{"last4": "1234"}'),))


@pytest.mark.parametrize(
    ("metrics", "known", "expected"),
    [
        ((LabelConfig(),), "cards", "cards"),
        ((LabelConfig(field="team"),), " cards\n", '{"team": "cards"}'),
        ((JsonConfig(), LabelConfig(field="a.team")), "Zürich", '{"a": {"team": "Zürich"}}'),
        ((LabelConfig(field="team"),), '{"team": "cards", "n": 1}', '{"team": "cards", "n": 1}'),
        ((LabelConfig(field="team", labels=("cash",)),), "cards", "cards"),
        ((FieldsConfig(),), '{"team": "cards"}', '{"team": "cards"}'),
    ],
)
def test_a_label_alone_becomes_the_json_that_the_metric_reads(metrics, known, expected):
    task = Task(metrics=metrics)
    assert whole_answer(task, Answer(text=known)).text == expected


def test_a_call_stays_a_call():
    assert whole_answer(Task(metrics=(LabelConfig(field="team"),)), CALL) == CALL


def test_known_answers_are_conversations_with_the_student():
    user = Message(role="user", content="card gone")
    task = Task(
        instructions="Long.",
        student_instructions="Short.",
        tools="[]",
        student_sees_tools=False,
        metrics=(LabelConfig(field="team"),),
    )
    items = [Item(messages=(user,)), Item(messages=(user,), known=Answer(text="cards"))]
    (one,) = known_conversations(task, items)
    assert [message.content for message in one.given] == ["Short.", "card gone"]
    assert one.answer == Message(role="assistant", content='{"team": "cards"}')
    assert one.tools is None

import pytest

from compare.candidates.linear import classify
from potstill.schema import Message
from potstill.task.answers import Answer, Item
from potstill.task.metrics.config import LabelConfig
from potstill.task.metrics.label import Label
from potstill.task.task import Task

CARDS = [
    "My card broke.",
    "The card is lost.",
    "Freeze my card!",
    "A new card, please.",
    "Card pin?",
]
CASH = [
    "No cash came out.",
    "Cash machine fee?",
    "Withdraw cash.",
    "The cash is short.",
    "Cash abroad?",
]


def messages(text):
    return (Message(role="user", content=text),)


def item(text, label):
    return Item(messages=messages(text), known=Answer(text=label))


def task(*, num_each):
    examples = [item(text, "cards") for text in CARDS[:num_each]]
    return Task(examples=(*examples, *(item(text, "cash") for text in CASH[:num_each])))


@pytest.mark.parametrize(("num_each", "field"), [(1, None), (5, None), (1, "team")])
def test_labels_come_from_words_with_few_examples_and_with_enough_to_tune(num_each, field):
    """A label may be known alone where answers are JSON."""
    system = Message(role="system", content="cash cash cash")
    prompts = [(system, *messages("Where is my card?")), messages("I want cash")]
    found = classify(task(num_each=num_each), Label(LabelConfig(field=field)), prompts)
    assert found.labels == ["cards", "cash"]
    assert found.num_examples == 2 * num_each
    assert found.seconds_per_prompt > 0


def test_examples_without_two_labels_make_no_classifier():
    unknown = Item(messages=messages("Hello!"))
    one_label = Task(examples=(item("a", "cards"), item("b", "cards"), unknown))
    assert classify(one_label, Label(LabelConfig()), [messages("c")]) is None

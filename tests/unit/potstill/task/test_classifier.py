import pytest

from potstill.schema import Message
from potstill.task.answers import Answer, Item
from potstill.task.classifier import LinearClassifier
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
    classifier = LinearClassifier.of(task(num_each=num_each), Label(LabelConfig(field=field)))
    assert classifier.classify(prompts) == ["cards", "cash"]
    assert classifier.num_examples == 2 * num_each


def test_examples_without_two_labels_make_no_classifier():
    unknown = Item(messages=messages("Hello!"))
    one_label = Task(examples=(item("a", "cards"), item("b", "cards"), unknown))
    assert LinearClassifier.of(one_label, Label(LabelConfig())) is None
    assert LinearClassifier.of(Task(), Label(LabelConfig())) is None


def test_only_prompts_as_clear_as_examples_that_are_labeled_right_get_a_label():
    """Half of the examples have words that say nothing about their label."""
    clear = [item(f"{label} {n}", label) for n in range(20) for label in ("cards", "cash")]
    unclear = [item("hello", ("cards", "cash")[n % 2]) for n in range(40)]
    classifier = LinearClassifier.of(Task(examples=(*clear, *unclear)), Label(LabelConfig()))
    prompts = [messages(text) for text in ("cards, please", "hello", "my cash")]
    assert classifier.classify_sure(prompts, 0.95) == ["cards", None, "cash"]
    assert None not in classifier.classify_sure(prompts, 0.1)
    assert classifier.classify_sure([], 0.95) == []


@pytest.mark.parametrize(
    "examples",
    [
        [item("the same", label) for label in ("cards", "cash") * 10],
        [item("cards", "cards"), *[item("cash", "cash")] * 9],  # In no fold beside itself.
    ],
)
def test_a_precision_that_is_not_reached_or_cannot_be_measured_gives_no_label(examples):
    classifier = LinearClassifier.of(Task(examples=tuple(examples)), Label(LabelConfig()))
    assert classifier.classify_sure([messages("cards")], 0.9) == [None]

import pytest

from generate.prompts.classified import sure_labels
from generate.sources.raw_prompt import RawPrompt
from potstill.errors import ConfigError
from potstill.schema import Message
from potstill.task.answers import Answer, Item
from potstill.task.metrics.config import ExactConfig, LabelConfig
from potstill.task.task import Task


def messages(text):
    return (Message(role="user", content=text),)


def label_task(labels):
    """Return a task with ten examples of each label; its name is what they say."""
    examples = [
        Item(messages=messages(f"{label} number {n}"), known=Answer(text=label))
        for label in labels
        for n in range(10)
    ]
    return Task(examples=tuple(examples), metrics=(LabelConfig(field="team"),))


TASK = label_task(["cards", "cash"])
KNOWN = Answer(text="security").model_dump_json()
CASH = Answer(text="cash").model_dump_json()


def test_the_tasks_prompts_get_a_label_if_they_have_none_and_it_is_sure():
    given = [
        RawPrompt(messages=messages("my cash"), source="a"),
        RawPrompt(messages=messages("hello"), source="a"),
        RawPrompt(messages=messages("cash"), source="a", known=KNOWN),
        RawPrompt(messages=messages("cash"), source="general/a"),
    ]
    assert sure_labels(given, TASK, 0.95) == {given[0].prompt_id: CASH}


@pytest.mark.parametrize(
    ("task", "found"),
    [
        (None, "no metric of kind label"),
        (TASK.model_copy(update={"metrics": (ExactConfig(),)}), "no metric of kind label"),
        (label_task(["cards"]), "fewer labels"),
    ],
)
def test_a_task_without_labels_to_learn_is_refused(task, found):
    with pytest.raises(ConfigError, match="no labels for a classifier") as raised:
        sure_labels([], task, 0.95)
    assert raised.value.found == found

from potstill.task.answers import Answer, Item
from potstill.task.categories import Categories
from potstill.task.metrics.config import LabelConfig
from potstill.task.task import Task


def test_a_label_alone_is_a_category_of_json_answers():
    known = [Answer(text="cards"), Answer(text='{"team": "cash"}')]
    examples = [
        {"messages": [{"role": "user", "content": "Where is my card?"}], "known": one}
        for one in known
    ]
    task = Task(
        examples=tuple(map(Item.model_validate, examples)),
        metrics=(LabelConfig(field="team"),),
    )
    assert Categories(task).names == ("cards", "cash")

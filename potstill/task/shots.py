"""Which examples stand in the teacher's prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from potstill.schema import Message
from potstill.task.answers import Item
from potstill.task.task import Task

Choose = Callable[[Sequence[Message]], tuple[Item, ...]]


def shot_chooser(task: Task) -> Choose:
    """Return a function from a prompt's messages to the examples in the teacher's prompt.

    With `shots = "nearest"` these are the most similar examples by the words of the last message
    (cosine of TF-IDF vectors), the most similar one last.
    """
    known = tuple(item for item in task.examples if item.known is not None)
    if task.shots == "same" or task.num_shots >= len(known):
        first = known[: task.num_shots]
        return lambda _messages: first
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    vectors = vectorizer.fit_transform([_last_text(item.messages) for item in known])

    def nearest(messages: Sequence[Message]) -> tuple[Item, ...]:
        similarity = (vectors @ vectorizer.transform([_last_text(messages)]).T).toarray()[:, 0]
        order = similarity.argsort(kind="stable")[-task.num_shots :]
        return tuple(known[index] for index in order)

    return nearest if task.num_shots else lambda _messages: ()


def _last_text(messages: Sequence[Message]) -> str:
    return messages[-1].content

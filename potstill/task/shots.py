"""Which examples stand in the teacher's prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from potstill.schema import Message
from potstill.task.answers import Item
from potstill.task.task import Task

MAX_COMPARED_CHARACTERS = 1 << 16
"""Of a prompt: a megabyte of it would take a second, and more memory than the models."""

Choose = Callable[[Sequence[Message]], tuple[Item, ...]]


def shot_chooser(task: Task) -> Choose:
    """Return a function from a prompt's messages to the examples in the teacher's prompt.

    With `shots = "nearest"` these are the most similar examples by the words of the last message
    (cosine of TF-IDF vectors), the most similar one last. A prompt that is an example itself is
    never among its own.
    """
    known = tuple(item for item in task.examples if item.known is not None)
    if task.shots == "same" or task.num_shots >= len(known):
        return lambda messages: tuple(islice(_others(known, messages), task.num_shots))
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    vectors = vectorizer.fit_transform([_last_text(item.messages) for item in known])

    def nearest(messages: Sequence[Message]) -> tuple[Item, ...]:
        similarity = (vectors @ vectorizer.transform([_last_text(messages)]).T).toarray()[:, 0]
        order = similarity.argsort(kind="stable")[::-1]
        others = _others((known[index] for index in order), messages)
        return tuple(islice(others, task.num_shots))[::-1]

    return nearest if task.num_shots else lambda _messages: ()


def _others(items: Iterable[Item], messages: Sequence[Message]) -> Iterator[Item]:
    """Yield the examples that are not the prompt itself."""
    return (item for item in items if item.messages != tuple(messages))


def _last_text(messages: Sequence[Message]) -> str:
    return messages[-1].content[:MAX_COMPARED_CHARACTERS]

"""The prompts of a task with their known answers.

In: a run's task. Out: `Question`s, all or a sample of them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np

from compare.answers.questions import Question, messages_id, slices_of
from potstill.schema import REFERENCES
from potstill.task.answers import Answer, Item
from potstill.task.metrics.label import Label
from potstill.task.metrics.tool_calls import names
from potstill.task.task import Task


def read_references(
    task: Task, num_questions: int, seed: int, similar: Mapping[str, str] | None = None
) -> list[Question]:
    """Return the task's prompts in the order of their file; of duplicates, the first.

    Prompts that begin with the same message of the user, such as the turns of one dialogue, are
    one cluster, and so are similar ones.

    Args:
        num_questions: Most prompts; of more, a sample without replacement.
        similar: The name of a group of similar prompts, by prompt id.
    """
    found = {messages_id(item.messages): item for item in reversed(task.references)}
    questions = [_question(task, prompt_id, item) for prompt_id, item in reversed(found.items())]
    return sample_of(_joined(questions, similar or {}), num_questions, seed)


def _joined(questions: Sequence[Question], similar: Mapping[str, str]) -> list[Question]:
    """Return the questions with one cluster for those that share a cluster or a group.

    Its name is that of the cluster of its first question.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    own = [one.cluster_id for one in questions]
    groups = [similar.get(one.prompt_id, one.prompt_id) for one in questions]
    owns_N, groups_N = (np.unique(names, return_inverse=True)[1] for names in (own, groups))
    size = len(questions)
    links = coo_array((np.ones(size), (owns_N, size + groups_N)), shape=(2 * size, 2 * size))
    _, components = connected_components(links, directed=False)
    names: dict[int, str] = {}
    joined = [names.setdefault(components[row], own[n]) for n, row in enumerate(owns_N)]
    return [
        one.model_copy(update={"cluster_id": name})
        for one, name in zip(questions, joined, strict=True)
    ]


def sample_of(questions: Sequence[Question], num_questions: int, seed: int) -> list[Question]:
    """Return all questions, or of more than so many a sample without replacement, in order."""
    if len(questions) <= num_questions:
        return list(questions)
    chosen = random.Random(seed).sample(range(len(questions)), num_questions)
    return [questions[index] for index in sorted(chosen)]


def _question(task: Task, prompt_id: str, item: Item) -> Question:
    first = next((one for one in item.messages if one.role == "user"), item.messages[-1])
    return Question(
        prompt_id=prompt_id,
        conversation_id=prompt_id,
        cluster_id=messages_id([first]),
        source=REFERENCES,
        messages=item.messages,
        slices=slices_of(item.messages, REFERENCES) | _kind(task, item.known),
        reference=item.known.text if item.known else None,
        known=item.known,
    )


def _kind(task: Task, known: Answer | None) -> dict[str, str]:
    """Return the known answer's label, or the tools that it calls, where a metric reads them."""
    if known is None:
        return {}
    for metric in task.metrics:
        if metric.kind == "label" and (label := Label(metric).read_known(known.text)) is not None:
            return {"label": label}
        if metric.kind == "tool_calls":
            return {"tool": names(known.tool_calls)}
    return {}

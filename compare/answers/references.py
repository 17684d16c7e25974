"""The prompts of a task with their known answers.

In: a run's task. Out: `Question`s, all or a sample of them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from compare.answers.questions import Question, messages_id, slices_of
from potstill.schema import REFERENCES
from potstill.task.answers import Answer, Item
from potstill.task.metrics.label import Label
from potstill.task.metrics.tool_calls import names
from potstill.task.task import Task


def read_references(task: Task, num_questions: int, seed: int) -> list[Question]:
    """Return the task's prompts in the order of their file; of duplicates, the first.

    Prompts that begin with the same message of the user, such as the turns of one dialogue, are
    one cluster.

    Args:
        num_questions: Most prompts; of more, a sample without replacement.
    """
    found = {messages_id(item.messages): item for item in reversed(task.references)}
    questions = [_question(task, prompt_id, item) for prompt_id, item in reversed(found.items())]
    return sample_of(questions, num_questions, seed)


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

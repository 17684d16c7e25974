"""Filters of conversations by the run's task: its schema, its known answers, their agreement.

In: conversations. Out: for each why it is dropped, or None. The first answer is judged, which is
the answer to the prompt; conversations that are not of the task are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from generate.curation.config import CurationConfig
from potstill.errors import ConfigError
from potstill.schema import Conversation
from potstill.task.answers import Answer, Item, Score
from potstill.task.metrics.config import SchemaConfig
from potstill.task.metrics.json_valid import SchemaValid
from potstill.task.metrics.metric import Metric, safe_key, safe_score
from potstill.task.task import Task

Judge = Callable[[Conversation], str | None]


class TaskFilter:
    """Applies a filter to the conversations of the task."""

    def __init__(self, judge_own: Judge) -> None:
        self._judge_own = judge_own

    def judge(self, conversation: Conversation) -> str | None:
        """Return why a conversation is dropped, or None."""
        return None if conversation.prompt.is_general else self._judge_own(conversation)


class MakeTaskFilter(Protocol):
    """A factory of filters."""

    def __call__(self, config: CurationConfig, task: Task | None, /) -> TaskFilter:
        """Return the filter.

        Raises:
            ConfigError: The task lacks what it needs.
        """
        ...


def first_metric(task: Task | None, where: str) -> Metric:
    """Return the metric that decides.

    Raises:
        ConfigError: There is none.
    """
    metrics = task.make_metrics() if task else []
    if not metrics:
        raise ConfigError(
            "there is no metric to judge answers by",
            where=where,
            expected="a [task] with metrics",
            found="a task without metrics" if task else "no task",
        )
    return metrics[0]


def first_answer(conversation: Conversation) -> Answer:
    """Return the first answer; text alone where its calls cannot be read."""
    message = conversation.completion[0]
    try:
        return Answer.from_message(message)
    except ValueError:
        return Answer(text=message.content)


def score_of(metric: Metric, conversation: Conversation) -> Score | None:
    """Return the metric's score of the first answer; None where a known answer is missing."""
    known = conversation.prompt.known
    if metric.needs_known and known is None:
        return None
    item = Item(
        messages=conversation.prompt.messages,
        known=None if known is None else Answer.model_validate_json(known),
    )
    return safe_score(metric, first_answer(conversation), item)


def _schema(_config: CurationConfig, task: Task | None) -> TaskFilter:
    metric: Metric
    if task is not None and task.schema_content is not None:
        metric, what = SchemaValid(SchemaConfig(), task.schema_content), "the task's schema"
    else:
        metric = first_metric(task, "generate.curation.conversation_filters: schema")
        what = f"the metric {metric.name}"

    def judge(conversation: Conversation) -> str | None:
        readable = safe_key(metric, first_answer(conversation)) is not None
        return None if readable else f"{what} cannot read an answer"

    return TaskFilter(judge)


def _known(config: CurationConfig, task: Task | None) -> TaskFilter:
    metric = first_metric(task, "generate.curation.conversation_filters: known")

    def judge(conversation: Conversation) -> str | None:
        score = None if conversation.prompt.known is None else score_of(metric, conversation)
        if score is None or score.value >= config.min_score:
            return None
        return f"{metric.name} {score.value:.2f} against the known answer" + (
            f": {score.problem}" if score.problem else ""
        )

    return TaskFilter(judge)


def _agreement(config: CurationConfig, _task: Task | None) -> TaskFilter:
    def judge(conversation: Conversation) -> str | None:
        share = conversation.score
        if share is None or share >= config.min_agreement:
            return None
        return f"{share:.0%} of the answers say the same"

    return TaskFilter(judge)


TASK_FILTERS: dict[str, MakeTaskFilter] = {
    "schema": _schema,
    "known": _known,
    "agreement": _agreement,
}
"""Factories of filters by the task, by name."""

"""Filters of conversations by the run's task: its schema, its known answers, their agreement.

In: conversations. Out: for each why it is dropped, or None. The first answer is judged, which is
the answer to the prompt; conversations that are not of the task are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

from generate.curation.config import CurationConfig
from potstill.errors import ConfigError
from potstill.schema import Conversation, Message
from potstill.task.answers import Answer, Item, Score
from potstill.task.metrics.config import SchemaConfig
from potstill.task.metrics.json_valid import SchemaValid
from potstill.task.metrics.metric import Metric, safe_key, safe_score
from potstill.task.task import Task

Judge = Callable[[Conversation], str | None]
"""Returns why a conversation is dropped, or None."""
Decode = Callable[[Sequence[int]], str]
"""From token ids to text; None where a filter is only checked."""


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
    """Return the first answer, as `read_answer` does."""
    return read_answer(conversation.completion[0])


def read_answer(message: Message) -> Answer:
    """Return an answer; its text alone where its calls cannot be read."""
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


def _score_against_known(metric: Metric, conversation: Conversation) -> Score | None:
    """Return the score where an answer is known, also of a metric that can do without one."""
    return None if conversation.prompt.known is None else score_of(metric, conversation)


def _of_task(judge: Judge) -> Judge:
    """Apply a filter to the conversations of the task only."""

    def judge_own(conversation: Conversation) -> str | None:
        prompt = conversation.prompt
        return None if prompt.is_general or prompt.is_given else judge(conversation)

    return judge_own


def _schema(task: Task | None, _decode: Decode | None, _config: CurationConfig) -> Judge:
    metric: Metric
    if task is not None and task.schema_content is not None:
        metric, what = SchemaValid(SchemaConfig(), task.schema_content), "the task's schema"
    else:
        metric = first_metric(task, "generate.curation.conversation_filters: schema")
        what = f"the metric {metric.name}"

    def judge(conversation: Conversation) -> str | None:
        readable = safe_key(metric, first_answer(conversation)) is not None
        return None if readable else f"{what} cannot read an answer"

    return _of_task(judge)


def _known(task: Task | None, _decode: Decode | None, config: CurationConfig) -> Judge:
    metric = first_metric(task, "generate.curation.conversation_filters: known")

    def judge(conversation: Conversation) -> str | None:
        score = _score_against_known(metric, conversation)
        if score is None or score.value >= config.min_score:
            return None
        return f"{metric.name} {score.value:.2f} against the known answer" + (
            f": {score.problem}" if score.problem else ""
        )

    return _of_task(judge)


def _agreement(_task: Task | None, _decode: Decode | None, config: CurationConfig) -> Judge:
    def judge(conversation: Conversation) -> str | None:
        share = conversation.score
        if share is None or share >= config.min_agreement:
            return None
        return f"{share:.0%} of the answers say the same"

    return _of_task(judge)


def _confidence(task: Task | None, decode: Decode | None, config: CurationConfig) -> Judge:
    metric = first_metric(task, "generate.curation.conversation_filters: confidence")

    def judge(conversation: Conversation) -> str | None:
        key = safe_key(metric, first_answer(conversation))
        if key is None or decode is None:
            return f"{metric.name} cannot read an answer"
        score = _score_against_known(metric, conversation)
        if score is not None and score.value >= config.min_score:
            return None  # What is known to be right needs no confidence.
        probability = probability_of(key, conversation, decode)
        if probability >= config.min_confidence:
            return None
        return f"{key}: probability {probability:.2f} under the teacher"

    return _of_task(judge)


def probability_of(text: str, conversation: Conversation, decode: Decode) -> float:
    """Return the teacher's probability of the first answer's tokens that spell a text.

    Of all its tokens, where the text does not stand in the answer word for word.
    """
    turn = conversation.turns[0]
    token_ids = conversation.token_ids[turn.start : turn.start + turn.num_tokens].tolist()
    pieces = [decode([token_id]) for token_id in token_ids]
    ends = accumulate(map(len, pieces), initial=0)
    found = "".join(pieces).find(text)
    logprobs = conversation.signal.sampled_logprobs_T[: turn.num_tokens].tolist()
    spelled = [
        logprob
        for logprob, (start, end) in zip(logprobs, pairwise(ends), strict=True)
        if found < 0 or (end > found and start < found + len(text))
    ]
    return math.exp(sum(spelled))


TASK_FILTERS: dict[str, Callable[[Task | None, Decode | None, CurationConfig], Judge]] = {
    "schema": _schema,
    "known": _known,
    "agreement": _agreement,
    "confidence": _confidence,
}
"""Factories of filters by the task, by name."""

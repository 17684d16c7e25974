"""The best answer of several teachers to a prompt, by the task's first metric.

In: parts of samples. Out: the conversations that are not kept, each with a reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from generate.curation.conversation_filters import Drop
from generate.curation.task_filters import score_of
from potstill.schema import Conversation
from potstill.tables import read_conversations
from potstill.task.metrics.metric import Metric

FILTER = "best_teacher"


def worse_answers(
    paths: Iterable[Path], metric: Metric, teachers: Sequence[str]
) -> dict[str, Drop]:
    """Return the conversations of teachers that another teacher surpasses, by their ids.

    Each teacher stands for its best conversation with a prompt. Without a score, as without a known
    answer or with general prompts, and between equals, the teacher that is configured first is
    kept.

    Args:
        teachers: Their names, in the order of the configuration.
    """
    scores: dict[str, dict[str, float]] = {}
    ids: dict[tuple[str, str], list[str]] = {}
    for conversation in (one for path in paths for one in read_conversations(path)):
        name, prompt_id = conversation.teacher, conversation.prompt.prompt_id
        if name is not None:
            known = scores.setdefault(prompt_id, {})
            known[name] = max(_score(metric, conversation), known.get(name, 0.0))
            ids.setdefault((prompt_id, name), []).append(conversation.conversation_id)
    worse: dict[str, Drop] = {}
    for prompt_id, known in scores.items():
        best = min(known, key=lambda name: (-known[name], teachers.index(name)))
        for name in known.keys() - {best}:
            reason = f"{metric.name} {known[name]:.2f}, and {known[best]:.2f} of {best}"
            worse |= dict.fromkeys(ids[prompt_id, name], Drop(FILTER, reason))
    return worse


def _score(metric: Metric, conversation: Conversation) -> float:
    score = None if conversation.prompt.is_general else score_of(metric, conversation)
    return score.value if score else 0.0

"""`/v1/task`: what the run's student is for."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request

from potstill.task.metrics.config import LabelConfig
from potstill.task.task import Task
from serve.api.routes.schema import FAILURES
from serve.api.state import serving_of
from serve.wire.task import TaskView

MAX_EXAMPLES = 6

router = APIRouter()


@router.get("/v1/task", responses=FAILURES, tags=["operation"])
async def describe_task(http: Request) -> TaskView:
    """Describe the task that the models are served with, with messages to try."""
    serving = serving_of(http)
    task = serving.task
    if serving.is_restricted:
        # The task does not exist for a key that may use none of its models.
        has_any = any("task" in one.card for one in serving.backends.values())
        task = task if has_any else None
    if task is None:
        raise HTTPException(404, "no task is served")
    labels = [metric for metric in task.metrics if isinstance(metric, LabelConfig)]
    return {
        "metrics": [metric.name or metric.kind for metric in task.metrics],
        "label_field": labels[0].field if labels else None,
        "examples": _examples(task),
    }


def _examples(task: Task) -> list[str]:
    """Return messages of the task's examples, one of each known answer first."""
    single = [item for item in task.examples if len(item.messages) == 1]
    by_answer = {item.known and item.known.model_dump_json(): item for item in reversed(single)}
    one_each = [item for item in single if item in by_answer.values()]
    others = [item for item in single if item not in one_each]
    texts = [item.messages[0].content for item in (*one_each, *others)]
    return list(dict.fromkeys(texts))[:MAX_EXAMPLES]

"""Labels of prompts by a linear classifier of the task's examples, as their known answers.

In: prompts, a task with labeled examples. Out: answers for the prompts of which the classifier is
sure. Labels of this kind are called pseudo-labels (Lee 2013, "Pseudo-Label").
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from generate.sources.raw_prompt import RawPrompt
from potstill.errors import ConfigError
from potstill.schema import is_general
from potstill.task.answers import Answer
from potstill.task.categories import Categories
from potstill.task.classifier import LinearClassifier
from potstill.task.metrics.label import Label
from potstill.task.task import Task

logger = logging.getLogger(__name__)


def sure_labels(
    prompts: Iterable[RawPrompt], task: Task | None, precision: float
) -> dict[str, str]:
    """Label the task's prompts that have no known answer, where the classifier is sure.

    Args:
        precision: As for `LinearClassifier.classify_sure`.

    Returns:
        JSON of the answers, by prompt id.

    Raises:
        ConfigError: The task has no labels, or examples of fewer than two.
    """
    label = Categories(task).label if task is not None else None
    classifier = LinearClassifier.of(task, Label(label)) if task is not None and label else None
    if classifier is None:
        raise ConfigError(
            "there are no labels for a classifier to learn",
            where="generate.prompts.classifier_precision",
            expected="a [task] with a metric of kind label, and examples of at least two labels",
            found="fewer labels" if label else "no metric of kind label",
        )
    unlabeled = [one for one in prompts if one.known is None and not is_general(one.source)]
    labels = classifier.classify_sure([one.messages for one in unlabeled], precision)
    found = {
        prompt.prompt_id: Answer(text=label).model_dump_json()
        for prompt, label in zip(unlabeled, labels, strict=True)
        if label is not None
    }
    logger.info(
        "a classifier of %d labeled examples labels %d of %d prompts",
        classifier.num_examples,
        len(found),
        len(unlabeled),
    )
    return found

"""A linear classifier on the known answers' labels: what needs neither teacher nor student.

In: the task's examples with known labels, prompts. Out: a label for each prompt. It sees the words
and characters of the messages, and writes nothing but the label.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from potstill.schema import Message
from potstill.task.metrics.label import Label
from potstill.task.task import Task

REGULARIZATIONS = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Values of C that cross-validation chooses from."""
DEFAULT_REGULARIZATION = 10.0
"""C where too few or too many examples make cross-validation impossible or slow."""
NUM_FOLDS = 5
MOST_EXAMPLES_TUNED = 2000
MOST_ITERATIONS = 1000


@dataclass(frozen=True)
class Classified:
    """A classifier's labels."""

    labels: list[str]
    """One for each prompt."""
    num_examples: int
    seconds_per_prompt: float


def classify(task: Task, metric: Label, prompts: Sequence[Sequence[Message]]) -> Classified | None:
    """Train on the examples' labels and label the prompts; None with fewer than two labels.

    TF-IDF of words (one and two) and of characters within words (two to five), both with sublinear
    counts; logistic regression, its C by cross-validation.
    """
    known = [
        (text_of(item.messages), label)
        for item in task.examples
        if item.known is not None and (label := metric.read_known(item.known.text)) is not None
    ]
    counts = Counter(label for _, label in known)
    if len(counts) < 2:
        return None
    texts, labels = zip(*known, strict=True)
    model = _model(min(counts.values()), len(known))
    model.fit(list(texts), list(labels))
    started = time.perf_counter()
    found = [str(label) for label in model.predict([text_of(one) for one in prompts])]
    seconds = (time.perf_counter() - started) / max(len(prompts), 1)
    return Classified(found, len(known), seconds)


def text_of(messages: Sequence[Message]) -> str:
    """Return the messages that are not instructions, as one text."""
    return "\n".join(one.content for one in messages if one.role != "system")


def _model(fewest_of_a_label: int, num_examples: int) -> Any:  # noqa: ANN401  (untyped library)
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline, make_union

    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
    )
    regression = LogisticRegression(C=DEFAULT_REGULARIZATION, max_iter=MOST_ITERATIONS)
    num_folds = min(NUM_FOLDS, fewest_of_a_label)
    if num_folds < 2 or num_examples > MOST_EXAMPLES_TUNED:
        return make_pipeline(features, regression)
    # Features are made once, from all examples: their weights are not the labels'.
    folds = StratifiedKFold(num_folds, shuffle=True, random_state=0)
    tuned = GridSearchCV(regression, {"C": REGULARIZATIONS}, cv=folds)
    return make_pipeline(features, tuned)

"""A linear classifier on the known answers' labels: what needs neither teacher nor student.

In: the task's examples with known labels, prompts. Out: a label for each prompt. It sees the words
and characters of the messages, and writes nothing but the label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

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

Prompts = Sequence[Sequence[Message]]
Floats = npt.NDArray[np.float64]


class LinearClassifier:
    """TF-IDF of words and characters, and logistic regression.

    Words are counted alone and in pairs, characters within words in groups of two to five, all
    sublinearly; the regularization is chosen by cross-validation.

    Args:
        texts: What is labeled.
        labels: A label of each; at least two different ones.
    """

    def __init__(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        self.num_examples = len(labels)
        self._texts, self._labels = list(texts), np.array(labels)
        self._names = np.unique(self._labels)
        self._num_folds = min(NUM_FOLDS, *Counter(labels).values())
        self._model = self._trained()

    @classmethod
    def of(cls, task: Task, metric: Label) -> LinearClassifier | None:
        """Return the classifier of a task's examples; None with fewer than two labels."""
        known = [
            (text_of(item.messages), label)
            for item in task.examples
            if item.known is not None and (label := metric.read_known(item.known.text)) is not None
        ]
        if len({label for _, label in known}) < 2:
            return None
        return cls(*zip(*known, strict=True))

    def classify(self, prompts: Prompts) -> list[str]:
        """Return the most probable label of each prompt."""
        return list(map(str, self._names[self._probabilities_PL(prompts).argmax(1)]))

    def classify_sure(self, prompts: Prompts, precision: float) -> list[str | None]:
        """Return a label for the prompts of which it is sure, and None for the others.

        Args:
            precision: Least share of right labels among the examples of which it is as sure, in
                cross-validation. Where a label has one example, that cannot be measured, and no
                prompt gets a label.
        """
        least = self._least_probability(precision)
        if least is None or not prompts:
            return [None] * len(prompts)
        is_sure_P = self._probabilities_PL(prompts).max(1) >= least
        return [
            label if is_sure else None
            for label, is_sure in zip(self.classify(prompts), is_sure_P, strict=True)
        ]

    def _trained(self) -> Any:  # noqa: ANN401  (untyped library)
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV
        from sklearn.pipeline import make_pipeline, make_union

        features = make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        )
        regression = LogisticRegression(C=DEFAULT_REGULARIZATION, max_iter=MOST_ITERATIONS)
        if self._num_folds > 1 and self.num_examples <= MOST_EXAMPLES_TUNED:
            # Features are made once, from all examples: their weights are not the labels'.
            vectors = features.fit_transform(self._texts)
            tuned = GridSearchCV(regression, {"C": REGULARIZATIONS}, cv=self._folds())
            regression = tuned.fit(vectors, self._labels).best_estimator_
        return make_pipeline(features, regression).fit(self._texts, self._labels)

    def _folds(self) -> Any:  # noqa: ANN401  (untyped library)
        from sklearn.model_selection import StratifiedKFold

        return StratifiedKFold(self._num_folds, shuffle=True, random_state=0)

    def _probabilities_PL(self, prompts: Prompts) -> Floats:
        found: Floats = self._model.predict_proba(list(map(text_of, prompts)))
        return found

    def _least_probability(self, precision: float) -> float | None:
        """Return from which probability so many examples are labeled right by the others."""
        from sklearn.base import clone
        from sklearn.model_selection import cross_val_predict

        if self._num_folds < 2:
            return None
        probabilities_EL = cross_val_predict(
            clone(self._model), self._texts, self._labels, cv=self._folds(), method="predict_proba"
        )
        is_right_E = self._names[probabilities_EL.argmax(1)] == self._labels
        probability_E = probabilities_EL.max(1)
        surest_E = probability_E.argsort()[::-1]
        precision_E = is_right_E[surest_E].cumsum() / np.arange(1, self.num_examples + 1)
        precise_enough = np.flatnonzero(precision_E >= precision)
        return float(probability_E[surest_E[precise_enough[-1]]]) if len(precise_enough) else None


def text_of(messages: Sequence[Message]) -> str:
    """Return the messages that are not instructions, as one text."""
    return "\n".join(one.content for one in messages if one.role != "system")

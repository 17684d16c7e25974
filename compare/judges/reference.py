"""A judge by similarity to a reference text: ROUGE-L or chrF.

In: pairs whose prompt has a known answer, or the teacher's stored one. Out: judgments with both
measurements, from 0 to 1.

Source: Lin 2004 through rouge_score 0.1.2; Popović 2015 through sacrebleu 2.6.0 (chrF2, sentence
level). With the teacher's own words as reference it measures similarity, not quality.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from compare.judge_config import ReferenceJudgeConfig
from compare.judges.protocol import Judge, Judgment, Pair

PERCENT = 100.0
Metric = Callable[[str, str], float]
"""From an answer and a reference to a value from 0 to 1."""


class ReferenceJudge(Judge):
    """Measures each answer against a reference text."""

    kind = "reference"
    measures = True

    def __init__(self, config: ReferenceJudgeConfig) -> None:
        self.name = config.name
        self.claim = "quality" if config.reference == "answer" else "similarity"
        # Similarity never decides.
        self.needs_assay = self.claim == "quality"
        self._of_teacher = config.reference == "teacher"
        self._metric = rouge_l() if config.metric == "rouge_l" else chrf()

    def judge(self, pairs: Sequence[Pair], label: str) -> list[Judgment]:  # noqa: ARG002
        """Measure both answers of each pair."""
        return [self._judge(pair) for pair in pairs]

    def _judge(self, pair: Pair) -> Judgment:
        question = pair.question
        reference = question.teacher_answer if self._of_teacher else question.reference
        if not reference:
            return Judgment(score=None, failure="the prompt has no reference")
        return measured(
            self._metric(pair.student, reference), self._metric(pair.teacher, reference)
        )


def measured(student: float, teacher: float) -> Judgment:
    """Return the judgment of two measurements: one half plus half of their difference."""
    score = 0.5 + (student - teacher) / 2
    return Judgment(score=score, student_value=student, teacher_value=teacher)


def rouge_l() -> Metric:
    """Return ROUGE-L's F-measure without stemming; words consist of a-z and 0-9."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])

    def metric(answer: str, reference: str) -> float:
        return float(scorer.score(reference, answer)["rougeL"].fmeasure)

    return metric


def chrf() -> Metric:
    """Return chrF2, from 0 to 1."""
    from sacrebleu.metrics import CHRF

    scorer = CHRF()

    def metric(answer: str, reference: str) -> float:
        return float(scorer.sentence_score(answer, [reference]).score) / PERCENT

    return metric

"""The task's metrics as judges: each scores both answers against the known one.

In: pairs whose prompts have known answers. Out: judgments with both values, what the metric read,
and why an answer is not right. With the teacher's answer as the known one it measures agreement.
"""

from __future__ import annotations

from collections.abc import Sequence

from compare.judge_config import MetricJudgeConfig
from compare.judges.protocol import Judge, Judgment, Pair
from compare.judges.reference import measured
from potstill.task.answers import Item
from potstill.task.known_answers import whole_answer
from potstill.task.metrics.metric import RAISED, safe_score
from potstill.task.task import Task

WITHOUT_QUOTATION = "grounded"
"""The kind of metric whose known answers may lack what answers need."""


class MetricJudge(Judge):
    """Scores each answer alone. It is exact by definition, so no assay tests it.

    Where it can score no answer, both would be equally wrong, and equal passes: a pair whose known
    answer is itself wrong, or on whose answers the metric raises alike, has no judgment.
    """

    kind = "metric"
    measures = True
    needs_assay = False

    def __init__(self, config: MetricJudgeConfig) -> None:
        self.name = config.name
        self.claim = "quality" if config.known == "reference" else "similarity"
        self._task = config.task
        self._metric = config.task.make_metrics()[0]
        self._tests_known = (
            self.claim == "quality"
            and self._metric.needs_known
            and config.task.metrics[0].kind != WITHOUT_QUOTATION
        )

    def judge(self, pairs: Sequence[Pair], label: str) -> list[Judgment]:  # noqa: ARG002
        """Score both answers of each pair."""
        return [self._judge(pair) for pair in pairs]

    def _judge(self, pair: Pair) -> Judgment:
        known = pair.question.known if self.claim == "quality" else pair.teacher_content
        if known is None and self._metric.needs_known:
            return Judgment(score=None, failure="the prompt has no known answer")
        item = Item(messages=pair.question.messages, known=known)
        if self._tests_known and known is not None:
            own = safe_score(self._metric, whole_answer(self._task, known), item)
            if not own.value:
                problem = own.problem or "it is wrong"
                return Judgment(score=None, failure=f"the known answer itself scores 0: {problem}")
        refused = (pair.student_refused, pair.teacher_refused)
        contents = (pair.student_content, pair.teacher_content)
        student, teacher = (
            safe_score(self._metric, None if is_refused else content, item)
            for is_refused, content in zip(refused, contents, strict=True)
        )
        if all((one.problem or "").startswith(RAISED) for one in (student, teacher)):
            return Judgment(score=None, failure=f"{student.problem}; on both answers")
        return measured(student.value, teacher.value).model_copy(
            update={
                "expected": student.expected or teacher.expected,
                "student_found": student.found,
                "teacher_found": teacher.found,
                "student_problem": student.problem,
                "teacher_problem": teacher.problem,
            }
        )


def metric_judges(task: Task) -> tuple[MetricJudgeConfig, ...]:
    """Return the judges of a task: its metrics, the first of which decides, then agreement.

    Raises:
        ConfigError: A metric cannot be used.
    """
    found, agreement = [], []
    for table, metric in zip(task.metrics, task.make_metrics(), strict=True):
        alone = Task(answer_schema=task.answer_schema, metrics=(table,))
        found.append(MetricJudgeConfig(name=metric.name, task=alone))
        if metric.needs_known:
            name = f"{metric.name}: agreement with the teacher"
            agreement.append(MetricJudgeConfig(name=name, task=alone, known="teacher"))
    return (*found, *agreement)

"""All judges of a comparison, one after another.

In: questions, answers, the judges' tables. Out: `Opinion`s; each is stored when the judge is done.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from compare.answers.answers import Answer, Role
from compare.answers.cache import JsonCache
from compare.answers.questions import Question
from compare.config import CompareConfig
from compare.judge_config import (
    TEACHER_JUDGE,
    AnyJudgeConfig,
    CriteriaJudgeConfig,
    MetricJudgeConfig,
    VotesJudgeConfig,
)
from compare.judges.assay import IsSound, Judged, work
from compare.judges.controls import KNOWN_WORSE, UNTRAINED, Control, build_controls
from compare.judges.criteria import SAME
from compare.judges.labels import Labels, read_labels
from compare.judges.metric import metric_judges
from compare.judges.protocol import Judge, Judgment, Pair
from compare.judges.registry import JudgeResources, asks_teacher, build_judge
from compare.judges.votes import read_votes
from potstill.task.task import Task

logger = logging.getLogger(__name__)

WITHOUT_EFFECT = frozenset(
    {"name", "api_key_variable", "prompt_price", "completion_price", "labels", "path"}
)
"""Settings that change no score of a judge."""


@dataclass(frozen=True)
class Opinion:
    """The judgments of one judge and their pairs."""

    pairs: list[Pair]
    judged: Judged
    key: str = ""
    """Digest of all that the judge's scores depend on."""
    labels: tuple[str, ...] | None = None
    """Of a metric that reads labels or called tools: their order, if the task gives one. None for
    all other judges."""
    labeled: Labels | None = None
    """People's labels of single answers, of a judge of criteria."""

    @property
    def judged_pairs(self) -> list[tuple[Pair, Judgment]]:
        """Each pair with its judgment; none of a judge that failed its assay."""
        said = self.judged.judgments or ()
        return list(zip(self.pairs, said, strict=bool(said)))


class Panel:
    """The judges of a comparison.

    Args:
        cache: Where opinions are stored, for this comparison only.
        is_sound: As in `assay.work`.
        task: Whose metrics judge, before the configured judges; None: no metrics.
        comparison: Digest of the models and settings, whose votes and labels count; None: any.
    """

    def __init__(
        self,
        config: CompareConfig,
        questions: Sequence[Question],
        answers: Sequence[Answer],
        cache: JsonCache,
        is_sound: IsSound,
        task: Task | None = None,
        comparison: str | None = None,
    ) -> None:
        self._config, self._cache, self._is_sound = config, cache, is_sound
        self._comparison = comparison
        metrics = metric_judges(task) if task else ()
        judges: tuple[AnyJudgeConfig, ...] = (*metrics, *config.judges)
        self._judges = judges or (TEACHER_JUDGE,)
        self.pairs = pair_up(questions, answers, config.samples_per_prompt)
        self._controls = _controls(config, questions, answers, self.pairs)

    def asks_teacher(self) -> bool:
        """Return whether a judge that is not done needs the teacher to be served."""
        return any(asks_teacher(one) and self._cache.get(_key(one)) is None for one in self._judges)

    def opinions(self, resources: JudgeResources) -> list[Opinion]:
        """Return the opinion of each judge.

        Raises:
            ConfigError: A judge lacks something it needs.
            ArtifactError: A file of votes or labels cannot be used.
            BackendError: A judge's server does not list its models.
        """
        return [self._opinion(config, resources) for config in self._judges]

    def _opinion(self, config: AnyJudgeConfig, resources: JudgeResources) -> Opinion:
        if isinstance(config, VotesJudgeConfig):
            votes = self._own_votes(config)
            judged = Judged(
                name=config.name,
                kind=config.kind,
                claim="quality",
                measures=False,
                model=None,
                judgments=tuple(judgment for _, judgment in votes),
            )
            return Opinion([pair for pair, _ in votes], judged, _key(config, WITHOUT_EFFECT))
        stored = self._cache.once(
            _key(config), Judged, lambda: self._ask(build_judge(config, resources))
        )
        labeled = None
        if isinstance(config, CriteriaJudgeConfig):
            labeled = read_labels(config.labels, self._comparison)
        return Opinion(self.pairs, stored, _key(config, WITHOUT_EFFECT), _labels(config), labeled)

    def _own_votes(self, config: VotesJudgeConfig) -> list[tuple[Pair, Judgment]]:
        """Return the votes on this comparison's answers: others may be of another student."""
        own = {pair.key: pair for pair in self.pairs}
        votes = read_votes(config.path)
        counted = read_votes(config.path, self._comparison)
        found = [(own[pair.key], said) for pair, said in counted if pair.key in own]
        if len(found) < len(votes):
            logger.warning(
                "%d of %d votes in %s are on other answers, and do not count",
                len(votes) - len(found), len(votes), config.path,
            )  # fmt: skip
        return found

    def _ask(self, judge: Judge) -> Judged:
        settle = settled if judge.claim == "quality" and not judge.measures else _open
        askable = {i: pair for i, pair in enumerate(self.pairs) if settle(pair) is None}
        controls = [one for one in self._controls if one.name not in judge.blind_to]
        judged = work(
            judge,
            list(askable.values()),
            controls if judge.needs_assay else (),
            cluster_of=self.cluster_of,
            is_sound=self._is_sound,
            stop_early=self._config.assay.stop_early,
            seed=self._config.seed,
        )
        if judged.judgments is None:
            return judged
        said = dict(zip(askable, judged.judgments, strict=True))
        whole = tuple(
            said.get(index) or settle(pair) or Judgment(score=None)
            for index, pair in enumerate(self.pairs)
        )
        return judged.model_copy(update={"judgments": whole})

    def cluster_of(self, pair: Pair) -> str:
        """Return the name of a pair's cluster."""
        return pair.question.cluster(self._config.verdict.cluster_by)


def pair_up(
    questions: Sequence[Question], answers: Sequence[Answer], samples_per_prompt: int
) -> list[Pair]:
    """Return the pairs of student's and teacher's answers, without those that both refused."""
    by_key = _by_key(answers)
    pairs = []
    for question in questions:
        for sample in range(samples_per_prompt):
            student = by_key["student"].get((question.prompt_id, sample))
            teacher = by_key["teacher"].get((question.prompt_id, sample))
            if student and teacher and not (student.is_refused and teacher.is_refused):
                pairs.append(_pair(question, sample, student, teacher))
    return pairs


def settled(pair: Pair) -> Judgment | None:
    """Return the judgment of a pair that needs no reading; None for all others.

    A refusal loses against an answer: otherwise a student would gain by refusing hard prompts.
    """
    if pair.student_refused or pair.teacher_refused:
        side = "student" if pair.student_refused else "teacher"
        return Judgment(
            score=0.0 if pair.student_refused else 1.0, note=f"the {side} gave no answer"
        )
    if pair.student == pair.teacher:
        return Judgment(score=0.5, note=SAME)
    return None


def _open(_pair: Pair) -> Judgment | None:
    return None


def _controls(
    config: CompareConfig,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    pairs: Sequence[Pair],
) -> list[Control]:
    by_key = _by_key(answers)
    asked = {one.prompt_id: one for one in questions[: config.assay.num_prompts]}
    first = [
        pair
        for pair in pairs
        if pair.sample == 0 and pair.question.prompt_id in asked and not pair.teacher_refused
    ]

    def answered(role: Role, sample: int) -> list[Pair]:
        found = []
        for pair in first:
            other = by_key[role].get((pair.question.prompt_id, sample))
            if other and not other.is_refused:
                found.append(beside(pair, other))
        return found

    return build_controls(
        [replace(pair, student_refused=False) for pair in first],
        seed=config.seed,
        others=answered("teacher", config.samples_per_prompt),
        known_worse=answered("known_worse", 0),
        known_worse_name=UNTRAINED if any(a.model == UNTRAINED for a in answers) else KNOWN_WORSE,
    )


def beside(pair: Pair, answer: Answer) -> Pair:
    """Return the pair with another answer in place of the student's."""
    ends = answer.finish_reason == "stop"
    return replace(pair, student=answer.shown, student_finished=ends, student_refused=False)


def _pair(question: Question, sample: int, student: Answer, teacher: Answer) -> Pair:
    return Pair(
        question=question,
        sample=sample,
        student=student.shown,
        teacher=teacher.shown,
        student_finished=student.finish_reason == "stop",
        teacher_finished=teacher.finish_reason == "stop",
        student_refused=student.is_refused,
        teacher_refused=teacher.is_refused,
        student_content=student.content,
        teacher_content=teacher.content,
    )


def _by_key(answers: Sequence[Answer]) -> dict[Role, dict[tuple[str, int], Answer]]:
    found: dict[Role, dict[tuple[str, int], Answer]] = defaultdict(dict)
    for answer in answers:
        found[answer.role][answer.prompt_id, answer.sample] = answer
    return found


def _labels(config: AnyJudgeConfig) -> tuple[str, ...] | None:
    if not isinstance(config, MetricJudgeConfig) or config.known == "teacher":
        return None
    (metric,) = config.task.metrics
    if metric.kind == "label":
        return metric.labels
    return () if metric.kind == "tool_calls" else None


def _key(config: AnyJudgeConfig, without: frozenset[str] = frozenset()) -> str:
    content = json.dumps(config.model_dump(mode="json", exclude=set(without)), sort_keys=True)
    return f"judged-{hashlib.sha256(content.encode()).hexdigest()[:32]}"

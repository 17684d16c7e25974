"""The estimated cost of the comparison.

In: its configuration and the files' estimate. Out: an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass

from compare.config import CompareConfig
from compare.gate.defaults import default_gate, num_asked
from compare.judge_config import CriteriaJudgeConfig, LikelihoodJudgeConfig, LlmJudgeConfig
from compare.sizing import (
    JUDGMENT_TOKENS,
    NUM_CONTROLS,
    asked_prompts,
    judges_price,
    needed,
)
from potstill.plan import Estimate, Workload

SHARE_OF_PEAK = 1.05
"""llama.cpp's share of the FLOP/s of training an MLP in float32, at which comparisons of two tasks
on a Xeon and on an EPYC are estimated within a factor of 1.5: it multiplies in 8 and 16 bits, and
how much that brings depends on the processor."""
WEIGHT_BYTES = 2.0
"""Bytes read per weight to decode a token. Smaller files take as long: unpacking costs time."""
FIXED_SECONDS = 20.0
PROCESS_BYTES = 1.0e9
PAGE_BYTES = 1e6
NUM_STUDENTS = {"untrained": 1, "untrained_instructed": 1, "known_answers": 1}
"""Models of the student's size among the candidates, by kind; its files come on top."""


@dataclass(frozen=True)
class _Tokens:
    read: float = 0.0
    decoded: float = 0.0

    def __add__(self, other: _Tokens) -> _Tokens:
        return _Tokens(self.read + other.read, self.decoded + other.decoded)

    @property
    def total(self) -> float:
        return self.read + self.decoded

    def times(self, count: float) -> _Tokens:
        return _Tokens(count * self.read, count * self.decoded)


def estimate(config: CompareConfig, workload: Workload) -> tuple[Estimate, Workload]:
    """Estimate fidelity, speed, answers, and the teacher's judgments, assuming it passes the assay.

    The known answers of a task are asked instead of held-out prompts, of its candidates too, and
    judged by metrics, which cost nothing.

    Judges behind other servers cost this machine nothing. The beginning that prompts have in
    common is computed once for each model: the server keeps it.

    Raises:
        ArtifactError: There will be no teacher to compare with.
    """
    if workload.text_only:
        config.require_teacher("the teacher")
    num_tested = workload.test_share * workload.num_conversations
    num_held_out = min(config.max_conversations, num_tested)
    length = workload.prompt_tokens + workload.completion_tokens
    # Each file, as if one were the teacher's and the others the student's. Reading the same tokens
    # once more gives the served student's log-probabilities.
    measured = _Tokens(num_held_out * length, config.speed_rounds * config.speed_tokens)
    others = measured.times(max(0, workload.num_files - 1)) + _Tokens(num_held_out * length)
    others += _memorized(config, workload).times(length)
    students = _Tokens()
    num_prompts = asked_prompts(config, workload)
    if workload.task.num_references and config.prompts is None:
        asked, students = _of_task(config, workload, num_prompts)
    else:
        asked = _answered_and_judged(config, workload, num_prompts)
    # A teacher that another server answers for costs this machine nothing.
    num_parameters = 0 if config.teacher else workload.teacher.num_parameters
    # Parameters times tokens, of the teacher (which stands for all files) and the student.
    computed = num_parameters * (measured + asked).total
    computed += workload.student.num_parameters * (others + students).total
    at_once = config.max_concurrency
    weight_reads = num_parameters * (measured.decoded + asked.decoded / at_once)
    weight_reads += workload.student.num_parameters * (others.decoded + students.decoded / at_once)
    cost = Estimate(
        stage="compare",
        tokens=(measured + others + asked + students).total,
        float32_flops=2.0 * computed,
        moved_bytes=WEIGHT_BYTES * weight_reads,
        share_of_peak=SHARE_OF_PEAK,
        fixed_seconds=FIXED_SECONDS,
        disk_bytes=PAGE_BYTES,
        memory_bytes=workload.num_files * max(num_parameters, workload.student.num_parameters)
        + PROCESS_BYTES,
        price=judges_price(config, workload),
        price_per_hour=config.cost.machine_dollars_per_hour or 0.0,
        notes=tuple(needed(config, workload).sentences()),
    )
    return cost, workload


def _memorized(config: CompareConfig, workload: Workload) -> _Tokens:
    """Return the stored answers that are read: training ones twice, held-out ones once."""
    wanted = config.memorization
    if workload.completion_tokens < 2 * wanted.min_tokens:
        return _Tokens()
    tested = workload.test_share * workload.num_conversations
    trained = workload.num_conversations - tested
    return _Tokens(2 * min(wanted.num_answers, trained) + min(wanted.num_answers, tested))


def _of_task(
    config: CompareConfig, workload: Workload, num_prompts: int
) -> tuple[_Tokens, _Tokens]:
    """Return the tokens of the teacher and of students that answer the task's known prompts.

    What all prompts begin with is read once. Prompts of the gate's suites count like the task's.
    """
    task = workload.task
    num_pairs = num_prompts * config.samples_per_prompt
    num_others = min(config.candidate_prompts, task.num_references)
    answer = _Tokens(task.prompt_tokens, min(config.max_tokens, task.answer_tokens))
    judged = _Tokens()
    if config.judges or not task.has_metric:
        judged = _judged(config, task.prompt_tokens, answer.decoded, num_prompts)
    zero_shot = bool(task.num_shots) and "teacher_zero_shot" in config.candidates
    suites = num_asked(default_gate(has_schema=True) if config.gate is None else config.gate)
    teachers = _teachers_own(config, num_pairs, num_others) + zero_shot * num_others
    teachers += suites.pop("teacher", 0)
    others = [NUM_STUDENTS.get(kind, 0) for kind in config.candidates]
    files = max(0, workload.num_files - 2) * ("files" in config.candidates)
    students = num_pairs + (sum(others) + files) * num_others + sum(suites.values())
    return (
        answer.times(teachers) + _Tokens(task.teacher_tokens) + judged,
        answer.times(students) + _Tokens(task.student_tokens),
    )


def _teachers_own(config: CompareConfig, num_prompts: float, num_others: float) -> float:
    """Return how many prompts the teacher's file answers as the task says."""
    if not config.takes_stored_answers:
        return num_prompts
    return num_others * ("teacher_file" in config.candidates)


def _answered_and_judged(config: CompareConfig, workload: Workload, num_prompts: int) -> _Tokens:
    answer_tokens = min(config.max_tokens, workload.completion_tokens)
    own_tokens = workload.prompt_tokens - workload.shared_tokens
    num_assayed = min(config.assay.num_prompts, num_prompts)
    num_answers = num_prompts * config.samples_per_prompt + num_assayed
    # For the assay the teacher answers once more, and so does the untrained student.
    answers = _Tokens(own_tokens, answer_tokens).times(2 * num_answers)
    shared = _Tokens(2 * workload.shared_tokens)
    return answers + shared + _judged(config, own_tokens, answer_tokens, num_prompts)


def _judged(
    config: CompareConfig, own_tokens: float, answer_tokens: float, num_prompts: int
) -> _Tokens:
    """Return the tokens of judges on this machine, on pairs and controls."""
    num_pairs = num_prompts * config.samples_per_prompt
    num_controls = NUM_CONTROLS * min(config.assay.num_prompts, num_prompts)
    # Both orders of a pair begin with the rubric, which all pairs share, and the prompt.
    preference = _Tokens(own_tokens + 4 * answer_tokens, 2 * JUDGMENT_TOKENS)
    likelihood = _Tokens(2 * (own_tokens + answer_tokens))
    judged = preference.times(_num_llm_judges(config)) + likelihood.times(_num_likelihoods(config))
    criterion = _Tokens(own_tokens + answer_tokens, JUDGMENT_TOKENS)
    return judged.times(num_pairs + num_controls) + criterion.times(
        2 * _num_criteria(config) * num_pairs
    )


def _num_llm_judges(config: CompareConfig) -> int:
    """Return how many judges are models on this machine; without any judge the teacher is one."""
    here = [
        judge
        for judge in config.judges
        if isinstance(judge, LlmJudgeConfig) and judge.base_url is None
    ]
    return len(here) if config.judges else 1


def _num_criteria(config: CompareConfig) -> int:
    """Return how many criteria a model on this machine checks."""
    return sum(
        len(judge.criteria)
        for judge in config.judges
        if isinstance(judge, CriteriaJudgeConfig) and judge.base_url is None
    )


def _num_likelihoods(config: CompareConfig) -> int:
    return sum(isinstance(judge, LikelihoodJudgeConfig) for judge in config.judges)

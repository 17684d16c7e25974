"""The estimated cost of the comparison.

In: its configuration and the files' estimate. Out: an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass

from compare.config import CompareConfig
from compare.judge_config import LikelihoodJudgeConfig, LlmJudgeConfig
from potstill.plan import Estimate, Workload

SHARE_OF_PEAK = 0.7
"""llama.cpp's share of the FLOP/s of training an MLP in float32: 0.6 to 0.8 with SmolLM2-135M."""
WEIGHT_BYTES = 2.0
"""Bytes read per weight to decode a token. Smaller files take as long: unpacking costs time."""
FIXED_SECONDS = 20.0
PROCESS_BYTES = 1.0e9
PAGE_BYTES = 1e6
NUM_CONTROLS = 8
JUDGMENT_TOKENS = 40
"""A judge's answer: a reason in a few words, and the winner."""


@dataclass(frozen=True)
class _Tokens:
    read: float = 0.0
    decoded: float = 0.0

    def __add__(self, other: _Tokens) -> _Tokens:
        return _Tokens(self.read + other.read, self.decoded + other.decoded)

    def times(self, count: float) -> _Tokens:
        return _Tokens(count * self.read, count * self.decoded)


def estimate(config: CompareConfig, workload: Workload) -> tuple[Estimate, Workload]:
    """Estimate fidelity, speed, answers, and the teacher's judgments, assuming it passes the assay.

    Judges behind other servers cost this machine nothing. The beginning that prompts have in
    common is computed once for each model: the server keeps it.
    """
    num_tested = workload.test_share * workload.num_conversations
    num_held_out = min(config.max_conversations, num_tested)
    length = workload.prompt_tokens + workload.completion_tokens
    timed = config.speed_rounds * workload.num_files * config.speed_tokens
    # Reading the same tokens once more gives the served student's log-probabilities.
    measured = _Tokens(read=(workload.num_files + 1) * num_held_out * length, decoded=timed)
    asked = _answered_and_judged(config, workload, min(config.num_prompts, num_tested))
    num_tokens = measured + asked
    num_parameters = workload.teacher.num_parameters
    weight_reads = measured.decoded + asked.decoded / config.max_concurrency
    cost = Estimate(
        stage="compare",
        tokens=num_tokens.read + num_tokens.decoded,
        float32_flops=2.0 * num_parameters * (num_tokens.read + num_tokens.decoded),
        moved_bytes=WEIGHT_BYTES * num_parameters * weight_reads,
        share_of_peak=SHARE_OF_PEAK,
        fixed_seconds=FIXED_SECONDS,
        disk_bytes=PAGE_BYTES,
        memory_bytes=workload.num_files * num_parameters + PROCESS_BYTES,
    )
    return cost, workload


def _answered_and_judged(config: CompareConfig, workload: Workload, num_prompts: float) -> _Tokens:
    answer_tokens = min(config.max_tokens, workload.completion_tokens)
    own_tokens = workload.prompt_tokens - workload.shared_tokens
    num_pairs = num_prompts * config.samples_per_prompt
    num_assayed = min(config.assay.num_prompts, num_prompts)
    answer = _Tokens(own_tokens, answer_tokens)
    # For the assay the teacher answers once more, and so does the untrained student.
    answers = answer.times(2 * (num_pairs + num_assayed)) + _Tokens(2 * workload.shared_tokens)
    # Both orders of a pair begin with the rubric, which all pairs share, and the prompt.
    preference = _Tokens(own_tokens + 4 * answer_tokens, 2 * JUDGMENT_TOKENS)
    likelihood = _Tokens(2 * (workload.prompt_tokens + answer_tokens))
    judged = preference.times(_num_llm_judges(config)) + likelihood.times(_num_likelihoods(config))
    return answers + judged.times(num_pairs + NUM_CONTROLS * num_assayed)


def _num_llm_judges(config: CompareConfig) -> int:
    """Return how many judges are models on this machine; without any judge the teacher is one."""
    here = [
        judge
        for judge in config.judges
        if isinstance(judge, LlmJudgeConfig) and judge.base_url is None
    ]
    return len(here) if config.judges else 1


def _num_likelihoods(config: CompareConfig) -> int:
    return sum(isinstance(judge, LikelihoodJudgeConfig) for judge in config.judges)

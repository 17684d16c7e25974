"""The estimated cost of the comparison.

In: its configuration and the files' estimate. Out: an estimate.
"""

from __future__ import annotations

from compare.config import CompareConfig
from compare.judge_config import LlmJudgeConfig
from potstill.plan import Estimate, Workload

SHARE_OF_PEAK = 0.5
FIXED_SECONDS = 20.0
PROCESS_BYTES = 1.0e9
PAGE_BYTES = 1e6
NUM_CONTROLS = 8
RUBRIC_TOKENS = 500


def estimate(config: CompareConfig, workload: Workload) -> tuple[Estimate, Workload]:
    """Estimate fidelity, speed, answers, and the teacher's judgments, assuming it passes the assay.

    Judges behind other servers cost this machine nothing.
    """
    num_tested = workload.test_share * workload.num_conversations
    num_held_out = min(config.max_conversations, num_tested)
    length = workload.prompt_tokens + workload.completion_tokens
    timed = config.speed_rounds * workload.num_files * config.speed_tokens
    # Reading the same tokens once more gives the served student's log-probabilities.
    tokens = (workload.num_files + 1) * num_held_out * length + timed
    tokens += _answered_and_judged(config, workload, min(config.num_prompts, num_tested))
    cost = Estimate(
        stage="compare",
        tokens=tokens,
        flops=2.0 * workload.teacher.num_parameters * tokens,
        share_of_peak=SHARE_OF_PEAK,
        fixed_seconds=FIXED_SECONDS,
        disk_bytes=PAGE_BYTES,
        memory_bytes=workload.num_files * workload.teacher.num_parameters + PROCESS_BYTES,
    )
    return cost, workload


def _answered_and_judged(config: CompareConfig, workload: Workload, num_prompts: float) -> float:
    answer_tokens = min(config.max_tokens, workload.completion_tokens)
    num_pairs = num_prompts * config.samples_per_prompt
    num_assayed = min(config.assay.num_prompts, num_prompts)
    # For the assay the teacher answers once more, and so does the untrained student.
    answered = 2 * (num_pairs + num_assayed) * (workload.prompt_tokens + answer_tokens)
    here = [
        judge
        for judge in config.judges
        if isinstance(judge, LlmJudgeConfig) and judge.base_url is None
    ]
    num_judges = len(here) if config.judges else 1
    num_readings = 2 * (num_pairs + NUM_CONTROLS * num_assayed)
    read = workload.prompt_tokens + 2 * answer_tokens + RUBRIC_TOKENS
    return answered + num_judges * num_readings * read

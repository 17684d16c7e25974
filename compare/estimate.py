"""What the comparison will cost.

In: its config and the files' estimate. Out: an estimate. Loads no model.
"""

from __future__ import annotations

from compare.config import CompareConfig
from potstill.plan import Estimate, Workload

SHARE_OF_PEAK = 0.5
FIXED_SECONDS = 20.0
PROCESS_BYTES = 1.0e9
PAGE_BYTES = 1e6


def estimate(config: CompareConfig, workload: Workload) -> tuple[Estimate, Workload]:
    """Estimate fidelity, speed and answers."""
    num_held_out = min(config.max_conversations, workload.test_share * workload.num_conversations)
    length = workload.prompt_tokens + workload.completion_tokens
    answered = config.num_side_by_side * 2 * config.max_tokens
    timed = config.speed_rounds * workload.num_files * config.speed_tokens
    tokens = workload.num_files * num_held_out * length + answered + timed
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

"""What the quantisation stage will cost.

In: its config and the student's estimate. Out: an estimate, and the number of files. Loads no
model.
"""

from __future__ import annotations

from dataclasses import replace

from potstill.plan import Estimate, Workload
from quantize.config import GgufType, QuantizeConfig
from quantize.conversion.families import find_family

SHARE_OF_PEAK = 0.5
FIXED_SECONDS = 25.0
SECONDS_PER_FILE = 4.0
PROCESS_BYTES = 1.0e9
BITS_PER_WEIGHT: dict[GgufType, float] = {
    "F32": 32.0,
    "F16": 16.0,
    "Q8_0": 8.5,
    "Q6_K": 8.2,
    "Q5_K_M": 6.6,
    "Q4_K_M": 6.2,
}
"""As measured on SmolLM2-135M, where many tensors fall back to a larger type."""


def estimate(config: QuantizeConfig, workload: Workload) -> tuple[Estimate, Workload]:
    """Estimate conversion, quantisation and verification.

    Raises:
        ConversionError: Student or teacher is of an architecture that cannot become GGUF.
    """
    find_family(workload.student.architecture, "the student")
    if config.teacher_types:
        find_family(workload.teacher.architecture, "the teacher")
    files = [(workload.student.num_parameters, one) for one in config.types]
    files += [(workload.teacher.num_parameters, one) for one in config.teacher_types]
    sizes = [parameters * BITS_PER_WEIGHT[one] / 8 for parameters, one in files]
    evaluated = sum(parameters for parameters, _ in files)
    logprobs_bytes = 4.0 * config.verification_tokens * workload.student.vocab_size
    cost = Estimate(
        stage="quantize",
        tokens=len(files) * config.verification_tokens,
        flops=2.0 * evaluated * config.verification_tokens,
        share_of_peak=SHARE_OF_PEAK,
        fixed_seconds=FIXED_SECONDS + SECONDS_PER_FILE * len(files),
        disk_bytes=sum(sizes) + logprobs_bytes,
        memory_bytes=4.0 * workload.teacher.num_parameters + PROCESS_BYTES,
    )
    return cost, replace(workload, num_files=len(files))

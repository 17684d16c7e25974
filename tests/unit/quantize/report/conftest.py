"""Facts of files, as a manifest has them."""

from __future__ import annotations

import pytest

from potstill.facts.gguf import GgufFile
from quantize.report.pareto import mark_pareto_fronts
from tests.fixtures.facts import gguf_file


def file_facts(name: str, size: int, kl_nats: float) -> GgufFile:
    return gguf_file(
        name,
        bytes=size,
        bits_per_weight=6.17,
        kl_to_checkpoint_nats=kl_nats,
        kl_standard_error_nats=kl_nats / 10,
        kl_median_nats=kl_nats / 2,
        kl_p99_nats=kl_nats * 5,
        kl_p999_nats=kl_nats * 10,
        kl_max_nats=kl_nats * 20,
        kl_bound_nats=0.2,
        mean_delta_p=-0.001,
        rms_delta_p=0.05,
        perplexity=24.5,
        perplexity_ratio=1.0123,
        prompt_tokens_per_second=1234.5,
        decode_tokens_per_second=45.67,
        batch_decode_tokens_per_second=321.4,
        peak_memory_bytes=234_000_000,
    )


@pytest.fixture
def files() -> list[GgufFile]:
    """Two files on the student's front, one that a smaller one beats, and the teacher's."""
    return mark_pareto_fronts(
        [
            file_facts("student-F16", 270_000_000, 0.0),
            file_facts("student-Q8_0", 145_000_000, 0.09),
            file_facts("student-Q4_K_M", 89_000_000, 0.071),
            file_facts("teacher-F16", 300_000_000, 0.00001),
        ]
    )

"""A part of what `benchmarks/serving/soak.py` does for hours."""

import asyncio

import pytest

from benchmarks.serving._servers import Setting, embedded_gguf, potstill, running
from benchmarks.serving.soak import CONTEXT_TOKENS, NUM_PARALLEL, settings, soak
from potstill.processes import free_port


@pytest.mark.parametrize(
    "seconds", [10.0, pytest.param(3600.0, marks=[pytest.mark.nightly, pytest.mark.timeout(4500)])]
)
def test_mixed_requests_leave_nothing_behind_and_no_text_in_the_wrong_answer(tmp_path, seconds):
    setting = Setting(
        embedded_gguf(),
        tmp_path,
        num_parallel=NUM_PARALLEL,
        context_tokens=CONTEXT_TOKENS,
        threads=1,
    )
    port = free_port()
    command = potstill(setting, port, **settings(setting))
    with running("potstill", command, port, tmp_path / "log") as server:
        report = asyncio.run(soak(server, seconds))
    assert report.wrong == []
    assert len(report.counts) >= 8
    assert len(report.memory_bytes) > seconds / 4

"""What integration tests share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from generate.teachers.vllm_arrays import vllms_own_objects


@pytest.fixture
def draw_as_vllm(monkeypatch) -> Callable[[], None]:
    """Return what lets vLLM in this process draw tokens its own way, as a served one does."""

    def use() -> None:
        from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

        with vllms_own_objects():
            own = TopKTopPSampler.forward_cpu
        monkeypatch.setattr(TopKTopPSampler, "forward_cpu", own)

    return use

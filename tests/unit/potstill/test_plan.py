import io

import pytest
from rich.console import Console

from potstill import plan
from potstill.checkpoints import ModelShape
from potstill.plan import Estimate, Machine, measure_machine, plan_table
from potstill.workers import Worker, WorkerTimeoutError

SHAPE = ModelShape("LlamaForCausalLM", 1_000, 2, 64, 100, 128, 800)
MACHINE = Machine(fast_flops=1e12, float32_flops=1e11, bytes_per_second=1e10)


def estimate_of(stage="train", **costs):
    known = {"tokens": 1.0, "share_of_peak": 0.5, "fixed_seconds": 10.0}
    return Estimate(stage, **(known | costs), disk_bytes=2e9, memory_bytes=3e9)


def test_each_kind_of_work_takes_its_time():
    cost = estimate_of(fast_flops=5e12, float32_flops=5e11, moved_bytes=3e10)
    assert cost.seconds(MACHINE) == pytest.approx(10 + 10 + 10 + 3)
    assert estimate_of().seconds(MACHINE) == 10
    assert estimate_of(share_of_peak=0.0).seconds(MACHINE) == 10


def text_of(table):
    file = io.StringIO()
    Console(width=100, file=file).print(table)
    return file.getvalue()


def test_the_table_has_each_stage_and_their_sum_but_for_finished_ones():
    estimates = [estimate_of("generate"), estimate_of("train", fixed_seconds=110.0)]
    text = text_of(plan_table([*estimates, estimate_of("quantize")], ["quantize"], MACHINE))
    minutes = {line.split()[0]: line.split() for line in text.splitlines() if "GB" in line}
    assert minutes["generate"][4] == "0.2"
    assert minutes["train"][4] == "1.8"
    assert "2.0" in minutes["total"]
    assert "finished" in text
    assert "-" in text_of(plan_table(estimates, [], None))


def test_without_torch_there_are_no_minutes(monkeypatch):
    monkeypatch.setattr(plan, "find_spec", lambda _: None)
    assert measure_machine(SHAPE) is None


def test_on_a_busy_machine_there_are_no_minutes(monkeypatch, caplog):
    monkeypatch.setattr(plan, "PROBE_SECONDS", 0.01)
    assert measure_machine(SHAPE) is None
    assert "too busy to be measured" in caplog.text


def test_no_matrices_of_a_teacher_for_eight_gpus_are_made_to_measure_this_machine(monkeypatch):
    asked = []

    class Never(Worker):
        def __init__(self, _service, *sizes, **_):
            asked.append(sizes)
            raise WorkerTimeoutError("not now")

    monkeypatch.setattr(plan, "Worker", Never)
    large = ModelShape("Qwen2ForCausalLM", 72_706_203_648, 80, 8192, 152_064, 29_568, 1)
    assert measure_machine(large) is None
    assert measure_machine(SHAPE) is None
    assert asked == [(2048, 8192), (64, 128)]


@pytest.mark.slow
def test_this_machine_is_measured_in_a_process_of_its_own():
    machine = measure_machine(SHAPE)
    assert 1e7 < machine.float32_flops < 1e15
    assert 1e7 < machine.fast_flops < 1e15
    assert 1e7 < machine.bytes_per_second < 1e13

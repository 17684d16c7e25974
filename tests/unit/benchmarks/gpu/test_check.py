import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import _loss, _step, check
from benchmarks.gpu._loss import Sizes, cost
from benchmarks.gpu._step import mfu_rows
from benchmarks.gpu._table import Check, Row, run
from potstill.cards import CARDS, Cards

ROOT = Path(__file__).parents[4]


@pytest.mark.slow
def test_the_small_form_checks_loss_and_step_on_a_cpu():
    command = [sys.executable, "-m", "benchmarks.gpu.check", "--small"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": "."}, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    exact = [line for line in lines if "off float64" in line]
    assert len(exact) == 10
    assert sum("compiled" in line for line in exact) == 2
    assert all(line.endswith(" ok") for line in exact), done.stdout
    # Times of tiny sizes mean nothing: only that every row was measured.
    for wanted in ("loss of 64 tokens, potstill", "MFU", "checkpointing", "from a made cache"):
        assert any(wanted in line for line in lines), done.stdout + done.stderr
    assert "Error" not in done.stdout


def test_what_is_missing_is_named_and_what_needs_it_left_out(monkeypatch, capsys):
    monkeypatch.setattr(check, "CORE", ("json", "no_such_package"))
    check.main(["--small"])
    printed = capsys.readouterr().out
    assert "missing: no_such_package" in printed
    assert "not run: no no_such_package" in printed


def test_a_check_that_fails_or_has_no_time_left_does_not_stop_the_others():
    def failing():
        yield Row("first", "1", "<= 2", good=True)
        raise ValueError("broken")

    rows = list(
        run([Check("a", failing, seconds=0), Check("b", failing, seconds=99)], limit_seconds=5)
    )
    assert [(row.name, row.good) for row in rows] == [("first", True), ("a", False), ("b", None)]
    assert rows[1].value == "ValueError: broken"
    assert "MISSED" in str(rows[1])
    assert "no time left" in rows[2].value


def test_a_check_that_takes_longer_than_there_is_time_is_stopped():
    def endless():
        yield Row("first", "1")
        time.sleep(60)
        yield Row("never", "1")

    started = time.monotonic()
    rows = list(run([Check("a", endless, seconds=0), Check("b", endless)], limit_seconds=0.5))
    assert time.monotonic() - started < 30
    assert [row.name for row in rows] == ["first", "a", "b"]
    assert rows[1].value == "stopped: no time left"
    assert rows[1].good is None
    assert "no time left" in rows[2].value


def test_a_file_of_tests_that_fails_names_the_test(tmp_path):
    (tmp_path / "test_two.py").write_text("def test_a(): pass\ndef test_b(): assert False, 'why'\n")
    failed, whole = check.project_tests(str(tmp_path / "test_two.py"))
    assert failed.name == "test_b"
    assert (whole.name, whole.good) == ("test_two", False)
    assert "1 failed, 1 passed" in whole.value


def test_tests_that_hang_are_stopped_and_the_gpus_memory_is_given_back_before(
    tmp_path, monkeypatch
):
    freed = []
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: freed.append(True))
    monkeypatch.setattr(check, "MOST_TEST_SECONDS", 1.0)
    (tmp_path / "test_it.py").write_text("import time\ndef test_a(): time.sleep(60)\n")
    started = time.monotonic()
    (row,) = check.project_tests(str(tmp_path / "test_it.py"))
    assert time.monotonic() - started < 30
    assert (row.value, row.good) == ("stopped after 1 s", False)
    assert freed == [True]


def test_every_package_that_must_travel_is_named():
    assert check.missing_wheels() in ([], ["liger-kernel"])


def test_a_package_that_another_needs_is_named(monkeypatch, capsys):
    def fail(*_, **__):
        raise ModuleNotFoundError("no module", name="no_such_core")

    monkeypatch.setattr(check, "checks", fail)
    check.main(["--small"])
    assert "not run: no no_such_core" in capsys.readouterr().out


def test_without_a_gpu_the_large_form_says_so(capsys):
    assert check.main([]) == 1
    assert "no GPU" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ImportError("no package"), RuntimeError("no compiler\nat all")])
def test_a_peer_that_cannot_run_leaves_the_others_their_rows(error, monkeypatch):
    def fail():
        raise error

    monkeypatch.setitem(_loss.PEERS, "TRL", fail)
    sizes = Sizes((100,), 8, 4, (8, 16), top_k=4, rounds=1, peers=("TRL", "potstill"))
    rows = {row.name: row.value for row in cost("cpu", sizes)}
    assert list(rows) == [
        f"loss of {number} tokens, {peer}" for number in (8, 16) for peer in ("TRL", "potstill")
    ]
    assert rows["loss of 8 tokens, TRL"] == f"not run: {str(error).splitlines()[0]}"
    assert "MB" in rows["loss of 16 tokens, potstill"]


@pytest.mark.parametrize("here", [None, Cards("H100", 1)])
def test_the_target_is_of_the_datasheet_where_the_card_is_known(here, monkeypatch):
    peak = CARDS["H100"].bfloat16_flops
    monkeypatch.setattr(_step, "peak_flops", lambda _device: 0.8 * peak)
    monkeypatch.setattr(_step.Cards, "of", lambda _config: here)
    rows = list(mfu_rows("a step", 0.4 * peak, "cuda", 0.45))
    assert rows[0].value == "50%"
    assert [row.good for row in rows] == ([True] if here is None else [None, False])
    assert [row.name for row in rows][1:] == ["a step: MFU of datasheet of H100"] * bool(here)
    assert all(row.good is None for row in mfu_rows("a step", 1.0, "cuda"))

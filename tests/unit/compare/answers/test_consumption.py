import subprocess
import sys

import pytest

from compare.answers.consumption import (
    Consumption,
    children_seconds,
    joules_since,
    metered,
    read_counters,
)


def counter(directory, name, microjoules):
    zone = directory / name
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    (zone / "max_energy_range_uj").write_text("1000000\n")


def test_energy_is_that_of_all_packages_and_counters_begin_again(tmp_path):
    counter(tmp_path, "intel-rapl:0", 400_000)
    counter(tmp_path, "intel-rapl:1", 900_000)
    counter(tmp_path, "intel-rapl:0:0", 5)  # the cores are part of their package
    before = read_counters(tmp_path)
    assert len(before) == 2
    counter(tmp_path, "intel-rapl:0", 600_000)
    counter(tmp_path, "intel-rapl:1", 100_000)
    assert joules_since(before) == pytest.approx(0.2 + 0.2)


def test_hidden_counters_give_no_energy(tmp_path):
    assert joules_since(read_counters(tmp_path)) is None
    counter(tmp_path, "intel-rapl:0", 1)
    before = read_counters(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert joules_since(before) is None


def test_processor_time_is_that_of_the_children():
    """A child that computes for a while, as the server of a model does."""
    code = "import sys\nprint(sum(range(3_000_000)), flush=True)\nsys.stdin.read()"
    with metered() as meter:
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        child.stdout.readline()
    used = children_seconds()
    child.communicate()
    assert 0 < meter.processor_seconds <= used
    assert meter.seconds > 0


def test_consumption_adds_up_as_far_as_it_is_known():
    first = Consumption(num_answers=2, seconds=1.0, processor_seconds=2.0, joules=None)
    second = Consumption(num_answers=3, seconds=2.0, processor_seconds=4.0, joules=5.0)
    total = Consumption() + first + second
    assert (total.num_answers, total.seconds, total.processor_seconds) == (5, 3.0, 6.0)
    assert total.joules is None

"""No input ends a parser, makes the server fail, or takes a minute or gigabytes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fuzz.harness import CACHE, Target, targets

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    find_spec("atheris") is None,
    reason="atheris has wheels for Linux on x86_64, Python 3.11 to 3.13",
)
INPUTS_A_NIGHT = 1_000_000
TARGETS = targets()


def fuzz(target: Target, num_runs: int, kept: Path, found: Path) -> None:
    """Take the seeds and then changed ones, up to a number of inputs."""
    command = [sys.executable, "-m", "tests.fuzz.harness", target.name, f"--runs={num_runs}"]
    # Linux keeps the largest memory of the process that starts another; a shell's is small.
    shell = ["sh", "-c", '"$@"; exit $?', "sh"]
    done = subprocess.run(
        [*shell, *command, f"--kept={kept}", f"--found={found}"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(found), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    (taken,) = re.findall(r"stat::number_of_executed_units: (\d+)", done.stdout)
    assert int(taken) >= num_runs


def test_a_night_takes_a_million_inputs():
    assert sum(one.nightly_runs for one in TARGETS.values()) >= INPUTS_A_NIGHT


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_has_seeds(name):
    assert any(path.is_file() for path in TARGETS[name].seed_dir.iterdir())


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_and_some_changes_of_them_do_no_harm(name, tmp_path):
    fuzz(TARGETS[name], TARGETS[name].short_runs, tmp_path / "kept", tmp_path)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", TARGETS)
def test_many_inputs_do_no_harm(name, tmp_path):
    fuzz(TARGETS[name], TARGETS[name].nightly_runs, CACHE / name, tmp_path)

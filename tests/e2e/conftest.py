"""The smallest preset through the command line, killed once in every stage on its way."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from potstill.facts.base import STAGE_NAMES
from potstill.rundir import RunDirectory

POTSTILL = Path(sys.executable).with_name("potstill")
START_SECONDS = 900.0
"""Patience for a stage to begin: the one before it is finished first."""
MAX_DELAY_SECONDS = 12.0
"""Kills fall anywhere in the first seconds of a stage; some of them last no longer."""


@dataclass(frozen=True)
class Line:
    """A finished run, and where it was killed before."""

    run_directory: RunDirectory
    kills: list[str]
    stdout: str
    stderr: str


def potstill(*arguments: object, cwd: Path | None = None, **environment: str):
    """Run the command line to its end."""
    return subprocess.run(
        [POTSTILL, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def line(teacher_dir, tmp_path_factory) -> Line:
    """Run the smallest preset to its end, through kill -9 in each stage."""
    assert teacher_dir.is_dir(), "dequantized first, so that the first kill hits sampling"
    run_directory = RunDirectory(tmp_path_factory.mktemp("e2e") / "small")
    command = [POTSTILL, "run", run_directory.root, "--preset", "small"]
    delays = random.Random(20261124)
    kills = []
    for stage in STAGE_NAMES:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while not run_directory.partial_dir(stage).is_dir():
            if run_directory.is_finished(stage):
                break
            assert process.poll() is None, "the run ended before it was killed"
            assert time.monotonic() < deadline, f"{stage} did not begin"
            time.sleep(0.05)
        time.sleep(delays.uniform(0.0, MAX_DELAY_SECONDS))
        process.send_signal(signal.SIGKILL)
        process.wait()
        begun = [name for name in STAGE_NAMES if run_directory.partial_dir(name).is_dir()]
        kills.append(begun[0] if begun else "between stages")
    finished = potstill(*command[1:])
    assert finished.returncode == 0, finished.stderr
    return Line(run_directory, kills, finished.stdout, finished.stderr)

"""The smallest preset through the command line, killed once in every stage on its way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from potstill.facts.base import StageName
from potstill.rundir import RunDirectory

POTSTILL = Path(sys.executable).with_name("potstill")
START_SECONDS = 900.0
"""Patience for a stage to begin: the one before it is finished first."""
HALF_DONE: dict[StageName, str] = {
    "prompts": "prompts.partial",
    "samples": "samples.partial/part-*.parquet",
    "conversations": "conversations.partial",
    "student": "student.partial/scratch/*/states/checkpoint-*/whole",
    "gguf": "gguf.partial/student-F16.gguf",
    "comparison": "comparison.partial/scratch/*.json",
}
"""Files in a run when a stage has done a part of its work."""


@dataclass(frozen=True)
class Line:
    """A finished run that was killed in every stage, and what its last command printed."""

    run_directory: RunDirectory
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
    for stage in HALF_DONE:
        while not killed_in(stage, command, run_directory):
            shutil.rmtree(run_directory.stage_dir(stage))
    finished = potstill(*command[1:])
    assert finished.returncode == 0, finished.stderr
    return Line(run_directory, finished.stdout, finished.stderr)


def killed_in(stage: StageName, command: list[Any], run_directory: RunDirectory) -> bool:
    """Run until a stage is half done and kill -9; return whether it was still unfinished then."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + START_SECONDS
    while not run_directory.is_finished(stage):
        if any(run_directory.root.glob(HALF_DONE[stage])):
            break
        assert process.poll() is None, f"the run ended before it was killed in {stage}"
        assert time.monotonic() < deadline, f"{stage} did not begin"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return not run_directory.is_finished(stage)

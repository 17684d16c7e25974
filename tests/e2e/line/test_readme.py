"""The commands of README.md, executed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import POTSTILL

README = (Path(__file__).parents[3] / "README.md").read_text()
USE_IT = README.split("## Use it")[1].split("\n## ")[0]
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", USE_IT, re.DOTALL)
ENVIRONMENT = os.environ | {"PATH": f"{POTSTILL.parent}{os.pathsep}{os.environ['PATH']}"}
GIVEN = Path(__file__).parents[3] / "examples" / "bank-triage"


@pytest.fixture
def place(line, tmp_path) -> Path:
    """A directory where what is given and the finished run have the README's names."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "triage").symlink_to(line.run_directory.root)
    (tmp_path / "examples.jsonl").symlink_to(GIVEN / "examples-50.jsonl")
    (tmp_path / "messages.jsonl").symlink_to(GIVEN / "messages.jsonl")
    return tmp_path


def typed(command: str, place: Path) -> str:
    result = subprocess.run(
        command,
        shell=True,
        cwd=place,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=600,
    )
    return result.stdout


def test_use_it(place, teacher_dir):
    (_, commands), (_, program) = BLOCKS
    activate, init, plan, run, status, serve = commands.strip().splitlines()
    assert activate == "source .venv/bin/activate"
    typed(init, place)
    plan, run = (command.partition("#")[0].rstrip() for command in (plan, run))
    assert plan == f"{run} --dry-run"
    models = ("generate.teacher.model", "train.student.checkpoint")
    settings = " ".join(f"--set {key}={teacher_dir}" for key in models)
    planned = typed(f"{plan.replace('runs/triage', 'runs/new')} {settings}", place)
    assert re.search(r"train\W+[\d,]+\W+[\d.]+\W+[\d.]+ GB\W+[\d.]+ GB", planned)
    assert "finished" in typed(status, place)
    process = subprocess.Popen(
        [*serve.partition("#")[0].split(), "--set", "serve.port=0"],
        cwd=place,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        found = next(
            filter(None, (re.search(r"serving .* at (\S+)", row) for row in process.stderr))
        )
        program = program.replace("http://127.0.0.1:8000/v1", found[1])
        answer = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert answer.strip()

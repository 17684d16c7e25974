import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from potstill.processes import child_process, end_with_parent
from tests.fixtures.waiting import eventually, is_running

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")

PARENT = """
import subprocess, sys, time
from potstill.processes import end_with_parent
preexec_fn = end_with_parent() if sys.argv[1] == "bound" else None
child = subprocess.Popen(["sleep", "30"], preexec_fn=preexec_fn)
print(child.pid, flush=True)
time.sleep(30)
"""


def child_after_its_parent_was_killed(kind: str) -> int:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, kind], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert is_running(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    return pid


def test_a_child_dies_when_its_parent_is_killed():
    pid = child_after_its_parent_was_killed("bound")
    assert eventually(lambda: not is_running(pid))


def test_without_it_a_child_would_go_on():
    pid = child_after_its_parent_was_killed("free")
    time.sleep(0.2)
    assert is_running(pid)
    os.kill(pid, signal.SIGKILL)


def test_a_child_whose_parent_lives_is_left_alone(tmp_path):
    log_path = tmp_path / "log"
    command = ["sh", "-c", "echo $WORD; exit 7"]
    with log_path.open("wb") as log, child_process(command, stdout=log, env={"WORD": "x"}) as child:
        assert child.wait() == 7
    assert log_path.read_text() == "x\n"


@pytest.mark.parametrize(
    ("stop_seconds", "expected"), [(0.0, -signal.SIGKILL), (30.0, 3), (0.1, -signal.SIGKILL)]
)
def test_a_child_ends_with_its_block(stop_seconds, expected):
    """The child gets SIGTERM if it has time to stop, and is killed if it does not stop in time."""
    trap = "trap '' TERM" if stop_seconds == 0.1 else "trap 'exit 3' TERM"
    script = f"{trap}; echo ready; while :; do sleep 0.05; done"
    with child_process(
        ["sh", "-c", script], stdout=subprocess.PIPE, stop_seconds=stop_seconds
    ) as child:
        child.stdout.readline()
    assert child.returncode == expected


def test_other_systems_get_no_preexec_fn(monkeypatch):
    monkeypatch.setattr("potstill.processes.sys", SimpleNamespace(platform="darwin"))
    assert end_with_parent() is None

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from potstill.processes import end_with_parent

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


def is_running(pid: int) -> bool:
    """Whether a process is there and is no zombie that waits to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


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
    deadline = time.monotonic() + 5
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(pid)


def test_without_it_a_child_would_go_on():
    pid = child_after_its_parent_was_killed("free")
    time.sleep(0.2)
    assert is_running(pid)
    os.kill(pid, signal.SIGKILL)


def test_a_child_whose_parent_lives_is_left_alone():
    child = subprocess.run(["sh", "-c", "exit 7"], check=False, preexec_fn=end_with_parent())
    assert child.returncode == 7


def test_other_systems_get_no_preexec_fn(monkeypatch):
    monkeypatch.setattr("potstill.processes.sys", SimpleNamespace(platform="darwin"))
    assert end_with_parent() is None
